"""Read the weights of a backbone from any source, under torchvision's keys and for RGB images, with their card."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, shorten
from .architectures import Architecture, read_architecture
from .cards import WeightCard, reverse_input_channels
from .checkpoints import backbone_state, find_checkpoint, is_checkpoint, is_run, print_once
from .meanings import checkpoint_card, file_card
from .named_sources import find_named
from .recognition import convert_backbone, peel, recognise
from .sources import check_finite, read_content

STEM_KEYS = ("conv1.weight", "conv1.0.weight")


@dataclass(frozen=True)
class BackboneWeights:
    """Weights that are ready to load.

    Attributes:
        state: under torchvision's keys, for RGB images.
        card: what they mean.
        architecture: structure of the network that they belong to; None if it is not one of the ResNet family.
        is_of_detector: the file holds a detector of another library, of which this is the backbone.
    """

    state: dict[str, Tensor]
    card: WeightCard
    architecture: Architecture | None
    is_of_detector: bool = False


def read_backbone(source: str, architecture: str = "", given: Mapping[str, Any] | None = None) -> BackboneWeights:
    """Read the weights of a backbone.

    Args:
        source: a named source, see `named_sources.find_named`; or the path of a file in the format of torchvision,
            timm, detectron2, Caffe2, mmdetection, Hugging Face or this package, of a run of ours, or of a folder that
            transformers has saved.
        architecture: name of the backbone in this package, which completes named sources.
        given: arguments of the backbone, which answer what a file of unknown origin leaves open.

    Raises:
        InputError: the source is unknown, cannot be had, cannot be read, or has more than one possible meaning.
    """
    named = find_named(str(source), architecture)
    path = Path(source) if named is None else named.fetch()
    weights = _read_file(path, given or {}, None if named is None else named.card)
    if named is not None:
        weights = replace(weights, card=replace(weights.card, source=str(source)))
    if weights.is_of_detector:
        print_once(f"{shorten(source)} is a detector; its backbone is used, and its other parts are left out")
    return weights


def read_card(
    source: str, architecture: str = "", given: Mapping[str, Any] | None = None, download: bool = True
) -> WeightCard | None:
    """Return the card of a source, without its weights if the source has a name; None if it cannot be had.

    Args:
        source, architecture, given: see `read_backbone`.
        download: False looks at tables and at files that are there alone.

    Raises:
        InputError: the named source is unknown, or a file has more than one possible meaning.
    """
    named = find_named(str(source), architecture)
    if named is not None and named.card is not None:
        return replace(named.card.as_rgb(), source=str(source))
    path = Path(source)
    if named is not None:
        if not download:
            return None
        try:
            path = named.fetch()
        except InputError:  # whoever needs the weights will say so
            return None
    return replace(_read_file(path, given or {}).card, source=str(source)) if path.exists() else None


def _read_file(path: Path, given: Mapping[str, Any], card: WeightCard | None = None) -> BackboneWeights:
    """Read a file; `card` is that of its named source, if it has one."""
    path = find_checkpoint(path) if is_run(path) else path
    content, where = read_content(path), shorten(path)
    if is_checkpoint(content):
        state = backbone_state(content, where)
        check_finite(state, where)
        own_card = checkpoint_card(content, str(path))
        is_resnet = any(key in state for key in STEM_KEYS)
        return BackboneWeights(state, own_card, read_architecture(state) if is_resnet else None)
    peeled = peel(content, where)
    origin = recognise(peeled.state, where)
    state = convert_backbone(peeled.state, origin)
    check_finite(state, where)
    card = card or file_card(path, peeled, origin, given)
    if card.channel_order == "BGR":
        state = reverse_input_channels(state, next(key for key in STEM_KEYS if key in state))
    return BackboneWeights(state, card.as_rgb(), origin.architecture, origin.is_detector)
