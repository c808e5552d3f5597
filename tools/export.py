"""Write a backbone, a backbone with its neck, or a whole detector as an ONNX file.

    python tools/export.py RUN_OR_NAME out=model.onnx [key=value ...]
    detbackbones export RUN_OR_NAME out=model.onnx [key=value ...]

RUN_OR_NAME is a run folder, a checkpoint or a named source of a trained detector, or the name of a backbone. One file
serves all numbers and sizes of images, and carries classes, sizes and levels as metadata; docs/export.md has its inputs
and outputs. Needs onnx and onnxscript, and onnxruntime for the check: pip install 'detbackbones[export]'.
"""

import functools
import os
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

import detbackbones
from detbackbones.engine.config import Keys
from detbackbones.engine.console import plain_console
from detbackbones.engine.export import check_exporter, write_onnx
from detbackbones.engine.export_check import check_export, has_runtime
from detbackbones.engine.export_source import open_graph
from detbackbones.engine.schema import describe_fields, validate
from detbackbones.errors import InputError, RunError, shorten
from detbackbones.registry import import_modules
from detbackbones.tools.cli import one_name, run_command

PREDICTOR = "onnx_predictor.py"


class Settings(Keys):
    """The keys of the command line."""

    out: str = Field(description="The file, whose name ends in .onnx. Required.")
    part: Literal["backbone", "neck", "detector"] | None = Field(
        default=None,
        description="What to export; neck is the backbone with its neck. none: the detector, or the named backbone.",
    )
    weights: str | None = Field(
        default=None, description="Weights of a backbone that is given by name; none: random ones."
    )
    predictor: bool = Field(
        default=False, description=f"Also write {PREDICTOR} beside the model, which runs it without torch."
    )
    overwrite: bool = Field(default=False, description="Replace files that exist.")
    check: bool = Field(default=True, description="Compare the file in ONNX Runtime with PyTorch, if it is installed.")
    imports: str | Sequence[str] = Field(default=(), description="Modules that register parts of your own.")


def usage(_: Sequence[str]) -> str:
    """Return the usage and every key with its default, its type and its meaning."""
    return "\n".join([__doc__, "Keys and their defaults:\n", *describe_fields(Settings(out="model.onnx"))])


def check_targets(settings: Settings) -> list[Path]:
    """Return the files that are written. Raises InputError if one cannot be or exists."""
    out = Path(settings.out)
    if out.suffix != ".onnx":
        raise InputError(f"out={shorten(out)} must end in .onnx")
    if settings.predictor and settings.part in ("backbone", "neck"):
        raise InputError(f"predictor=true runs whole detectors, got part={settings.part}")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError(f"out={shorten(out)} cannot be written: {shorten(out.parent)} is not a folder to write to")
    targets = [out, *([out.with_name(PREDICTOR)] if settings.predictor else [])]
    for target in targets:
        if target.is_dir() or (target.exists() and not settings.overwrite):
            raise InputError(f"{shorten(target)} exists; choose another name, or set overwrite=true")
    return targets


def export(names: Sequence[str], pairs: dict[str, Any]) -> None:
    """Export what the command line names."""
    if not pairs.get("out"):
        raise InputError("out=FILE.onnx is missing: where to write the model")
    settings = validate(Settings, pairs)
    source = one_name(names, "run, checkpoint, named source or backbone")
    targets = check_targets(settings)
    check_exporter()
    import_modules(settings.imports)
    console = plain_console()
    graph = open_graph(source, settings.part, settings.weights)
    if settings.predictor and graph.metadata["part"] != "detector":
        raise InputError(f"predictor=true runs whole detectors, but {shorten(source)} is a backbone")
    write_onnx(graph, targets[0], {"version": detbackbones.__version__})
    megabytes = targets[0].stat().st_size / 1e6
    inputs, outputs = ", ".join(graph.inputs), ", ".join(graph.outputs)
    console.print(f"{targets[0]}: {graph.metadata['part']}, {megabytes:.1f} MB, inputs {inputs}, outputs {outputs}")
    padding, trained = (graph.metadata.get(name) for name in ("size_divisor", "size_divisor_in_training"))
    if trained is not None and padding != trained:
        console.print(
            f"the file pads images to multiples of {padding}, the detector to multiples of {trained}: for other sizes, "
            "detections differ from those of PyTorch"
        )
    if settings.predictor:
        with resources.as_file(resources.files("detbackbones.engine") / PREDICTOR) as module:
            _copy(module, targets[1])
        console.print(f"{targets[1]}: OnnxPredictor({targets[0].name!r})(image); needs numpy, onnxruntime and Pillow")
    if settings.check and has_runtime():
        console.print(check_export(graph, targets[0]))


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise RunError(f"{shorten(target)} cannot be written: {error.strerror}") from None


main = functools.partial(run_command, export, usage)


if __name__ == "__main__":
    raise SystemExit(main())
