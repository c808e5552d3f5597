"""Build a backbone, and a neck if asked for, to extract features: by name, or as a run has trained them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..data.images import Range
from ..errors import InputError, shorten
from ..necks.base import Neck
from ..registry import BACKBONES, build_backbone, build_neck, import_modules, lookup
from ..specs import FeatureSpec
from ..weights.checkpoints import backbone_state, is_checkpoint, part_config, part_state, popped_stage
from ..weights.loading import load_state
from ..weights.sources import read_content, read_metadata
from .image_input import set_normalisation
from .schema import check_part

NeckConfig = str | bool | Mapping[str, Any] | None
DEFAULT_BACKBONE = "resnet50"
DECIDED = {"type": "backbone=", "weights": "weights=", "out_features": "features=", "load_weights": "weights="}


class Extractor(nn.Module):
    """A backbone, and the neck on it if there is one, in evaluation mode.

    Args:
        backbone, neck: the parts.
        random_parts: names of the parts with random weights.
        image_range: that of the run that the weights come from, see `read_image`.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck | None,
        random_parts: Sequence[str] = (),
        image_range: Range | None = None,
    ):
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.random_parts, self.image_range = random_parts, image_range
        self.eval()

    @property
    def specs(self) -> list[FeatureSpec]:
        """FeatureSpec of every map, in the order of `forward`; a level that the neck passes on stands once."""
        specs = [*self.backbone.feature_specs, *(self.neck.feature_specs if self.neck else ())]
        return list({spec.name: spec for spec in specs}.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of images N x C x H x W, uint8 or float in [0, 1]."""
        features = self.backbone(self.backbone.preprocess(images))
        return features | (self.neck(features) if self.neck else {})


def build_extractor(
    backbone: str | None = None,
    weights: str | None = None,
    neck: NeckConfig = None,
    features: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Extractor:
    """Build an extractor. Random weights are the same in every call.

    Args:
        backbone: name of the backbone; None for that of the run in `weights`, or else ResNet-50.
        weights: as the backbone takes them; a run folder or checkpoint gives the trained backbone.
        neck: name or config of the neck, or True for that of the run. The run's own neck has its trained weights.
        features: levels that the backbone returns; None for its default.
        arguments: other arguments of the backbone.

    Raises:
        InputError: a name, an argument or the weights cannot be used.
    """
    arguments = dict(arguments or {})
    for name in arguments:
        if name in DECIDED:
            raise InputError(f"model.{name} cannot be set; use {DECIDED[name]}")
    if features is not None:
        arguments["out_features"] = tuple(features)
    checkpoint = _read_checkpoint(weights) if backbone is None and weights else None
    torch.manual_seed(0)
    if checkpoint is not None:
        assert weights is not None
        return _build_from_run(checkpoint, weights, neck, arguments)
    if neck is True:
        raise InputError("neck=true takes the neck of a run: give the run as weights=, without backbone=")
    # a backbone of one's own may not have the argument `weights`
    config = {"type": backbone or DEFAULT_BACKBONE, **({"weights": weights} if weights else {}), **arguments}
    built = _build_backbone(config)
    random_neck, random_parts = _build_random_neck(neck, built.feature_specs)
    image_range = _read_range(read_metadata(weights)) if weights else None
    return Extractor(built, random_neck, [*(() if weights else ("backbone",)), *random_parts], image_range)


def _read_checkpoint(weights: str) -> dict[str, Any] | None:
    """Return the content of one of our checkpoints; None if `weights` is something else."""
    path = Path(weights)
    content = read_content(path) if path.exists() else None
    return content if is_checkpoint(content) else None


def _read_range(metadata: Mapping[str, Any]) -> Range | None:
    limits = metadata.get("image_range")
    return None if limits is None else (limits[0], limits[1])


def _build_from_run(
    checkpoint: Mapping[str, Any],
    weights: str,
    neck: str | bool | Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
) -> Extractor:
    where, image_range = shorten(weights), _read_range(checkpoint["metadata"])
    import_modules(checkpoint["config"].get("imports", ()))
    saved = part_config(checkpoint, "backbone")
    if "type" not in saved:
        raise InputError(f"the config in {where} does not have a backbone; name one with backbone=")
    backbone = _build_backbone({**saved, **arguments}, load_weights=False)
    state, expected = backbone_state(checkpoint, where), backbone.state_dict()
    # the config is the run's own, so only stages that are not built can be left over
    load_state(backbone, {key: value for key, value in state.items() if key in expected}, where)
    set_normalisation(backbone, checkpoint["metadata"], backbone.preprocess.channels)
    saved_neck = part_config(checkpoint, "neck")
    if neck is True and "type" not in saved_neck:
        raise InputError(f"neck=true: the config in {where} does not have a neck; name one")
    if neck and not isinstance(neck, Mapping) and neck in (True, saved_neck.get("type")):
        _check_levels(arguments, saved, where)
        specs = [spec for spec in backbone.feature_specs if spec.name != popped_stage(checkpoint)]
        trained_neck = build_neck(saved_neck, specs)
        load_state(trained_neck, part_state(checkpoint, "neck."), f"{where} (neck)")
        return Extractor(backbone, trained_neck, (), image_range)
    return Extractor(backbone, *_build_random_neck(neck, backbone.feature_specs), image_range)


def _build_backbone(config: dict[str, Any], load_weights: bool = True) -> Backbone:
    factory = lookup(BACKBONES, config["type"])
    check_part(factory, config, "model")
    return build_backbone(config, load_weights=load_weights)


def _build_random_neck(neck: NeckConfig, specs: Sequence[FeatureSpec]) -> tuple[Neck | None, list[str]]:
    """Return a neck by name, or None, and the names of the parts with random weights."""
    if not neck:
        return None, []
    built = build_neck(neck if isinstance(neck, Mapping) else str(neck), specs)
    return built, ["neck"] if any(True for _ in built.parameters()) else []


def _check_levels(arguments: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    """Raise InputError if `features` asks for other levels than those that the run's neck was trained on."""
    levels, trained = arguments.get("out_features"), saved.get("out_features")
    if levels is not None and trained is not None and set(levels) != set(trained):
        names = ",".join(trained)
        raise InputError(f"the neck in {where} was trained on ({names}), got features=({','.join(levels)})")
