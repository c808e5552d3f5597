"""Turn the config of an mmdetection detector into the config of a detector of this package."""

from collections.abc import Mapping
from typing import Any

from .mmdet_config import Section

DETECTORS = {"FasterRCNN": "faster_rcnn", "MaskRCNN": "mask_rcnn", "RetinaNet": "retinanet"}
NORMS = {"BN": "batch", "SyncBN": "sync", "GN": "group"}
BOX_HEADS = {"Shared2FCBBoxHead": (0, 2), "Shared4Conv1FCBBoxHead": (4, 1), "ConvFCBBoxHead": None}
NOT_BUILT = ("init_cfg", "pretrained", "with_cp")


def model_of(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the model as `build_detector` takes it, with `num_classes`.

    Args:
        values: variables of the config.
        where: name of the file in messages.

    Raises:
        InputError: the config asks for something that is not supported; the message names the key.
    """
    model = Section(values.get("model"), "model", where)
    kind = model.choose("type", DETECTORS)
    tests = Section(model.take("test_cfg", None) or values.get("test_cfg"), "model.test_cfg", where)
    backbone, levels = _backbone(model.part("backbone"))
    neck, levels, roi_levels = _neck(model, levels)
    first = int(roi_levels[0][1:])
    backbone["out_features"] = tuple(level for level in backbone["out_features"] if int(level[1:]) >= first)
    config = {"type": kind, "backbone": backbone, "neck": neck}
    if kind == "retinanet":
        config |= _retinanet(model.part("bbox_head"), tests, levels)
    else:
        config |= {
            "rpn": _rpn(model.part("rpn_head"), tests.part("rpn"), levels),
            "roi_features": tuple(roi_levels),
            **_roi_heads(model.part("roi_head"), tests.part("rcnn"), kind == "mask_rcnn"),
        }
    model.finish("train_cfg", "data_preprocessor", "_scope_", *NOT_BUILT)
    return config


def _norm(section: Section, name: str = "norm_cfg") -> tuple[str | None, float]:
    """Return the name of a norm, None if there is none, and its epsilon."""
    if name not in section:
        section.take(name, None)
        return None, 1e-5
    norm = section.part(name)
    kind, eps = norm.choose("type", NORMS), norm.number("eps", 1e-5)
    if kind == "group":
        norm.choose("num_groups", {32: None})
    trains = norm.take("requires_grad", True)
    norm.finish()
    return ("frozen" if kind == "batch" and not trains else kind), eps


def _backbone(section: Section) -> tuple[dict[str, Any], list[str]]:
    kind = section.choose("type", {"ResNet": "ResNet", "ResNeXt": "ResNeXt", "ResNetV1d": "ResNetV1d"})
    depth = section.choose("depth", {depth: depth for depth in (18, 34, 50, 101, 152)})
    section.choose("num_stages", {4: None}, 4)
    norm, eps = _norm(section) if "norm_cfg" in section else ("batch", 1e-5)
    section.take("norm_cfg", None)
    evaluates = section.take("norm_eval", True)
    backbone: dict[str, Any] = {
        "type": f"resnet{depth}{'d' if kind == 'ResNetV1d' else ''}",
        "norm": "batch_eval" if norm == "batch" and evaluates else norm,
        "freeze": section.number("frozen_stages", -1) + 1,
    }
    if eps != 1e-5:
        backbone["norm_eps"] = eps
    if depth >= 50:
        backbone["stride_in_1x1"] = section.choose("style", {"pytorch": False, "caffe": True}, "pytorch")
        if kind == "ResNeXt":
            backbone |= {"groups": section.number("groups", 1), "width_per_group": section.number("base_width", 4)}
    else:
        section.take("style", "pytorch")
    strides, dilations = section.numbers("strides", (1, 2, 2, 2)), section.numbers("dilations", (1, 1, 1, 1))
    forms: dict[tuple, int] = {  # strides, dilations -> output stride
        ((1, 2, 2, 2), (1, 1, 1, 1)): 32,
        ((1, 2, 2, 1), (1, 1, 1, 2)): 16,
        ((1, 2, 1, 1), (1, 1, 2, 4)): 8,
    }
    output_stride = forms.get((tuple(strides), tuple(dilations)))
    if output_stride is None:
        raise section.refused("dilations", "(1, 1, 1, 2) with strides (1, 2, 2, 1), or (1, 1, 2, 4) with (1, 2, 1, 1)")
    if output_stride != 32:
        backbone |= {"output_stride": output_stride, "dilation_convention": "mmdet"}
    levels = [f"c{int(index) + 2}" for index in section.numbers("out_indices", (0, 1, 2, 3))]
    backbone["out_features"] = tuple(levels)
    section.choose("deep_stem", {False: None}, False)
    section.choose("avg_down", {False: None}, False)
    section.finish(*NOT_BUILT)
    return backbone, levels


def _neck(model: Section, inputs: list[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the neck, its levels, and those of them that RoIs are pooled from."""
    if "neck" not in model:
        model.take("neck", None)
        return {"type": "identity"}, inputs, inputs
    section = model.part("neck")
    section.choose("type", {"FPN": None})
    section.take("in_channels")
    start = section.number("start_level", 0)
    section.choose("end_level", {-1: None}, -1)
    kinds = {False: "max_pool", True: "conv_on_input", "on_input": "conv_on_input", "on_output": "conv_on_output"}
    extra = section.choose("add_extra_convs", kinds, False)
    used = inputs[start:]
    levels = [f"p{level[1:]}" for level in used]
    added = section.number("num_outs") - len(used)
    if added not in ({"max_pool": (0, 1)}.get(extra, (2,))):
        raise section.refused("num_outs", f"{len(used) + 1} or, with extra convolutions, {len(used) + 2}")
    norm, _ = _norm(section)
    neck = {
        "type": "fpn",
        "out_channels": section.number("out_channels"),
        "extra_levels": extra if added else "none",
        "relu_before_extra_convs": section.take("relu_before_extra_convs", False),
        "norm": norm,
    }
    section.choose("no_norm_on_lateral", {False: None}, False)
    for name, default in (("conv_cfg", None), ("act_cfg", None)):
        section.choose(name, {default: None}, default)
    section.finish("upsample_cfg", *NOT_BUILT)
    deepest = int(used[-1][1:])
    return neck, levels + [f"p{deepest + 1 + index}" for index in range(added)], levels


def _anchors(section: Section, levels: list[str]) -> dict[str, Any]:
    section.choose("type", {"AnchorGenerator": None})
    strides, ratios = section.numbers("strides"), section.numbers("ratios")
    if len(strides) != len(levels):
        raise section.refused("strides", f"{len(levels)} numbers, one per level")
    if "scales" in section:
        scales = section.numbers("scales")
    else:
        base, octaves = section.number("octave_base_scale"), section.number("scales_per_octave")
        scales = [base * 2 ** (index / octaves) for index in range(int(octaves))]
    section.choose("scale_major", {True: None}, True)
    offset = section.number("center_offset", 0.0)
    section.finish()
    return {
        "anchor_sizes": [[float(stride * scale) for scale in scales] for stride in strides],
        "aspect_ratios": [float(ratio) for ratio in ratios],
        "anchor_offset": float(offset),
    }


def _box_weights(section: Section, default: tuple[float, ...]) -> list[float]:
    if "bbox_coder" not in section:
        return [1 / std for std in default]
    coder = section.part("bbox_coder")
    coder.choose("type", {"DeltaXYWHBBoxCoder": None})
    if any(coder.numbers("target_means", (0.0,) * 4)):
        raise coder.refused("target_means", "zeros")
    stds = coder.numbers("target_stds", default)
    coder.choose("clip_border", {True: None}, True)
    coder.finish()
    return [1 / std for std in stds]


def _nms_threshold(section: Section, default: float = 0.5) -> float:
    nms = section.part("nms", {"type": "nms", "iou_threshold": default})
    nms.choose("type", {"nms": None}, "nms")
    threshold = nms.number("iou_threshold" if "iou_threshold" in nms else "iou_thr")
    nms.finish()
    return threshold


def _rpn(section: Section, tests: Section, levels: list[str]) -> dict[str, Any]:
    section.choose("type", {"RPNHead": None})
    width = section.number("in_channels")
    if section.number("feat_channels", 256) != width:
        raise section.refused("feat_channels", f"{width}, the number of input channels")
    rpn = {
        "type": "rpn",
        **_anchors(section.part("anchor_generator"), levels),
        "bbox_reg_weights": _box_weights(section, (1.0,) * 4),
        "conv_depth": section.number("num_convs", 1),
    }
    section.finish("reg_decoded_bbox", "train_cfg", "test_cfg", *NOT_BUILT)
    kept = tests.number("max_per_img" if "max_per_img" in tests else "max_num")
    before = tests.number("nms_pre")
    threshold = tests.number("nms_thr") if "nms_thr" in tests else _nms_threshold(tests)
    tests.finish("nms_post", "nms_across_levels", "min_bbox_size")
    training = {"pre_nms_top_n": (2 * before, before), "post_nms_top_n": (kept, kept)}
    return rpn | training | {"nms_thresh": threshold}


def _pooling(section: Section, what: str) -> tuple[int, int, bool]:
    """Return output cells per side, sampling ratio and half-pixel alignment."""
    extractor = section.part(what)
    extractor.choose("type", {"SingleRoIExtractor": None})
    extractor.choose("finest_scale", {56: None}, 56)
    layer = extractor.part("roi_layer")
    layer.choose("type", {"RoIAlign": None})
    names = ("output_size", "sampling_ratio") if "output_size" in layer else ("out_size", "sample_num")
    size, ratio = layer.number(names[0]), layer.number(names[1], 0)
    aligned = layer.take("aligned", True)
    layer.finish("pool_mode", "use_torchvision")
    extractor.finish("out_channels", "featmap_strides", *NOT_BUILT)
    return size, ratio, aligned


def _roi_heads(section: Section, tests: Section, has_masks: bool) -> dict[str, Any]:
    section.choose("type", {"StandardRoIHead": None})
    pool_size, ratio, aligned = _pooling(section, "bbox_roi_extractor")
    box = section.part("bbox_head")
    form = box.choose("type", BOX_HEADS)
    convs, fcs = form or (box.number("num_shared_convs", 0), box.number("num_shared_fcs", 0))
    box.choose("roi_feat_size", {pool_size: None}, pool_size)
    norm, _ = _norm(box)
    num_classes = box.number("num_classes")
    heads: dict[str, Any] = {
        "type": "standard",
        "pool_size": pool_size,
        "sampling_ratio": ratio,
        "aligned": aligned,
        "box_head_convs": (box.number("conv_out_channels", 256),) * convs,
        "box_head_fcs": fcs,
        "box_head_dim": box.number("fc_out_channels", 1024),
        "norm": norm,
        "class_agnostic_boxes": box.take("reg_class_agnostic", False),
        "class_agnostic_masks": False,
        "bbox_reg_weights": _box_weights(box, (0.1, 0.1, 0.2, 0.2)),
        "score_thresh": tests.number("score_thr"),
        "nms_thresh": _nms_threshold(tests),
        "detections_per_img": tests.number("max_per_img"),
    }
    box.finish("in_channels", "reg_decoded_bbox", *NOT_BUILT)
    if has_masks:
        heads |= _mask_head(section, tests, heads)
    tests.choose("mask_thr_binary", {0.5: None}, 0.5)
    tests.finish()
    section.finish(*NOT_BUILT)
    return {"roi_heads": heads, "num_classes": num_classes} | ({"mask_paste": "detectron2"} if has_masks else {})


def _mask_head(section: Section, tests: Section, heads: Mapping[str, Any]) -> dict[str, Any]:
    size, ratio, aligned = _pooling(section, "mask_roi_extractor")
    if (ratio, aligned) != (heads["sampling_ratio"], heads["aligned"]):
        raise section.refused("mask_roi_extractor", "the sampling of bbox_roi_extractor")
    mask = section.part("mask_head")
    mask.choose("type", {"FCNMaskHead": None})
    norm, _ = _norm(mask)
    if heads["box_head_convs"] and norm != heads["norm"]:
        raise mask.refused("norm_cfg", "the norm of bbox_head")
    width = mask.number("conv_out_channels", 256)
    agnostic = mask.take("class_agnostic", False)
    convs = mask.number("num_convs", 4)
    mask.finish("in_channels", "num_classes", "roi_feat_size", "upsample_cfg", *NOT_BUILT)
    return {
        "norm": norm,
        "class_agnostic_masks": agnostic,
        "mask_pool_size": size,
        "mask_channels": (width,) * convs,
        "mask_dim": width,
    }


def _retinanet(section: Section, tests: Section, levels: list[str]) -> dict[str, Any]:
    section.choose("type", {"RetinaHead": None})
    section.choose("stacked_convs", {4: None}, 4)
    width = section.number("in_channels")
    if section.number("feat_channels", 256) != width:
        raise section.refused("feat_channels", f"{width}, the number of input channels")
    norm, _ = _norm(section)
    config = {
        "num_classes": section.number("num_classes"),
        **_anchors(section.part("anchor_generator"), levels),
        "head_norm": norm,
        "bbox_reg_weights": _box_weights(section, (1.0,) * 4),
        "score_thresh": tests.number("score_thr"),
        "nms_thresh": _nms_threshold(tests),
        "topk_candidates": tests.number("nms_pre"),
        "detections_per_img": tests.number("max_per_img"),
    }
    section.finish("reg_decoded_bbox", *NOT_BUILT)
    tests.finish("min_bbox_size")
    return config
