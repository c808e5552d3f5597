"""Read a backbone or a whole detector from any source, to be written in our own or another format."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backbones.base import Backbone
from ..backbones.preprocess import Preprocess
from ..errors import InputError, shorten
from ..registry import BACKBONES, build_backbone
from ..weights.backbone_weights import BackboneWeights, read_backbone
from ..weights.cards import FACTS, STRUCTURE, WeightCard
from ..weights.checkpoints import backbone_state, is_checkpoint, part_config
from ..weights.detector_sources import read_detector
from ..weights.exports import Weights
from ..weights.loading import load_state
from ..weights.named_sources import find_named
from ..weights.recognition import peel, recognise
from ..weights.saved_models import PretrainedModel, build_for_weights
from ..weights.sources import read_content
from .trained_detector import load_detector

# metadata of a detector that its backbone has, too
KEPT = ("weight_card", "image_mean", "image_std", "image_range")


@dataclass(frozen=True)
class SourceModel:
    """A model that was built from a source.

    Attributes:
        model: the backbone or detector.
        weights: its weights, in the precision of the source.
    """

    model: PretrainedModel
    weights: Weights


def read_model(source: str, part: str | None, arguments: Mapping[str, Any]) -> SourceModel:
    """Build the model of a source.

    Args:
        source: whatever the weights of a backbone or detector can be.
        part: "backbone" or "detector"; None for what the source has.
        arguments: of the backbone, which answer what a file of unknown origin leaves open; "backbone" is its name.

    Raises:
        InputError: the source cannot be read, or has more than one possible meaning.
    """
    path = local_path(source)
    if part is None:
        part = "detector" if holds_detector(source, path) else "backbone"
    if part == "detector":
        return _read_detector(source if path is None else str(path), arguments)
    return _read_backbone(source if path is None else str(path), path, dict(arguments))


def local_path(source: str) -> Path | None:
    """Return the path of a source that is a file or folder, or of which only its files tell what it is; None otherwise.

    Raises:
        InputError: it cannot be downloaded.
    """
    try:
        named = find_named(source)
    except InputError:  # a name of another kind, such as that of a detector
        return None
    if named is None:
        return Path(source)
    return named.fetch() if named.card is None else None


def named_card(source: str) -> WeightCard:
    """Return the card of a named source without a download.

    Raises:
        InputError: the source is unknown.
    """
    try:
        card = read_detector(source).card
    except InputError:
        card = None
    if card is None:
        named = find_named(source)
        card = None if named is None else named.card
    return card or WeightCard(source)


def holds_detector(source: str, path: Path | None) -> bool:
    """Return whether a source is a whole detector. Raises InputError if a file cannot be read."""
    if path is None:
        try:
            read_detector(source)
        except InputError:
            return False
        return True
    content = read_content(path)
    if is_checkpoint(content):
        return "model" in content["config"]
    return recognise(peel(content, shorten(path)).state, shorten(path)).is_detector


def _read_detector(source: str, arguments: Mapping[str, Any]) -> SourceModel:
    model = load_detector(source, **({"backbone": arguments} if arguments else {})).model
    card = model.metadata.get("weight_card")
    card = WeightCard.from_dict(card) if card else WeightCard(source, "detbackbones")
    weights = Weights(model.state_dict(), model.resolved_config(), True, _complete(card, model.backbone))
    return SourceModel(model, weights)


def _read_backbone(source: str, path: Path | None, arguments: dict[str, Any]) -> SourceModel:
    content = None if path is None else read_content(path)
    if is_checkpoint(content):
        assert isinstance(content, Mapping)
        backbone, state = _own_backbone(content, source, arguments)
    else:
        backbone, state = _foreign_backbone(source, arguments)
    card = backbone.weight_card or WeightCard(source, "detbackbones")
    return SourceModel(backbone, Weights(state, backbone.resolved_config(), False, _complete(card, backbone)))


def _complete(card: WeightCard, backbone: Backbone) -> WeightCard:
    """Return a card that also says how the network is built and fed, for libraries that cannot read its config."""
    config = backbone.resolved_config()
    facts = {name: config[name] for name in STRUCTURE if config.get(name) is not None}
    strides = [spec.stride for spec in backbone.stage_specs if spec.level >= 2]
    facts["dilated_stages"] = tuple(stride == before for before, stride in zip(strides, strides[1:]))
    if card.mean is None and type(backbone.preprocess) is Preprocess:
        values = {"mean": backbone.preprocess.mean, "std": backbone.preprocess.std}
        facts |= {name: tuple(round(v, 7) for v in value.flatten().tolist()) for name, value in values.items()}
    return replace(card, **facts)


def _own_backbone(
    content: Mapping[str, Any], source: str, arguments: dict[str, Any]
) -> tuple[Backbone, Mapping[str, Tensor]]:
    config = part_config(content, "backbone") | arguments
    if "type" not in config:
        raise InputError(f"the config in {shorten(source)} does not have a backbone")
    backbone, state = build_for_weights(BACKBONES, config), backbone_state(content, shorten(source))
    load_state(backbone, state, shorten(source))
    backbone.adopt_metadata({name: content["metadata"][name] for name in KEPT if name in content["metadata"]})
    return backbone, state


def _foreign_backbone(source: str, arguments: dict[str, Any]) -> tuple[Backbone, Mapping[str, Tensor]]:
    name = arguments.pop("backbone", None)
    given = {fact: arguments.get(fact) for fact in FACTS}
    weights = read_backbone(source, name or "", given)
    config = {"type": name or _name(weights, source), "norm": _norm(weights.state), "weights": source}
    if "fc.weight" in weights.state:
        config["num_classes"] = len(weights.state["fc.weight"])
    backbone = build_backbone(config | arguments)
    keys = backbone.state_dict().keys()
    return backbone, {key: value for key, value in weights.state.items() if key in keys}


def _name(weights: BackboneWeights, source: str) -> str:
    network = weights.architecture
    if network is None or not network.name:
        found = "a network of another family" if network is None else network.family
        extra = f" with {network.extra}" if network and network.extra else ""
        raise InputError(f"{shorten(source)} is {found}{extra}, which does not have a name here; give backbone=NAME")
    return network.name


def _norm(state: Mapping[str, Tensor]) -> str:
    """Return the norm that has the same tensors as the weights."""
    if not any(key.endswith(".running_mean") for key in state):
        return "group"
    return "batch" if any(key.endswith(".num_batches_tracked") for key in state) else "frozen"
