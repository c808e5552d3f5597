"""Find out what the weights in a file mean, from its name, what lies in it and beside it, and given arguments."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .cards import FACTS, WeightCard
from .checkpoints import part_config
from .library_configs import (
    Facts,
    detectron2_config_beside,
    detectron2_facts,
    guessed_statistics,
    huggingface_facts,
    mmdet_facts,
)
from .mmdet_config import parse_config
from .named_sources import card_for_file_name
from .published_weights import BGR_DETECTRON
from .recognition import Origin, Peeled
from .torchvision_detectors import has_trained_norms

ADVICE = {
    "stride_in_1x1": "stride_in_1x1=True (MSRA's and Caffe's style) or False (PyTorch's style)",
    "channel_order": "channel_order='BGR' (usual for the former) or 'RGB'",
    "norm_eps": "norm_eps=0.0 (if its training started from torchvision's COCO_V1 weights) or 1e-5",
}
LIBRARY_NAMES = {
    "detectron2": "detectron2",
    "mmdet": "OpenMMLab",
    "huggingface": "Hugging Face",
    "torchvision": "torchvision",
}
META_KEYS = ("mmdet_version", "mmcv_version", "mmengine_version", "mmcls_version", "env_info", "experiment_name")


def file_card(path: Path, peeled: Peeled, origin: Origin, given: Mapping[str, Any]) -> WeightCard:
    """Return the card of the weights in a file that is not one of our own checkpoints.

    Args:
        path: of the file; its name and the config files beside it count.
        peeled: its content.
        origin: what was recognised in it.
        given: arguments of the backbone by name, which answer what the file leaves open.

    Raises:
        InputError: the file has more than one possible meaning, and no argument says which.
    """
    library = "mmdet" if origin.library == "torchvision" and _is_openmmlab(peeled.notes) else origin.library
    known = card_for_file_name(path.name)
    if known is not None:
        return replace(known, source=str(path))
    facts: Facts = READERS[library](path, peeled, origin)
    if not origin.architecture.bottleneck:
        facts["stride_in_1x1"] = None  # BasicBlocks do not have a 1x1
    defaults: Facts = {"source": str(path), "library": library, "architecture": origin.architecture.name}
    card = WeightCard(**(defaults | facts))
    questions = {
        "stride_in_1x1": library in ("detectron2", "mmdet", "huggingface") and origin.architecture.bottleneck,
        "channel_order": library in ("detectron2", "mmdet"),
        "norm_eps": _is_torchvision_detector(origin),
    }
    open_questions = [name for name, asked in questions.items() if asked and getattr(card, name) is None]
    unanswered = [name for name in open_questions if given.get(name) is None]
    if unanswered:
        what = f"{origin.architecture.family} with keys of {LIBRARY_NAMES[library]}"
        raise InputError(
            f"weights {path} ({what}) do not say how they were trained, and other settings give other features without "
            f"an error; {_place_of_config(library)}give {' and '.join(ADVICE[name] for name in unanswered)}"
        )
    answers = {name: given[name] for name in FACTS if given.get(name) is not None and getattr(card, name) is None}
    card = replace(card, **answers)
    if card.channel_order is not None and card.mean is None:
        card = replace(card, **guessed_statistics(card.channel_order, is_resnext=origin.architecture.groups > 1))
    return replace(card, source_channel_order=card.channel_order)


def _place_of_config(library: str) -> str:
    files = {"detectron2": "put its config.yaml beside it, or ", "huggingface": "put its config.json beside it, or "}
    return files.get(library, "")


def _is_openmmlab(notes: Mapping[str, Any]) -> bool:
    meta = notes.get("meta")
    return isinstance(meta, Mapping) and any(key in meta for key in (*META_KEYS, "cfg", "config"))


def _detectron2(path: Path, peeled: Peeled, origin: Origin) -> Facts:
    config = detectron2_config_beside(path)
    if config is not None:
        return detectron2_facts(config)
    if peeled.notes.get("__author__") == "torchvision":  # written by detectron2's converter of torchvision's weights
        return {"stride_in_1x1": False, "channel_order": "RGB", "norm_eps": 1e-5} | guessed_statistics("RGB", False)
    return {"norm_eps": 1e-5}


def _caffe2(path: Path, peeled: Peeled, origin: Origin) -> Facts:
    """Facts of Detectron's weights: the original ResNets have Caffe's strides, later networks PyTorch's."""
    has_group_norm = "res_conv1_gn_s" in peeled.state
    is_original = origin.architecture.groups == 1 and not has_group_norm
    return {**BGR_DETECTRON, "stride_in_1x1": is_original, "norm_eps": 1e-5}


def _mmdet(path: Path, peeled: Peeled, origin: Origin) -> Facts:
    meta = peeled.notes.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get("cfg") or meta.get("config") or ""
    try:
        facts = mmdet_facts(parse_config(text if isinstance(text, str) else "", path.name))
    except InputError:  # then arguments must say what it would have said
        facts = {}
    dataset = meta.get("dataset_meta")
    names = (dataset.get("classes") or dataset.get("CLASSES")) if isinstance(dataset, Mapping) else meta.get("CLASSES")
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        facts["class_names"] = tuple(names)
    return facts


def _huggingface(path: Path, peeled: Peeled, origin: Origin) -> Facts:
    return huggingface_facts(path)


def _torchvision(path: Path, peeled: Peeled, origin: Origin) -> Facts:
    """Nothing is known of a bare state dict, so arguments decide; a repository of timm has its config beside it."""
    if _is_torchvision_detector(origin) and has_trained_norms(peeled.state):
        return {"norm_eps": 1e-5}
    return huggingface_facts(path) if path.name == "model.safetensors" else {}


def _is_torchvision_detector(origin: Origin) -> bool:
    return origin.is_detector and origin.prefix.endswith("backbone.body.")


def _cifar(path: Path, peeled: Peeled, origin: Origin) -> Facts:
    top1 = peeled.notes.get("best_prec1")
    published = f"{top1:.2f} % top-1 on CIFAR-10" if isinstance(top1, float) else ""
    return {
        "channel_order": "RGB",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "norm_eps": 1e-5,
        "published": published,
    }


READERS: dict[str, Callable[[Path, Peeled, Origin], Facts]] = {
    "detectron2": _detectron2,
    "caffe2": _caffe2,
    "mmdet": _mmdet,
    "huggingface": _huggingface,
    "torchvision": _torchvision,
    "cifar": _cifar,
}


def checkpoint_card(checkpoint: Mapping[str, Any], where: str) -> WeightCard:
    """Return the card of the backbone in one of our own checkpoints: what its config and metadata say."""
    config, metadata = part_config(checkpoint, "backbone"), checkpoint["metadata"]
    stored = metadata.get("weight_card")
    card = WeightCard.from_dict(stored) if isinstance(stored, Mapping) else WeightCard(where, "detbackbones")
    mean, std = metadata.get("image_mean"), metadata.get("image_std")
    facts: Facts = {name: config[name] for name in FACTS if config.get(name) is not None and name != "channel_order"}
    if "type" in config and "stride_in_1x1" not in facts and card.stride_in_1x1 is None:
        facts["stride_in_1x1"] = False
    if mean and std:
        facts |= {"mean": tuple(mean), "std": tuple(std)}
    return replace(card, source=where, channel_order="RGB", **facts)
