"""Latency of one network in PyTorch and in other runtimes. A function builds one contender, see measure.py.

All contenders take uint8 images and normalise them; detectors end before masks are pasted. All have the same number of
threads, and ONNX Runtime and OpenVINO read the same file.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.export import FeatureForm, detector_graph, feature_graph, write_onnx
from .networks import FUSED, OURS, RunAndOutput, Settings, make_detector, make_network, run_inference

COMPILED, ONNX_RUNTIME, OPENVINO = "detbackbones, fused and compiled", "ONNX Runtime", "OpenVINO"
CONTENDERS = (OURS, FUSED, COMPILED, ONNX_RUNTIME, OPENVINO)
NUM_CANDIDATES = 400  # boxes of all classes above the score threshold, as trained detectors have them


@functools.cache
def scratch_folder() -> tempfile.TemporaryDirectory:
    """Return a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory()


def random_bytes(settings: Settings) -> Tensor:
    torch.manual_seed(2)
    return torch.randint(0, 256, (settings.batch, 3, *settings.size), dtype=torch.uint8)


def compile_frozen(module: nn.Module) -> Callable[..., Any]:
    """Compile for inference; weights become constants, which the compiler packs."""
    compiled = torch.compile(module)

    def run(*arguments: Any) -> Any:
        with torch._inductor.config.patch(freezing=True):  # read in the first call, which compiles
            return compiled(*arguments)

    return run


@functools.cache
def exported_file(is_detector: bool, settings: str) -> Path:
    """Write the network of the settings (as JSON) to an ONNX file, once."""
    path = Path(scratch_folder().name) / f"{abs(hash((is_detector, settings)))}.onnx"
    parsed = Settings.model_validate_json(settings)
    graph = detector_graph(detector(parsed)) if is_detector else feature_graph(make_network(OURS, parsed).eval())
    write_onnx(graph, path, {})
    return path


def foreign_runtime(name: str, path: Path) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    """Return the function of a file in ONNX Runtime or OpenVINO."""
    threads = torch.get_num_threads()
    if name == ONNX_RUNTIME:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return functools.partial(session.run, None)
    import openvino

    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    return lambda inputs: [np.array(value) for value in compiled(inputs).values()]


def features(name: str, settings: Settings) -> RunAndOutput:
    """Images to C2-C5."""
    images = random_bytes(settings)

    def by_number(maps: Any) -> dict[int, Tensor]:
        return dict(enumerate(torch.as_tensor(value) for value in maps))

    if name in (ONNX_RUNTIME, OPENVINO):
        run = foreign_runtime(name, exported_file(False, settings.model_dump_json()))
        return functools.partial(run, {"images": images.numpy()}), by_number
    form: Any = FeatureForm(make_network(OURS if name == OURS else FUSED, settings)).eval()
    return functools.partial(
        run_inference, compile_frozen(form) if name == COMPILED else form, images, settings
    ), by_number


def detector(settings: Settings) -> Any:
    """Return the detector, with a score threshold that NUM_CANDIDATES boxes pass."""
    model = make_detector(OURS, settings).eval()
    logits: list[Tensor] = []
    hook = model.roi_heads.box_predictor.register_forward_hook(lambda _, inputs, outputs: logits.append(outputs[0]))
    with torch.inference_mode():
        model.predict(list(random_bytes(settings)))
    hook.remove()
    scores = logits[0].softmax(dim=1)[:, 1:].flatten()
    model.roi_heads.score_thresh = scores.topk(NUM_CANDIDATES * settings.batch).values[-1].item()
    return model


def detections(name: str, settings: Settings) -> RunAndOutput:
    """Images to boxes, scores, labels and masks of 28 x 28."""
    images = random_bytes(settings)
    if name in (ONNX_RUNTIME, OPENVINO):
        run = foreign_runtime(name, exported_file(True, settings.model_dump_json()))
        sizes = np.array([settings.size] * settings.batch)
        return functools.partial(run, {"images": images.numpy(), "sizes": sizes}), _summary_of_arrays
    model = detector(settings)
    if name != OURS:
        model = model.fuse_for_inference()
    features: Callable[..., Any] = nn.Sequential(model.backbone, model.neck)
    if name == COMPILED:
        features = compile_frozen(features)  # type: ignore[arg-type]

    def detect(inputs: Tensor) -> list[dict[str, Tensor]]:
        batch = model.preprocess(list(inputs))
        return model.head_detections(features(batch.tensors), batch)

    return functools.partial(run_inference, detect, images, settings), _summary


def _summary(outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what does not depend on the order of detections with nearly equal scores."""
    means = {name: torch.cat([output[name] for output in outputs]).double().mean() for name in ("boxes", "masks")}
    return means | {"scores": torch.cat([output["scores"] for output in outputs])}


def _summary_of_arrays(arrays: list[np.ndarray]) -> dict[str, Tensor]:
    boxes, scores, _, _, masks = map(torch.from_numpy, arrays)
    return _summary([{"boxes": boxes, "scores": scores, "masks": masks}])
