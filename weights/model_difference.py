"""Find what was changed in a model after it was built, by comparing it with another one of the same config."""

from typing import Any

from torch import nn

PLAIN = (bool, int, float, str)


def first_difference(model: nn.Module, rebuilt: nn.Module) -> str | None:
    """Return where two models differ in modules, plain attributes that both have, or shapes; None if they do not.

    Values of tensors are not compared.
    """
    found, expected = _structure(model), _structure(rebuilt)
    for name in [*found, *expected]:
        if found.get(name) != expected.get(name):
            return f"{name} is {found.get(name, 'missing')} instead of {expected.get(name, 'missing')}"
    attributes = _attributes(rebuilt)
    for name, value in _attributes(model).items():
        if value != attributes.get(name, value):
            return f"{name} is {value} instead of {attributes[name]}"
    return None


def _structure(model: nn.Module) -> dict[str, Any]:
    """Return the class of every module and the shapes of the state dict, by name."""
    classes = {name or "the model": type(module).__name__ for name, module in model.named_modules()}
    return classes | {f"the shape of {key}": tuple(value.shape) for key, value in model.state_dict().items()}


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Return the public plain attributes of every module, by name."""
    return {
        f"{attribute} of {name or 'the model'}": value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if not attribute.startswith("_") and attribute != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(map(_is_plain, value)))
