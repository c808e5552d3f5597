"""Write weights of any source as a file of ours with their card inside, or under the keys of another library.

    python tools/convert_weights.py SOURCE out=FILE [key=value ...]
    detbackbones convert SOURCE out=FILE [key=value ...]

SOURCE is a file, a run, a URL or a named source, as weights= of a backbone or a detector takes it (docs/weights.md).

    to=detbackbones              FILE.safetensors with the config and the weight card (default)
    to=torchvision               FILE.pth, a state dict with torchvision's keys
    to=detectron2                FILE.pkl with detectron2's keys
    input_format=BGR|RGB         images that detectron2 will feed (INPUT.FORMAT); none: as the weights' own library did
    part=backbone|detector       none: all that SOURCE has
    overwrite=true               replace FILE

Other keys are arguments of the backbone, such as backbone=resnet50d, or those that a file of unknown origin needs:
stride_in_1x1=true channel_order=BGR norm_eps=0.0.
"""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from detbackbones.engine.checkpoint import replace_file
from detbackbones.engine.console import plain_console
from detbackbones.engine.schema import validate
from detbackbones.engine.weight_conversion import SourceModel, read_model
from detbackbones.errors import InputError, shorten
from detbackbones.tools.cli import one_name, run_command
from detbackbones.weights.exports import FORMATS

OURS, OUR_SUFFIXES = "detbackbones", (".safetensors",)


class Settings(BaseModel):
    """The keys of the program."""

    out: str
    to: Literal["detbackbones", "torchvision", "detectron2"] = "detbackbones"
    input_format: Literal["BGR", "RGB"] | None = None
    part: Literal["backbone", "detector"] | None = None
    overwrite: bool = False


def check_target(settings: Settings, source: str) -> Path:
    """Return the path of the file to write. Raises InputError if it may not be written."""
    if settings.input_format and settings.to != "detectron2":
        raise InputError("input_format is for to=detectron2; all other weights are written for RGB images")
    out, suffixes = Path(settings.out), OUR_SUFFIXES if settings.to == OURS else FORMATS[settings.to].suffixes
    if out.suffix not in suffixes:
        raise InputError(f"out={shorten(out)}: a file for {settings.to} ends in {' or '.join(suffixes)}")
    if os.path.isdir(out) or not os.path.isdir(out.parent):
        raise InputError(f"out={shorten(out)} must be a file in a folder that exists")
    if os.path.exists(source) and os.path.realpath(source) == os.path.realpath(out):
        raise InputError(f"out={shorten(out)} is the source itself; choose another name")
    if out.exists() and not settings.overwrite:
        raise InputError(f"out={shorten(out)} exists; overwrite=true replaces it")
    return out


def file_content(found: SourceModel, settings: Settings) -> bytes:
    """Return the content of the file to write."""
    if settings.to == OURS:
        return found.model.weights_file(found.weights.state)
    return FORMATS[settings.to].write(found.weights, settings.input_format)


def convert(names: Sequence[str], values: dict[str, Any]) -> None:
    """Convert the weights that the command line names."""
    source = one_name(names, "source of weights")
    settings = validate(Settings, {key: value for key, value in values.items() if key in Settings.model_fields})
    arguments = {key: value for key, value in values.items() if key not in Settings.model_fields}
    out = check_target(settings, source)
    found = read_model(source, settings.part, arguments)
    content = file_content(found, settings)
    with replace_file(out) as file:
        file.write(content)
    weights, console = found.weights, plain_console()
    kind = "detector" if weights.is_detector else "backbone"
    console.print(
        f"{shorten(out)}: {weights.config['type']} ({kind}), {len(weights.state)} tensors, {len(content)} bytes"
    )
    if settings.to != OURS:
        console.print(f"{settings.to} needs, as these weights were trained:")
        for name, value in FORMATS[settings.to].settings(weights, settings.input_format).items():
            console.print(f"    {name}: {'not known' if value is None else value}")


main = functools.partial(run_command, convert, __doc__)


if __name__ == "__main__":
    sys.exit(main())
