"""detectron2's final answers for an image, from its checkpoint and config through `build_detector(weights=...)`."""

import pytest
import torch
from foreign_detectors import SIZE, detectron2_state, expected_detections, image, write_detectron2
from helpers import input_error, oracle
from torchvision.ops import box_iou

from detbackbones import build_detector
from detbackbones.weights.detectron2_config import read_detectron2_config
from detbackbones.weights.detectron2_keys import detectron2_keys
from detbackbones.weights.detectron2_models import detector_settings

FILES = {  # name -> suffix of the checkpoint, name of the config
    "mask_rcnn_r50_fpn": (".pkl", "cfg.yaml"),
    "mask_rcnn_r50_dc5": (".pth", "config.yaml"),
    "mask_rcnn_r50_c4": (".pkl", "config.yaml"),
    "retinanet_r50_fpn": (".pth", "model_final.yaml"),
}


@pytest.mark.parametrize(
    "name",  # on one core, 1000 RoIs through a stage or through a wide layer take half a minute
    [pytest.param(name, marks=pytest.mark.slow if name.endswith(("c4", "dc5")) else ()) for name in FILES],
)
@torch.inference_mode()
def test_detections_and_round_trip(oracles, tmp_path, name):
    path = write_detectron2(tmp_path, oracles, name, *FILES[name])
    detector = build_detector(weights=str(path)).eval()
    (actual,) = detector([image()], output_sizes=[SIZE])
    expected = expected_detections(oracles, name)
    assert len(actual["boxes"]) == len(expected["boxes"]) == 30
    overlaps = box_iou(expected["boxes"], actual["boxes"])
    overlaps[expected["labels"][:, None] != actual["labels"]] = -1
    partners = overlaps.argmax(1)
    assert sorted(partners.tolist()) == list(range(30))
    assert (actual["boxes"][partners] - expected["boxes"]).abs().max() <= 1e-2
    assert (actual["scores"][partners] - expected["scores"]).abs().max() <= 1e-4
    assert ("masks" in actual) == ("masks" in expected)
    if "masks" in expected:
        assert expected["masks"].any()
        assert (actual["masks"][partners] != expected["masks"]).float().mean() <= 1e-3
        differences = (actual["masks"][partners] != expected["masks"]).sum() / expected["masks"].sum()
        assert differences <= 1e-3  # of the pixels of the masks, too

    facts, _ = oracle(oracles, f"detectron2_end_to_end_{name}")
    state = detectron2_state(facts)
    model = detector_settings(read_detectron2_config(tmp_path / FILES[name][1]))[0]
    exported = detectron2_keys(model, is_bgr=True).export(detector.state_dict())
    exported = {key: value for key, value in exported.items() if not key.endswith("num_batches_tracked")}
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[key], value) for key, value in state.items())


def test_a_detector_without_config(oracles, tmp_path):
    path = write_detectron2(tmp_path, oracles, "mask_rcnn_r50_fpn", ".pth")
    (tmp_path / "cfg.yaml").unlink()
    with input_error("model_final.pth", "cfg.yaml", "channel order"):
        build_detector(weights=str(path))
