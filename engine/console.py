"""Print on the terminal."""

import os

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def plain_console() -> Console:
    """Return a console that prints text as it is: no markup, emoji codes, highlighting or wrapping.

    Of several processes only the main one prints; launchers and Accelerate set RANK.
    """
    quiet = os.environ.get("RANK", "0") != "0"
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, quiet=quiet)


def progress_bars(console: Console) -> Progress:
    """Return progress bars that show in a terminal only. Every bar has a text field `note`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
