"""Detectors of mmdetection's model zoo: names, configs, and files that are known by their names."""

import pytest
import torch
from helpers import input_error

from detbackbones import build_detector
from detbackbones.weights import mmdet_sources
from detbackbones.weights.detector_sources import read_detector
from detbackbones.weights.mmdet_models import model_of
from detbackbones.weights.mmdet_zoo import NAMES, ZOO, file_url, zoo_config

RGB = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# name -> stride in the 1x1, order of the channels in the file, mean and std of RGB images in [0, 1]
MEANINGS = {
    "faster-rcnn_r50_fpn_1x_coco": (False, "RGB", *RGB),
    "mask-rcnn_r101-caffe_fpn_ms-poly-3x_coco": (True, "BGR", RGB[0], [1 / 255] * 3),
    "retinanet_x101-64x4d_fpn_2x_coco": (False, "RGB", *RGB),
    "faster-rcnn_x101-32x8d_fpn_ms-3x_coco": (False, "BGR", *RGB),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_detector_is_built(name):
    source = read_detector(f"mmdet:{name}")
    assert source.metadata["category_names"][:2] == ["person", "bicycle"] and source.model["num_classes"] == 80
    assert (source.short_side, source.long_side) == (800, 1333)
    with torch.device("meta"):
        detector = build_detector(source.model, load_weights=False)
    assert ("mask" in name) == ("segm" in detector.tasks)
    blocks = {"r50": 16, "r101": 33, "x101": 33}
    count = sum(len(stage) for stage in detector.backbone.children() if isinstance(stage, torch.nn.Sequential))
    assert count == blocks[name.split("_")[1].split("-")[0]]


@pytest.mark.parametrize("name", MEANINGS)
def test_meanings(name):
    source = read_detector(f"mmdet:{name}")
    in_1x1, order, mean, std = MEANINGS[name]
    assert source.card.stride_in_1x1 == in_1x1
    assert source.card.source_channel_order == order
    assert source.card.mean == pytest.approx(mean, abs=1e-6)
    assert source.card.std == pytest.approx(std, abs=1e-6)


def test_a_retinanet_is_that_of_the_config_in_mmdetection():
    """Numbers of `_base_/models/retinanet_r50_fpn.py`."""
    model = model_of(zoo_config("retinanet_r50_fpn_1x_coco"), "")
    assert model["neck"]["extra_levels"] == "conv_on_input" and model["backbone"]["out_features"] == ("c3", "c4", "c5")
    assert model["anchor_sizes"][0] == pytest.approx([32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)])
    assert (model["score_thresh"], model["nms_thresh"], model["topk_candidates"]) == (0.05, 0.5, 1000)


def test_names_of_both_versions_and_unknown_ones():
    new = read_detector("mmdet:mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco")
    old = read_detector("mmdet:mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco.py")
    assert new.card == old.card and new.model == old.model
    with input_error("mmdetection", "faster-rcnn_r50_fpn_1x_coco"):
        read_detector("mmdet:faster-rcnn_r50_fpn_1_coco")


def test_a_published_file_is_known_by_its_name(tmp_path):
    """The text in it may be that of an earlier mmdetection, which does not decide."""
    name = "faster_rcnn_r50_fpn_1x_coco"
    path = tmp_path / file_url(name).rpartition("/")[2]
    state = {"backbone.conv1.weight": torch.zeros(1), "neck.lateral_convs.0.conv.weight": torch.zeros(1)}
    text = "model = dict(type='FasterRCNN', num_stages=3)"
    torch.save({"meta": {"config": text}, "state_dict": state}, path)
    found, named = read_detector(str(path)), read_detector(f"mmdet:{name}")
    assert found.model == named.model and found.metadata == named.metadata
    assert found.card.published == "COCO val2017: box AP 37.4"
    path.rename(tmp_path / "other.pth")
    with input_error("other.pth", "img_norm_cfg"):
        read_detector(str(tmp_path / "other.pth"))


def test_a_named_detector_is_downloaded_when_its_weights_are_read(tmp_path, monkeypatch):
    asked = []
    path = tmp_path / "file.pth"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.arange(9 * 49.0).view(3, 3, 7, 7)}}, path)
    monkeypatch.setattr(mmdet_sources, "download", lambda url: asked.append(url) or path)
    source = read_detector("mmdet:retinanet_r50-caffe_fpn_1x_coco")
    assert asked == []
    assert torch.equal(source.state["backbone.conv1.weight"][0, 0].flatten(), torch.arange(98.0, 147.0))  # from BGR
    folder = "https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_caffe_fpn_1x_coco/"
    assert asked == [f"{folder}retinanet_r50_caffe_fpn_1x_coco_20200531-f11027c5.pth"]


def test_files_of_the_zoo_have_distinct_names():
    assert len({file_url(name) for name in ZOO}) == len(NAMES) == len(ZOO)
