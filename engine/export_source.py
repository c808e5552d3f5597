"""Find what a name or a run stands for, and return the graph that is exported."""

from pathlib import Path
from typing import Any

from ..errors import InputError, shorten
from ..registry import BACKBONES, lookup
from ..weights.sources import read_metadata
from .export import ExportGraph, detector_graph, feature_graph
from .extractor import build_extractor
from .trained_detector import load_detector

PARTS = ("backbone", "neck", "detector")


def open_graph(source: str, part: str | None = None, weights: str | None = None) -> ExportGraph:
    """Return the graph of a trained detector, of a part of it, or of a backbone.

    Args:
        source: a run, a checkpoint or a named source of a trained detector, see `load_detector`; or the name of a
            backbone.
        part: one of PARTS. None: the whole detector, or the backbone.
        weights: weights of a backbone that is given by name; None for random ones.

    Raises:
        InputError: the source or the part cannot be used.
    """
    if is_backbone(source):
        if part not in (None, "backbone"):
            raise InputError(f"part={part} needs a trained detector, but {source} is a backbone; use part=backbone")
        extractor = build_extractor(source, weights)
        image_range = read_metadata(weights).get("image_range") if weights else None
        return _with_metadata(feature_graph(extractor.backbone), source=source, image_range=image_range)
    if weights is not None:
        raise InputError(f"weights= belongs to the name of a backbone; {shorten(source)} has weights of its own")
    trained = load_detector(source)
    facts = {"source": Path(source).name, "type": trained.config.get("type")}
    facts |= {"short_side": trained.short_side, "long_side": trained.long_side}
    facts["image_range"] = trained.metadata.get("image_range")
    model = trained.model
    if part in ("backbone", "neck"):
        return _with_metadata(feature_graph(model.backbone, model.neck if part == "neck" else None), **facts)
    facts |= {name: list(trained.metadata[name]) for name in ("category_ids", "category_names")}
    facts["unused_labels"] = list(trained.metadata.get("unused_labels", ()))
    return _with_metadata(detector_graph(model), **facts)


def is_backbone(source: str) -> bool:
    """Return whether a source is the name of a backbone, and not a file or folder."""
    if Path(source).exists():
        return False
    try:
        lookup(BACKBONES, source)
    except InputError:
        return False
    return True


def _with_metadata(graph: ExportGraph, **facts: Any) -> ExportGraph:
    return graph._replace(metadata={**graph.metadata, **facts})
