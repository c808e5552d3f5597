"""Exceptions that a user meets, and the "did you mean" hint in their messages."""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """An argument, config key or file cannot be used. One line: what was found, what was expected, what to do."""

    exit_status = 2


class RunError(RuntimeError):
    """A run cannot continue for a reason other than its input, such as a loss that is not finite. One line."""

    exit_status = 1


class Interrupted(RunError):
    """A signal ended a run; `exit_status` is 128 + its number."""

    def __init__(self, message: str, exit_status: int = 1):
        super().__init__(message)
        self.exit_status = exit_status


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the hint that ends an error message: the known words nearest to `word`, or all of them if none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.55)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def check_known(what: str, known: Iterable[str], *words: Any) -> None:
    """Raise InputError for the first of `words` that is not in `known`; `what` names their kind in the message."""
    known = list(known)
    for word in words:
        if word not in known:
            raise InputError(f"unknown {what} {word!r}; {did_you_mean(str(word), known)}")


def shorten(text: Any, length: int = 80) -> str:
    """Return a value for a message: on one line, control characters escaped, the middle of a long one left out."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))
    half = (length - 3) // 2
    return line if len(line) <= length else f"{line[:half]}...{line[-half:]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
