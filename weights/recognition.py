"""Recognise what a checkpoint holds: wrappers, the library of its keys, prefix and structure of its backbone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, shorten
from .architectures import Architecture, read_architecture
from .caffe2 import complete_norms
from .cifar import move_padding_behind
from .key_maps import KEY_MAPS

# keys under which training programs store a state dict; of several, the first is used, because averaged weights are
# those that are evaluated and published. mmengine's EMAHook exchanges them: the averages are in "state_dict".
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema", "teacher"),
    *("state_dict", "ema_state_dict", "model_state_dict", "model_state", "model", "module", "network", "net"),
    *("weights", "blobs"),
)
MAX_WRAPPERS = 4
# a key that every backbone of a library has, after its prefix
MARKERS = {
    "torchvision": r"layer1\.0\.conv1\.(?:conv1\.)?weight",
    "detectron2": r"res2\.0\.conv1\.weight",
    "huggingface": r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
    "caffe2": r"res2_0_branch2a_w",
}
# parts of keys outside the backbone that only detectors have -> library; the first one that is found decides
DETECTOR_PARTS = {
    "backbone.fpn.": "torchvision",
    "rpn_head.rpn_": "mmdet",
    "roi_head.": "mmdet",
    "bbox_head.": "mmdet",
    "neck.lateral_convs.": "mmdet",
    "proposal_generator.": "detectron2",
    "head.cls_score.": "detectron2",
    "conv_rpn_": "caffe2",
    "cls_score_w": "caffe2",
    "rpn.head.": "detbackbones",
    "roi_heads.": "detbackbones",
    "head.classification_head.": "detbackbones",
}
LAST_STAGE_IN_HEADS = {
    "roi_heads.res5.": "res5.",
    "roi_head.shared_head.layer4.": "layer4.",
    "roi_heads.stage.": "layer4.",
}


@dataclass(frozen=True)
class Origin:
    """What a state dict is.

    Attributes:
        library: "torchvision" (timm has the same keys), "detectron2", "caffe2", "mmdet", "huggingface" or "cifar".
        architecture: structure of the backbone.
        prefix: what comes before the backbone's keys, such as "backbone.bottom_up.".
        is_detector: the state dict has a detector's heads too.
    """

    library: str
    architecture: Architecture
    prefix: str = ""
    is_detector: bool = False


@dataclass(frozen=True)
class Peeled:
    """A state dict without its wrappers.

    Attributes:
        state: tensors by key.
        wrappers: keys that led to it, outermost first.
        notes: what lay beside it on the way, such as "meta" of mmdetection or "__author__" of detectron2.
    """

    state: dict[str, Tensor]
    wrappers: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


def peel(content: Any, where: str) -> Peeled:
    """Return the state dict in the content of a file.

    Raises:
        InputError: the file does not hold a state dict.
    """
    wrappers: list[str] = []
    notes: dict[str, Any] = {}
    while isinstance(content, Mapping) and not _is_state_dict(content) and len(wrappers) < MAX_WRAPPERS:
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]), None)
        if key is None:
            break
        notes = {name: value for name, value in content.items() if name not in WRAPPERS} | notes
        wrappers.append(key)
        content = content[key]
    if not _is_state_dict(content):
        kinds = shorten(", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__)
        raise InputError(f"weights file {where} does not hold a state dict; it has {kinds or 'nothing'}")
    state = {key: _tensor(value) for key, value in content.items() if not key.endswith("_momentum")}
    return Peeled(state, tuple(wrappers), notes)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, (Tensor, np.ndarray)) for key, value in content.items())
    )


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def find_backbones(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the prefixes of the residual networks in a state dict, and the library of each one's keys."""
    found = {}
    for key in state:
        for library, marker in MARKERS.items():
            match = re.fullmatch(rf"(|.*\.){marker}", key)
            if match:
                found[match[1]] = library
    return found


def recognise(state: Mapping[str, Tensor], where: str = "the state dict") -> Origin:
    """Recognise a state dict by its keys and shapes.

    Args:
        state: tensors by key, under any prefix.
        where: its name in error messages.

    Raises:
        InputError: it does not have a residual network, or more than one.
    """
    found = find_backbones(state)
    if not found:
        first = shorten(", ".join(list(state)[:4]))
        raise InputError(f"weights {where} do not have a residual network that is known here; their keys: {first}, ...")
    if len(found) > 1:
        prefixes = shorten(", ".join(repr(prefix) for prefix in found))
        raise InputError(
            f"weights {where} have {len(found)} residual networks, under the prefixes {prefixes}; keep one of them"
        )
    ((prefix, library),) = found.items()
    outside = [key for key in state if not key.startswith(prefix)] if prefix else list(state)
    detector = detector_library(outside)
    if library == "torchvision":
        library = _torchvision_like(state, prefix, detector)
    architecture = read_architecture(convert_backbone(state, Origin(library, Architecture((), False), prefix)))
    return Origin(library, architecture, prefix, detector is not None)


def detector_library(keys: Iterable[str]) -> str | None:
    """Return the library whose detectors have such keys, or None if they are not those of a detector."""
    keys = tuple(keys)
    return next((library for part, library in DETECTOR_PARTS.items() if any(part in key for key in keys)), None)


def without_outer_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a detector's state dict without what a wrapper put before its keys, such as "module." or "model.".

    What else the wrapper has, such as the counter of averaged weights, is left out.
    """
    prefixes = list(find_backbones(state))
    outer = _outer_prefix(prefixes[0]) if len(prefixes) == 1 else ""
    if not outer or outer == prefixes[0]:
        return state
    return {key.removeprefix(outer): value for key, value in state.items() if key.startswith(outer)}


def _outer_prefix(prefix: str) -> str:
    """Return what comes before "backbone." in the prefix of a backbone."""
    return re.sub(r"backbone\.(?:body\.|bottom_up\.)?$", "", prefix)


def _torchvision_like(state: Mapping[str, Tensor], prefix: str, detector: str | None) -> str:
    """Return the library of a network under torchvision's keys, which other libraries have too."""
    if f"{prefix}stem.0.weight" in state or detector == "mmdet":
        return "mmdet"
    stem = state.get(f"{prefix}conv1.weight")
    if f"{prefix}linear.weight" in state and stem is not None and stem.shape[-1] == 3:
        return "cifar"
    return "torchvision"


def convert_backbone(state: Mapping[str, Tensor], origin: Origin) -> dict[str, Tensor]:
    """Return the backbone's part of a state dict under torchvision's keys, without its prefix.

    The last stage of detectors of the C4 form, which lies in their heads, is part of it.
    """
    prefix = origin.prefix
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outer = _outer_prefix(prefix)
    for theirs, ours in LAST_STAGE_IN_HEADS.items():
        for key, value in state.items():
            if prefix and key.startswith(outer + theirs):
                own[ours + key.removeprefix(outer + theirs)] = value
    if origin.library == "caffe2":
        own = complete_norms(own)
    if origin.library == "huggingface":  # the classifier stands outside the prefix "resnet."
        own |= {key: value for key, value in state.items() if key.startswith("classifier.1.")}
    converted = KEY_MAPS[origin.library].convert(own)
    if origin.library == "caffe2":  # counters and heads lie beside them
        return {key: value for key, value in converted.items() if re.match(r"conv1\.|bn1\.|layer\d\.|fc\.", key)}
    return move_padding_behind(converted) if origin.library == "cifar" else converted
