"""What several tests measure with."""

import json
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from detbackbones import FeatureSpec, build_backbone
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


def oracle_weights(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The state dict of an oracle, without what keeps its value."""
    state = {key: oracle_tensor(key, tuple(shape)) for key, shape in keys.items()}
    return {key: value for key, value in state.items() if value is not None}


def oracle(folder: Path, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings, keys and shapes of an oracle, and its arrays."""
    facts = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        return facts, {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def thinned(feature: torch.Tensor) -> torch.Tensor:
    """The channels of a map that the oracles keep."""
    return feature[:, :: max(1, feature.shape[1] // 16)]


def pyramid(strides, levels=None, channels=8) -> list[FeatureSpec]:
    levels = levels or range(2, 2 + len(strides))
    return [FeatureSpec(f"p{level}", level, channels, stride) for level, stride in zip(levels, strides)]


def maps(specs, height: int, width: int, images: int = 1) -> OrderedDict[str, torch.Tensor]:
    """Random maps of the declared geometry."""
    return OrderedDict((s.name, torch.randn(images, s.channels, -(-height // s.stride), -(-width // s.stride))) for s in specs)


def objects(count: int, height: int, width: int, classes: int = 3) -> dict[str, torch.Tensor]:
    """A target with `count` boxes inside the image, labels and masks."""
    corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2) * torch.tensor([width, height]) * 0.35], 1)
    boxes = boxes.minimum(torch.tensor([width, height, width, height]))
    return {"boxes": boxes, "labels": torch.randint(0, classes, (count,)), "masks": torch.rand(count, height, width) > 0.5}
