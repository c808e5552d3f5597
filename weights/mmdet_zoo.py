"""Detectors of mmdetection's model zoo by name: where the file is, its config, and the AP that mmdetection publishes.

Names, addresses and numbers are those of mmdetection 3.3 (`configs/*/metafile.yml`; one mask AP is only in README.md).
`zoo_config` repeats what its configs say about a network, because mmdetection evaluates the files with them. For
`faster-rcnn_r101-caffe_fpn_ms-3x_coco` it repeats version 2.28: the one in 3.3 normalises for another network.

The config text inside the files is not used, because some were trained before the release of mmdetection 2
(https://github.com/open-mmlab/mmdetection/issues/2795).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cards import WeightCard, published_ap
from .downloads import download
from .library_configs import mmdet_facts

URL = "https://download.openmmlab.com/mmdetection/v2.0/"
TABLE_URL = "https://github.com/open-mmlab/mmdetection/tree/main/configs/"
RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NAME = re.compile(r"(faster-rcnn|mask-rcnn|retinanet)_[rx](\d+)(?:-(\d+)x(\d+)d)?(-caffe)?(-dc5)?_.*")


@dataclass(frozen=True)
class ZooModel:
    """A published detector.

    Attributes:
        old_name: its name in mmdetection 2, with which the name of the file begins.
        suffix: the rest of the name of the file.
        box_ap, mask_ap: AP on COCO val2017 in percent; None if it does not have masks.
    """

    old_name: str
    suffix: str
    box_ap: float
    mask_ap: float | None = None

    @property
    def file_name(self) -> str:
        return f"{self.old_name}_{self.suffix}.pth"


# fmt: off
ZOO: dict[str, ZooModel] = {
    "faster-rcnn_r50-caffe-dc5_1x_coco": ZooModel("faster_rcnn_r50_caffe_dc5_1x_coco", "20201030_151909-531f0f43", 37.2),  # noqa: E501
    "faster-rcnn_r50-caffe_fpn_1x_coco": ZooModel("faster_rcnn_r50_caffe_fpn_1x_coco", "bbox_mAP-0.378_20200504_180032-c5925ee5", 37.8),  # noqa: E501
    "faster-rcnn_r50_fpn_1x_coco": ZooModel("faster_rcnn_r50_fpn_1x_coco", "20200130-047c8118", 37.4),
    "faster-rcnn_r50_fpn_2x_coco": ZooModel("faster_rcnn_r50_fpn_2x_coco", "bbox_mAP-0.384_20200504_210434-a5d8aa15", 38.4),  # noqa: E501
    "faster-rcnn_r101-caffe_fpn_1x_coco": ZooModel("faster_rcnn_r101_caffe_fpn_1x_coco", "bbox_mAP-0.398_20200504_180057-b269e9dd", 39.8),  # noqa: E501
    "faster-rcnn_r101_fpn_1x_coco": ZooModel("faster_rcnn_r101_fpn_1x_coco", "20200130-f513f705", 39.4),
    "faster-rcnn_r101_fpn_2x_coco": ZooModel("faster_rcnn_r101_fpn_2x_coco", "bbox_mAP-0.398_20200504_210455-1d2dac9c", 39.8),  # noqa: E501
    "faster-rcnn_x101-32x4d_fpn_1x_coco": ZooModel("faster_rcnn_x101_32x4d_fpn_1x_coco", "20200203-cff10310", 41.2),
    "faster-rcnn_x101-32x4d_fpn_2x_coco": ZooModel("faster_rcnn_x101_32x4d_fpn_2x_coco", "bbox_mAP-0.412_20200506_041400-64a12c0b", 41.2),  # noqa: E501
    "faster-rcnn_x101-64x4d_fpn_1x_coco": ZooModel("faster_rcnn_x101_64x4d_fpn_1x_coco", "20200204-833ee192", 42.1),
    "faster-rcnn_x101-64x4d_fpn_2x_coco": ZooModel("faster_rcnn_x101_64x4d_fpn_2x_coco", "20200512_161033-5961fa95", 41.6),  # noqa: E501
    "faster-rcnn_r50-caffe-dc5_ms-1x_coco": ZooModel("faster_rcnn_r50_caffe_dc5_mstrain_1x_coco", "20201028_233851-b33d21b9", 37.4),  # noqa: E501
    "faster-rcnn_r50-caffe-dc5_ms-3x_coco": ZooModel("faster_rcnn_r50_caffe_dc5_mstrain_3x_coco", "20201028_002107-34a53b2c", 38.7),  # noqa: E501
    "faster-rcnn_r50-caffe_fpn_ms-2x_coco": ZooModel("faster_rcnn_r50_caffe_fpn_mstrain_2x_coco", "bbox_mAP-0.397_20200504_231813-10b2de58", 39.7),  # noqa: E501
    "faster-rcnn_r50-caffe_fpn_ms-3x_coco": ZooModel("faster_rcnn_r50_caffe_fpn_mstrain_3x_coco", "20210526_095054-1f77628b", 39.9),  # noqa: E501
    "faster-rcnn_r50_fpn_ms-3x_coco": ZooModel("faster_rcnn_r50_fpn_mstrain_3x_coco", "20210524_110822-e10bd31c", 40.3),
    "faster-rcnn_r101-caffe_fpn_ms-3x_coco": ZooModel("faster_rcnn_r101_caffe_fpn_mstrain_3x_coco", "20210526_095742-a7ae426d", 42.0),  # noqa: E501
    "faster-rcnn_r101_fpn_ms-3x_coco": ZooModel("faster_rcnn_r101_fpn_mstrain_3x_coco", "20210524_110822-4d4d2ca8", 41.8),  # noqa: E501
    "faster-rcnn_x101-32x4d_fpn_ms-3x_coco": ZooModel("faster_rcnn_x101_32x4d_fpn_mstrain_3x_coco", "20210524_124151-16b9b260", 42.5),  # noqa: E501
    "faster-rcnn_x101-32x8d_fpn_ms-3x_coco": ZooModel("faster_rcnn_x101_32x8d_fpn_mstrain_3x_coco", "20210604_182954-002e082a", 42.4),  # noqa: E501
    "faster-rcnn_x101-64x4d_fpn_ms-3x_coco": ZooModel("faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco", "20210524_124528-26c63de6", 43.1),  # noqa: E501
    "mask-rcnn_r50-caffe_fpn_1x_coco": ZooModel("mask_rcnn_r50_caffe_fpn_1x_coco", "bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859", 38.0, 34.4),  # noqa: E501
    "mask-rcnn_r50_fpn_1x_coco": ZooModel("mask_rcnn_r50_fpn_1x_coco", "20200205-d4b0c5d6", 38.2, 34.7),
    "mask-rcnn_r50_fpn_2x_coco": ZooModel("mask_rcnn_r50_fpn_2x_coco", "bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40", 39.2, 35.4),  # noqa: E501
    "mask-rcnn_r101-caffe_fpn_1x_coco": ZooModel("mask_rcnn_r101_caffe_fpn_1x_coco", "20200601_095758-805e06c1", 40.4, 36.4),  # noqa: E501
    "mask-rcnn_r101_fpn_1x_coco": ZooModel("mask_rcnn_r101_fpn_1x_coco", "20200204-1efe0ed5", 40.0, 36.1),
    "mask-rcnn_r101_fpn_2x_coco": ZooModel("mask_rcnn_r101_fpn_2x_coco", "bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7", 40.8, 36.6),  # noqa: E501
    "mask-rcnn_x101-32x4d_fpn_1x_coco": ZooModel("mask_rcnn_x101_32x4d_fpn_1x_coco", "20200205-478d0b67", 41.9, 37.5),
    "mask-rcnn_x101-32x4d_fpn_2x_coco": ZooModel("mask_rcnn_x101_32x4d_fpn_2x_coco", "bbox_mAP-0.422__segm_mAP-0.378_20200506_004702-faef898c", 42.2, 37.8),  # noqa: E501
    "mask-rcnn_x101-64x4d_fpn_1x_coco": ZooModel("mask_rcnn_x101_64x4d_fpn_1x_coco", "20200201-9352eb0d", 42.8, 38.4),
    "mask-rcnn_x101-64x4d_fpn_2x_coco": ZooModel("mask_rcnn_x101_64x4d_fpn_2x_coco", "20200509_224208-39d6f70c", 42.7, 38.1),  # noqa: E501
    "mask-rcnn_x101-32x8d_fpn_1x_coco": ZooModel("mask_rcnn_x101_32x8d_fpn_1x_coco", "20220630_173841-0aaf329e", 42.8, 38.3),  # noqa: E501
    "mask-rcnn_r50-caffe_fpn_ms-poly-2x_coco": ZooModel("mask_rcnn_r50_caffe_fpn_mstrain-poly_2x_coco", "bbox_mAP-0.403__segm_mAP-0.365_20200504_231822-a75c98ce", 40.3, 36.5),  # noqa: E501
    "mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco": ZooModel("mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco", "bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00", 40.8, 37.0),  # noqa: E501
    "mask-rcnn_r50_fpn_ms-poly-3x_coco": ZooModel("mask_rcnn_r50_fpn_mstrain-poly_3x_coco", "20210524_201154-21b550bb", 40.9, 37.1),  # noqa: E501
    "mask-rcnn_r101_fpn_ms-poly-3x_coco": ZooModel("mask_rcnn_r101_fpn_mstrain-poly_3x_coco", "20210524_200244-5675c317", 42.7, 38.5),  # noqa: E501
    "mask-rcnn_r101-caffe_fpn_ms-poly-3x_coco": ZooModel("mask_rcnn_r101_caffe_fpn_mstrain-poly_3x_coco", "20210526_132339-3c33ce02", 42.9, 38.5),  # noqa: E501
    "mask-rcnn_x101-32x4d_fpn_ms-poly-3x_coco": ZooModel("mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco", "20210524_201410-abcd7859", 43.6, 39.0),  # noqa: E501
    "mask-rcnn_x101-32x8d_fpn_ms-poly-1x_coco": ZooModel("mask_rcnn_x101_32x8d_fpn_mstrain-poly_1x_coco", "20220630_170346-b4637974", 43.4, 39.0),  # noqa: E501
    "mask-rcnn_x101-32x8d_fpn_ms-poly-3x_coco": ZooModel("mask_rcnn_x101_32x8d_fpn_mstrain-poly_3x_coco", "20210607_161042-8bd2c639", 44.3, 39.5),  # noqa: E501
    "mask-rcnn_x101-64x4d_fpn_ms-poly_3x_coco": ZooModel("mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco", "20210526_120447-c376f129", 44.5, 39.7),  # noqa: E501
    "retinanet_r18_fpn_1x_coco": ZooModel("retinanet_r18_fpn_1x_coco", "20220407_171055-614fd399", 31.7),
    "retinanet_r18_fpn_1xb8-1x_coco": ZooModel("retinanet_r18_fpn_1x8_1x_coco", "20220407_171255-4ea310d7", 31.7),
    "retinanet_r50-caffe_fpn_1x_coco": ZooModel("retinanet_r50_caffe_fpn_1x_coco", "20200531-f11027c5", 36.3),
    "retinanet_r50_fpn_1x_coco": ZooModel("retinanet_r50_fpn_1x_coco", "20200130-c2398f9e", 36.5),
    "retinanet_r50_fpn_2x_coco": ZooModel("retinanet_r50_fpn_2x_coco", "20200131-fdb43119", 37.4),
    "retinanet_r50_fpn_ms-640-800-3x_coco": ZooModel("retinanet_r50_fpn_mstrain_3x_coco", "20210718_220633-88476508", 39.5),  # noqa: E501
    "retinanet_r101-caffe_fpn_1x_coco": ZooModel("retinanet_r101_caffe_fpn_1x_coco", "20200531-b428fa0f", 38.5),
    "retinanet_r101-caffe_fpn_ms-3x_coco": ZooModel("retinanet_r101_caffe_fpn_mstrain_3x_coco", "20210721_063439-88a8a944", 40.7),  # noqa: E501
    "retinanet_r101_fpn_1x_coco": ZooModel("retinanet_r101_fpn_1x_coco", "20200130-7a93545f", 38.5),
    "retinanet_r101_fpn_2x_coco": ZooModel("retinanet_r101_fpn_2x_coco", "20200131-5560aee8", 38.9),
    "retinanet_r101_fpn_ms-640-800-3x_coco": ZooModel("retinanet_r101_fpn_mstrain_3x_coco", "20210720_214650-7ee888e0", 41.0),  # noqa: E501
    "retinanet_x101-32x4d_fpn_1x_coco": ZooModel("retinanet_x101_32x4d_fpn_1x_coco", "20200130-5c8b7ec4", 39.9),
    "retinanet_x101-32x4d_fpn_2x_coco": ZooModel("retinanet_x101_32x4d_fpn_2x_coco", "20200131-237fc5e1", 40.1),
    "retinanet_x101-64x4d_fpn_1x_coco": ZooModel("retinanet_x101_64x4d_fpn_1x_coco", "20200130-366f5af1", 41.0),
    "retinanet_x101-64x4d_fpn_2x_coco": ZooModel("retinanet_x101_64x4d_fpn_2x_coco", "20200131-bca068ab", 40.8),
    "retinanet_x101-64x4d_fpn_ms-640-800-3x_coco": ZooModel("retinanet_x101_64x4d_fpn_mstrain_3x_coco", "20210719_051838-022c2187", 41.6),  # noqa: E501
}
# fmt: on


def _comparable(name: str) -> str:
    """Return a name without what differs between the versions of mmdetection."""
    return name.replace("-", "_").replace("mstrain", "ms")


NAMES = {_comparable(entry.old_name): name for name, entry in ZOO.items()}
NAMES |= {_comparable(name): name for name in ZOO} | {_comparable(entry.file_name): name for name, entry in ZOO.items()}


def find_name(text: str) -> str | None:
    """Return the name of a detector of the zoo; None if it is not there.

    Args:
        text: name of its config in mmdetection 3 or 2, or of its file; also with folders before it, or ".py" behind.
    """
    return NAMES.get(_comparable(text.lstrip(":").rpartition("/")[2].removesuffix(".py")))


def zoo_card(name: str) -> WeightCard:
    """Return the card of the backbone in the file of a detector of the zoo."""
    backbone = zoo_config(name)["model"]["backbone"]
    groups = f"_{backbone['groups']}x{backbone['base_width']}d" if "groups" in backbone else ""
    facts = mmdet_facts(zoo_config(name))
    return WeightCard(
        source=f"mmdet:{name}",
        library="mmdet",
        architecture=f"{backbone['type'].lower()}{backbone['depth']}{groups}",
        source_channel_order=facts["channel_order"],
        **facts,
        **published_fields(name),  # type: ignore[arg-type]
    )


def download_from_zoo(name: str) -> Path:
    """Return the path of the file of a detector of the zoo.

    Its hash is recorded, but not compared with the digits in its name: OpenMMLab's own programs do not do so, because
    they are wrong for some files (https://github.com/open-mmlab/mim/pull/11).

    Raises:
        InputError: it cannot be downloaded.
    """
    return download(published_fields(name)["url"], sha256_prefix="")


def published_fields(name: str) -> dict[str, str]:
    """Return what a card says about where a detector of the zoo is published."""
    entry = ZOO[name]
    family = re.split(r"_[rx]\d", entry.old_name)[0]
    return {
        "published": published_ap("COCO val2017", entry.box_ap, entry.mask_ap),
        "published_url": TABLE_URL + family,
        "licence": "Apache-2.0",
        "url": f"{URL}{family}/{entry.old_name}/{entry.file_name}",
    }


def zoo_config(name: str) -> dict[str, Any]:
    """Return the variables of the config of a detector of the zoo, as far as they say what it computes."""
    family, depth, groups, base_width, caffe, dc5 = NAME.fullmatch(name).groups()  # type: ignore[union-attr]
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
    if dc5:
        backbone |= {"strides": [1, 2, 2, 1], "dilations": [1, 1, 1, 2], "out_indices": [3]}
    model = _retinanet() if family == "retinanet" else _rcnn(has_masks=family == "mask-rcnn", is_dc5=bool(dc5))
    return {"model": model | {"data_preprocessor": images, "backbone": backbone}}


def _nms(threshold: float) -> dict[str, Any]:
    return {"type": "nms", "iou_threshold": threshold}


def _rcnn(has_masks: bool, is_dc5: bool) -> dict[str, Any]:
    """Return `_base_/models/faster-rcnn_*.py` or `mask-rcnn_r50_fpn.py` without the backbone."""
    heads: dict[str, Any] = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": _extractor(7),
        "bbox_head": {"type": "Shared2FCBBoxHead", "roi_feat_size": 7, "num_classes": 80},
    }
    rcnn = {"score_thr": 0.05, "nms": _nms(0.5), "max_per_img": 100}
    if has_masks:
        heads |= {"mask_roi_extractor": _extractor(14), "mask_head": {"type": "FCNMaskHead"}}
        rcnn["mask_thr_binary"] = 0.5
    anchors = {"scales": [8], "strides": [4, 8, 16, 32, 64]}
    if is_dc5:
        anchors = {"scales": [2, 4, 8, 16, 32], "strides": [16]}
    width = 2048 if is_dc5 else 256
    model: dict[str, Any] = {
        "type": "MaskRCNN" if has_masks else "FasterRCNN",
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": width,
            "feat_channels": width,
            "anchor_generator": {"type": "AnchorGenerator", "ratios": [0.5, 1.0, 2.0], **anchors},
        },
        "roi_head": heads,
        "test_cfg": {
            "rpn": {"nms_pre": 6000 if is_dc5 else 1000, "max_per_img": 1000, "nms": _nms(0.7)},
            "rcnn": rcnn,
        },
    }
    return model if is_dc5 else model | {"neck": _fpn()}


def _fpn(**changes: Any) -> dict[str, Any]:
    neck = {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256, "num_outs": 5}
    return neck | changes


def _extractor(output_size: int) -> dict[str, Any]:
    layer = {"type": "RoIAlign", "output_size": output_size, "sampling_ratio": 0}
    return {"type": "SingleRoIExtractor", "roi_layer": layer}


def _retinanet() -> dict[str, Any]:
    """Return `_base_/models/retinanet_r50_fpn.py` without the backbone."""
    anchors = {"octave_base_scale": 4, "scales_per_octave": 3, "ratios": [0.5, 1.0, 2.0]}
    return {
        "type": "RetinaNet",
        "neck": _fpn(start_level=1, add_extra_convs="on_input"),
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": 80,
            "in_channels": 256,
            "anchor_generator": {"type": "AnchorGenerator", **anchors, "strides": [8, 16, 32, 64, 128]},
        },
        "test_cfg": {"nms_pre": 1000, "score_thr": 0.05, "nms": _nms(0.5), "max_per_img": 100},
    }
