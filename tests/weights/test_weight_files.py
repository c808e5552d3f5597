"""Weights alone in the safetensors format: everything comes back, and damage is found."""

import random

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from detbackbones.weights.weight_files import read_weights_file, read_weights_metadata, weights_file_content

STATE = {
    "weight": torch.arange(64.0).view(4, 4, 2, 2),
    "half": torch.arange(3).bfloat16(),
    "flags": torch.tensor([True, False]),
    "counter": torch.tensor(7),
    "empty": torch.zeros(0, 4),
}
CONFIG = {
    "max_iters": 100,
    "model": {"neck": {"type": "fpn", "levels": (2, 3, (4, 5))}, "stages": [1, (2,), []], "weights": None, "empty": {}},
    "lr": 0.1,
    "is_used": True,
}
METADATA = {"category_names": ["cell", "Zellkörper"], "category_ids": [1, 90]}


def write(path, state=STATE, config=CONFIG, metadata=METADATA):
    path.write_bytes(weights_file_content(state, config, metadata))
    return path


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in b)


def test_everything_comes_back(tmp_path):
    content = read_weights_file(write(tmp_path / "w.safetensors"))
    assert content.keys() == {"model", "config", "metadata"}
    assert same(content["model"], STATE)
    assert repr(content["config"]) == repr(CONFIG)  # tuples are tuples and lists are lists
    assert content["metadata"] == METADATA == read_weights_metadata(tmp_path / "w.safetensors")


def test_other_programs_read_the_tensors(tmp_path):
    assert same(load_file(write(tmp_path / "w.safetensors")), STATE)


def test_tensors_that_share_memory_or_are_permuted(tmp_path):
    base = torch.arange(24.0)
    images = base.view(1, 2, 3, 4)
    state = {
        "tied": base,
        "also": base,
        "part": base[3:9],
        "transposed": base.view(4, 6).t(),
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "expanded": base[:1].expand(5),
        "parameter": torch.nn.Parameter(base),
    }
    content = read_weights_file(write(tmp_path / "w.safetensors", state))
    assert same(content["model"], {key: value.detach() for key, value in state.items()})
    assert all(tensor.is_contiguous() for tensor in content["model"].values())


def test_files_of_other_programs(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors", {"format": "pt"})
    assert same(read_weights_file(tmp_path / "w.safetensors"), STATE)
    assert read_weights_metadata(tmp_path / "w.safetensors") == {}


@pytest.mark.parametrize("value", [torch.zeros(1), {1, 2}, {1: "a"}, object])
def test_values_that_json_does_not_have_are_refused(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        weights_file_content({}, {"model": {"part": [value]}}, {})


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path):
    path = write(tmp_path / "w.safetensors")
    whole = path.read_bytes()
    tensors = len(whole) - sum(tensor.nbytes for tensor in STATE.values())
    rng = random.Random(0)
    found = 0
    for position in [*rng.sample(range(tensors), 100), *rng.sample(range(tensors, len(whole)), 50)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            content = read_weights_file(path)
        except (RuntimeError, SafetensorError):
            found += 1
            continue
        assert position < tensors  # the header, whose names of other programs' values do not count
        assert same(content.get("model", content), STATE)
    assert found > 100


def test_a_file_that_is_cut_off(tmp_path):
    path = write(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        read_weights_file(path)


def test_a_bool_changed_to_another_value_is_found(tmp_path):
    state = {"flags": torch.tensor([True, False])}
    path = write(tmp_path / "w.safetensors", state)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(RuntimeError, match="its checksum is wrong"):
        read_weights_file(path)
