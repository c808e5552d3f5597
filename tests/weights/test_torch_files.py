"""Files of torch.save: mmengine's own checkpoints are read without its code and NumPy's, and nothing else gets in."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import input_error
from mmengine.logging import MessageHub

from detbackbones.weights.sources import read_content, read_file
from detbackbones.weights.torch_files import Ignored, load_torch_file

STATE = {"weight": torch.arange(6.0).view(2, 3), "norm.num_batches_tracked": torch.tensor(7)}


@pytest.fixture
def runner_checkpoint(tmp_path):
    """What mmengine's Runner saves after an epoch: weights, loss histories, metadata and numbers of NumPy."""
    hub = MessageHub.get_instance("test_torch_files")
    for value in (2.0, 1.5, np.float32(1.25)):
        hub.update_scalar("train/loss", value)
    meta = {"epoch": 1, "cfg": "model = dict()", "seed": np.int64(3), "time": np.float64(0.5), "lr": np.zeros(2)}
    return {"meta": meta, "state_dict": OrderedDict(STATE), "message_hub": hub.state_dict()}


@pytest.mark.parametrize("in_zip", [True, False])
def test_a_checkpoint_of_mmengine(tmp_path, runner_checkpoint, in_zip):
    path = tmp_path / "epoch_1.pth"
    torch.save(runner_checkpoint, path, _use_new_zipfile_serialization=in_zip)
    with pytest.raises(pickle.UnpicklingError):  # torch alone refuses it
        torch.load(path, weights_only=True)
    content = load_torch_file(path)
    assert content["meta"]["cfg"] == "model = dict()"
    assert all(type(content["meta"][key]) is Ignored for key in ("seed", "time", "lr"))
    assert type(content["message_hub"]["log_scalars"]["train/loss"]) is Ignored
    state = read_file(path)
    assert state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


def test_torch_refuses_the_same_names_afterwards(tmp_path, runner_checkpoint):
    torch.save(runner_checkpoint, tmp_path / "w.pth")
    allowed = set(torch.serialization.get_safe_globals())
    load_torch_file(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == allowed


class CallsMethod:
    """Takes a method by getattr when it is unpickled, and calls it."""

    def __reduce__(self):
        return "text".upper, ()


@pytest.mark.parametrize("in_zip", [True, False])
def test_what_getattr_would_return_is_not_called(tmp_path, in_zip):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": STATE, "meta": CallsMethod()}, path, _use_new_zipfile_serialization=in_zip)
    assert torch.load(path, weights_only=False)["meta"] == "TEXT"
    with input_error("w.pth", "plain tensors"):
        read_content(path)


def test_arrays_in_place_of_weights_are_refused(tmp_path):
    torch.save({"state_dict": {"weight": np.zeros(3)}}, tmp_path / "w.pth")
    with input_error("w.pth", "state dict"):
        read_file(tmp_path / "w.pth")
