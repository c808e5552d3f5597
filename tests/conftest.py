import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """Real COCO images and annotations in COCO's own layout."""
    folder = Path(os.environ.get("COCO_TINY", ROOT.parent / "shared" / "coco-tiny"))
    if not folder.is_dir():
        pytest.skip(f"no real COCO images: {folder} does not exist and COCO_TINY does not name a folder")
    return folder


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def oracles() -> Path:
    """What detectron2 and mmdetection compute for weights that anyone can rebuild."""
    folder = Path(os.environ.get("ORACLES", ROOT.parent / "shared" / "oracles"))
    if not folder.is_dir():
        pytest.skip(f"no oracles: {folder} does not exist and ORACLES does not name a folder")
    return folder
