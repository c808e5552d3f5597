import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import detectron2_stand_in
import pytest
import torch
from PIL import Image
from saved_runs import save_run
from torch import Tensor


@pytest.fixture(autouse=True)
def pillows_limit(monkeypatch):
    """SAHI lifts the limit of pixels for the whole process; other tests need it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96)


@pytest.fixture
def source(resnet18_weights) -> dict:
    """Config of a dilated backbone with weights, in which no value is a default by accident."""
    return dict(type="resnet18_dilated", weights=resnet18_weights, norm="batch")


@pytest.fixture
def run(tmp_path):
    """The folder of a run, whose images have a mean and standard deviation of their own, and its detector."""
    metadata = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    metadata |= {"category_ids": [3, 7], "category_names": ["cat", "dog"]}
    folder = tmp_path / "run"
    return str(folder), save_run(folder, metadata=metadata, type="resnet18_dc5")


@pytest.fixture
def detectron2_plug(monkeypatch) -> Iterator[ModuleType]:
    """Our module for detectron2, on a stand-in if detectron2 is not installed."""
    module = "detbackbones.integrations.detectron2"
    if importlib.util.find_spec("detectron2") is not None:
        yield importlib.import_module(module)
        return
    for name, stand_in in detectron2_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.delitem(sys.modules, module, raising=False)
    yield importlib.import_module(module)
    del sys.modules[module]
