"""Write backbones, backbones with their neck, and detectors as ONNX files, through torch.export."""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from ..backbones.base import Backbone
from ..detectors.base import Detector
from ..detectors.export_forms import export_form
from ..errors import InputError, RunError, shorten
from ..layers.fuse import fuse_for_inference
from ..necks.base import Neck
from ..specs import FeatureSpec
from .checkpoint import replace_file

DETECTION_OUTPUTS = ("boxes", "scores", "labels", "image_indices", "masks")
EXAMPLE_CELLS = (8, 10)  # of the size divisor: enough that all levels have several cells


class FeatureForm(nn.Module):
    """uint8 images N x C x H x W to the maps of a backbone, or of the neck on it, as a tuple."""

    def __init__(self, backbone: Backbone, neck: Neck | None = None):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(self.backbone.preprocess(images))
        return tuple((self.neck(features) if self.neck else features).values())


class ExportGraph(NamedTuple):
    """What is exported.

    Attributes:
        form: the module, fused for inference.
        inputs: example tensors by name.
        dynamic_shapes: of the inputs, as torch.export takes them.
        outputs: names.
        metadata: JSON values that the file carries.
    """

    form: nn.Module
    inputs: dict[str, Tensor]
    dynamic_shapes: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]
    metadata: dict[str, Any]


def feature_graph(backbone: Backbone, neck: Neck | None = None) -> ExportGraph:
    """Return the graph from images to the maps of a backbone, or of the neck on it."""
    form = fuse_for_inference(FeatureForm(backbone, neck), optimize=False)
    images, shape = _example_images(backbone)
    specs = (neck or backbone).feature_specs
    metadata = {"part": "backbone" if neck is None else "neck", **_geometry(backbone, specs)}
    return ExportGraph(form, {"images": images}, {"images": shape}, tuple(spec.name for spec in specs), metadata)


def detector_graph(detector: Detector) -> ExportGraph:
    """Return the graph from padded images and their sizes to detections. Raises InputError if it cannot be exported."""
    form = export_form(fuse_for_inference(detector, optimize=False)).eval()
    divisor = math.lcm(detector.size_divisor, detector.backbone.size_divisor)  # others cannot be exported
    images, shape = _example_images(detector.backbone, divisor)
    height, width = images.shape[-2:]
    inputs = {"images": images, "sizes": torch.tensor([[height, width - 1], [height - 1, width]])}
    outputs = DETECTION_OUTPUTS if "segm" in detector.tasks else DETECTION_OUTPUTS[:-1]
    metadata = {"part": "detector", **_geometry(detector.backbone, detector.neck.feature_specs)}
    metadata |= {"size_divisor": divisor, "size_divisor_in_training": detector.size_divisor}
    metadata |= {"mask_paste": detector.mask_paste} if "segm" in detector.tasks else {}
    return ExportGraph(form, inputs, {"images": shape, "sizes": {0: shape[0]}}, outputs, metadata)


def _example_images(backbone: Backbone, divisor: int | None = None) -> tuple[Tensor, dict[int, Any]]:
    """Return a batch, and its dimensions that vary: the number of images, and sides that are multiples."""
    divisor = divisor or backbone.size_divisor
    sides = [cells * divisor for cells in EXAMPLE_CELLS]
    images = torch.zeros((2, backbone.preprocess.channels, *sides), dtype=torch.uint8)
    return images, {0: Dim("batch"), 2: divisor * Dim("rows"), 3: divisor * Dim("columns")}


def _geometry(backbone: Backbone, specs: Sequence[FeatureSpec]) -> dict[str, Any]:
    """Return what a file says about its images and the levels of its maps."""
    preprocess = backbone.preprocess
    return {
        "channels": preprocess.channels,
        "image_mean": preprocess.mean.flatten().tolist(),
        "image_std": preprocess.std.flatten().tolist(),
        "size_divisor": backbone.size_divisor,
        "levels": [dataclasses.asdict(spec) for spec in specs],
    }


def check_exporter() -> None:
    """Raise InputError if a package that the exporter needs is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"export needs {' and '.join(missing)}, which cannot be imported; pip install 'detbackbones[export]'"
        )


@torch.no_grad()
def write_onnx(graph: ExportGraph, path: Path, metadata: Mapping[str, Any]) -> None:
    """Export a graph to one file that serves all numbers and sizes of images.

    Args:
        graph: see ExportGraph.
        path: the file, which is replaced if it exists.
        metadata: more JSON values for the file, by name.

    Raises:
        InputError: onnx or onnxscript is not installed.
        RunError: the exporter failed, or the file cannot be written.
    """
    check_exporter()
    from .onnx_operators import TRANSLATIONS

    with _quiet():
        try:
            exported = torch.export.export(
                graph.form, (), kwargs=dict(graph.inputs), dynamic_shapes=graph.dynamic_shapes, strict=False
            )
            program = torch.onnx.export(
                exported,
                dynamo=True,
                verbose=False,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                custom_translation_table=TRANSLATIONS,
            )
        except Exception as error:  # of any kind: operators and shapes that the exporter does not know
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = shorten(lines[0] if lines else type(error).__name__, 300)
            raise RunError(f"{type(graph.form).__name__} cannot be exported: {reason}") from error
    assert program is not None
    values = {**graph.metadata, **metadata}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in values.items()})
    with replace_file(path) as file:
        file.write(program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns of versions, copies and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
