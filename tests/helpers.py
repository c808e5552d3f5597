"""Functions that several tests share."""

import functools
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detbackbones import Backbone, FeatureSpec, InputError, build_backbone
from detbackbones.backbones.verify import randomise_norms as randomise  # noqa: F401  (imported by the tests)
from detbackbones.layers.winograd_conv import WinogradConv2d


def relative_error(a: Tensor, b: Tensor) -> float:
    """Return max|a - b| / max|b|."""
    return ((a - b).abs().max() / b.abs().max()).item()


def largest_error(features: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest relative error over maps with the same names."""
    assert list(features) == list(expected)
    return max(relative_error(features[name], expected[name]) for name in expected)


@contextmanager
def input_error(*words: str) -> Iterator[None]:
    """Expect an InputError of one line whose message contains all the words: the culprit and what to do."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message, message
    for word in words:
        assert word in message, f"no {word!r} in: {message}"


def build_with(state: dict[str, Tensor], cfg, **arguments) -> Backbone:
    """Build a backbone with the given weights in evaluation mode, without drawing random ones first (slow if deep)."""
    with torch.device("meta"):
        backbone = build_backbone(cfg, **arguments)
    backbone.load_state_dict(state, assign=True)
    return backbone.eval()


def build_meta(cfg, **arguments) -> Backbone:
    """Build a backbone on the meta device: shapes and parameter counts without memory or time."""
    with torch.device("meta"):
        return build_backbone(cfg, **arguments)


def winograd_layers(model: nn.Module) -> set[str]:
    """Return the names of the convolutions that may run in Winograd's form."""
    return {name for name, module in model.named_modules() if isinstance(module, WinogradConv2d)}


@functools.lru_cache(maxsize=400)
def oracle_tensor(key: str, shape: tuple[int, ...]) -> Tensor | None:
    """Return the weight that the oracles have under a key (tests/oracles/README.md); None if it keeps its value.

    Drawing the numbers takes longer than the rest of a test, so the tensors are kept; do not change them in place.
    """
    random, last = np.random.RandomState(zlib.crc32(key.encode())), key.rsplit(".", 1)[-1]
    if last == "running_var":
        value = random.uniform(0.5, 1.5, shape)
    elif last == "running_mean":
        value = 0.2 * random.standard_normal(shape)
    elif last == "bias":
        value = 0.1 * random.standard_normal(shape)
    elif last == "weight" and len(shape) == 1:
        value = random.uniform(0.5, 1.0, shape)
    elif last == "weight":
        value = random.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    else:
        return None
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def oracle_weights(keys: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the state dict of an oracle from its keys and shapes, without entries that keep their value."""
    state = {key: oracle_tensor(key, tuple(shape)) for key, shape in keys.items()}
    return {key: value for key, value in state.items() if value is not None}


def oracle(folder: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    """Return the facts of an oracle (settings, keys, output shapes) and its arrays."""
    facts = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        return facts, {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def thinned(feature: Tensor) -> Tensor:
    """Return the channels of a map that the oracles keep."""
    return feature[:, :: max(1, feature.shape[1] // 16)]


def pyramid(strides: Sequence[int], levels: Sequence[int] | None = None, channels: int = 8) -> list[FeatureSpec]:
    """Return the specs of a neck with these strides; levels count from 2 if they are not given."""
    levels = levels or range(2, 2 + len(strides))
    return [FeatureSpec(f"p{level}", level, channels, stride) for level, stride in zip(levels, strides)]


def maps(specs: Sequence[FeatureSpec], height: int, width: int, images: int = 1) -> OrderedDict[str, Tensor]:
    """Return random maps of the declared geometry for images of a size."""
    return OrderedDict(
        (spec.name, torch.randn(images, spec.channels, -(-height // spec.stride), -(-width // spec.stride)))
        for spec in specs
    )


def objects(count: int, height: int, width: int, classes: int = 3) -> dict[str, Tensor]:
    """Return a target with `count` random boxes inside the image, labels and masks."""
    size = torch.tensor([width, height])
    corner = torch.rand(count, 2) * size * 0.6
    boxes = torch.cat([corner, corner + 1 + torch.rand(count, 2) * size * 0.35], 1)
    boxes = boxes.minimum(torch.tensor([width, height, width, height]))
    labels = torch.randint(0, classes, (count,))
    return {"boxes": boxes, "labels": labels, "masks": torch.rand(count, height, width) > 0.5}
