"""Check the arguments of `Predictor`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError, shorten
from .detector_classes import label_map, used_classes
from .trained_detector import TrainedDetector


def check_options(
    score_threshold: float | None,
    batch_size: int,
    tile: tuple[int, float] | None,
    tile_scale: float | None,
    tta: bool | Sequence[float],
) -> None:
    """Raise InputError if an option cannot be used."""
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise InputError(f"score_threshold must be from 0 to 1, got {score_threshold}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if tile_scale is not None and not tile_scale > 0:
        raise InputError(f"tile_scale must be greater than 0, got {tile_scale}")
    if tile is not None:
        is_pair = isinstance(tile, Sequence) and len(tile) == 2 and all(type(value) in (int, float) for value in tile)
        if not is_pair or type(tile[0]) is not int or tile[0] < 32 or not 0 <= tile[1] < 1:
            raise InputError(f"tile must be (pixels, overlap) such as (1024, 0.2), got {shorten(tile)}")
    if not isinstance(tta, bool) and (not isinstance(tta, Sequence) or not tta or min(tta) <= 0):
        raise InputError(f"tta must be true or positive scales, got {shorten(tta)}")


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return a device. Raises InputError if this machine does not have it."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise InputError(
            f"device {shorten(device)} cannot be used: {shorten(str(error).splitlines()[0], 160)}"
        ) from None


def match_labels(detector: TrainedDetector, first: TrainedDetector) -> Tensor:
    """Return for each label of a detector the position of its class in `used_classes` of the first one, by name.

    It is -1 for a label that does not stand for a class.

    Raises:
        InputError: the detectors do not have the same classes, or not both have masks.
    """
    names, expected = used_classes(detector.metadata)[0], used_classes(first.metadata)[0]
    if names == expected:
        places = list(range(len(names)))
    elif sorted(names) == sorted(expected) and len(set(names)) == len(names):
        places = [expected.index(name) for name in names]
    else:
        missing, unknown = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
        differences = (
            f"missing: {shorten(', '.join(missing)) or 'none'}, unknown: {shorten(', '.join(unknown)) or 'none'}"
        )
        where = f"the classes of {shorten(detector.source)} differ from those of {shorten(first.source)}"
        raise InputError(f"{where}; {differences}")
    if detector.model.tasks != first.model.tasks:
        raise InputError(f"of {shorten(first.source)} and {shorten(detector.source)} only one has masks")
    own = label_map(detector.metadata)
    return torch.tensor(places) if own is None else torch.tensor([*places, -1])[own]  # -1 takes the last one
