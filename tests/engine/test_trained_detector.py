"""A trained detector is built again from its run."""

import pytest
import torch
from detector_forms import keep_all_scores
from foreign_detectors import write_narrow_detectron2
from helpers import input_error
from saved_runs import FORMS, save_run

from detbackbones.engine.trained_detector import load_detector

CLASSES = {"category_ids": [3, 7], "category_names": ["cat", "dog"]}


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_run_of_ours(tmp_path, form):
    mean = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    expected = save_run(tmp_path / "run", form, CLASSES | mean)
    found = load_detector(str(tmp_path / "run"))
    assert found.metadata["category_names"] == ["cat", "dog"]
    assert found.channels == 3
    assert (found.short_side, found.long_side) == (800, 1333)
    assert found.model.backbone.preprocess.mean.flatten().tolist() == pytest.approx(mean["image_mean"])
    state = found.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())


@torch.inference_mode()
def test_a_saved_model_keeps_what_its_source_said(tmp_path):
    source = write_narrow_detectron2(tmp_path, "FPN")
    (tmp_path / "cfg.yaml").write_text((tmp_path / "cfg.yaml").read_text() + "INPUT: {MIN_SIZE_TEST: 500}\n")
    expected = load_detector(str(source))
    expected.model.save_pretrained(tmp_path / "saved")
    found = load_detector(str(tmp_path / "saved"))
    assert found.short_side == expected.short_side == 500
    assert found.metadata["category_names"] == expected.metadata["category_names"]
    image = torch.rand(3, 64, 96)
    (actual,), (output,) = (keep_all_scores(each.model)([image]) for each in (found, expected))
    assert len(output["boxes"]) > 0
    assert all(torch.equal(actual[name], value) for name, value in output.items())


def test_another_file(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with input_error("a.pth"):
        load_detector(str(tmp_path / "a.pth"))
