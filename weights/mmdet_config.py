"""Read the text of an mmdetection config without running it, and note which of its keys are taken into account."""

import ast
from collections.abc import Mapping
from typing import Any

from ..errors import InputError, shorten

MISSING = object()
MAX_TEXT = 1_000_000


def parse_config(text: str, where: str) -> dict[str, Any]:
    """Return the variables of a config in Python: literals, calls of `dict` and names that were assigned before.

    Raises:
        InputError: the text is not Python. Any other expression becomes None.
    """
    try:
        tree = ast.parse(text[:MAX_TEXT])
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise InputError(f"the config in {where} is not Python text that can be read") from None
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = _literal(node.value, values)
    return values


def _literal(node: ast.AST, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: _literal(keyword.value, names) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = [(_literal(key, names), _literal(value, names)) for key, value in zip(node.keys, node.values) if key]
        return {key: value for key, value in pairs if isinstance(key, (str, int))}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(element, names) for element in node.elts]
    if isinstance(node, ast.Name):
        return names.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


class Section:
    """A dict of a config whose keys are taken one by one; those that nobody took are refused at the end.

    Args:
        values: the dict.
        key: its place in the config, such as "model.backbone".
        where: name of the file in messages.
    """

    def __init__(self, values: Any, key: str, where: str):
        if not isinstance(values, Mapping):
            raise InputError(f"the config in {where} has {key}: {shorten(repr(values))}, expected a dict")
        self._values, self._left = values, set(values)
        self.key, self.where = key, where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def take(self, name: str, default: Any = MISSING) -> Any:
        """Return a value, or the default of mmdetection. Raises InputError if there is neither."""
        self._left.discard(name)
        value = self._values.get(name, default)
        if value is MISSING:
            raise InputError(f"the config in {self.where} does not have {self.key}.{name}")
        return value

    def number(self, name: str, default: Any = MISSING) -> Any:
        """Return a number. Raises InputError if it is something else."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refused(name, "a number")
        return value

    def numbers(self, name: str, default: Any = MISSING) -> list[float]:
        """Return a list of numbers. Raises InputError if it is something else."""
        value = self.take(name, default)
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, (int, float)) for v in value):
            raise self.refused(name, "numbers")
        return list(value)

    def choose(self, name: str, choices: Mapping[Any, Any], default: Any = MISSING) -> Any:
        """Return what a table has for a value. Raises InputError if it does not have the value."""
        value = self.take(name, default)
        if isinstance(value, (list, dict)) or value not in choices:
            raise self.refused(name, ", ".join(map(repr, choices)))
        return choices[value]

    def part(self, name: str, default: Any = MISSING) -> "Section":
        """Return a dict in this one."""
        return Section(self.take(name, default), f"{self.key}.{name}", self.where)

    def refused(self, name: str, expected: str) -> InputError:
        """Return the error for a value that is not supported."""
        value = shorten(repr(self._values.get(name)))
        return InputError(f"the config in {self.where} has {self.key}.{name}={value}, supported: {expected}")

    def finish(self, *ignored: str) -> None:
        """Raise InputError if a key was not taken; `ignored` ones change nothing that the model computes."""
        left = sorted(name for name in self._left - set(ignored) if not name.startswith("loss_"))
        if left:
            value = shorten(repr(self._values[left[0]]))
            raise InputError(
                f"the config in {self.where} has {self.key}.{left[0]}={value}, which is not supported here"
            )
