"""Detectors of mmdetection's model zoo: names, configs, and files that are known by their names."""

import pytest
import torch
from helpers import input_error

from detbackbones import build_detector
from detbackbones.weights import mmdet_zoo
from detbackbones.weights.detector_sources import read_detector
from detbackbones.weights.named_sources import card_for_file_name, find_named

ZOO = mmdet_zoo.ZOO
STD, UNIT_STD = [0.229, 0.224, 0.225], [1 / 255] * 3
# name -> stride in the 1x1, order of the channels in the file, std of RGB images in [0, 1], norm, groups, group width
MEANINGS = {
    "faster-rcnn_r50_fpn_1x_coco": (False, "RGB", STD, "batch_eval", None, None),
    "faster-rcnn_r101-caffe_fpn_ms-3x_coco": (True, "BGR", UNIT_STD, "frozen", None, None),
    "mask-rcnn_r101-caffe_fpn_ms-poly-3x_coco": (True, "BGR", UNIT_STD, "frozen", None, None),
    "retinanet_x101-64x4d_fpn_2x_coco": (False, "RGB", STD, "batch_eval", 64, 4),
    "mask-rcnn_x101-32x4d_fpn_1x_coco": (False, "RGB", STD, "batch_eval", 32, 4),
    "faster-rcnn_x101-32x8d_fpn_ms-3x_coco": (False, "BGR", STD, "frozen", 32, 8),
}
URLS = {
    "faster-rcnn_r50_fpn_1x_coco": "faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
    "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
    "mask-rcnn_x101-64x4d_fpn_ms-poly_3x_coco": "mask_rcnn/mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco/"
    "mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco_20210526_120447-c376f129.pth",
    "retinanet_r50_fpn_ms-640-800-3x_coco": "retinanet/retinanet_r50_fpn_mstrain_3x_coco/"
    "retinanet_r50_fpn_mstrain_3x_coco_20210718_220633-88476508.pth",
}
SMALL = {"backbone.conv1.weight": torch.zeros(1), "neck.lateral_convs.0.conv.weight": torch.zeros(1)}
FILE = ZOO["faster-rcnn_r50_fpn_1x_coco"].file_name


def write(path, state, **meta):
    torch.save({"meta": meta, "state_dict": state}, path)
    return str(path)


@pytest.mark.parametrize("name", ZOO)
def test_every_detector_is_built(name):
    source = read_detector(f"mmdet:{name}")
    assert source.metadata["category_names"][:2] == ["person", "bicycle"] and source.model["num_classes"] == 80
    assert (source.short_side, source.long_side) == (800, 1333)
    with torch.device("meta"):
        detector = build_detector(source.model, load_weights=False)
    assert ("mask" in name) == ("segm" in detector.tasks)
    blocks = {"r18": 8, "r50": 16, "r101": 33, "x101": 33}
    count = sum(len(stage) for stage in detector.backbone.children() if isinstance(stage, torch.nn.Sequential))
    assert count == blocks[name.split("_")[1].split("-")[0]]


@pytest.mark.parametrize("name", MEANINGS)
def test_meanings(name):
    source = read_detector(f"mmdet:{name}")
    in_1x1, order, std, norm, groups, width = MEANINGS[name]
    assert source.card.stride_in_1x1 == in_1x1
    assert source.card.source_channel_order == order
    assert source.card.mean == pytest.approx([0.485, 0.456, 0.406], abs=1e-6)
    assert source.card.std == pytest.approx(std, abs=1e-6)
    backbone = source.model["backbone"]
    assert (backbone["norm"], backbone.get("groups"), backbone.get("width_per_group")) == (norm, groups, width)


def test_settings_are_those_of_the_configs_in_mmdetection():
    """Numbers of `_base_/models/{retinanet_r50_fpn,mask-rcnn_r50_fpn,faster-rcnn_r50-caffe-dc5}.py`."""
    model = read_detector("mmdet:retinanet_r50_fpn_1x_coco").model
    assert model["neck"]["extra_levels"] == "conv_on_input" and model["backbone"]["out_features"] == ("c3", "c4", "c5")
    assert model["anchor_sizes"][0] == pytest.approx([32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)])
    assert (model["score_thresh"], model["nms_thresh"], model["topk_candidates"]) == (0.05, 0.5, 1000)
    model = read_detector("mmdet:mask-rcnn_r50_fpn_1x_coco").model
    assert model["rpn"]["anchor_sizes"] == [[32], [64], [128], [256], [512]] and model["rpn"]["nms_thresh"] == 0.7
    assert model["rpn"]["pre_nms_top_n"][1] == model["rpn"]["post_nms_top_n"][1] == 1000
    heads = model["roi_heads"]
    assert (heads["pool_size"], heads["mask_pool_size"], heads["sampling_ratio"], heads["aligned"]) == (7, 14, 0, True)
    assert (heads["score_thresh"], heads["nms_thresh"], heads["detections_per_img"]) == (0.05, 0.5, 100)
    model = read_detector("mmdet:faster-rcnn_r50-caffe-dc5_1x_coco").model
    assert model["rpn"]["anchor_sizes"] == [[32, 64, 128, 256, 512]] and model["rpn"]["pre_nms_top_n"][1] == 6000
    assert (model["backbone"]["output_stride"], model["backbone"]["dilation_convention"]) == (16, "mmdet")


@pytest.mark.parametrize("name", URLS)
def test_addresses(name):
    url = read_detector(f"mmdet:{name}").card.url
    assert url == f"https://download.openmmlab.com/mmdetection/v2.0/{URLS[name]}"


@pytest.mark.parametrize(
    "spelling",
    [
        "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco",
        "mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco.py",
        ":mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco.py",
        "configs/mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco.py",
        "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco_bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00.pth",
    ],
)
def test_spellings(spelling):
    name = "mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco"
    assert read_detector(f"mmdet:{spelling}").card.source == f"mmdet:{name}"


def test_an_unknown_name():
    for find in (read_detector, find_named):
        with input_error("'faster-rcnn_r50_fpn_1_coco'", "faster-rcnn_r50_fpn_1x_coco"):
            find("mmdet:faster-rcnn_r50_fpn_1_coco")


def test_a_published_file_is_known_by_its_name(tmp_path):
    """The text in it may be that of an earlier mmdetection, which does not decide."""
    text = "model = dict(type='FasterRCNN', num_stages=3)"
    path = tmp_path / FILE
    write(path, SMALL, config=text, CLASSES=("person", "bicycle", "car"))
    with input_error(
        "20200130-047c8118.pth", "img_norm_cfg"
    ):  # it was fine-tuned on other classes, so the text decides
        read_detector(str(path))
    write(path, SMALL | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(4)}, config=text)
    with input_error("20200130-047c8118.pth", "img_norm_cfg"):
        read_detector(str(path))
    write(path, SMALL | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(81)}, config=text)
    found, named = read_detector(str(path)), read_detector("mmdet:faster-rcnn_r50_fpn_1x_coco")
    assert found.model == named.model and found.metadata == named.metadata
    assert found.card.published == "COCO val2017: box AP 37.4"
    path.rename(tmp_path / "other.pth")
    with input_error("other.pth", "img_norm_cfg"):
        read_detector(str(tmp_path / "other.pth"))


def test_the_backbone_of_a_detector():
    card = find_named("mmdet:faster-rcnn_x101-32x8d_fpn_ms-3x_coco").card
    assert (card.architecture, card.channel_order, card.stride_in_1x1) == ("resnext101_32x8d", "BGR", False)
    assert card_for_file_name(ZOO["faster-rcnn_x101-32x8d_fpn_ms-3x_coco"].file_name) == card
    assert find_named("mmdet:resnext101_64x4d").card.source.startswith("openmmlab:")


def test_a_named_detector_is_downloaded_when_its_weights_are_read(tmp_path, monkeypatch):
    asked = []
    path = write(tmp_path / "file.pth", {"backbone.conv1.weight": torch.arange(9 * 49.0).view(3, 3, 7, 7)})
    monkeypatch.setattr(mmdet_zoo, "download", lambda url, **_: asked.append(url) or mmdet_zoo.Path(path))
    source = read_detector("mmdet:retinanet_r50-caffe_fpn_1x_coco")
    assert asked == []
    assert torch.equal(source.state["backbone.conv1.weight"][0, 0].flatten(), torch.arange(98.0, 147.0))  # from BGR
    assert asked == [source.card.url]
