"""Print on the terminal."""

from rich.console import Console


def plain_console() -> Console:
    """Return a console that prints text as it is: no markup, emoji codes, highlighting or wrapping."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
