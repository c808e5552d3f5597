"""Draw a picture.

    python tools/draw.py KIND SOURCE [key=value ...]
    detbackbones draw KIND SOURCE [key=value ...]

`out` is KIND.png if it is not given. `detbackbones draw KIND --help` lists the keys of a kind.
"""

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detbackbones.engine.console import plain_console
from detbackbones.engine.network_pictures import (
    AnchorKeys,
    FeatureKeys,
    FieldKeys,
    LevelKeys,
    PictureKeys,
    draw_anchors,
    draw_features,
    draw_fields,
    draw_levels,
)
from detbackbones.engine.run_pictures import (
    DataKeys,
    ErrorKeys,
    draw_data,
    draw_errors,
    draw_learning_curves,
    draw_matrix,
    draw_pr,
    draw_reliability,
)
from detbackbones.engine.schema import describe_fields, validate
from detbackbones.errors import InputError, RunError, check_known, shorten
from detbackbones.tools.cli import run_command


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        draw: called with the source, the checked keys and the other `key=value` words; returns lines to print.
        keys: its keys.
        source: what the second word is.
        meaning: for the usage.
        other_keys: what other keys set, or None if the kind takes only `keys`.
    """

    draw: Callable[[str, Any, Mapping[str, Any]], list[str]]
    keys: type[PictureKeys]
    source: str
    meaning: str
    other_keys: str | None = None


CONFIG_KEYS = "keys of the config, such as data_root=FOLDER"
BACKBONE_KEYS = "model.KEY=VALUE: arguments of the backbone, such as model.output_stride=8"
KINDS = {
    "data": Kind(draw_data, DataKeys, "CONFIG", "training samples after augmentation", CONFIG_KEYS),
    "errors": Kind(draw_errors, ErrorKeys, "RUN", "detections: true, false, duplicate; missed objects"),
    "curves": Kind(draw_learning_curves, PictureKeys, "RUN", "losses, learning rate, metrics"),
    "pr": Kind(draw_pr, PictureKeys, "RUN", "precision against recall"),
    "confusion": Kind(draw_matrix, PictureKeys, "RUN", "confusion matrix"),
    "calibration": Kind(draw_reliability, PictureKeys, "RUN", "reliability of scores"),
    "features": Kind(draw_features, FeatureKeys, "IMAGE", "feature maps: mean, max, components", BACKBONE_KEYS),
    "levels": Kind(draw_levels, LevelKeys, "IMAGE", "stride and dilation of every level", BACKBONE_KEYS),
    "field": Kind(draw_fields, FieldKeys, "IMAGE", "receptive field of a cell, dilated and not", BACKBONE_KEYS),
    "anchors": Kind(draw_anchors, AnchorKeys, "IMAGE", "anchors of a cell on every level", CONFIG_KEYS),
}


def usage(names: Sequence[str]) -> str:
    """Return the usage, with the keys of the kind that is named first."""
    if not names or names[0] not in KINDS:
        return "\n".join(
            [__doc__, *(f"    {f'{name} {kind.source}':<22}{kind.meaning}" for name, kind in KINDS.items())]
        )
    kind = KINDS[names[0]]
    lines = [f"usage: detbackbones draw {names[0]} {kind.source} [key=value ...]      {kind.meaning}\n"]
    lines += describe_fields(kind.keys(out=f"{names[0]}.png"))
    return "\n".join([*lines, *([f"    {kind.other_keys}"] if kind.other_keys else [])])


def draw(names: Sequence[str], pairs: Mapping[str, Any]) -> None:
    """Draw the picture that the command line names."""
    if not names:
        raise InputError(f"expected a kind of picture: {', '.join(KINDS)}")
    check_known("kind of picture", KINDS, names[0])
    kind = KINDS[names[0]]
    if len(names) != 2:
        raise InputError(f"draw {names[0]} needs one {kind.source}, got {' and '.join(names[1:]) or 'none'}")
    own = {name: value for name, value in pairs.items() if name in kind.keys.model_fields}
    others = {name: value for name, value in pairs.items() if name not in own}
    if kind.other_keys == BACKBONE_KEYS:
        check_known("key", [*kind.keys.model_fields, "model.KEY"], *(key for key in others if key[:6] != "model."))
        others = {name.removeprefix("model."): value for name, value in others.items()}
    elif kind.other_keys is None:
        check_known("key", kind.keys.model_fields, *others)
    keys = validate(kind.keys, {"out": f"{names[0]}.png", **own})
    _check_target(Path(keys.out))
    try:
        lines = kind.draw(names[1], keys, others)
    except OSError as error:
        raise RunError(f"{shorten(error.filename or keys.out)}: {error.strerror or error}") from None
    for line in [*lines, f"picture in {keys.out}"]:
        plain_console().print(line, soft_wrap=True, markup=False)


def _check_target(path: Path) -> None:
    """Raise InputError unless a PNG file can be made at `path`."""
    if path.suffix.lower() != ".png":
        raise InputError(f"out={shorten(path)} must be a PNG file, such as out=picture.png")
    if not os.path.isdir(path.parent):
        raise InputError(f"out={shorten(path)}: the folder {shorten(path.parent)} does not exist")


main = functools.partial(run_command, draw, usage)


if __name__ == "__main__":
    sys.exit(main())
