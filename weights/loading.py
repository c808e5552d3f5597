"""Load a state dict into a module; an error lists missing, unexpected and mismatched keys."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import InputError

OPTIONAL_SUFFIX = ".num_batches_tracked"  # frozen norms have no such buffer
MAX_LISTED = 6


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    drop_prefixes: tuple[str, ...] = (),
    may_be_missing: tuple[str, ...] = (),
) -> None:
    """Load `state` into `module`; apart from the named exceptions it must fit exactly.

    Args:
        source: name of the weights in error messages.
        drop_prefixes: keys that start with one of these are left out.
        may_be_missing: `state` may lack keys that contain one of these. `num_batches_tracked` may be missing on either
            side.

    Raises:
        InputError: keys are missing, unexpected or of another shape; the message lists them.
    """
    state = {key: value for key, value in state.items() if not key.startswith(drop_prefixes)}
    expected = module.state_dict()
    problems = []
    for key, value in expected.items():
        if key not in state:
            if not key.endswith(OPTIONAL_SUFFIX) and not any(part in key for part in may_be_missing):
                problems.append(f"missing {key}")
        elif state[key].shape != value.shape:
            problems.append(f"wrong shape {key}: {tuple(state[key].shape)} for {tuple(value.shape)}")
    for key in state:
        if key not in expected and not key.endswith(OPTIONAL_SUFFIX):
            problems.append(f"unexpected {key}")
    if problems:
        more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise InputError(f"weights {source} do not fit: {'; '.join(problems[:MAX_LISTED])}{more}")
    module.load_state_dict({key: value for key, value in state.items() if key in expected}, strict=False)


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
