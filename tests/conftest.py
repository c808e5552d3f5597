import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from helpers import randomise
from shared_data import shared_folder

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def default_signals():
    """Signals that nohup or a shell ignores for jobs in the background reach the tests."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """A cache folder of the tests' own: headers of their temporary images do not belong in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DETBACKBONES_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """Folder with real COCO images and annotations in COCO's own layout."""
    return shared_folder("coco-tiny", "COCO_TINY")


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Folder with real microscope images and annotations in Pascal VOC's layout."""
    return shared_folder("bccd", "BCCD")


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder with recorded outputs of detectron2 and mmdetection, see its README.md."""
    return ROOT / "tests" / "oracles"


@pytest.fixture(scope="session")
def resnet18_weights(tmp_path_factory) -> str:
    """Path of a state dict of torchvision's resnet18 with random weights and norm statistics, classifier included."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(randomise(torchvision.models.resnet18()).state_dict(), path)
    return str(path)
