"""Check config values against Python type annotations, and write the help text of config keys.

pydantic checks; this module turns its errors into one line, and reads the meaning of a constructor's arguments from the
Google-style `Args:` section of its docstring.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from ..errors import InputError, check_known
from ..registry import accepted_arguments, check_arguments

BOUNDS = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "greater than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "too_short": "of at least {min_length} value(s)",
}
# an entry of an `Args:` section: names, maybe a type, and a meaning that goes on in lines with a deeper indent
ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*)(?: \([^)]*\))?: (.*(?:\n     .*)*)", re.MULTILINE)


def validate(model_class: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build a pydantic model; `prefix` is where its keys stand in the config.

    Raises:
        InputError: An unknown or missing key, or a value of another type or out of bounds.
    """
    fields = model_class.model_fields
    check_value(prefix.rstrip("."), values, dict)
    check_known("config key", [prefix + name for name in fields], *[prefix + name for name in values])
    for name, field in fields.items():
        if name not in values and field.is_required():
            raise InputError(f"config key {prefix}{name} is missing")
        kind = field.annotation
        if name in values and inspect.isclass(kind) and issubclass(kind, BaseModel):
            validate(kind, values[name], f"{prefix}{name}.")
        elif name in values:
            check_value(prefix + name, values[name], field.rebuild_annotation())
    return model_class.model_validate(values)


def check_value(key: str, value: Any, annotation: Any) -> None:
    """Raise InputError unless `value` fits `annotation`. An annotation that cannot be checked accepts everything."""
    try:
        config = ConfigDict(strict=True, arbitrary_types_allowed=True)
        TypeAdapter(annotation, config=config).validate_python(value)
    except ValidationError as error:  # a bound says more than the types of a union
        bounds = [BOUNDS[e["type"]].format(**e["ctx"]) for e in error.errors() if e["type"] in BOUNDS]
        expected = bounds[0] if bounds else spell(annotation)
        raise InputError(f"config key {key} must be {expected}, got {value!r}") from None
    except (PydanticUserError, NameError):  # pydantic has no schema for this annotation
        return


def check_part(factory: Callable, config: Mapping[str, Any], key: str) -> None:
    """Raise InputError for an argument that `factory` does not accept, or whose value does not fit its annotation.

    Args:
        factory: class or function that builds the part.
        config: its arguments and its "type".
        key: config key of the part, such as "model.neck".
    """
    arguments = {name: value for name, value in config.items() if name != "type"}
    check_arguments(factory, arguments, f"{key} ({config['type']})")
    for name, parameter in (accepted_arguments(factory) or {}).items():
        if name in arguments and parameter.annotation is not parameter.empty:
            check_value(f"{key}.{name}", arguments[name], parameter.annotation)


def argument_meanings(factory: Callable) -> dict[str, str]:
    """Return argument name -> meaning, from the `Args:` sections of a function, or of a class and its parents."""
    meanings: dict[str, str] = {}
    for documented in reversed(factory.__mro__) if inspect.isclass(factory) else [factory]:
        docstring = inspect.cleandoc(documented.__doc__ or "")
        section = docstring.partition("Args:\n")[2].split("\n\n")[0]
        for names, meaning in ARGUMENT.findall(section):
            meanings |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return meanings


def describe_key(key: str, value: Any, annotation: Any, meaning: str | None) -> str:
    """Return the help text of one key: a line with its value and type, then its meaning, wrapped and indented."""
    sentence = meaning[:1].upper() + meaning[1:] if meaning else ""
    text = textwrap.fill(sentence, 116, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return f"    {key} = {value!r}  ({spell(annotation)})\n{text}"


def describe_fields(model: BaseModel, prefix: str = "", skip: Iterable[str] = ()) -> list[str]:
    """Return the help texts of the fields of a pydantic model and of the models in it; `skip` names fields left out."""
    texts: list[str] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            texts += describe_fields(value, f"{prefix}{name}.")
        elif name not in skip:
            texts.append(describe_key(prefix + name, value, field.annotation, field.description))
    return texts


def describe_part(factory: Callable, config: Mapping[str, Any], key: str, skip: Iterable[str] = ()) -> list[str]:
    """Return the help texts of a part's arguments, with the values of `config`, else the constructor's defaults."""
    meanings = argument_meanings(factory)
    return [
        describe_key(f"{key}.{name}", config.get(name, parameter.default), parameter.annotation, meanings.get(name))
        for name, parameter in (accepted_arguments(factory) or {}).items()
        if name not in skip
    ]


def spell(annotation: Any) -> str:
    """Return an annotation as a user reads it: `int | Sequence[int] | None`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return spell(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(spell, arguments))
    if origin is Sequence:
        return f"Sequence[{spell(arguments[0])}]"
    text = re.sub(r"[\w.]+\.(?=\w)", "", inspect.formatannotation(annotation))
    return re.sub(r"^Literal\[(.*)\]$", r"one of \1", text).replace("NoneType", "None")
