"""Compare exported detectors with PyTorch on images of a folder, with and without torch in the process that runs them.

    python -m detbackbones.benchmarks.export_agreement RUN ... images=FOLDER [key=value ...]

Keys: count=20 images, short_side=320 instead of the run's own, python=INTERPRETER, out=FILE.json

Every run is exported to one file. `python` names an interpreter with numpy, onnxruntime and Pillow, such as one of an
environment without torch; without it, this one runs with the import of torch and torchvision blocked. Two comparisons:

    same array  both get the array that torch has resized
    own resize  both get the photo; the predictor resizes with Pillow

A detection is matched with the nearest one of its class. Box differences are in pixels of the array or the photo.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..data.image_listing import is_image
from ..data.images import read_image
from ..data.sizes import resized_shape
from ..engine import onnx_predictor
from ..engine.export import write_onnx
from ..engine.export_source import open_graph
from ..engine.trained_detector import TrainedDetector, load_detector
from ..errors import InputError
from ..tools.cli import run_command

MATCHED_WITHIN = 5.0  # pixels; a detection without a partner this near is counted as missing
WORKER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "detbackbones"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import numpy as np
sys.path.insert(0, sys.argv[1])
import onnx_predictor
predictor = onnx_predictor.OnnxPredictor(sys.argv[2])
arrays = np.load(sys.argv[3])
results = {}
for name in arrays.files:
    array = arrays[name]
    result = predictor(array) if name.startswith("own") else predictor.predict_resized([array])[0]
    results.update({f"{name}.{key}": result[key] for key in ("boxes", "scores", "labels", "masks") if key in result})
np.savez(sys.argv[4], **results)
assert not {"torch", "torchvision"} & set(sys.modules)
"""


def predict_without_torch(
    python: str, model: Path, arrays: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the detections of every array by name, computed by another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **arrays)
        code = Path(onnx_predictor.__file__).parent
        subprocess.run([python, "-c", WORKER, str(code), str(model), str(source), str(target)], check=True)
        results: dict[str, dict[str, np.ndarray]] = {name: {} for name in arrays}
        with np.load(target) as found:
            for key in found.files:
                name, _, field = key.rpartition(".")
                results[name][field] = found[key]
        return results


def compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return how far detections are from those expected.

    Returns:
        "detections" and "missing" (those expected, and those without a partner on either side), the largest difference
        of "box" and "score" of the others, and "mask", the smallest share of equal pixels over the whole image.
    """
    figures = {"detections": len(expected["boxes"]), "missing": 0, "box": 0.0, "score": 0.0, "mask": 1.0}
    free = np.ones(len(found["boxes"]), dtype=bool)
    for index, (box, label) in enumerate(zip(expected["boxes"], expected["labels"])):
        distance = np.abs(found["boxes"] - box).max(axis=1, initial=0)
        distance = np.where(free & (found["labels"] == label), distance, np.inf)
        if not len(distance) or distance.min() > MATCHED_WITHIN:
            figures["missing"] += 1
            continue
        partner = int(distance.argmin())
        free[partner] = False
        figures["box"] = max(figures["box"], float(distance[partner]))
        figures["score"] = max(figures["score"], abs(float(found["scores"][partner] - expected["scores"][index])))
        if "masks" in expected:
            pair = found["masks"][partner], expected["masks"][index]
            area = max(1, int((pair[0] | pair[1]).sum()))
            figures["mask"] = min(figures["mask"], 1 - int((pair[0] ^ pair[1]).sum()) / pair[0].size)
            figures["iou"] = min(figures.get("iou", 1.0), int((pair[0] & pair[1]).sum()) / area)
    figures["missing"] += int(free.sum())
    return figures


def _arrays(detection: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in detection.items()}


@torch.inference_mode()
def measure(trained: TrainedDetector, model: Path, paths: Sequence[Path], python: str) -> dict[str, dict[str, float]]:
    """Return the figures of both comparisons over all images."""
    arrays, expected = {}, {}
    for index, path in enumerate(paths):
        photo = read_image(path, trained.channels, trained.metadata.get("image_range"))
        size = (photo.shape[-2], photo.shape[-1])
        shape = resized_shape(*size, trained.short_side, trained.long_side)
        small = TF.resize(photo, list(shape), antialias=True)
        for name, image, output_size in (("same array", small, shape), ("own resize", photo, size)):
            key = f"{name} {index}"
            arrays[key] = image.permute(1, 2, 0).contiguous().numpy()
            (detection,) = trained.model.predict([small], [output_size])
            expected[key] = (name, _arrays(detection))
    found = predict_without_torch(python, model, arrays)
    figures: dict[str, dict[str, float]] = {}
    for key, (name, detection) in expected.items():
        values = compare(found[key], detection)
        total = figures.setdefault(name, dict.fromkeys(("detections", "missing", "box", "score"), 0.0) | {"mask": 1.0})
        for field in ("detections", "missing"):
            total[field] += values[field]
        for field in ("box", "score"):
            total[field] = max(total[field], values[field])
        for field in {"mask", "iou"} & values.keys():
            total[field] = min(total.get(field, 1.0), values[field])
    return figures


def agreement(names: Sequence[str], pairs: dict[str, Any]) -> None:
    """Export every run, compare it, and print the figures."""
    folder, count = pairs.get("images"), int(pairs.get("count", 20))
    if not names or not folder:
        raise InputError("expected RUN ... images=FOLDER")
    paths = sorted(filter(is_image, Path(folder).iterdir()))
    paths = paths[:: max(1, len(paths) // count)][:count]
    table = Table("run", "input", "detections", "missing", "box px", "score", "equal mask pixels", box=SIMPLE_HEAD)
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            model, trained = Path(temporary) / "model.onnx", load_detector(name)
            if "short_side" in pairs:
                trained = dataclasses.replace(trained, short_side=pairs["short_side"], long_side=None)
            write_onnx(open_graph(name), model, {"short_side": trained.short_side, "long_side": trained.long_side})
            results[name] = measure(trained, model, paths, str(pairs.get("python", sys.executable)))
            for kind, row in results[name].items():
                mask = f"{row['mask']:.6%}" if "segm" in trained.model.tasks else "-"
                cells = (
                    f"{row['detections']:.0f}",
                    f"{row['missing']:.0f}",
                    f"{row['box']:.1e}",
                    f"{row['score']:.1e}",
                )
                table.add_row(Path(name).name, kind, *cells, mask)
    Console().print(table)
    if pairs.get("out"):
        Path(pairs["out"]).write_text(json.dumps(results, indent=2) + "\n")


main = functools.partial(run_command, agreement, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
