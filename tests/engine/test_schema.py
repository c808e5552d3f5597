"""Values against annotations, docstrings as help."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest
from torch import nn

from detbackbones import InputError
from detbackbones.engine.schema import argument_meanings, check_part, check_value, describe_part, spell
from detbackbones.registry import accepted_arguments

if TYPE_CHECKING:
    from nowhere import Unknown


class Parent:
    """A part.

    Args:
        width: number of channels,
            at least 1.
        first, second (int): two of a kind.

    Returns:
        nothing: this is another section.
    """

    def __init__(self, width: int = 1, first: float = 0.0, second: float = 0.0):
        pass


class Child(Parent):
    """A part with one more argument.

    Args:
        name: what it is called.
    """

    def __init__(self, name: str = "child", **kwargs):
        super().__init__(**kwargs)


class Grandchild(Child):
    """A part whose constructor passes nothing on."""

    def __init__(self, name: int = 0):
        super().__init__()


def unresolvable(value: "Unknown" = None, count: int = 1):
    pass


@pytest.mark.parametrize(
    "annotation, value",
    [
        (float, 1),
        (tuple[int, ...], (1, 2)),
        (Sequence[int], (1, 2)),
        (Sequence[Sequence[int]], [[1, 2]]),
        (str | Mapping[str, Any] | nn.Module, nn.Identity()),
        (Callable[[int], nn.Module] | None, nn.BatchNorm2d),
        (Literal["a", "b"], "b"),
        ("Unknown", object()),
    ],
)
def test_accepted(annotation, value):
    check_value("key", value, annotation)


@pytest.mark.parametrize(
    "annotation, value, expected",
    [
        (int, True, "int"),
        (int, 1.0, "int"),
        (float, "1", "float"),
        (bool, 1, "bool"),
        (tuple[int, ...], "12", "tuple[int, ...]"),
        (Sequence[int] | None, ["x"], "Sequence[int] | None"),
        (Sequence[tuple[int, int]], [(1, 2, 3)], "Sequence[tuple[int, int]]"),
        (str | nn.Module, 3, "str | Module"),
        (Callable[[int], nn.Module], 3, "Callable[[int], Module]"),
        (Literal["a", "b"], "c", "one of 'a', 'b'"),
    ],
)
def test_refused(annotation, value, expected):
    with pytest.raises(InputError) as error:
        check_value("model.key", value, annotation)
    assert str(error.value) == f"config key model.key must be {expected}, got {value!r}"
    assert spell(annotation) == expected


def test_arguments_of_parents_count():
    assert list(accepted_arguments(Child)) == ["width", "first", "second", "name"]
    assert [(p.name, p.annotation) for p in accepted_arguments(Grandchild).values()] == [("name", int)]
    check_part(Child, {"type": "child", "width": 3, "name": "x"}, "model.part")
    with pytest.raises(InputError, match=r"model\.part\.width must be int, got 'wide'"):
        check_part(Child, {"type": "child", "width": "wide"}, "model.part")
    with pytest.raises(InputError, match=r"model\.part \(child\).*'widht'.*did you mean width"):
        check_part(Child, {"type": "child", "widht": 3}, "model.part")


def test_an_annotation_that_cannot_be_resolved_does_not_hide_the_others():
    check_part(unresolvable, {"type": "f", "value": object()}, "f")
    assert accepted_arguments(unresolvable)["count"].default == 1


def test_docstrings_become_help():
    meanings = argument_meanings(Child)
    assert meanings == {
        "width": "number of channels, at least 1.",
        "first": "two of a kind.",
        "second": "two of a kind.",
        "name": "what it is called.",
    }
    (text,) = describe_part(Child, {"width": 8}, "model.part", skip=["name", "first", "second"])
    assert text == "    model.part.width = 8  (int)\n        Number of channels, at least 1."
