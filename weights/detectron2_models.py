"""Turn a detectron2 config into the config of a detector of this package."""

from collections.abc import Sequence
from typing import Any

from .class_lists import DATASETS, class_metadata
from .detectron2_config import Detectron2Config

NORMS = {"FrozenBN": "frozen", "BN": "batch", "SyncBN": "sync", "GN": "group"}
HEAD_NORMS = {"": None, "BN": "batch", "SyncBN": "sync", "GN": "group"}
POOLERS = {"ROIAlignV2": True, "ROIAlign": False}  # whether pixels are half-pixel aligned
WIDTHS = {18: 64, 34: 64, 50: 256, 101: 256, 152: 256}  # RES2_OUT_CHANNELS
FPN_LEVELS = {"build_resnet_fpn_backbone": 1, "build_retinanet_resnet_fpn_backbone": 2}  # levels above the backbone's
BOX_LOSSES = {"smooth_l1": "smooth_l1", "giou": "giou", "diou": "diou", "ciou": "ciou"}


def detector_settings(config: Detectron2Config) -> tuple[dict[str, Any], dict[str, Any], int | None, int | None]:
    """Return what a config says about a detector.

    Returns:
        The model as `build_detector` takes it, with `num_classes`; the metadata, see `DetectorSource`; and the short
        and the long side of test images.

    Raises:
        InputError: the config asks for something that is not supported; the message names the key.
    """
    is_rcnn = config.choose("MODEL.META_ARCHITECTURE", {"GeneralizedRCNN": True, "RetinaNet": False})
    config.choose("MODEL.KEYPOINT_ON", {False: None})
    has_masks = is_rcnn and config.get("MODEL.MASK_ON")
    model = _rcnn(config, has_masks) if is_rcnn else _retinanet(config)
    statistics, short_side, long_side = _image_settings(config)
    config.check_all_read(is_rcnn, has_masks)
    return model, statistics | _class_settings(config, model["num_classes"]), short_side, long_side


def _image_settings(config: Detectron2Config) -> tuple[dict[str, Any], int | None, int | None]:
    """Return mean and std of RGB images in [0, 1] as metadata, and the short and long side of test images."""
    is_bgr = config.choose("INPUT.FORMAT", {"BGR": True, "RGB": False})
    statistics = {}
    for name, key in (("image_mean", "MODEL.PIXEL_MEAN"), ("image_std", "MODEL.PIXEL_STD")):
        values = config.get(key)
        if len(values) != 3 or not all(isinstance(v, (int, float)) and 0 <= v <= 255 for v in values):
            raise config.refuse(key, "three numbers from 0 to 255")
        statistics[name] = [float(value) / 255 for value in (values[::-1] if is_bgr else values)]
    short_side = config.get("INPUT.MIN_SIZE_TEST") or None  # 0 leaves the size
    return statistics, short_side, config.get("INPUT.MAX_SIZE_TEST") if short_side else None


def _class_settings(config: Detectron2Config, num_classes: int) -> dict[str, Any]:
    """Return ids and names of the classes, if the dataset is a public one."""
    dataset = config.datasets[0].split("_")[0].lower() if config.datasets else ""
    return class_metadata(DATASETS.get(dataset), num_classes)


def _rcnn(config: Detectron2Config, has_masks: bool) -> dict[str, Any]:
    config.choose("MODEL.PROPOSAL_GENERATOR.NAME", {"RPN": None})
    is_c4 = config.choose("MODEL.ROI_HEADS.NAME", {"StandardROIHeads": False, "Res5ROIHeads": True})
    backbone, neck, levels, divisor = _features(config, ("c5",) if is_c4 else ())
    _check_levels(config, "MODEL.RPN.IN_FEATURES", levels)
    roi_levels = [
        _our_level(config, "MODEL.ROI_HEADS.IN_FEATURES", name, levels)
        for name in config.get("MODEL.ROI_HEADS.IN_FEATURES")
    ]
    model = {
        "type": "mask_rcnn" if has_masks else "faster_rcnn",
        "backbone": backbone,
        "neck": neck,
        "num_classes": config.get("MODEL.ROI_HEADS.NUM_CLASSES"),
        "rpn": _rpn(config, len(levels)),
        "roi_heads": _stage_heads(config, has_masks) if is_c4 else _standard_heads(config, has_masks),
        "roi_features": tuple(roi_levels),
        "size_divisor": divisor,
    }
    return model | ({"mask_paste": "detectron2"} if has_masks else {})


def _features(config: Detectron2Config, in_heads: Sequence[str]) -> tuple[dict, dict, list[str], int]:
    """Return the configs of backbone and neck, the neck's levels, and the divisor of image sides.

    `in_heads` are stages that the RoI heads take from the backbone.
    """
    name = config.choose("MODEL.BACKBONE.NAME", {"build_resnet_backbone": "", **{key: key for key in FPN_LEVELS}})
    inputs = [
        f"c{_number(config, 'MODEL.RESNETS.OUT_FEATURES', level)}" for level in config.get("MODEL.RESNETS.OUT_FEATURES")
    ]
    if not name:
        if len(inputs) != 1:
            raise config.refuse("MODEL.RESNETS.OUT_FEATURES", "one level for build_resnet_backbone")
        return _resnet(config, (*inputs, *in_heads)), {"type": "identity"}, inputs, 1
    if in_heads:
        raise config.refuse("MODEL.ROI_HEADS.NAME", "StandardROIHeads with an FPN")
    used = [f"c{_number(config, 'MODEL.FPN.IN_FEATURES', level)}" for level in config.get("MODEL.FPN.IN_FEATURES")]
    if used != inputs:
        raise config.refuse("MODEL.FPN.IN_FEATURES", "the levels of MODEL.RESNETS.OUT_FEATURES")
    neck = {
        "type": "fpn",
        "out_channels": config.get("MODEL.FPN.OUT_CHANNELS"),
        "norm": config.choose("MODEL.FPN.NORM", HEAD_NORMS),
        "fuse_type": config.choose("MODEL.FPN.FUSE_TYPE", {"sum": "sum", "avg": "avg"}),
        "extra_levels": "max_pool" if FPN_LEVELS[name] == 1 else "conv_on_input",
    }
    deepest = int(inputs[-1][1:])
    levels = [f"p{level[1:]}" for level in inputs] + [f"p{deepest + i + 1}" for i in range(FPN_LEVELS[name])]
    return _resnet(config, inputs), neck, levels, 2**deepest


def _resnet(config: Detectron2Config, out_features: Sequence[str]) -> dict[str, Any]:
    depth = config.get("MODEL.RESNETS.DEPTH")
    if depth not in WIDTHS:
        raise config.refuse("MODEL.RESNETS.DEPTH", ", ".join(map(str, WIDTHS)))
    config.choose("MODEL.RESNETS.RES2_OUT_CHANNELS", {WIDTHS[depth]: None})
    dilated = config.choose("MODEL.RESNETS.RES5_DILATION", {1: False, 2: True})
    norm = config.choose("MODEL.RESNETS.NORM", NORMS)
    backbone: dict[str, Any] = {
        "type": f"resnet{depth}",
        "out_features": tuple(out_features),
        "norm": norm,
        "freeze": config.get("MODEL.BACKBONE.FREEZE_AT"),
    }
    stride_in_1x1 = config.get("MODEL.RESNETS.STRIDE_IN_1X1")
    if depth >= 50:
        backbone |= {
            "stride_in_1x1": stride_in_1x1,
            "groups": config.get("MODEL.RESNETS.NUM_GROUPS"),
            "width_per_group": config.get("MODEL.RESNETS.WIDTH_PER_GROUP"),
        }
    if dilated:
        backbone |= {"output_stride": 16, "dilation_convention": "detectron2"}
    return backbone


def _anchors(config: Detectron2Config, num_levels: int) -> dict[str, Any]:
    config.choose("MODEL.ANCHOR_GENERATOR.NAME", {"DefaultAnchorGenerator": None})
    config.get("MODEL.ANCHOR_GENERATOR.ANGLES")  # of rotated boxes
    sizes = config.get("MODEL.ANCHOR_GENERATOR.SIZES")
    if not all(isinstance(level, (list, tuple)) for level in sizes) or len(sizes) not in (1, num_levels):
        raise config.refuse("MODEL.ANCHOR_GENERATOR.SIZES", f"one list, or {num_levels}, one per level")
    ratios = config.get("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if not ratios or not isinstance(ratios[0], (list, tuple)) or any(level != ratios[0] for level in ratios):
        raise config.refuse("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "lists that are the same for all levels")
    return {
        "anchor_sizes": [
            [float(size) for size in level] for level in (sizes * num_levels if len(sizes) == 1 else sizes)
        ],
        "aspect_ratios": [float(ratio) for ratio in ratios[0]],
        "anchor_offset": config.get("MODEL.ANCHOR_GENERATOR.OFFSET"),
    }


def _rpn(config: Detectron2Config, num_levels: int) -> dict[str, Any]:
    config.choose("MODEL.RPN.HEAD_NAME", {"StandardRPNHead": None})
    widths = config.get("MODEL.RPN.CONV_DIMS")
    if not widths or set(widths) != {-1}:
        raise config.refuse("MODEL.RPN.CONV_DIMS", "[-1], [-1, -1], ...")
    bg_iou, fg_iou = config.get("MODEL.RPN.IOU_THRESHOLDS")
    return {
        "type": "rpn",
        **_anchors(config, num_levels),
        "conv_depth": len(widths),
        "bbox_reg_weights": config.get("MODEL.RPN.BBOX_REG_WEIGHTS"),
        "pre_nms_top_n": (config.get("MODEL.RPN.PRE_NMS_TOPK_TRAIN"), config.get("MODEL.RPN.PRE_NMS_TOPK_TEST")),
        "post_nms_top_n": (config.get("MODEL.RPN.POST_NMS_TOPK_TRAIN"), config.get("MODEL.RPN.POST_NMS_TOPK_TEST")),
        "nms_thresh": config.get("MODEL.RPN.NMS_THRESH"),
        "bg_iou_thresh": bg_iou,
        "fg_iou_thresh": fg_iou,
        "batch_size_per_image": config.get("MODEL.RPN.BATCH_SIZE_PER_IMAGE"),
        "positive_fraction": config.get("MODEL.RPN.POSITIVE_FRACTION"),
    }


def _roi_options(config: Detectron2Config, has_masks: bool) -> dict[str, Any]:
    """Return the arguments that all RoI heads have."""
    thresholds = config.get("MODEL.ROI_HEADS.IOU_THRESHOLDS")
    if len(thresholds) != 1:
        raise config.refuse("MODEL.ROI_HEADS.IOU_THRESHOLDS", "one threshold")
    return {
        "pool_size": config.get("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"),
        "sampling_ratio": config.get("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO"),
        "aligned": config.choose("MODEL.ROI_BOX_HEAD.POOLER_TYPE", POOLERS),
        "class_agnostic_boxes": config.get("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"),
        "class_agnostic_masks": config.get("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK") if has_masks else False,
        "bbox_reg_weights": config.get("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"),
        "fg_iou_thresh": thresholds[0],
        "bg_iou_thresh": thresholds[0],
        "batch_size_per_image": config.get("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"),
        "positive_fraction": config.get("MODEL.ROI_HEADS.POSITIVE_FRACTION"),
        "score_thresh": config.get("MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
        "nms_thresh": config.get("MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        "detections_per_img": config.get("TEST.DETECTIONS_PER_IMAGE"),
    }


def _stage_heads(config: Detectron2Config, has_masks: bool) -> dict[str, Any]:
    heads = {"type": "stage", "stage": "c5", **_roi_options(config, has_masks)}
    for key in ("NAME", "NUM_FC", "FC_DIM", "NUM_CONV", "CONV_DIM", "NORM"):  # C4 heads do not have a box head
        config.get(f"MODEL.ROI_BOX_HEAD.{key}")
    if has_masks:
        _check_mask_head(config)
        for key in ("POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "POOLER_TYPE"):  # nor a pooler of masks
            config.get(f"MODEL.ROI_MASK_HEAD.{key}")
        config.choose("MODEL.ROI_MASK_HEAD.NUM_CONV", {0: None})
        config.get("MODEL.ROI_MASK_HEAD.NORM")
        heads["mask_dim"] = config.get("MODEL.ROI_MASK_HEAD.CONV_DIM")
    return heads


def _standard_heads(config: Detectron2Config, has_masks: bool) -> dict[str, Any]:
    config.choose("MODEL.ROI_BOX_HEAD.NAME", {"FastRCNNConvFCHead": None})
    convs = config.get("MODEL.ROI_BOX_HEAD.NUM_CONV")
    norm = config.choose("MODEL.ROI_BOX_HEAD.NORM", HEAD_NORMS)
    heads = {
        "type": "standard",
        **_roi_options(config, has_masks),
        "box_head_convs": (config.get("MODEL.ROI_BOX_HEAD.CONV_DIM"),) * convs,
        "box_head_fcs": config.get("MODEL.ROI_BOX_HEAD.NUM_FC"),
        "box_head_dim": config.get("MODEL.ROI_BOX_HEAD.FC_DIM"),
        "norm": norm if convs else None,
    }
    if not has_masks:
        return heads
    _check_mask_head(config)
    mask_norm = config.choose("MODEL.ROI_MASK_HEAD.NORM", HEAD_NORMS)
    if convs and mask_norm != norm:
        raise config.refuse("MODEL.ROI_MASK_HEAD.NORM", "the norm of MODEL.ROI_BOX_HEAD")
    for name in ("POOLER_SAMPLING_RATIO", "POOLER_TYPE"):
        if config.get(f"MODEL.ROI_MASK_HEAD.{name}") != config.get(f"MODEL.ROI_BOX_HEAD.{name}"):
            raise config.refuse(f"MODEL.ROI_MASK_HEAD.{name}", "that of MODEL.ROI_BOX_HEAD")
    width = config.get("MODEL.ROI_MASK_HEAD.CONV_DIM")
    return heads | {
        "norm": mask_norm,
        "mask_pool_size": config.get("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"),
        "mask_channels": (width,) * config.get("MODEL.ROI_MASK_HEAD.NUM_CONV"),
        "mask_dim": width,
    }


def _check_mask_head(config: Detectron2Config) -> None:
    config.choose("MODEL.ROI_MASK_HEAD.NAME", {"MaskRCNNConvUpsampleHead": None})


def _retinanet(config: Detectron2Config) -> dict[str, Any]:
    backbone, neck, levels, divisor = _features(config, ())
    _check_levels(config, "MODEL.RETINANET.IN_FEATURES", levels)
    config.choose("MODEL.RETINANET.NUM_CONVS", {4: None})
    bg_iou, fg_iou = config.get("MODEL.RETINANET.IOU_THRESHOLDS")
    box_loss = config.choose("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", BOX_LOSSES)
    beta = config.get("MODEL.RETINANET.SMOOTH_L1_LOSS_BETA")
    return {
        "type": "retinanet",
        "backbone": backbone,
        "neck": neck,
        "num_classes": config.get("MODEL.RETINANET.NUM_CLASSES"),
        **_anchors(config, len(levels)),
        "head_norm": config.choose("MODEL.RETINANET.NORM", {"": None, "GN": "group"}),
        "box_loss": "l1" if box_loss == "smooth_l1" and beta == 0 else box_loss,
        "bbox_reg_weights": config.get("MODEL.RETINANET.BBOX_REG_WEIGHTS"),
        "bg_iou_thresh": bg_iou,
        "fg_iou_thresh": fg_iou,
        "score_thresh": config.get("MODEL.RETINANET.SCORE_THRESH_TEST"),
        "nms_thresh": config.get("MODEL.RETINANET.NMS_THRESH_TEST"),
        "topk_candidates": config.get("MODEL.RETINANET.TOPK_CANDIDATES_TEST"),
        "detections_per_img": config.get("TEST.DETECTIONS_PER_IMAGE"),
        "clip_before_nms": False,
        "size_divisor": divisor,
    }


def _number(config: Detectron2Config, key: str, name: Any) -> int:
    """Return the number in the name of a stage of detectron2, such as 4 for "res4"."""
    if name not in {f"res{number}" for number in range(2, 6)}:
        raise config.refuse(key, "res2, res3, res4, res5")
    return int(name[3:])


def _our_level(config: Detectron2Config, key: str, name: Any, levels: Sequence[str]) -> str:
    ours = str(name).replace("res", "c")
    if ours not in levels:
        raise config.refuse(key, f"of {', '.join(level.replace('c', 'res') for level in levels)}")
    return ours


def _check_levels(config: Detectron2Config, key: str, levels: Sequence[str]) -> None:
    if [_our_level(config, key, name, levels) for name in config.get(key)] != list(levels):
        raise config.refuse(key, f"all of {', '.join(level.replace('c', 'res') for level in levels)}")
