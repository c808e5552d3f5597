"""Read YAML files of unknown origin: plain values only, of a limited size."""

from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, shorten

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000  # after the expansion of aliases


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: the file cannot be read, has a tag of Python, is not a mapping or is too large.
    """
    where = shorten(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(text) > MAX_BYTES:
        raise InputError(f"config {where} is larger than {MAX_BYTES} bytes; is it a config?")
    try:
        values = yaml.safe_load(text)
    except yaml.constructor.ConstructorError as error:
        reason = shorten(f"{error.problem}, line {error.problem_mark.line + 1}" if error.problem_mark else error)
        raise InputError(
            f"config {where} has something other than plain values ({reason}), which is not executed; write the "
            "resolved config with detectron2's cfg.dump()"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"config {where} is not YAML: {shorten(' '.join(str(error).split()), 200)}") from None
    if not isinstance(values, dict) or _is_too_large(values):
        raise InputError(f"config {where} is not a mapping of at most {MAX_VALUES} values")
    return values


def _is_too_large(values: Any) -> bool:
    """Return whether there are more values than `MAX_VALUES`; aliases count every time, and loops are endless."""
    waiting, count = [values], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            return True
        waiting.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    return False
