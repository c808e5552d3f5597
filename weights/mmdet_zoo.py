"""Detectors of mmdetection's model zoo by name: where the file is, its config, and the AP that mmdetection publishes.

Names, addresses and numbers are those of `configs/*/metafile.yml`. The configs are those of mmdetection 3, with which
mmdetection itself evaluates the files. The text inside of them is not used: the older ones were trained before the
release of mmdetection 2 (https://github.com/open-mmlab/mmdetection/issues/2795).
"""

import re
from dataclasses import dataclass
from typing import Any

URL = "https://download.openmmlab.com/mmdetection/v2.0/"
TABLE_URL = "https://github.com/open-mmlab/mmdetection/tree/main/configs/"
RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NAME = re.compile(r"(faster_rcnn|mask_rcnn|retinanet)_[rx](\d+)(?:_(\d+)x(\d+)d)?(_caffe)?_fpn_.*")


@dataclass(frozen=True)
class ZooModel:
    """A published detector.

    Attributes:
        suffix: what comes after the name in the name of the file.
        box_ap, mask_ap: AP on COCO val2017 in percent; None if it is not published.
    """

    suffix: str
    box_ap: float
    mask_ap: float | None = None


# fmt: off
ZOO: dict[str, ZooModel] = {  # by the names of mmdetection 2, which the files have
    "faster_rcnn_r50_caffe_fpn_1x_coco": ZooModel("bbox_mAP-0.378_20200504_180032-c5925ee5", 37.8),
    "faster_rcnn_r50_fpn_1x_coco": ZooModel("20200130-047c8118", 37.4),
    "faster_rcnn_r50_fpn_2x_coco": ZooModel("bbox_mAP-0.384_20200504_210434-a5d8aa15", 38.4),
    "faster_rcnn_r101_caffe_fpn_1x_coco": ZooModel("bbox_mAP-0.398_20200504_180057-b269e9dd", 39.8),
    "faster_rcnn_r101_fpn_1x_coco": ZooModel("20200130-f513f705", 39.4),
    "faster_rcnn_r101_fpn_2x_coco": ZooModel("bbox_mAP-0.398_20200504_210455-1d2dac9c", 39.8),
    "faster_rcnn_x101_32x4d_fpn_1x_coco": ZooModel("20200203-cff10310", 41.2),
    "faster_rcnn_x101_32x4d_fpn_2x_coco": ZooModel("bbox_mAP-0.412_20200506_041400-64a12c0b", 41.2),
    "faster_rcnn_x101_64x4d_fpn_1x_coco": ZooModel("20200204-833ee192", 42.1),
    "faster_rcnn_x101_64x4d_fpn_2x_coco": ZooModel("20200512_161033-5961fa95", 41.6),
    "faster_rcnn_r50_caffe_fpn_mstrain_2x_coco": ZooModel("bbox_mAP-0.397_20200504_231813-10b2de58", 39.7),
    "faster_rcnn_r50_caffe_fpn_mstrain_3x_coco": ZooModel("20210526_095054-1f77628b", 39.9),
    "faster_rcnn_r50_fpn_mstrain_3x_coco": ZooModel("20210524_110822-e10bd31c", 40.3),
    "faster_rcnn_r101_caffe_fpn_mstrain_3x_coco": ZooModel("20210526_095742-a7ae426d", 42.0),
    "faster_rcnn_r101_fpn_mstrain_3x_coco": ZooModel("20210524_110822-4d4d2ca8", 41.8),
    "faster_rcnn_x101_32x4d_fpn_mstrain_3x_coco": ZooModel("20210524_124151-16b9b260", 42.5),
    "faster_rcnn_x101_32x8d_fpn_mstrain_3x_coco": ZooModel("20210604_182954-002e082a", 42.4),
    "faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco": ZooModel("20210524_124528-26c63de6", 43.1),
    "mask_rcnn_r50_caffe_fpn_1x_coco": ZooModel("bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859", 38.0, 34.4),
    "mask_rcnn_r50_fpn_1x_coco": ZooModel("20200205-d4b0c5d6", 38.2, 34.7),
    "mask_rcnn_r50_fpn_2x_coco": ZooModel("bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40", 39.2, 35.4),
    "mask_rcnn_r101_caffe_fpn_1x_coco": ZooModel("20200601_095758-805e06c1", 40.4, 36.4),
    "mask_rcnn_r101_fpn_1x_coco": ZooModel("20200204-1efe0ed5", 40.0, 36.1),
    "mask_rcnn_r101_fpn_2x_coco": ZooModel("bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7", 40.8, 36.6),
    "mask_rcnn_x101_32x4d_fpn_1x_coco": ZooModel("20200205-478d0b67", 41.9, 37.5),
    "mask_rcnn_x101_32x4d_fpn_2x_coco": ZooModel("bbox_mAP-0.422__segm_mAP-0.378_20200506_004702-faef898c", 42.2, 37.8),
    "mask_rcnn_x101_64x4d_fpn_1x_coco": ZooModel("20200201-9352eb0d", 42.8, 38.4),
    "mask_rcnn_x101_64x4d_fpn_2x_coco": ZooModel("20200509_224208-39d6f70c", 42.7, 38.1),
    "mask_rcnn_r50_caffe_fpn_mstrain-poly_2x_coco": ZooModel("bbox_mAP-0.403__segm_mAP-0.365_20200504_231822-a75c98ce", 40.3, 36.5),  # noqa: E501
    "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco": ZooModel("bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00", 40.8, 37.0),  # noqa: E501
    "mask_rcnn_r50_fpn_mstrain-poly_3x_coco": ZooModel("20210524_201154-21b550bb", 40.9, 37.1),
    "mask_rcnn_r101_fpn_mstrain-poly_3x_coco": ZooModel("20210524_200244-5675c317", 42.7, 38.5),
    "mask_rcnn_r101_caffe_fpn_mstrain-poly_3x_coco": ZooModel("20210526_132339-3c33ce02", 42.9, 38.5),
    "mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco": ZooModel("20210524_201410-abcd7859", 43.6, 39.0),
    "mask_rcnn_x101_32x8d_fpn_mstrain-poly_3x_coco": ZooModel("20210607_161042-8bd2c639", 44.3),
    "mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco": ZooModel("20210526_120447-c376f129", 44.5, 39.7),
    "retinanet_r50_caffe_fpn_1x_coco": ZooModel("20200531-f11027c5", 36.3),
    "retinanet_r50_fpn_1x_coco": ZooModel("20200130-c2398f9e", 36.5),
    "retinanet_r50_fpn_2x_coco": ZooModel("20200131-fdb43119", 37.4),
    "retinanet_r101_caffe_fpn_1x_coco": ZooModel("20200531-b428fa0f", 38.5),
    "retinanet_r101_fpn_1x_coco": ZooModel("20200130-7a93545f", 38.5),
    "retinanet_r101_fpn_2x_coco": ZooModel("20200131-5560aee8", 38.9),
    "retinanet_x101_32x4d_fpn_1x_coco": ZooModel("20200130-5c8b7ec4", 39.9),
    "retinanet_x101_32x4d_fpn_2x_coco": ZooModel("20200131-237fc5e1", 40.1),
    "retinanet_x101_64x4d_fpn_1x_coco": ZooModel("20200130-366f5af1", 41.0),
    "retinanet_x101_64x4d_fpn_2x_coco": ZooModel("20200131-bca068ab", 40.8),
}
# fmt: on


def current_name(name: str) -> str:
    """Return the name in mmdetection 3 of a config of mmdetection 2: "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco" is
    "mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco" there.
    """
    name = name.replace("_rcnn", "-rcnn").replace("_caffe", "-caffe").replace("x101_", "x101-")
    return name.replace("mstrain-poly_", "ms-poly-").replace("mstrain_", "ms-")


NAMES = {current_name(name): name for name in ZOO}


def file_url(name: str) -> str:
    """Return the address of a detector of the zoo."""
    return f"{URL}{_family(name)}/{name}/{name}_{ZOO[name].suffix}.pth"


def table_url(name: str) -> str:
    """Return the address of the table with its AP."""
    return f"{TABLE_URL}{_family(name)}"


def _family(name: str) -> str:
    return re.split(r"_[rx]\d", name)[0]


def name_of_file(file_name: str) -> str | None:
    """Return the name of the detector in a published file; None if it is not in the zoo."""
    return next((name for name, entry in ZOO.items() if file_name == f"{name}_{entry.suffix}.pth"), None)


def published_ap(name: str) -> str:
    """Return the published AP of a detector of the zoo in words."""
    entry = ZOO[name]
    values = {"box AP": entry.box_ap, "mask AP": entry.mask_ap}
    return "COCO val2017: " + ", ".join(f"{kind} {value:g}" for kind, value in values.items() if value is not None)


def zoo_config(name: str) -> dict[str, Any]:
    """Return the variables of the config of a detector of the zoo, as far as they say what it computes."""
    family, depth, groups, base_width, caffe = NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    from_caffe2 = base_width == "8"  # the ResNeXt of Detectron
    is_bgr = bool(caffe) or from_caffe2
    backbone: dict[str, Any] = {
        "type": "ResNet",
        "depth": int(depth),
        "frozen_stages": 1,
        "norm_cfg": {"type": "BN", "requires_grad": not is_bgr},
        "style": "caffe" if caffe else "pytorch",
    }
    if groups:
        backbone |= {"type": "ResNeXt", "groups": int(groups), "base_width": int(base_width)}
    images = {
        "mean": RGB_MEAN[::-1] if is_bgr else RGB_MEAN,
        "std": [1.0] * 3 if caffe else RGB_STD[::-1] if is_bgr else RGB_STD,
        "bgr_to_rgb": not is_bgr,
        "pad_size_divisor": 32,
    }
    model = _retinanet() if family == "retinanet" else _rcnn(has_masks=family == "mask_rcnn")
    return {"model": model | {"data_preprocessor": images, "backbone": backbone}}


def _nms(threshold: float) -> dict[str, Any]:
    return {"type": "nms", "iou_threshold": threshold}


def _rcnn(has_masks: bool) -> dict[str, Any]:
    """Return `_base_/models/faster-rcnn_r50_fpn.py` or `mask-rcnn_r50_fpn.py` without the backbone."""
    heads: dict[str, Any] = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": _extractor(7),
        "bbox_head": {"type": "Shared2FCBBoxHead", "roi_feat_size": 7, "num_classes": 80},
    }
    rcnn = {"score_thr": 0.05, "nms": _nms(0.5), "max_per_img": 100}
    if has_masks:
        heads |= {"mask_roi_extractor": _extractor(14), "mask_head": {"type": "FCNMaskHead"}}
        rcnn["mask_thr_binary"] = 0.5
    anchors = {"scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": [4, 8, 16, 32, 64]}
    return {
        "type": "MaskRCNN" if has_masks else "FasterRCNN",
        "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": 256,
            "anchor_generator": {"type": "AnchorGenerator", **anchors},
        },
        "roi_head": heads,
        "test_cfg": {"rpn": {"nms_pre": 1000, "max_per_img": 1000, "nms": _nms(0.7)}, "rcnn": rcnn},
    }


def _extractor(output_size: int) -> dict[str, Any]:
    layer = {"type": "RoIAlign", "output_size": output_size, "sampling_ratio": 0}
    return {"type": "SingleRoIExtractor", "roi_layer": layer}


def _retinanet() -> dict[str, Any]:
    """Return `_base_/models/retinanet_r50_fpn.py` without the backbone."""
    anchors = {"octave_base_scale": 4, "scales_per_octave": 3, "ratios": [0.5, 1.0, 2.0]}
    return {
        "type": "RetinaNet",
        "neck": {
            "type": "FPN",
            "in_channels": [256, 512, 1024, 2048],
            "out_channels": 256,
            "start_level": 1,
            "add_extra_convs": "on_input",
            "num_outs": 5,
        },
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": 80,
            "in_channels": 256,
            "anchor_generator": {"type": "AnchorGenerator", **anchors, "strides": [8, 16, 32, 64, 128]},
        },
        "test_cfg": {"nms_pre": 1000, "score_thr": 0.05, "nms": _nms(0.5), "max_per_img": 100},
    }
