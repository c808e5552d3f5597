"""Read a detectron2 config (`cfg.yaml`) safely, and complete it with detectron2's defaults."""

import ast
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, check_known, did_you_mean, shorten
from .detectron2_defaults import (
    DEFAULTS,
    OTHER_SECTIONS,
    RCNN_SECTIONS,
    TRAINING_INPUT,
    TRAINING_ONLY,
    UNUSED_SECTIONS,
)
from .yaml_files import read_yaml

BASE = "_BASE_"
MAX_BASES = 8


class Detectron2Config:
    """A complete config of which every key that matters is read or at its default.

    Args:
        values: the nested values of a config, which may leave out keys at their defaults.
        where: name of the config in messages.

    Attributes:
        datasets: names of the test datasets, or else of the training datasets.

    Raises:
        InputError: a key is unknown, or a value has another type than the default.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        check_known(f"key of detectron2's config {shorten(where)}:", (*DEFAULTS, *OTHER_SECTIONS), *values)
        if values.get("VERSION", 2) != 2:
            raise InputError(
                f"{shorten(where)} has VERSION: {shorten(values['VERSION'])}, expected 2; dump it with a new detectron2"
            )
        self._values = copy.deepcopy(DEFAULTS)
        self._unread = set()
        test = values.get("TEST") or {}
        limits = {key: test[key] for key in DEFAULTS["TEST"] if key in test}
        given = {"INPUT": values.get("INPUT", {}), "MODEL": values.get("MODEL", {}), "TEST": limits}
        for key, value in self._flatten(given, DEFAULTS):
            section, name = self._locate(key)
            section[name] = self._checked(key, value, section[name])
            self._unread.add(key)
        datasets = values.get("DATASETS") or {}
        named = literal(datasets.get("TEST") or datasets.get("TRAIN") or ())
        self.datasets = [str(name) for name in named] if isinstance(named, (list, tuple)) else [str(named)]

    def get(self, key: str) -> Any:
        """Return the value of a dotted key, such as "MODEL.RESNETS.DEPTH", and note that it is taken into account."""
        self._unread.discard(key)
        section, name = self._locate(key)
        return section[name]

    def refuse(self, key: str, expected: str) -> InputError:
        """Return the error for a value that this package does not have."""
        return InputError(f"{shorten(self.where)}: {key} is {shorten(repr(self.get(key)))}, supported: {expected}")

    def choose(self, key: str, choices: Mapping[Any, Any]) -> Any:
        """Return what a table has for the value of a key. Raises InputError if it does not have the value."""
        value = self.get(key)
        if isinstance(value, (list, dict)) or value not in choices:
            raise self.refuse(key, ", ".join(map(repr, choices)))
        return choices[value]

    def check_all_read(self, is_rcnn: bool, has_masks: bool) -> None:
        """Raise InputError for a key that is not at its default, was not read, and changes what the model computes."""
        unused = {*UNUSED_SECTIONS, *(("RETINANET",) if is_rcnn else RCNN_SECTIONS)}
        unused |= set() if has_masks else {"ROI_MASK_HEAD"}
        for key in sorted(self._unread - TRAINING_ONLY):
            section, name = self._locate(key)
            default = self._locate(key, DEFAULTS)[0][name]
            if section[name] != default and key.split(".")[1] not in unused:
                raise InputError(
                    f"{shorten(self.where)}: {key} is {shorten(repr(section[name]))}, which is not supported here; "
                    f"supported: {shorten(repr(default))}"
                )

    def _locate(self, key: str, root: dict[str, Any] | None = None) -> tuple[dict[str, Any], str]:
        *path, name = key.split(".")
        node = self._values if root is None else root
        for part in path:
            node = node[part]
        return node, name

    def _flatten(
        self, values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
    ) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            key = f"{prefix}{name}"
            parts = key.split(".")
            if parts[0] == "INPUT" and parts[-1] in TRAINING_INPUT:
                continue
            if parts[0] == "MODEL" and len(parts) == 2 and name in UNUSED_SECTIONS:
                continue
            if name not in known:
                raise InputError(
                    f"{shorten(self.where)} has the key {shorten(key)}, which detectron2 does not have; "
                    f"{did_you_mean(str(name), known)}"
                )
            if isinstance(known[name], dict):
                if not isinstance(value, Mapping):
                    raise InputError(f"{shorten(self.where)}: {key} must be a mapping, got {shorten(repr(value))}")
                yield from self._flatten(value, known[name], f"{key}.")
            else:
                yield key, value

    def _checked(self, key: str, value: Any, default: Any) -> Any:
        """Return a value with lists for tuples. Raises InputError if its type is not that of the default."""
        value = literal(value) if not isinstance(default, str) else value
        value = list(value) if isinstance(value, tuple) else value
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
            expected = type(default).__name__
            raise InputError(f"{shorten(self.where)}: {key} must be {expected}, got {shorten(repr(value))}")
        return value


def literal(value: Any) -> Any:
    """Return the value of a text such as "(1, 2)", as detectron2 reads tuples; any other value as it is."""
    if isinstance(value, str) and value.strip().startswith(("(", "[")):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


def read_detectron2_config(path: Path) -> Detectron2Config:
    """Read a config file; a config that it names as `_BASE_` is read from beside it.

    Raises:
        InputError: a file cannot be read, or as `Detectron2Config`.
    """
    return Detectron2Config(read_with_bases(path), str(path))


def read_with_bases(path: Path, depth: int = MAX_BASES) -> dict[str, Any]:
    """Return the nested values of a config file and of those that it names as `_BASE_`, without defaults.

    Raises:
        InputError: a file cannot be read.
    """
    values = read_yaml(path)
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str) or "://" in base or not depth:
        raise InputError(
            f"{shorten(path)}: {BASE} must be the path of a config on this machine, got {shorten(repr(base))}"
        )
    return merge(read_with_bases(path.parent / base, depth - 1), values)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with changes; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged
