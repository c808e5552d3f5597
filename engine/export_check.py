"""Run an exported file in ONNX Runtime and compare it with the module that it was exported from."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .export import ExportGraph

CELLS = (6, 12, 24, 3)  # of the random images, which are tried in turn until a detector finds something


def has_runtime() -> bool:
    """Return whether ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def blobs(batch: int, channels: int, height: int, width: int, cells: int = 6) -> Tensor:
    """Return uint8 images of smooth random colours, `cells` a side, on which a detector has something to find."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand((batch, channels, cells, cells), generator=random) * 255
    return F.interpolate(coarse, size=(height, width), mode="bilinear").to(torch.uint8)


def compare(graph: ExportGraph, path: Path, images: Tensor, sizes: Tensor) -> tuple[dict[str, float | None], int]:
    """Return the largest difference of every output from PyTorch, None if shapes differ, and the length of the first.

    Args:
        graph: what was exported.
        path: the file.
        images: N x C x H x W uint8, padded.
        sizes: N x 2 int64, height and width of every image.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {"images": images, "sizes": sizes}
    inputs = {name: inputs[name] for name in graph.inputs}
    with torch.no_grad():
        expected = graph.form(**inputs)
    found: Any = session.run(list(graph.outputs), {name: value.numpy() for name, value in inputs.items()})
    differences = {name: _difference(a, b.numpy()) for name, a, b in zip(graph.outputs, found, expected)}
    return differences, len(found[0])


def _difference(found: np.ndarray, expected: np.ndarray) -> float | None:
    if found.shape != expected.shape:
        return None
    return float(np.abs(found.astype(np.float64) - expected).max()) if found.size else 0.0


def check_export(graph: ExportGraph, path: Path) -> str:
    """Run a file on two images of another size than it was exported with, and say how far it is from PyTorch."""
    divisor, channels = graph.metadata["size_divisor"], graph.metadata["channels"]
    height, width = (-(-side // divisor) * divisor for side in (320, 448))
    sizes = torch.tensor([[height, width - 3], [height - 7, width - divisor]])
    where = f"two random images of {height} x {width}"
    for cells in CELLS:
        differences, count = compare(graph, path, blobs(2, channels, height, width, cells), sizes)
        if count or None in differences.values():
            break
    else:
        return f"ONNX Runtime and PyTorch find nothing in {where}, so their detections are not compared"
    texts = [f"{name} {'another number' if value is None else f'{value:.1e}'}" for name, value in differences.items()]
    found = f" with {count} detections" if graph.metadata["part"] == "detector" else ""
    return f"largest difference between ONNX Runtime and PyTorch on {where}{found}: {', '.join(texts)}"
