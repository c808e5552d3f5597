"""Read from the config of another library what its tensors do not say, as the fields of a weight card.

detectron2's is a YAML file beside the checkpoint, mmdetection's is text inside it, Hugging Face's JSON files beside it.
None of them is run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, shorten
from .cards import IMAGENET_MEAN, IMAGENET_STD
from .detectron2_config import literal, merge, read_with_bases
from .detectron2_defaults import DEFAULTS
from .mmdet_images import image_settings
from .published_weights import UNIT_STD

Facts = dict[str, Any]  # fields of WeightCard
DC5: Facts = {"dilation_convention": "detectron2", "dilated_stages": (False, False, True)}


def detectron2_config_beside(path: Path) -> Path | None:
    """Return the config file of a checkpoint of detectron2: `<name>.yaml`, `config.yaml` or `cfg.yaml` beside it."""
    candidates = (path.with_suffix(".yaml"), path.with_name("config.yaml"), path.with_name("cfg.yaml"))
    return next((file for file in candidates if file.is_file()), None)


def detectron2_facts(path: Path) -> Facts:
    """Return what a config of detectron2 says about the backbone.

    A key that is missing has detectron2's default; a file that names a `_BASE_` is completed by it.

    Raises:
        InputError: the file cannot be read.
    """
    values = merge(DEFAULTS, read_with_bases(path))
    images, model = values["INPUT"], values["MODEL"]
    if not all(isinstance(part, Mapping) for part in (images, model, model["RESNETS"])):
        raise InputError(f"{shorten(path)} is not a config of detectron2: INPUT and MODEL must have keys and values")
    order, mean, std = images["FORMAT"], literal(model["PIXEL_MEAN"]), literal(model["PIXEL_STD"])
    if order not in ("RGB", "BGR"):
        raise InputError(f"INPUT.FORMAT in {shorten(path)} is {order!r}; 'RGB' or 'BGR' can be read")
    for name, numbers in (("PIXEL_MEAN", mean), ("PIXEL_STD", std)):
        if not isinstance(numbers, (list, tuple)) or not all(isinstance(number, (int, float)) for number in numbers):
            raise InputError(f"MODEL.{name} in {shorten(path)} is {shorten(numbers)}, and numbers were expected")
    return {
        **_statistics(mean, std, order),
        "stride_in_1x1": bool(model["RESNETS"]["STRIDE_IN_1X1"]),
        **({} if model["RESNETS"]["RES5_DILATION"] == 1 else DC5),
        "norm_eps": 1e-5,
    }


def _statistics(mean: Sequence[float], std: Sequence[float], order: str) -> Facts:
    """Return the fields of a card for a mean and std in [0, 255] and in the channel order of the library."""
    step = -1 if order == "BGR" else 1
    return {
        "channel_order": order,
        "mean": tuple(float(value) / 255 for value in mean)[::step],
        "std": tuple(float(value) / 255 for value in std)[::step],
        "input_range": 255.0,
    }


def guessed_statistics(order: str, is_resnext: bool) -> Facts:
    """Return mean and std of detectron2's and mmdetection's networks of a channel order.

    RGB images and ResNeXt (trained by Caffe2) have ImageNet's std, the original ResNets of BGR images a std of 1.
    """
    std = IMAGENET_STD if order == "RGB" or is_resnext else UNIT_STD
    return {"mean": IMAGENET_MEAN, "std": std, "input_range": 255.0}


def mmdet_facts(values: Mapping[str, Any]) -> Facts:
    """Return what the variables of an mmdetection config say about the backbone; {} if it does not have one."""
    model = values.get("model")
    backbone = model.get("backbone") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(backbone, Mapping):
        return {}
    facts: Facts = {"norm_eps": 1e-5}
    style = backbone.get("style", "pytorch")
    if style in ("pytorch", "caffe"):
        facts["stride_in_1x1"] = style == "caffe"
    if any(dilation != 1 for dilation in backbone.get("dilations") or ()):
        facts["dilation_convention"] = "mmdet"
        facts["dilated_stages"] = tuple(stride == 1 for stride in (backbone.get("strides") or ())[1:4])
    norm = backbone.get("norm_cfg")
    if isinstance(norm, Mapping) and isinstance(norm.get("eps"), float):
        facts["norm_eps"] = norm["eps"]
    try:
        statistics, is_bgr, _ = image_settings(values, "the file")
    except InputError:
        return facts
    facts |= {name: tuple(statistics[f"image_{name}"]) for name in ("mean", "std")}
    return facts | {"channel_order": "BGR" if is_bgr else "RGB", "input_range": 255.0}


def huggingface_facts(path: Path) -> Facts:
    """Return what `config.json` and `preprocessor_config.json` beside a file say; {} without a config.

    Raises:
        InputError: a file is not JSON.
    """
    config = _read_json(path.with_name("config.json"))
    if not config:
        return {}
    facts: Facts = {"channel_order": "RGB"}
    timm = config.get("pretrained_cfg")
    if isinstance(timm, Mapping):  # a repository of timm
        facts |= {
            "library": "timm",
            "stride_in_1x1": False,
            "norm_eps": 1e-5,
            "mean": tuple(timm["mean"]),
            "std": tuple(timm["std"]),
        }
        facts["licence"] = str(timm.get("license") or "")
    elif config.get("model_type") == "resnet":
        facts["stride_in_1x1"] = bool(config.get("downsample_in_bottleneck", False))
        facts["norm_eps"] = 1e-5
    labels = config.get("id2label") or config.get("label_names")
    if isinstance(labels, Mapping):
        facts["class_names"] = tuple(str(labels[key]) for key in sorted(labels, key=int))
    images = _read_json(path.with_name("preprocessor_config.json"))
    if images.get("image_mean") and images.get("image_std"):
        facts |= {"mean": tuple(images["image_mean"]), "std": tuple(images["image_std"])}
    return facts


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{shorten(path)} cannot be read: {shorten(error)}") from None
    return content if isinstance(content, dict) else {}
