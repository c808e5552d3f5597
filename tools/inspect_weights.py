"""Print what a source of weights is: origin, architecture, meaning, tensors, and what it does not tell.

    python tools/inspect_weights.py SOURCE [key=value ...]
    detbackbones inspect SOURCE [key=value ...]

SOURCE is a file, a run, a URL or a named source, such as timm:resnet50.a1_in1k (docs/weights.md). A named source is
described from tables, without a download.

    all=true          every tensor with its shape, not a line per part of the network

The exit status is 2 if the file is not one of weights, or cannot be read.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from detbackbones.engine.console import plain_console
from detbackbones.engine.schema import validate
from detbackbones.engine.weight_conversion import local_path, named_card
from detbackbones.errors import shorten
from detbackbones.tools.cli import one_name, run_command
from detbackbones.weights.cards import WeightCard
from detbackbones.weights.inspection import inspect_file, summarise_modules


class Settings(BaseModel):
    """The keys of the program."""

    all: bool = False


def card_lines(card: WeightCard) -> list[str]:
    """Return the fields of a card that are set, a line each."""
    lines = []
    for name, value in card.to_dict().items():
        if name == "channel_order" and card.source_channel_order:  # after reading, which is RGB
            continue
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
            value = f"{len(value)}: {shorten(', '.join(value), 100)}"
        elif isinstance(value, (list, tuple)):
            value = f"({', '.join(f'{each:.6g}' for each in value)})"
        lines.append(f"    {name}: {value}")
    return lines


def tensor_lines(state: Mapping[str, Tensor], every: bool) -> list[str]:
    """Return a line per tensor, or per part of the network."""
    rows: list[tuple[str, ...]]
    if every:
        rows = [(key, _type(value), str(tuple(value.shape))) for key, value in state.items()]
    else:
        rows = [
            (name, f"{part.tensors} tensors", f"{part.values:,} values", ", ".join(part.dtypes), part.first)
            for name, part in summarise_modules(state).items()
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["    " + "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def inspect(names: Sequence[str], values: dict[str, Any]) -> None:
    """Print what the source is that the command line names."""
    source, settings, console = one_name(names, "source of weights"), validate(Settings, values), plain_console()
    path = local_path(source)
    if path is None:
        console.print("\n".join([f"{source}, from tables, without its file:", *card_lines(named_card(source))]))
        return
    found = inspect_file(path)
    for label, text in found.facts.items():
        console.print(f"{label}: {text}")
    if found.card is not None:
        console.print("\n".join(["weight card:", *card_lines(found.card)]))
    for key, value in found.config.items():
        console.print(f"config {key}: {value}")
    for sentence in found.unclear:
        console.print(f"unclear: {sentence}")
    console.print("\n".join(["tensors:", *tensor_lines(found.state, settings.all)]))


main = functools.partial(run_command, inspect, __doc__)


if __name__ == "__main__":
    sys.exit(main())
