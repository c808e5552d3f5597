"""Cost as work grows: time and memory of the features against their operations."""

from collections.abc import Mapping
from dataclasses import replace

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .measure import compare, matmul_peak
from .settings import Settings

STEPS: dict[str, list[dict]] = {
    "batch": [dict(batch=count) for count in (1, 2, 4, 8)],
    "image side": [dict(size=(side, side)) for side in (256, 384, 512, 768, 1024, 1344)],
    "network": [dict(backbone=name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
                                                 "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")],
    "output stride": [dict(backbone=name) for name in ("resnet50", "resnet50_dc5", "resnet50_dilated")],
}  # fmt: skip


def growth(settings: Settings, console: Console, figure: str | None) -> dict:
    """Print a row for every step of every kind of growth, fused network, and draw them. Returns the rows as data."""
    peak = matmul_peak(settings.torch_dtype, settings.device)
    table = Table(title=f"features as work grows: from {settings.backbone} at {settings.batch} x 3 x {settings.size[0]} x "
                        f"{settings.size[1]}, {settings.dtype}, {settings.device}", box=SIMPLE_HEAD, title_justify="left")  # fmt: skip
    for column in ("", "", "GFLOP", "ms", "GFLOP/s", "of peak", "MiB"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = []
    for kind, changes in STEPS.items():
        for change in changes:
            found, flops = compare(replace(settings, work="features", peers=False, **change), console)
            row, (value,) = found[-1], change.values()
            label = " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append({"kind": kind, "step": label, "gflop": flops / 1e9, "milliseconds": row.milliseconds, "mib": row.memory,
                         "of_peak": flops / (row.milliseconds / 1e3) / peak})  # fmt: skip
            memory = "-" if row.memory is None else f"{row.memory:.0f}"
            table.add_row(kind if change is changes[0] else "", label, f"{flops / 1e9:.1f}", f"{row.milliseconds:.1f}",
                          f"{flops / 1e6 / row.milliseconds:.0f}", f"{rows[-1]['of_peak']:.0%}", memory)  # fmt: skip
    console.print(table)
    if figure:
        draw(rows, peak, figure)
    return {"gflops_peak": peak / 1e9, "rows": rows}


def draw(rows: list[Mapping], peak: float, path: str) -> None:
    """Time and memory against operations, beside what the matrix product would take; networks are points, not a line."""
    canvas = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(canvas)
    time, memory = canvas.subplots(1, 2)
    work = sorted(row["gflop"] for row in rows)
    time.plot(work, [gflop * 1e9 / peak * 1e3 for gflop in work], "k--", linewidth=1, label="at the matrix-product rate")
    for kind in STEPS:
        own = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["gflop"])
        for axes, key in ((time, "milliseconds"), (memory, "mib")):
            if all(row[key] is not None for row in own):
                axes.plot([r["gflop"] for r in own], [r[key] for r in own], "o" if kind == "network" else "o-", label=kind, markersize=4)
    for axes, name in ((time, "milliseconds"), (memory, "MiB above an idle process")):
        axes.set(xscale="log", yscale="log", xlabel="GFLOP", ylabel=name)
        axes.grid(True, which="both", alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    canvas.savefig(path, dpi=100)
