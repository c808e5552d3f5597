"""Write weights of ours under the keys of torchvision and detectron2, in the files that these libraries read."""

import io
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .backbone_weights import STEM_KEYS
from .cards import WeightCard, reverse_input_channels
from .detectron2_keys import detectron2_keys
from .key_maps import DETECTRON2
from .torchvision_detectors import export_torchvision_detector

AUTHOR = "detbackbones"  # without "__author__", detectron2 takes a .pkl file for one of Caffe2
DETECTRON2_EPS = 1e-5  # of its norms, which its config cannot change


@dataclass(frozen=True)
class Weights:
    """Weights of ours with what decides how another library has to be set up for them.

    Attributes:
        state: under our keys, for RGB images.
        config: of the backbone or detector.
        is_detector: which of the two it is.
        card: what the weights mean, and how the network is built.
    """

    state: Mapping[str, Tensor]
    config: Mapping[str, Any]
    is_detector: bool
    card: WeightCard


def torchvision_state(weights: Weights) -> dict[str, Tensor]:
    """Return the weights under torchvision's keys.

    Raises:
        InputError: torchvision does not have the network, or only with other features for the same tensors.
    """
    backbone = weights.config["backbone"] if weights.is_detector else weights.config
    if backbone.get("stride_in_1x1"):
        raise InputError(
            "these weights were trained with stride_in_1x1=True, and torchvision's networks have the stride in the 3x3 "
            "convolution: torchvision would load them without an error and compute other features"
        )
    convention = weights.card.dilation_convention or "exact"
    if any(weights.card.dilated_stages or ()) and convention not in ("exact", "torchvision"):
        raise InputError(
            f"these weights were trained with dilation_convention={convention!r}: torchvision would load them without "
            "an error, dilate other convolutions and compute other features"
        )
    if not weights.is_detector:
        _check_torchvision_has(backbone["type"])
        return dict(weights.state)
    if weights.card.library != "torchvision":
        raise InputError(
            "only detectors that come from torchvision go back to it, because its anchors and poolers are fixed; "
            "part=backbone writes the backbone alone"
        )
    return export_torchvision_detector(weights.state)


def _check_torchvision_has(name: str) -> None:
    from torchvision.models import list_models

    plain = re.sub(r"_(dc5|dilated)$", "", name)
    if plain not in list_models():
        raise InputError(f"torchvision does not have a {name}; to=detbackbones keeps its keys, which are torchvision's")


def detectron2_state(weights: Weights, is_bgr: bool) -> dict[str, Tensor]:
    """Return the weights under detectron2's keys and in its order of classes and anchors.

    Args:
        is_bgr: detectron2 feeds BGR images (INPUT.FORMAT).

    Raises:
        InputError: detectron2 would compute other features, or the config of a detector does not say what decides the
            order.
    """
    _check_detectron2_has(weights.card)
    if not weights.is_detector:
        state = dict(weights.state)
        if is_bgr:
            state = reverse_input_channels(state, next(key for key in STEM_KEYS if key in state))
        return DETECTRON2.export(state)
    try:
        return detectron2_keys(weights.config, is_bgr).export(weights.state)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"this detector cannot be written for detectron2: its config does not have {error}, as that of a detector "
            "from detectron2 has; part=backbone writes the backbone alone"
        ) from None


def _check_detectron2_has(card: WeightCard) -> None:
    """Raise InputError if detectron2 would load the weights without an error and compute other features."""
    stages, convention = card.dilated_stages or (), card.dilation_convention or "exact"
    problem = ""
    if card.norm_eps not in (None, DETECTRON2_EPS):
        problem = f"norm_eps={card.norm_eps}, and detectron2's norms always have {DETECTRON2_EPS}"
    elif any(stages[:-1]):
        problem = f"replace_stride_with_dilation={stages}, and detectron2 dilates c5 alone"
    elif any(stages) and convention != "detectron2" and not card.stride_in_1x1:  # with it, the rules are the same
        problem = f"dilation_convention={convention!r}, and detectron2 dilates the first block of c5 otherwise"
    if problem:
        raise InputError(f"these weights were trained with {problem}: its features would be others, without an error")


def torchvision_file(weights: Weights, input_format: str | None) -> bytes:
    """Return the content of a file of `torch.save` with a state dict of torchvision, for RGB images."""
    file = io.BytesIO()
    torch.save(torchvision_state(weights), file)
    return file.getvalue()


def detectron2_file(weights: Weights, input_format: str | None) -> bytes:
    """Return the content of a pickle of arrays as detectron2 reads it.

    A backbone's keys have no prefix, so detectron2 has to match them with those of its model, as those of its own
    ImageNet weights.

    Args:
        input_format: "BGR" or "RGB", the images that detectron2 will feed; None for those of the weights' own library.
    """
    is_bgr = _input_format(weights, input_format) == "BGR"
    arrays = {key: value.numpy() for key, value in detectron2_state(weights, is_bgr).items()}
    heuristics = {} if weights.is_detector else {"matching_heuristics": True}
    return pickle.dumps({"model": arrays, "__author__": AUTHOR, **heuristics}, protocol=4)


def _input_format(weights: Weights, given: str | None) -> str:
    return given or weights.card.source_channel_order or "RGB"


def torchvision_settings(weights: Weights, input_format: str | None) -> dict[str, Any]:
    """Return what a program with torchvision must set for these weights."""
    card = weights.card
    settings = {"mean": card.mean, "std": card.std, "eps of the norms": card.norm_eps}
    return settings | ({"replace_stride_with_dilation": card.dilated_stages} if any(card.dilated_stages or ()) else {})


def detectron2_settings(weights: Weights, input_format: str | None) -> dict[str, Any]:
    """Return the keys of detectron2's config that belong to these weights."""
    card, order = weights.card, _input_format(weights, input_format)
    settings: dict[str, Any] = {"INPUT.FORMAT": order}
    for key, values in (("PIXEL_MEAN", card.mean), ("PIXEL_STD", card.std)):
        if values is not None:
            settings[f"MODEL.{key}"] = [round(255 * v, 4) for v in (values[::-1] if order == "BGR" else values)]
    settings["MODEL.RESNETS.STRIDE_IN_1X1"] = bool(card.stride_in_1x1)
    return settings | ({"MODEL.RESNETS.RES5_DILATION": 2} if any(card.dilated_stages or ()) else {})


@dataclass(frozen=True)
class Format:
    """A format that weights can be written in.

    Attributes:
        suffixes: endings of its files.
        write: returns the content of the file, from weights and `input_format`.
        settings: returns what the library must be told besides, from the same arguments.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Weights, str | None], bytes]
    settings: Callable[[Weights, str | None], dict[str, Any]]


FORMATS = {
    "torchvision": Format((".pth", ".pt"), torchvision_file, torchvision_settings),
    "detectron2": Format((".pkl",), detectron2_file, detectron2_settings),
}
