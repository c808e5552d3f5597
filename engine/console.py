"""Print on the terminal."""

import os

from rich.console import Console


def plain_console() -> Console:
    """Return a console that prints text as it is: no markup, emoji codes, highlighting or wrapping.

    Of several processes only the main one prints; launchers and Accelerate set RANK.
    """
    quiet = os.environ.get("RANK", "0") != "0"
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, quiet=quiet)
