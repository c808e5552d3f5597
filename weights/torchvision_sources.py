"""Whole detectors of torchvision: by name, or from a file with torchvision's keys."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models import get_model_weights

from ..errors import InputError, check_known, shorten
from .cards import IMAGENET_MEAN, IMAGENET_STD
from .class_lists import COCO_ROWS, class_metadata
from .detector_source import DetectorSource, foreign_source
from .downloads import download
from .sources import read_state
from .torchvision_detectors import TORCHVISION_CONFIGS, convert_torchvision_detector, has_trained_norms

SHORT_SIDE, LONG_SIDE = 800, 1333  # of torchvision's constructors
TABLE_URL = "https://docs.pytorch.org/vision/stable/models.html"


def read_torchvision_detector(name: str) -> DetectorSource:
    """Return a detector of torchvision by name.

    Args:
        name: such as "maskrcnn_resnet50_fpn_v2", also with ".COCO_V1", or torchvision's name of the weights, such as
            "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1".

    Raises:
        InputError: torchvision does not have it, or not a detector that is supported.
    """
    network, _, member = name.partition(".")
    plain = re.sub(r"_weights$", "", network.lower()).replace("_", "")
    names = {each.replace("_", ""): each for each in TORCHVISION_CONFIGS}
    if plain not in names:
        check_known("detector of torchvision:", TORCHVISION_CONFIGS, network)
    network = names[plain]
    members = dict(get_model_weights(network).__members__)
    check_known(f"torchvision weights of {network}:", members, member or "DEFAULT")
    weights = members[member or "DEFAULT"]
    metrics = weights.meta.get("_metrics", {})
    values = [f"{kind} {value:g}" for numbers in metrics.values() for kind, value in numbers.items()]
    return _source(
        f"torchvision:{network}.{weights.name}",
        network,
        91,
        lambda: read_state(download(weights.url)),
        published={
            "published": ", ".join(values),
            "published_url": TABLE_URL,
            "licence": "BSD-3-Clause",
            "url": weights.url,
        },
    )


def read_torchvision_file(path: Path, state: Mapping[str, Tensor]) -> DetectorSource:
    """Return the detector in a file with torchvision's keys.

    The forms without "_v2" have frozen norms. Their published files, which are known by name, had an epsilon of zero;
    of another file the epsilon is not known.

    Raises:
        InputError: it is not one of torchvision's six detectors with a ResNet-50.
    """
    network, rows = _recognise_network(path, state)
    published = get_model_weights(network)["COCO_V1"].url.rsplit("/", 1)[-1]
    is_v2 = network.endswith("_v2")
    unclear = None
    if not is_v2 and path.name != published:
        unclear = {
            "norm_eps": f"{shorten(path)} is a {network} of torchvision; if its training started from the COCO_V1 "
            "weights its norms have an epsilon of 0.0, otherwise of 1e-5"
        }
    return _source(str(path), network, rows, lambda: state, unclear)


def _recognise_network(path: Path, state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the name of torchvision's network, and its number of classes with the background."""
    is_v2 = has_trained_norms(state)
    box_layer = state.get("roi_heads.box_predictor.cls_score.bias")
    if box_layer is not None:
        has_masks = any("mask_predictor." in key for key in state)
        return f"{'mask' if has_masks else 'faster'}rcnn_resnet50_fpn{'_v2' if is_v2 else ''}", len(box_layer)
    class_layer = state.get("head.classification_head.cls_logits.bias")
    if class_layer is None or len(class_layer) % 9:
        raise InputError(f"{shorten(path)} has torchvision's keys, but is none of {', '.join(TORCHVISION_CONFIGS)}")
    return f"retinanet_resnet50_fpn{'_v2' if is_v2 else ''}", len(class_layer) // 9


def _source(
    name: str,
    network: str,
    rows: int,
    read: Callable[[], Mapping[str, Tensor]],
    unclear: Mapping[str, str] | None = None,
    published: Mapping[str, str] | None = None,
) -> DetectorSource:
    """Return the detector of a network of torchvision; `rows` of its class layers count the background."""
    model: dict[str, Any] = dict(TORCHVISION_CONFIGS[network])
    is_v2, first = network.endswith("_v2"), 0 if model["type"] == "retinanet" else 1  # R-CNN: row 0 is the background
    settings = {"norm": "batch" if is_v2 else "frozen", "freeze": 2, "stride_in_1x1": False}
    model["backbone"] = model["backbone"] | settings
    if not unclear:
        model["backbone"]["norm_eps"] = 1e-5 if is_v2 else 0.0  # the COCO_V1 weights of the older forms
    model["num_classes"] = rows - first
    names = dict(enumerate(COCO_ROWS)) if rows == len(COCO_ROWS) else None
    metadata: dict[str, Any] = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    if names is not None:
        names = {number: names[number] for number in range(first, rows)}
    metadata |= class_metadata(names, model["num_classes"])
    return foreign_source(
        name,
        "torchvision",
        model,
        metadata,
        lambda: convert_torchvision_detector(read()),
        (SHORT_SIDE, LONG_SIDE),
        unclear=unclear,
        published=published,
    )
