"""State-dict keys of a wrapper without the name of the part that it wraps."""

from typing import Any

from torch import nn


def hide_prefix(wrapper: nn.Module, part: str) -> None:
    """Leave out the name of `part` in the state-dict keys of `wrapper`: "conv1.weight", not "body.conv1.weight".

    The keys are then those of torchvision's networks, so checkpoints of models around them can be read. Names of
    parameters keep the prefix.
    """
    inner = f"{part}."

    def remove(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for key in [key for key in state if key.startswith(prefix + inner)]:
            state[prefix + key.removeprefix(prefix + inner)] = state.pop(key)

    def add(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            state[prefix + inner + key.removeprefix(prefix)] = state.pop(key)

    wrapper.register_state_dict_post_hook(remove)
    wrapper.register_load_state_dict_pre_hook(add)
