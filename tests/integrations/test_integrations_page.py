"""Every code block of docs/integrations.md runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saved_runs import save_run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n.*?^```python\n(.*?)^```", PAGE, re.S | re.M))
RUN = "runs/mask_rcnn_resnet50_fpn_1x_coco-1"
CHECKS = {
    "transformers": "assert next(model.model.backbone.parameters()).grad is not None",
    "torchvision": "assert boxes.shape[1] == 4 and scores.shape == (1, 21, 128, 160)",
    "segmentation_models_pytorch": "assert masks.shape == (2, 4, 64, 64) and model.encoder.output_stride == 8",
    "SAHI": "assert result.image_width == 90 and isinstance(annotations, list)",
    "detectron2": "assert backbone.bottom_up.output_shape()['res5'].channels == 2048",
    "mmdetection": "assert c3.shape[1:] == (512, 8, 8) and c5.shape[1:] == (2048, 8, 8)",
}


def test_every_framework_has_a_block():
    modules = {path.stem for path in (ROOT / "integrations").glob("*.py")} - {"__init__", "keys", "source"}
    assert len(modules) == len(SECTIONS) and SECTIONS.keys() == CHECKS.keys()


@pytest.mark.parametrize("section", CHECKS)
def test_the_block_runs(section, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if section == "SAHI":
        metadata = {"category_ids": [1, 2], "category_names": ["cat", "dog"]}
        save_run(tmp_path / RUN, metadata=metadata)
        Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save("photo.jpg")
    if section == "detectron2":
        request.getfixturevalue("detectron2_plug")
    exec(SECTIONS[section] + CHECKS[section], {})
