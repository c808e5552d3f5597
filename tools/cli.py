"""Command-line programs. Each runs as a file (`python tools/train_coco.py`) or through its console script."""

import sys
from collections.abc import Callable, Sequence

from ..errors import InputError


def command(
    usage: str, body: Callable[[list[str], list[str]], int | None], arguments: Sequence[str] | None, bare: bool = False
) -> int:
    """Run `body(names, pairs)` on the command line, of which `key=value` are the pairs; the exit status.

    `usage` is printed for -h, and without arguments unless the program can run `bare`. An InputError ends in its one
    line and status 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments) or not (arguments or bare):
        print(usage)
        return 0
    try:
        return body([a for a in arguments if "=" not in a], [a for a in arguments if "=" in a]) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
