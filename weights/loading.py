"""Load a state dict into a module; an error says by module what is missing, unexpected or of another shape."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..errors import InputError, shorten

OPTIONAL_SUFFIX = ".num_batches_tracked"  # frozen norms have no such buffer
MAX_LISTED = 3  # keys of a module that a message lists
MAX_MODULES = 6  # modules that a message lists per kind


@dataclass(frozen=True)
class LoadReport:
    """How a state dict fits a module.

    Attributes:
        loaded: keys of both, of the same shape.
        missing: keys of the module alone.
        unexpected: keys of the state dict alone.
        mismatched: key -> (shape in the state dict, shape in the module).
        dropped: keys of the state dict that were left out on purpose, such as those of a classifier.
    """

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def problems(self) -> str:
        """Return in one line what does not fit, grouped by module."""
        shapes = [f"{key}: {theirs} for {ours}" for key, (theirs, ours) in self.mismatched.items()]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "wrong shape": shapes}
        return "; ".join(f"{kind} {_by_module(keys)}" for kind, keys in kinds.items() if keys)


def _by_module(keys: Iterable[str]) -> str:
    """Group keys by their first part: "layer1.0.bn1.bias, fc: 2 keys (fc.weight, fc.bias)"."""
    modules: dict[str, list[str]] = {}
    for key in keys:
        modules.setdefault(key.split(".")[0], []).append(key)
    texts = []
    for name, group in list(modules.items())[:MAX_MODULES]:
        listed = ", ".join(group[:MAX_LISTED]) + (", ..." if len(group) > MAX_LISTED else "")
        texts.append(listed if len(group) == 1 else f"{name}: {len(group)} keys ({listed})")
    left_out = list(modules.values())[MAX_MODULES:]
    if left_out:
        texts.append(f"and {sum(map(len, left_out))} more in {len(left_out)} modules")
    return ", ".join(texts)


def compare_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    drop_prefixes: tuple[str, ...] = (),
    may_be_missing: tuple[str, ...] = (),
) -> LoadReport:
    """Return how `state` fits `module`; the arguments are those of `load_state`."""
    dropped = tuple(key for key in state if key.startswith(drop_prefixes))
    state = {key: value for key, value in state.items() if not key.startswith(drop_prefixes)}
    expected = module.state_dict()
    common = [key for key in expected if key in state]
    mismatched = {
        key: (tuple(state[key].shape), tuple(expected[key].shape))
        for key in common
        if state[key].shape != expected[key].shape
    }
    return LoadReport(
        loaded=tuple(key for key in common if key not in mismatched),
        missing=tuple(
            key
            for key in expected
            if key not in state
            and not key.endswith(OPTIONAL_SUFFIX)
            and not any(part in key for part in may_be_missing)
        ),
        unexpected=tuple(key for key in state if key not in expected and not key.endswith(OPTIONAL_SUFFIX)),
        mismatched=mismatched,
        dropped=dropped,
    )


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    drop_prefixes: tuple[str, ...] = (),
    may_be_missing: tuple[str, ...] = (),
) -> LoadReport:
    """Load `state` into `module`; apart from the named exceptions it must fit exactly.

    Args:
        source: name of the weights in error messages.
        drop_prefixes: keys that start with one of these are left out.
        may_be_missing: `state` may lack keys that contain one of these. `num_batches_tracked` may be missing on either
            side.

    Raises:
        InputError: keys are missing, unexpected or of another shape; the message lists them by module, and nothing is
            loaded.
    """
    report = compare_state(module, state, drop_prefixes=drop_prefixes, may_be_missing=may_be_missing)
    if not report.fits:
        total = len(report.loaded) + len(report.missing) + len(report.mismatched)
        raise InputError(
            f"weights {source} do not fit: {len(report.loaded)} of {total} keys would be loaded; "
            f"{shorten(report.problems(), 1200)}"
        )
    module.load_state_dict({key: state[key] for key in report.loaded}, strict=False)
    return report


def fine_tune(model: nn.Module, state: Mapping[str, Tensor], where: str, resizable: Sequence[str] = ()) -> list[str]:
    """Load a state dict to train on, except layers that depend on the number of classes and differ in shape.

    Args:
        model: the model, whose weights are replaced.
        state: the state dict.
        where: its origin, for error messages.
        resizable: parts of keys of the layers that may differ in shape.

    Returns:
        The keys that keep their initial values.

    Raises:
        InputError: as `load_state`.
    """
    initial = model.state_dict()
    new_keys = [
        key
        for key, value in initial.items()
        if key in state and state[key].shape != value.shape and any(layer in key for layer in resizable)
    ]
    load_state(model, dict(state) | {key: initial[key] for key in new_keys}, where)
    return new_keys


def adapt_first_conv(state: Mapping[str, Tensor], key: str, in_channels: int) -> dict[str, Tensor]:
    """Return `state` with the first convolution adapted from three to `in_channels` image channels.

    One channel gets the sum over RGB; other numbers get RGB repeated and scaled to keep the response (timm's
    `adapt_input_conv`).
    """
    state = dict(state)
    if key in state and state[key].dim() == 4 and state[key].shape[1] == 3 != in_channels:
        from timm.models import adapt_input_conv  # timm takes a second to import and is needed only here

        state[key] = adapt_input_conv(in_channels, state[key])
    return state
