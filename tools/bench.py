"""Compare speed and memory with other libraries on the same weights and inputs.

    python tools/bench.py BENCHMARK [key=value ...]
    detbackbones bench BENCHMARK [key=value ...]

BENCHMARK is one of
    features    backbone: images to C2-C5
    step        backbone: forward, backward, SGD
    train       detector on an FPN: one training step
    infer       detector on an FPN: images to detections
    runtimes    backbone: this package, compiled, ONNX Runtime and OpenVINO (with memory=false)
    runtimes-detector   the same for images to detections, masks of 28 x 28
    evaluation  COCO metrics of 200,000 boxes
    annotations reading an annotation file (data_root=FOLDER in COCO's layout)
    loader      files on disk to normalised, padded batches, one thread (data_root=FOLDER in COCO's layout)
    import      importing the package

Keys: backbone=resnet101_dilated detector=faster_rcnn size=(480,640) batch=1 dtype=bfloat16 device=cuda
memory_format=channels_last (of the peers; ours is always channels_last) memory=false rounds=10 clock=cpu out=FILE.json

On a machine that does other work, clock=cpu with one thread (OMP_NUM_THREADS=1) counts processor time instead of time.

The first row is the reference. A contender whose output differs from it is not timed; in lower precision all are
compared with the reference in float32. Contenders run in turn, round after round. "ms" is the median, "spread" half the
distance between the quartiles, "speed" the median over the rounds of reference / contender. "MiB" is the peak above
what was in use before the model was built, each contender in a process of its own (on a GPU the allocator's peak). "of
peak" is the share of the rate of a matrix product on this machine. detectron2 and mmdet take part if Python can import
them.
"""

import functools
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from detbackbones.engine.schema import validate
from detbackbones.errors import InputError, check_known
from detbackbones.tools.cli import one_name, run_command


def make_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return a table of the rows of `measure`."""
    columns = [Column(name, justify="right") for name in ("ms", "spread", "speed", "MiB", "of peak", "error")]
    table = Table("", *columns, title=title, box=SIMPLE_HEAD, title_justify="left")
    formats = dict(
        milliseconds="{:.1f}", spread="{:.1f}", speed="{:.2f}", memory="{:.0f}", of_peak="{:.0%}", error="{:.0e}"
    )
    for row in rows:
        cells = ["-" if row[key] is None else text.format(row[key]) for key, text in formats.items()]
        table.add_row(row["name"], *cells)
    return table


def bench(names: Sequence[str], pairs: dict[str, Any]) -> None:
    """Run a benchmark, print its table and write the figures to `out`."""
    try:
        benchmarks = importlib.import_module("detbackbones.benchmarks.measure")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("detbackbones.benchmarks"):
            raise
        raise InputError("benchmarks come with the repository only; run this in a clone of it") from None
    name = one_name(names, "benchmark")
    check_known("benchmark", benchmarks.BENCHMARKS, name)
    out = pairs.pop("out", None)
    settings = validate(benchmarks.Settings, pairs)
    console = Console()
    figures = benchmarks.measure(name, settings, console)
    title = f"{name}, {figures['gflop']:.1f} GFLOP, {settings}" if figures["gflop"] else name
    console.print(make_table(title, figures["rows"]))
    if out:
        content = {"benchmark": name, "settings": settings.model_dump(), **figures}
        Path(out).write_text(json.dumps(content, indent=2) + "\n")


main = functools.partial(run_command, bench, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
