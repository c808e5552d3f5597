"""What several tests measure with."""

import zlib

import numpy as np
import torch

from detbackbones import build_backbone
from detbackbones.backbones.verify import randomise_norms as randomise  # noqa: F401  (used by the tests)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def build_with(state: dict[str, torch.Tensor], cfg, **arguments) -> torch.nn.Module:
    """A backbone in evaluation mode with exactly these weights; random ones are never drawn, which deep networks are slow at."""
    with torch.device("meta"):
        backbone = build_backbone(cfg, **arguments)
    backbone.load_state_dict(state, assign=True)
    return backbone.eval()


def oracle_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
    """A weight of the oracles, which is a function of its key alone (shared/oracles/README.md); None where it keeps its value."""
    r, last = np.random.RandomState(zlib.crc32(key.encode())), key.rsplit(".", 1)[-1]
    if last == "running_var":
        value = r.uniform(0.5, 1.5, shape)
    elif last == "running_mean":
        value = 0.2 * r.standard_normal(shape)
    elif last == "bias":
        value = 0.1 * r.standard_normal(shape)
    elif last == "weight":
        value = r.uniform(0.5, 1.0, shape) if len(shape) == 1 else r.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    else:
        return None
    return torch.from_numpy(np.asarray(value, dtype=np.float32))
