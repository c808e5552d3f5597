"""Pictures of what a network does with an image: features, levels, receptive fields, anchors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..backbones.base import Backbone
from ..backbones.describe import describe
from ..backbones.receptive_field import effective_box, gradient_field, theoretical_box
from ..data.image_batches import make_items
from ..detectors.anchors import AnchorGenerator
from ..detectors.base import Detector
from ..errors import InputError, check_known, shorten
from ..registry import BACKBONES, build_backbone, build_detector, lookup
from ..visualization.anchors import AnchorPanel, save_anchors
from ..visualization.features import save_feature_statistics
from ..visualization.levels import save_levels
from ..visualization.receptive_field import FieldPanel, save_receptive_fields
from .config import DEFAULT_CONFIG, Keys, Positive, find_config, load_config
from .extractor import build_extractor
from .runs import saved_run
from .schema import check_part


class PictureKeys(Keys):
    """Keys of every picture."""

    out: str = Field(description="The PNG file.")


class PlaceKeys(PictureKeys):
    """Keys of a picture of one cell."""

    x: float = Field(default=0.5, ge=0, le=1, description="Column of the cell, as a share of the image's width.")
    y: float = Field(default=0.5, ge=0, le=1, description="Row of the cell, as a share of the image's height.")


class FeatureKeys(PictureKeys):
    """Keys of the picture of features."""

    backbone: str | None = Field(
        default=None, description="Name of the backbone; none: that of the run in `weights`, otherwise resnet50."
    )
    weights: str | None = Field(default=None, description="Weights of the backbone, or a run; none: random weights.")
    neck: str | bool | dict[str, Any] | None = Field(
        default=None, description="Name or config of a neck, whose levels are drawn too; true: that of the run."
    )
    features: Sequence[str] | None = Field(
        default=None, description="Levels of the backbone, such as ('c1','c5'); none: the backbone's default."
    )
    short_side: Positive | None = Field(default=None, description="Pixels of the image's short side; none: its own.")


class FieldKeys(PlaceKeys):
    """Keys of the picture of receptive fields."""

    backbone: str = Field(default="resnet50_dilated", description="Name of the backbone.")
    weights: str | None = Field(default=None, description="Weights of the backbone, or a run; none: random weights.")
    level: str = Field(default="c5", description="Level of the cell.")
    short_side: Positive | None = Field(default=None, description="Pixels of the image's short side; none: its own.")


class LevelKeys(PlaceKeys):
    """Keys of the picture of levels."""

    backbone: str = Field(default="resnet50_dilated", description="Name of the backbone.")
    short_side: Positive | None = Field(default=None, description="Pixels of the image's short side; none: its own.")


class AnchorKeys(PlaceKeys):
    """Keys of the picture of anchors."""

    config: str = Field(
        default=DEFAULT_CONFIG, description="Config (a name or a file) or run, whose detector has the anchors."
    )


def draw_features(path: str, keys: FeatureKeys, arguments: Mapping[str, Any]) -> list[str]:
    """Draw the levels of an image; return lines to print."""
    extractor = build_extractor(keys.backbone, keys.weights, keys.neck, keys.features, arguments)
    image = _read(path, keys.short_side, extractor.backbone.preprocess.channels)
    with torch.inference_mode():
        features = {name: maps[0].float().numpy() for name, maps in extractor(image[None]).items()}
    save_feature_statistics(Path(keys.out), image, features, extractor.specs)
    return [f"the {part} has random weights" for part in extractor.random_parts]


def draw_fields(path: str, keys: FieldKeys, arguments: Mapping[str, Any]) -> list[str]:
    """Draw the receptive field of a cell, of a dilated backbone beside its undilated form; return lines to print."""
    config = {"type": keys.backbone, **arguments, **({"weights": keys.weights} if keys.weights else {})}
    check_part(lookup(BACKBONES, keys.backbone), config, "model")
    torch.manual_seed(0)
    backbone = build_backbone(config).eval()
    check_known("level", [spec.name for spec in backbone.feature_specs], keys.level)
    forms = [backbone]
    if _is_dilated(backbone):
        plain = build_backbone(config, load_weights=False, **backbone.undilated_kwargs).eval()
        plain.load_state_dict(backbone.state_dict())
        forms.insert(0, plain)
    image = _read(path, keys.short_side, backbone.preprocess.channels)
    panels = [_field_panel(form, image, keys) for form in forms]
    save_receptive_fields(Path(keys.out), image, panels)
    return [panel.title for panel in panels] + ([] if keys.weights else ["the backbone has random weights"])


def draw_levels(path: str, keys: LevelKeys, arguments: Mapping[str, Any]) -> list[str]:
    """Draw the cells of every level, of a dilated backbone below its undilated form; return lines to print."""
    config = {"type": keys.backbone, **arguments}
    check_part(lookup(BACKBONES, keys.backbone), config, "model")
    with torch.device("meta"):
        forms = [build_backbone(config, load_weights=False)]
        if _is_dilated(forms[0]):
            forms.insert(0, build_backbone(config, load_weights=False, **forms[0].undilated_kwargs))
    image = _read(path, keys.short_side, forms[0].preprocess.channels)
    place = (keys.x * image.shape[-1], keys.y * image.shape[-2])
    save_levels(Path(keys.out), image, [(_dilation_name(form), form.feature_specs) for form in forms], place)
    return []


def draw_anchors(path: str, keys: AnchorKeys, overrides: Mapping[str, Any]) -> list[str]:
    """Draw the anchors of a detector, of a dilated one below its undilated form; return lines to print."""
    source: Any = saved_run(keys.config)[0] if Path(keys.config).is_dir() else str(find_config(keys.config))
    config = load_config(source, overrides)
    backbone = config.model["backbone"]
    detectors = [_meta_detector(config.model)]
    if _is_dilated(detectors[0].backbone):
        plain = {**backbone, **detectors[0].backbone.undilated_kwargs}
        detectors.insert(0, _meta_detector({**config.model, "backbone": plain}))
    sides = getattr(config, "short_side", None)
    short_side = max(sides) if isinstance(sides, Sequence) else sides
    image = _read(path, short_side, detectors[0].backbone.preprocess.channels, getattr(config, "long_side", None))
    rows = [(_dilation_name(detector.backbone), _anchor_panels(detector, image, keys)) for detector in detectors]
    save_anchors(Path(keys.out), image, rows)
    return []


def _read(path: str, short_side: int | None, channels: int, long_side: int | None = None) -> Tensor:
    """Return an image C x H x W uint8."""
    items, problems = make_items({Path("image"): Path(path)}, short_side, channels)
    if problems:
        raise InputError(problems[0])
    return items[0].read(channels, None)


def _cell(keys: PlaceKeys, size: Sequence[int], stride: int) -> tuple[int, int]:
    """Return row and column of the cell at a place of an image of (height, width)."""
    row, column = (
        min(round(share * side / stride), -(-side // stride) - 1) for share, side in zip((keys.y, keys.x), size)
    )
    return row, column


def _field_panel(backbone: Backbone, image: Tensor, keys: FieldKeys) -> FieldPanel:
    spec = next(spec for spec in backbone.feature_specs if spec.name == keys.level)
    cell = _cell(keys, image.shape[-2:], spec.stride)
    field = gradient_field(backbone, backbone.preprocess(image), keys.level, cell)
    sides = {level.name: level.receptive_field for level in describe(backbone, (256, 256)).levels}
    side = sides.get(keys.level)
    effective = effective_box(field, spec.stride, cell)
    text = f"{_dilation_name(backbone)}: {keys.level}, stride {spec.stride}, dilation {spec.dilation}, field "
    text += f"{'?' if side is None else side} px, effective {effective[2] - effective[0]:.0f} px"
    theoretical = None if side is None else theoretical_box(side, spec.stride, cell)
    return FieldPanel(text, field.numpy(), theoretical, effective, cell, spec.stride)


def _is_dilated(backbone: Backbone) -> bool:
    return any(spec.dilation > 1 for spec in backbone.stage_specs)


def _dilation_name(backbone: Backbone) -> str:
    return "dilated" if _is_dilated(backbone) else "undilated"


def _meta_detector(model: Mapping[str, Any]) -> Detector:
    """Build a detector without memory for its weights."""
    with torch.device("meta"):
        return build_detector(dict(model), num_classes=1, load_weights=False)


def _anchor_panels(detector: Detector, image: Tensor, keys: AnchorKeys) -> list[AnchorPanel]:
    generators = [module for module in detector.modules() if isinstance(module, AnchorGenerator)]
    if not generators:
        raise InputError(f"{shorten(type(detector).__name__)} does not have anchors")
    [generator, *_] = generators
    panels = []
    for spec, sizes, ratios in zip(detector.neck.feature_specs, generator.sizes, generator.aspect_ratios):
        row, column = _cell(keys, image.shape[-2:], spec.stride)
        centre = (float(column * spec.stride), float(row * spec.stride))
        base = generator.generate_anchors(sizes, ratios, device=torch.device("cpu"))
        panels.append(AnchorPanel(spec.name, spec.stride, centre, (base + torch.tensor(centre * 2)).numpy()))
    return panels
