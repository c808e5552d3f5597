"""Code that the command-line programs share, and the command `detbackbones` with its subcommands."""

import ast
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from detbackbones.errors import InputError, Interrupted, RunError, check_known, shorten

HELP = {"-h", "--help"}
LITERALS = {"none": None, "true": True, "false": False}
PATH_KEYS = {  # their values stay text, also if they look like a number
    *("out", "weights", "model.weights", "model.backbone.weights", "init_from", "checkpoint", "work_dir", "data_root"),
    *("ann_file", "train.ann_file", "train.image_dir", "val.ann_file", "val.image_dir", "image_dir"),
}
MAX_MESSAGE = 4000  # characters of an error message
SAME_ERROR_SECONDS = 2  # within which a launcher ends the other processes after the main one has failed
SUBCOMMANDS = {  # name -> module of this folder, meaning
    "train": ("train_coco", "train, resume or evaluate a detector"),
    "predict": ("predict", "detect objects in images: pictures and a COCO results file"),
    "test": ("evaluate_checkpoint", "evaluate a trained detector on a validation split"),
    "features": ("extract_features", "write the features of images to files"),
    "check-data": ("check_data", "check a dataset and print a summary of it"),
    "evaluate": ("evaluate_coco", "score detections in COCO results files, or compare two"),
    "draw": ("draw", "draw data, errors, curves, features, levels, receptive fields or anchors"),
    "report": ("report", "write an HTML page on a run"),
    "describe": ("describe", "print the geometry and cost of a backbone"),
    "verify": ("verify_dilation", "compare a dilated backbone with its undilated form"),
    "convert": ("convert_weights", "write weights of any library in our format, or in that of another library"),
    "inspect": ("inspect_weights", "print what a file of weights is, and what it does not tell"),
    "export": ("export", "write a backbone or a detector as an ONNX file"),
    "bench": ("bench", "measure speed and memory (in a clone of the repository only)"),
    "doctor": ("doctor", "print versions, devices, and what is missing for which feature"),
    "completion": ("completion", "print a script for completion in bash, zsh or fish"),
}


def parse_pairs(words: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` words.

    A value is a Python literal, `none`, `true` or `false` in any case, or else text. The value of a key that names a
    path is text or None.

    Raises:
        InputError: A word has no "=" or no key.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"expected key=value, got {word!r}")
        if key in PATH_KEYS:
            values[key] = None if text.lower() == "none" else text
            continue
        try:
            values[key] = LITERALS[text.lower()] if text.lower() in LITERALS else ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: too many brackets
            values[key] = text
    return values


def one_name(names: Sequence[str], what: str) -> str:
    """Return the only word of `names`. Raises InputError if there is none or another."""
    if len(names) != 1:
        raise InputError(f"expected one {what}, got {' and '.join(names) or 'none'}")
    return names[0]


def run_command(
    body: Callable[[list[str], dict[str, Any]], int | None],
    usage: str | Callable[[list[str]], str],
    words: Sequence[str] | None = None,
    needs_words: bool = True,
) -> int:
    """Run a program on its command line.

    Args:
        body: called with the plain words and the parsed `key=value` words; returns the exit status, None for 0.
        usage: the help text, or a function that makes it from the plain words.
        words: the command line, `sys.argv[1:]` if not given.
        needs_words: print the usage if the command line is empty.

    Returns:
        The exit status: 2 after an InputError, 1 after a RunError, 128 + n after signal n; each prints one line.
    """
    words = sys.argv[1:] if words is None else list(words)
    names = [word for word in words if not _is_pair(word) and word not in HELP]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of classes and files may not exist in its encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        if HELP & set(words) or (needs_words and not words):
            print(usage if isinstance(usage, str) else usage(names))
            return 0
        return body(names, parse_pairs(list(filter(_is_pair, words)))) or 0
    except (InputError, RunError) as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(SAME_ERROR_SECONDS)
        name = "" if isinstance(error, Interrupted) else "error: "
        print(name + shorten(error, MAX_MESSAGE), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def main(words: Sequence[str] | None = None) -> int:
    """Run `detbackbones SUBCOMMAND ...`; the module of a subcommand is imported only when it runs."""
    words = sys.argv[1:] if words is None else list(words)
    lines = [f"    {name:<12}{meaning}" for name, (_, meaning) in SUBCOMMANDS.items()]
    usage = "\n".join(["usage: detbackbones SUBCOMMAND [word or key=value ...]; SUBCOMMAND --help says more\n", *lines])
    return run_command(lambda names, _: _import_subcommand(names).main(words[1:]), usage, words[:1])


def _is_pair(word: str) -> bool:
    """Return whether a word is key=value; a path may have "=", too, after a slash."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key and "\\" not in key


def _import_subcommand(names: Sequence[str]) -> Any:
    name = one_name(names, "subcommand")
    check_known("subcommand", SUBCOMMANDS, name)
    return importlib.import_module(f"detbackbones.tools.{SUBCOMMANDS[name][0]}")


if __name__ == "__main__":
    sys.exit(main())
