"""Config keys on the channels and values of images, and what follows from them for dataset and model."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from pydantic import Field

from ..backbones.base import Backbone
from ..backbones.preprocess import Preprocess
from ..backbones.weight_settings import config_card
from ..data.coco import CocoDataset
from ..data.statistics import channel_statistics
from ..errors import InputError
from ..registry import BACKBONES, accepts, lookup
from ..weights.cards import IMAGENET_MEAN, IMAGENET_STD
from ..weights.sources import read_metadata
from .config import Positive, TrainConfig

STATISTICS = ("image_mean", "image_std")


class ImageConfig(TrainConfig):
    """Config keys on images."""

    image_channels: Positive | None = Field(
        default=None, description="Channels of the images; none: the backbone's in_channels, else 3."
    )
    image_range: Sequence[float] | None = Field(
        default=None,
        description="The pixel values (low, high) that become 0 and 255; none: 8-bit images are kept, and others are "
        "scaled one by one, see data.images.value_range.",
    )
    image_mean: Sequence[float] | None = Field(
        default=None,
        description="Mean per channel of images in [0, 1], which is subtracted; none: what the backbone's weights were "
        "trained with, ImageNet's for three channels, else that of up to 200 training images.",
    )
    image_std: Sequence[float] | None = Field(
        default=None, description="Standard deviation per channel, by which is divided; as image_mean."
    )


def image_channels(config: ImageConfig) -> int:
    """Return the number of channels that images are read with.

    Raises:
        InputError: `image_channels` and the backbone's `in_channels` differ.
    """
    given = config.model["backbone"].get("in_channels")
    if None not in (given, config.image_channels) and given != config.image_channels:
        raise InputError(
            f"image_channels={config.image_channels} contradicts model.backbone.in_channels={given}; set one of them"
        )
    return config.image_channels or given or 3


def resolve_channels(config: ImageConfig) -> dict[str, Any]:
    """Check the keys on images, and return the config of the backbone with `in_channels` if images are not RGB.

    Raises:
        InputError: a value cannot be used, or two keys contradict each other.
    """
    channels = image_channels(config)
    limits = config.image_range
    if limits is not None and not (len(limits) == 2 and all(map(math.isfinite, limits)) and limits[0] < limits[1]):
        raise InputError(f"image_range must be (low, high) with low < high, got {tuple(limits)}")
    if (config.image_mean is None) != (config.image_std is None):
        raise InputError("image_mean and image_std must be set together")
    for name, smallest in (("image_mean", 0.0), ("image_std", 1e-6)):
        values = getattr(config, name)
        if values is not None and not (len(values) == channels and all(smallest <= v <= 1 for v in values)):
            expected = f"{channels} value(s), one per channel, between {smallest:g} and 1 (images are in [0, 1])"
            raise InputError(f"{name} must be {expected}, got {tuple(values)}")
    backbone = config.model["backbone"]
    is_set = channels != 3 or config.image_channels is not None
    if is_set and accepts(lookup(BACKBONES, backbone["type"]), "in_channels"):
        return backbone | {"in_channels": channels}
    return backbone


def image_metadata(config: ImageConfig, dataset: CocoDataset) -> dict[str, Any]:
    """Return what a checkpoint keeps about images.

    That is "image_size", the median height and width on disk, from which tiled prediction takes its scale;
    "image_range"; and "image_mean" and "image_std" if they are set.

    Without a setting, mean and standard deviation of three channels and of pretrained weights are the backbone's own;
    others are computed from the training data, once.
    """
    if dataset.statistics is None:
        dataset.statistics = {}
        weights = config.init_from or config.model["backbone"].get("weights")
        if config.image_mean is not None:
            dataset.statistics = {name: _floats(getattr(config, name)) for name in STATISTICS}
        elif weights is not None:  # a run of ours keeps them in its metadata
            trained: Mapping[str, Any] = read_metadata(str(weights)) or _card_statistics(config, dataset.channels)
            same_channels = len(trained.get(STATISTICS[0], ())) == dataset.channels
            dataset.statistics = {name: trained[name] for name in STATISTICS} if same_channels else {}
            dataset.image_range = dataset.image_range or trained.get("image_range")
        elif dataset.training and dataset.channels != 3:
            dataset.statistics = dict(zip(STATISTICS, channel_statistics(dataset)))
    sizes = ([image[side] for image in dataset.images] for side in ("height", "width"))
    image_size = [int(median(values)) for values in sizes]
    return {"image_size": image_size, "image_range": _floats(dataset.image_range), **dataset.statistics}


def _card_statistics(config: ImageConfig, channels: int) -> dict[str, list[float]]:
    """Return mean and std of images for the backbone's weights, if they are not ImageNet's; {} without a card."""
    card = None if config.init_from else config_card(config.model["backbone"])
    if card is None or card.mean is None or card.std is None or (card.mean, card.std) == (IMAGENET_MEAN, IMAGENET_STD):
        return {}
    preprocess = Preprocess.for_channels(channels, card.mean, card.std)
    return dict(zip(STATISTICS, (preprocess.mean.flatten().tolist(), preprocess.std.flatten().tolist())))


def adopt_image_metadata(config: ImageConfig, dataset: CocoDataset, metadata: Mapping[str, Any]) -> None:
    """Read the images of a dataset as a model expects them that was trained with this metadata.

    Raises:
        InputError: the config asks for something else.
    """
    for name in ("image_range", *STATISTICS):
        wanted, trained = _floats(getattr(config, name)), metadata.get(name)
        if wanted not in (None, trained):
            raise InputError(f"{name} is {wanted}, but the model was trained with {trained}; leave it out")
    dataset.image_range = metadata.get("image_range")
    dataset.statistics = {name: metadata[name] for name in STATISTICS if name in metadata}


def set_normalisation(backbone: Backbone, metadata: Mapping[str, Any], channels: int) -> None:
    """Let a backbone subtract the mean and divide by the standard deviation of the metadata, if it has them.

    Raises:
        InputError: the backbone takes another number of channels.
    """
    found = backbone.preprocess.channels
    if found != channels:
        raise InputError(
            f"the backbone takes {found} channel(s), but images are read with {channels}; set image_channels={found}"
        )
    if STATISTICS[0] in metadata:
        backbone.preprocess = Preprocess(*(metadata[name] for name in STATISTICS))


def _floats(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
