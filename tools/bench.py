"""Measure speed and memory, beside the libraries of the field on the same weights and inputs.

    python tools/bench.py WORK [key=value ...]

WORK is one of
    features    backbone (and neck): images to C2-C5
    step        backbone (and neck): forward, backward, SGD
    train       detector: one training step
    infer       detector: images to detections
    evaluation  COCO scores of 200,000 boxes
    loader      files on disk to normalised, padded batches, one thread
    import      importing the package
    growth      features as work grows: batch, image side, network, output stride

Keys: backbone=resnet101_dilated neck=fpn detector=faster_rcnn size=(480,640) batch=1 compile=true dtype=bfloat16
device=cuda memory_format=channels_last (of the peers; ours decides by itself) peers=false memory=false rounds=10
data_root=DIR (loader) out=FILE.json figure=FILE.png (growth).

The first line of a table is the reference; an output that differs from its own is not timed (in lower precision all are
compared with the reference in float32). Contenders run in turn, round after round. Times are medians, "spread" half the
distance between the quartiles, "speed" the median over the rounds of reference / contender. Memory is the peak above what
was in use before the model was built, each contender in a process of its own (on a GPU the allocator's peak). "of peak" is
the share of the machine's measured matrix-product rate. torchvision and timm are always there; detectron2 and mmdet take
part where Python can import them.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from detbackbones import InputError
from detbackbones.benchmarks.growth import growth
from detbackbones.benchmarks.measure import Row, compare
from detbackbones.benchmarks.settings import Settings
from detbackbones.benchmarks.works import WORKS
from detbackbones.engine.config import parse_words
from detbackbones.errors import did_you_mean
from detbackbones.tools.cli import command


def table(settings: Settings, rows: Sequence[Row], flops: float) -> Table:
    about = WORKS[settings.work].about.format(**asdict(settings), and_neck=f" + {settings.neck}" if settings.neck else "")
    title = f"{settings.work}: {about}" + (f", {flops / 1e9:.1f} GFLOP" if flops else "")
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for column in ("", "ms", "spread", "speed", "MiB", "of peak", "difference"):
        made.add_column(column, justify="left" if column == "" else "right")
    for row in rows:
        memory, share = ("-" if value is None else text.format(value) for value, text in ((row.memory, "{:.0f}"), (row.of_peak, "{:.0%}")))
        made.add_row(row.name, f"{row.milliseconds:.1f}", f"{row.spread:.1f}", f"{row.speed:.2f}", memory, share, f"{row.difference:.0e}")
    return made


def parse(names: Sequence[str], pairs: Sequence[str]) -> tuple[Settings, dict[str, str]]:
    """The settings, and the files to write: "out", "figure"."""
    known = [*WORKS, "growth"]
    if len(names) != 1 or names[0] not in known:
        raise InputError(f"one work, not {' and '.join(names) or 'none'}; {did_you_mean(' '.join(names), known)}")
    values = parse_words(pairs)
    files = {key: values.pop(key) for key in ("out", "figure") if key in values}
    keys = {field.name for field in fields(Settings)} - {"work"}
    for key in values:
        if key not in keys:
            raise InputError(f"unknown key {key!r}; {did_you_mean(key, keys | {'out', 'figure'})}")
    return Settings(work=names[0], **values), files


def bench(names: list[str], pairs: list[str]) -> None:
    console = Console()
    settings, files = parse(names, pairs)
    if settings.work == "growth":
        found = growth(settings, console, files.get("figure"))
    else:
        rows, flops = compare(settings, console)
        console.print(table(settings, rows, flops))
        found = {"gflop": flops / 1e9, "rows": [asdict(row) for row in rows]}
    if "out" in files:
        Path(files["out"]).write_text(json.dumps({"settings": asdict(settings), **found}, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    return command(__doc__, bench, arguments)


if __name__ == "__main__":
    sys.exit(main())
