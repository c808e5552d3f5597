"""Bring the classes of a detector and of a dataset together, by their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.coco import CocoDataset
from ..errors import InputError, shorten
from ..weights.detector_sources import is_foreign, read_detector
from ..weights.sources import read_file, read_metadata
from ..weights.torchvision_detectors import CLASS_LAYERS, select_classes
from .checkpoint import find_checkpoint
from .console import plain_console


def start_state(source: str, names: Sequence[str], label_offset: int) -> dict[str, Tensor]:
    """Return the weights that a detector for other data starts from.

    Class layers have the rows of the classes of these names; if a class is missing in the source, they have none.

    Args:
        source: a checkpoint of ours, or a detector of another library.
        names: of the dataset's classes, in the order of the labels.
        label_offset: 1 if the class layers have a row of the background.
    """
    if is_foreign(source):
        found = read_detector(source)
        state, metadata = dict(found.state), found.metadata
    else:
        state, metadata = read_file(find_checkpoint(source)), read_metadata(source)
    trained = metadata.get("category_names", [])
    if metadata.get("unnamed_classes") and len(trained) == len(names):  # they may be the same
        return state
    if trained != list(names) and set(names) <= set(trained):
        rows = [trained.index(name) + label_offset for name in names]
        return select_classes(state, rows, len(trained) + label_offset)
    if trained and trained != list(names):  # other classes, perhaps as many: no row keeps its meaning
        state |= {key: value[:0] for key, value in state.items() if any(layer in key for layer in CLASS_LAYERS)}
    return state


def match_classes(dataset: CocoDataset, metadata: Mapping[str, Any], where: str) -> None:
    """Give the dataset's classes the labels of the model's classes with the same names.

    Args:
        dataset: whose order of classes is changed.
        metadata: of the model.
        where: name of the dataset in messages.

    Raises:
        InputError: the classes differ, or cannot be told apart by name.
    """
    path = dataset.annotations.path
    if metadata.get("unnamed_classes"):
        _match_by_number(dataset, len(metadata["category_ids"]))
        return
    names, ids = used_classes(metadata)
    if (dataset.names, dataset.category_ids) == (names, ids):
        return
    if sorted(dataset.names) != sorted(names):
        missing = ", ".join(sorted(set(names) - set(dataset.names))) or "none"
        unknown = ", ".join(sorted(set(dataset.names) - set(names))) or "none"
        differences = f"missing: {shorten(missing)}, unknown: {shorten(unknown)}"
        raise InputError(f"the classes of {where} ({path}) differ from those of the model; {differences}")
    if len(set(names)) < len(names):
        doubled = shorten(", ".join(sorted({name for name in names if names.count(name) > 1})))
        raise InputError(f"classes of {where} ({path}) have other ids, and cannot be matched by name: {doubled}")
    dataset.reorder_classes(names)
    plain_console().print(f"{path}: ids or order of the classes differ from the model's; they are matched by name")


def _match_by_number(dataset: CocoDataset, num_classes: int) -> None:
    path = dataset.annotations.path
    if len(dataset.names) != num_classes:
        raise InputError(
            f"the model has {num_classes} classes, whose names are not known, and {path} has {len(dataset.names)}"
        )
    dataset.reorder_classes([name for _, name in sorted(zip(dataset.category_ids, dataset.names))])
    plain_console().print(f"{path}: the names of the model's classes are not known; they are taken in the order of ids")


def used_classes(metadata: Mapping[str, Any]) -> tuple[list[str], list[int | str]]:
    """Return the names and ids of a model's classes, without the rows of its class layers that stand for none."""
    unused = metadata.get("unused_labels", ())
    used = [label for label in range(len(metadata["category_ids"])) if label not in unused]
    return [metadata["category_names"][label] for label in used], [metadata["category_ids"][label] for label in used]


def label_map(metadata: Mapping[str, Any]) -> Tensor | None:
    """Return the label in the data of every label of a model, -1 for a row without a class; None if there is none."""
    unused = list(metadata.get("unused_labels", ()))
    is_used = torch.ones(len(metadata["category_ids"]), dtype=torch.bool)
    is_used[unused] = False
    return torch.where(is_used, is_used.cumsum(0) - 1, -1) if unused else None
