"""Say what a file of weights is: its origin, architecture, meaning, and what it leaves open."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, shorten
from .cards import WeightCard
from .checkpoints import find_checkpoint, is_checkpoint, is_run
from .detector_sources import read_detector_file
from .meanings import checkpoint_card, file_card
from .recognition import Peeled, peel, recognise
from .sources import read_content

LIBRARIES = {"mmdet": "mmdetection / OpenMMLab", "caffe2": "Detectron (Caffe2)", "huggingface": "Hugging Face"}
TORCHVISION_KEYS = "torchvision's keys, which timm and others have too"


@dataclass(frozen=True)
class Inspection:
    """What is known about a source of weights.

    Attributes:
        facts: label -> text, in the order in which they are read.
        state: tensors by key, as they are in the file.
        card: what they mean; None if that is not clear.
        config: of the model, if the file or what lies beside it has one.
        unclear: what the file does not tell, in sentences.
    """

    facts: dict[str, str]
    state: Mapping[str, Tensor]
    card: WeightCard | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    unclear: tuple[str, ...] = ()


def inspect_file(path: Path) -> Inspection:
    """Inspect a file, or the last checkpoint of a run.

    Raises:
        InputError: it is not a file of weights, or cannot be read; the message says what it is.
    """
    path = find_checkpoint(path) if is_run(path) else path
    content = read_content(path)
    facts = {"file": f"{shorten(path, 200)}, {path.stat().st_size / 2**20:.1f} MiB"}
    if is_checkpoint(content):
        return _inspect_own(content, path, facts)
    return _inspect_foreign(peel(content, shorten(path)), path, facts)


def _inspect_own(content: Mapping[str, Any], path: Path, facts: dict[str, str]) -> Inspection:
    config, metadata = content["config"], content["metadata"]
    model = config.get("model", config.get("backbone", {}))
    facts["origin"] = "detbackbones"
    facts["holds"] = f"{'detector' if 'model' in config else 'backbone'} {model.get('type', '')}"
    if isinstance(model.get("backbone"), Mapping):
        facts["architecture"] = str(model["backbone"].get("type"))
    names = metadata.get("category_names")
    if names:
        facts["classes"] = f"{len(names)}: {shorten(', '.join(map(str, names)), 100)}"
    return Inspection(facts, content["model"], checkpoint_card(content, str(path)), model)


def _inspect_foreign(peeled: Peeled, path: Path, facts: dict[str, str]) -> Inspection:
    if peeled.wrappers:
        facts["wrappers"] = " > ".join(peeled.wrappers)
    if peeled.notes:
        facts["beside the weights"] = shorten(", ".join(map(str, peeled.notes)), 200)
    try:
        origin = recognise(peeled.state, shorten(path))
    except InputError as error:
        return Inspection(facts, peeled.state, unclear=(str(error),))
    keys = LIBRARIES.get(origin.library, origin.library)
    facts["origin"] = TORCHVISION_KEYS if origin.library == "torchvision" else keys
    if origin.prefix:
        facts["prefix of the backbone"] = origin.prefix
    network = origin.architecture
    named = f" ({network.name})" if network.name else ", which does not have a name here"
    facts["holds"] = "detector" if origin.is_detector else "backbone"
    facts["architecture"] = network.family + (f" with {network.extra}" if network.extra else "") + named
    if network.num_classes is not None:
        facts["classifier"] = f"{network.num_classes} classes"
    try:
        if not origin.is_detector:
            return Inspection(facts, peeled.state, file_card(path, peeled, origin, {}))
        found = read_detector_file(path)
    except InputError as error:
        return Inspection(facts, peeled.state, unclear=(str(error),))
    return Inspection(facts, peeled.state, found.card, found.model, tuple((found.unclear or {}).values()))


@dataclass(frozen=True)
class ModuleSummary:
    """The tensors of one part of a network.

    Attributes:
        tensors, values: their number, and that of their values.
        dtypes: their types.
        first: rest of the key of the first one, and its shape.
    """

    tensors: int
    values: int
    dtypes: tuple[str, ...]
    first: str


def summarise_modules(state: Mapping[str, Tensor]) -> dict[str, ModuleSummary]:
    """Return a summary per part of a network: what keys have in common before their first number."""
    groups: dict[str, list[str]] = {}
    for key in state:
        groups.setdefault(_part(key), []).append(key)
    return {
        name: ModuleSummary(
            len(keys),
            sum(state[key].numel() for key in keys),
            tuple(dict.fromkeys(str(state[key].dtype).removeprefix("torch.") for key in keys)),
            f"{keys[0].removeprefix(name).lstrip('._')} {tuple(state[keys[0]].shape)}",
        )
        for name, keys in groups.items()
    }


def _part(key: str) -> str:
    blob = re.match(r"(res\d|conv1|res_conv1)_", key)  # of Caffe2, whose names have no dots
    if blob:
        return blob[1]
    name, _, leaf = key.rpartition(".")
    if not name:
        return leaf
    before = re.match(r"(.+?)\.\d+(?:\.|$)", name)
    return before[1] if before else name
