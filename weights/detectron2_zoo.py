"""Detectors of detectron2's model zoo by name: where the file is, its config, and the AP that detectron2 publishes.

Names, addresses and numbers are those of detectron2's `model_zoo.py` and `MODEL_ZOO.md`; the configs repeat only what
`configs/*.yaml` change of the defaults.
"""

import functools
from dataclasses import dataclass
from typing import Any

from .cards import published_ap
from .detectron2_config import Detectron2Config, merge

URL = "https://dl.fbaipublicfiles.com/detectron2/"
TABLE_URL = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
COCO, VOC, LVIS, CITYSCAPES = "coco_2017_val", "voc_2007_test", "lvis_v0.5_val", "cityscapes_fine_instance_seg_val"
BGR_STD = [57.375, 57.12, 58.395]


@dataclass(frozen=True)
class ZooModel:
    """A published detector.

    Attributes:
        file: what comes after the name in the address.
        changes: parts of the config that the name does not tell.
        box_ap, mask_ap: COCO AP in percent; None if it is not published.
        dataset: detectron2's name of the dataset of this AP.
    """

    file: str
    box_ap: float | None
    mask_ap: float | None = None
    changes: tuple[dict[str, Any], ...] = ()
    dataset: str = COCO


def _model(**sections: Any) -> dict[str, Any]:
    return {"MODEL": sections}


_POOLED = {
    "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
    "ROI_MASK_HEAD": {"NUM_CONV": 4, "POOLER_RESOLUTION": 14},
}
_RPN_OF_PYRAMID = {
    "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "PRE_NMS_TOPK_TRAIN": 2000,
    "PRE_NMS_TOPK_TEST": 1000,
    "POST_NMS_TOPK_TRAIN": 1000,
}
FORMS = {
    "C4": {},
    "DC5": _model(
        RESNETS={"OUT_FEATURES": ["res5"], "RES5_DILATION": 2},
        RPN={"IN_FEATURES": ["res5"]},
        ROI_HEADS={"NAME": "StandardROIHeads", "IN_FEATURES": ["res5"]},
        **_POOLED,
    ),
    "FPN": _model(
        BACKBONE={"NAME": "build_resnet_fpn_backbone"},
        RESNETS={"OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        FPN={"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        ANCHOR_GENERATOR={"SIZES": [[32], [64], [128], [256], [512]]},
        RPN=_RPN_OF_PYRAMID,
        ROI_HEADS={"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
        **_POOLED,
    ),
    "RetinaNet": _model(
        META_ARCHITECTURE="RetinaNet",
        BACKBONE={"NAME": "build_retinanet_resnet_fpn_backbone"},
        RESNETS={"OUT_FEATURES": ["res3", "res4", "res5"]},
        ANCHOR_GENERATOR={"SIZES": [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]},
        FPN={"IN_FEATURES": ["res3", "res4", "res5"]},
        RETINANET={"SMOOTH_L1_LOSS_BETA": 0.0},
    ),
}
_X101 = _model(PIXEL_STD=BGR_STD, RESNETS={"STRIDE_IN_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8})


def _norm(name: str, stride_in_1x1: bool) -> dict[str, Any]:
    return _model(
        RESNETS={"NORM": name, "STRIDE_IN_1X1": stride_in_1x1},
        FPN={"NORM": name},
        ROI_BOX_HEAD={"NUM_CONV": 4, "NUM_FC": 1, "NORM": name},
        ROI_MASK_HEAD={"NORM": name},
    )


_FROM_SCRATCH = _model(BACKBONE={"FREEZE_AT": 0})
_SCRATCH_9X = _model(PIXEL_STD=BGR_STD, BACKBONE={"FREEZE_AT": 0}, RESNETS={"STRIDE_IN_1X1": False})
_POOLER_V1 = {"POOLER_SAMPLING_RATIO": 2, "POOLER_TYPE": "ROIAlign"}
_DETECTRON1 = _model(ROI_BOX_HEAD=_POOLER_V1, ROI_MASK_HEAD=_POOLER_V1)
_LVIS = _model(ROI_HEADS={"NUM_CLASSES": 1230, "SCORE_THRESH_TEST": 0.0001}) | {"TEST": {"DETECTIONS_PER_IMAGE": 300}}
_GN, _SYNC = _norm("GN", False), _norm("SyncBN", True)
_CITY = _model(ROI_HEADS={"NUM_CLASSES": 8}) | {"INPUT": {"MIN_SIZE_TEST": 1024, "MAX_SIZE_TEST": 2048}}
_VOC = _model(ROI_HEADS={"NUM_CLASSES": 20})


def _zoo(number: str, digits: str, *values: Any) -> ZooModel:
    return ZooModel(f"{number}/model_final_{digits}.pkl", *values)


# fmt: off
ZOO: dict[str, ZooModel] = {
    "COCO-Detection/faster_rcnn_R_50_C4_1x": _zoo("137257644", "721ade", 35.7),
    "COCO-Detection/faster_rcnn_R_50_DC5_1x": _zoo("137847829", "51d356", 37.3),
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": _zoo("137257794", "b275ba", 37.9),
    "COCO-Detection/faster_rcnn_R_50_C4_3x": _zoo("137849393", "f97cb7", 38.4),
    "COCO-Detection/faster_rcnn_R_50_DC5_3x": _zoo("137849425", "68d202", 39.0),
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": _zoo("137849458", "280758", 40.2),
    "COCO-Detection/faster_rcnn_R_101_C4_3x": _zoo("138204752", "298dad", 41.1),
    "COCO-Detection/faster_rcnn_R_101_DC5_3x": _zoo("138204841", "3e0943", 40.6),
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": _zoo("137851257", "f6e8b1", 42.0),
    "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x": _zoo("139173657", "68b088", 43.0),
    "COCO-Detection/retinanet_R_50_FPN_1x": _zoo("190397773", "bfca0b", 37.4),
    "COCO-Detection/retinanet_R_50_FPN_3x": _zoo("190397829", "5bd44e", 38.7),
    "COCO-Detection/retinanet_R_101_FPN_3x": _zoo("190397697", "971ab9", 40.4),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x": _zoo("137259246", "9243eb", 36.8, 32.2),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x": _zoo("137260150", "4f86c3", 38.3, 34.2),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": _zoo("137260431", "a54504", 38.6, 35.2),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x": _zoo("137849525", "4ce675", 39.8, 34.4),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x": _zoo("137849551", "84107b", 40.0, 35.9),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x": _zoo("137849600", "f10217", 41.0, 37.2),
    "COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x": _zoo("138363239", "a2914c", 42.6, 36.7),
    "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x": _zoo("138363294", "0464b7", 41.9, 37.3),
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": _zoo("138205316", "a3ec72", 42.9, 38.6),
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x": _zoo("139653917", "2d9806", 44.3, 39.5),
    "Misc/mask_rcnn_R_50_FPN_3x_gn": _zoo("138602888", "dc5d9e", 42.6, 38.6, (_GN,)),
    "Misc/mask_rcnn_R_50_FPN_3x_syncbn": _zoo("169527823", "3b3c51", 41.9, 37.8, (_SYNC,)),
    "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn": _zoo("138602908", "01ca85", 39.9, 36.6, (_GN, _FROM_SCRATCH)),
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_gn": _zoo("183808979", "da7b4c", 43.7, 39.6, (_GN, _SCRATCH_9X)),
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn": _zoo("184226666", "5ce33e", 43.6, 39.3, (_SYNC, _SCRATCH_9X)),
    "Detectron1-Comparisons/faster_rcnn_R_50_FPN_noaug_1x": _zoo("137781054", "7ab50c", 36.9, None, (_DETECTRON1,)),
    "Detectron1-Comparisons/mask_rcnn_R_50_FPN_noaug_1x": _zoo("137781281", "62ca52", 37.8, 34.9, (_DETECTRON1,)),
    "LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": _zoo("144219072", "571f7c", 23.6, 24.4, (_LVIS,), LVIS),
    "LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x": _zoo("144219035", "824ab5", 25.6, 25.9, (_LVIS,), LVIS),
    "LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x": _zoo("144219108", "5e3439", 26.7, 27.1, (_LVIS,), LVIS),  # noqa: E501
    "Cityscapes/mask_rcnn_R_50_FPN": _zoo("142423278", "af9cf5", None, 36.5, (_CITY,), CITYSCAPES),
    "PascalVOC-Detection/faster_rcnn_R_50_C4": _zoo("142202221", "b1acc2", 51.9, None, (_VOC,), VOC),
}
# fmt: on


def zoo_config(name: str) -> Detectron2Config:
    """Return the config of a detector of the zoo."""
    entry, words = ZOO[name], name.split("/")[1].split("_")
    form = "RetinaNet" if "retinanet" in words else next(word for word in words if word in FORMS)
    depth = _model(RESNETS={"DEPTH": 101 if "101" in words else 50}, MASK_ON="mask" in words)
    wide, dataset = ([_X101] if "X" in words else []), {"DATASETS": {"TEST": [entry.dataset]}}
    parts = [FORMS[form], depth, *wide, *entry.changes, dataset]
    return Detectron2Config(functools.reduce(merge, parts), f"detectron2:{name}")


def published_fields(name: str) -> dict[str, str]:
    """Return what a card says about where a detector of the zoo is published."""
    entry = ZOO[name]
    return {
        "published": published_ap(entry.dataset, entry.box_ap, entry.mask_ap),
        "published_url": TABLE_URL,
        "licence": "CC-BY-SA-3.0",
        "url": f"{URL}{name}/{entry.file}",
    }
