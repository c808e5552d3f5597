"""The two datasets that a run names, opened and checked."""

from pathlib import Path

from ..data.annotations import Annotations, neighbours, read_annotations
from ..data.coco import CocoDataset
from ..data.shapes import ensure_shapes
from ..errors import InputError
from ..registry import DETECTORS, lookup
from .config import Run, Split

EMBEDDED = "embedded:shapes"


def data_root(run: Run) -> Path | None:
    if run.data_root is None:
        return None
    root = ensure_shapes() if run.data_root == EMBEDDED else Path(run.data_root)
    if not root.is_dir():
        raise InputError(f"data_root {root} does not exist{neighbours(root)}")
    return root


def open_split(root: Path | None, run: Run, split: Split) -> Annotations:
    """Annotations of one split; its paths may lie below `root` or anywhere."""

    def find(path: str) -> Path:
        below = Path(path) if root is None else root / path
        return below if below.exists() or not Path(path).exists() else Path(path)

    return read_annotations(find(split.ann_file), find(split.image_dir), has_masks(run), run.drop_bad_objects,
                            check_images=not run.skip_unreadable)  # fmt: skip


def has_masks(run: Run) -> bool:
    """Whether the run's detector trains on masks."""
    return getattr(lookup(DETECTORS, run.model["type"]), "has_masks", False)


def open_training(run: Run, root: Path | None) -> CocoDataset:
    annotations = open_split(root, run, run.train)
    dataset = CocoDataset(annotations, training=True, short_side=run.short_side, long_side=run.long_side,
                          masks=has_masks(run), flip=run.flip)  # fmt: skip
    if not len(dataset):
        raise InputError(f"{annotations.path} has no image with an object that is not a crowd")
    return dataset


def open_validation(run: Run, root: Path | None) -> CocoDataset:
    annotations = open_split(root, run, run.val)
    short_side = max(run.short_side) if isinstance(run.short_side, (list, tuple)) else run.short_side
    return CocoDataset(annotations, training=False, short_side=short_side, long_side=run.long_side, masks=False)
