"""Named sources of weights, such as `torchvision:IMAGENET1K_V1`: where the file is, and the card that belongs to it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, check_known, shorten
from .cards import IMAGENET_MEAN, IMAGENET_STD, WeightCard
from .downloads import download
from .hub import download_from_hub
from .mmdet_zoo import ZOO, download_from_zoo, find_name, zoo_card
from .published_weights import CAFFE2_CARDS, DETECTRON2_CARDS, OPENMMLAB_CARDS


@dataclass(frozen=True)
class NamedSource:
    """A source that has a name.

    Attributes:
        card: what its weights mean; None if only its files tell.
        fetch: downloads the file, or finds it in the cache, and returns its path.
    """

    card: WeightCard | None
    fetch: Callable[[], Path]


def find_named(source: str, architecture: str = "") -> NamedSource | None:
    """Return the named source of this name; None if `source` is the path of a file.

    Args:
        source: such as "torchvision:IMAGENET1K_V2", "timm:a1_in1k", "detectron2:MSRA/R-50",
            "openmmlab:detectron2/resnet50_caffe", "hf:microsoft/resnet-50", the spelling of the library itself
            ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "open-mmlab://resnext101_32x4d", "torchvision://resnet50"),
            or the URL of a file.
        architecture: name of the backbone, such as "resnet50"; it completes a name without a network.

    Raises:
        InputError: the library does not publish weights of this name, or not for this backbone.
    """
    kind, colon, name = source.partition(":")
    if source.startswith(("http://", "https://", "file://")):
        return NamedSource(None, lambda: download(source))
    if not colon or kind not in KINDS or not name:
        return None
    if source.startswith("torchvision://"):  # mmengine's spelling, for the weights of torchvision 0.12
        name = f"{name.removeprefix('//')}.IMAGENET1K_V1"
    return KINDS[kind](name.removeprefix("//"), architecture)


def card_for_file_name(name: str) -> WeightCard | None:
    """Return the card of a published file by its name, if the name has the digits of a hash in it."""
    if not re.search(r"-[0-9a-f]{8}\.\w+$", name):
        return None
    for card in OPENMMLAB_CARDS.values():
        if card.url.endswith(f"/{name}"):
            return card
    detector = find_name(name)
    return _torchvision_file(name) if detector is None else zoo_card(detector)


def _downloaded(card: WeightCard) -> NamedSource:
    return NamedSource(card, lambda: download(card.url))


def _torchvision(name: str, architecture: str) -> NamedSource:
    """Weights of torchvision, by the name of the enum's member, or of another model with the same backbone."""
    from torchvision.models import get_model_weights, list_models

    model, _, member = name.rpartition(".")
    model = re.sub(r"_Weights$", "", model)
    if not model:
        known = {each.lower(): each for each in list_models()}
        model, member = (known[name.lower()], "") if name.lower() in known else (architecture, name)
    model = _torchvision_model_name(model)
    try:
        enum = get_model_weights(model)
    except ValueError:
        raise InputError(f"weights='torchvision:{name}': torchvision has no {shorten(model)}") from None
    members = dict(enum.__members__)  # with DEFAULT
    if not member:
        member = "DEFAULT"
    check_known(f"torchvision weights of {model}:", members, member)
    return _downloaded(_torchvision_card(members[member], model, architecture))


def _torchvision_model_name(name: str) -> str:
    """Return torchvision's name of a model for that of its enum of weights: ResNet50 -> resnet50."""
    from torchvision.models import list_models

    plain = name.replace("_", "").lower()
    return next((known for known in list_models() if known.replace("_", "").lower() == plain), name)


# torchvision's models around a backbone: the backbone, and whether frozen norms had an epsilon of zero
_TORCHVISION_BACKBONE = re.compile(r"(?:^|_)(resnet\d+|resnext\d+_\d+x\d+d|wide_resnet\d+_2)(?:_|$)")
_ZERO_EPS = re.compile(r"(?:fasterrcnn|maskrcnn|keypointrcnn|retinanet)_resnet50_fpn")


def _torchvision_card(weights: Any, model: str, architecture: str) -> WeightCard:
    meta, transforms = weights.meta, weights.transforms()
    backbone = _TORCHVISION_BACKBONE.search(model)
    zero_eps = bool(_ZERO_EPS.fullmatch(model)) and weights.name.startswith("COCO")
    name, is_dilated = weights.name, re.match("fcn|deeplab|lraspp", model) is not None
    return WeightCard(
        source=f"torchvision:{type(weights).__name__}.{name}",
        library="torchvision",
        architecture=backbone[1] if backbone else model,
        channel_order="RGB",
        source_channel_order="RGB",
        mean=tuple(getattr(transforms, "mean", IMAGENET_MEAN)),
        std=tuple(getattr(transforms, "std", IMAGENET_STD)),
        input_range=1.0,
        stride_in_1x1=False,
        dilation_convention="torchvision" if is_dilated else None,
        dilated_stages=(False, True, True) if is_dilated else None,
        norm_eps=0.0 if zero_eps else 1e-5,
        class_names=tuple(meta["categories"]) if "categories" in meta else None,
        published=_torchvision_metrics(meta.get("_metrics", {})),
        published_url="https://docs.pytorch.org/vision/stable/models.html",
        licence="BSD-3-Clause",
        url=weights.url,
    )


def _torchvision_metrics(metrics: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"{data}: {', '.join(f'{name} {value:g}' for name, value in values.items())}"
        for data, values in metrics.items()
    )


def _torchvision_file(name: str) -> WeightCard | None:
    from torchvision.models import get_model_weights, list_models

    for model in list_models():
        if not _TORCHVISION_BACKBONE.search(model):
            continue
        for weights in get_model_weights(model):
            if weights.url.endswith(f"/{name}"):
                return _torchvision_card(weights, model, model)
    return None


def _timm(name: str, architecture: str) -> NamedSource:
    """Weights of timm for a network of this package: `timm:a1_in1k` or `timm:resnet50.a1_in1k`."""
    import timm  # takes a second, and is needed only here

    model, dot, tag = name.partition(".")
    if not dot:
        model, tag = architecture, name
    check_known("timm model with weights for this backbone:", timm.list_models(), model)
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{model}.*")]
    check_known(f"timm weights of {model}:", tags, tag)
    card = replace(timm_card(model, tag), stride_in_1x1=False, norm_eps=1e-5)  # of all its ResNets
    config: Any = timm.get_pretrained_cfg(f"{model}.{tag}")
    if config.hf_hub_id:
        return NamedSource(card, lambda: download_from_hub(config.hf_hub_id, "model.safetensors"))
    return _downloaded(card)


def timm_card(model: str, tag: str) -> WeightCard:
    """Return the card of a pretrained tag of timm, from timm's own configuration."""
    import timm

    config: Any = timm.get_pretrained_cfg(f"{model}.{tag}")
    url = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    return WeightCard(
        source=f"timm:{model}.{tag}",
        library="timm",
        architecture=model,
        channel_order="RGB",
        source_channel_order="RGB",
        mean=tuple(config.mean),
        std=tuple(config.std),
        input_range=1.0,
        published_url="https://github.com/huggingface/pytorch-image-models/tree/main/results",
        licence=config.license or "",
        url=url,
    )


def _from_table(kind: str, cards: dict[str, WeightCard]) -> Callable[[str, str], NamedSource]:
    def find(name: str, architecture: str) -> NamedSource:
        name = re.sub(r"^(ImageNetPretrained|detectron2/ImageNetPretrained)/|\.pkl$", "", name)
        check_known(f"weights of {kind}:", cards, name)
        return _downloaded(cards[name])

    return find


def _mmdet(name: str, architecture: str) -> NamedSource:
    """The backbone of a detector of mmdetection's model zoo, or one of OpenMMLab's backbones."""
    detector = find_name(name)
    if detector is None:
        check_known("weights of mmdetection or OpenMMLab:", [*ZOO, *OPENMMLAB_CARDS], name)
        return KINDS["openmmlab"](name, architecture)
    return NamedSource(zoo_card(detector), lambda: download_from_zoo(detector))


def _hub(name: str, architecture: str) -> NamedSource:
    """A repository of the Hugging Face hub with `config.json` and `model.safetensors`; `@` names a revision."""
    repo, _, revision = name.partition("@")

    def fetch() -> Path:
        download_from_hub(repo, "config.json", revision or None)
        try:
            download_from_hub(repo, "preprocessor_config.json", revision or None)
        except InputError:  # many repositories do without
            pass
        try:
            return download_from_hub(repo, "model.safetensors", revision or None)
        except InputError as error:
            try:
                return download_from_hub(repo, "pytorch_model.bin", revision or None)
            except InputError:
                raise error from None

    return NamedSource(None, fetch)


KINDS: dict[str, Callable[[str, str], NamedSource]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "detectron2": _from_table("detectron2", DETECTRON2_CARDS),
    "caffe2": _from_table("Detectron", CAFFE2_CARDS),
    "catalog": _from_table("Detectron", CAFFE2_CARDS),
    "openmmlab": _from_table("OpenMMLab", OPENMMLAB_CARDS),
    "open-mmlab": _from_table("OpenMMLab", OPENMMLAB_CARDS),
    "mmdet": _mmdet,
    "mmcls": lambda name, architecture: KINDS["openmmlab"](f"mmcls/{name}", architecture),
    "hf": _hub,
}
