"""Checkpoints of other libraries' detectors, written in the formats of these libraries."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from helpers import oracle, oracle_weights
from torch import Tensor

from detbackbones import build_detector
from detbackbones.backbones.verify import randomise_norms
from detbackbones.weights.detectron2_config import Detectron2Config, merge
from detbackbones.weights.detectron2_keys import detectron2_keys
from detbackbones.weights.detectron2_models import detector_settings
from detbackbones.weights.detectron2_zoo import FORMS

SIZE = (360, 480)  # that the end-to-end oracles' results are asked for


def detectron2_state(facts: dict) -> dict[str, Tensor]:
    """Return the state dict of an end-to-end oracle under detectron2's keys."""
    scale = facts.get("scale", {})
    return {key: value * np.float32(scale.get(key, 1)) for key, value in oracle_weights(facts["keys"]).items()}


def write_detectron2(folder: Path, oracles: Path, name: str, suffix: str = ".pkl", config: str = "cfg.yaml") -> Path:
    """Write the checkpoint of an end-to-end oracle with its config beside it, as detectron2 does."""
    facts, _ = oracle(oracles, f"detectron2_end_to_end_{name}")
    state = detectron2_state(facts)
    path = folder / f"model_final{suffix}"
    if suffix == ".pkl":
        arrays = {key: value.numpy() for key, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2))
    else:
        torch.save({"model": state, "iteration": 3}, path)
    shutil.copy(oracles / f"detectron2_end_to_end_{name}.yaml", folder / config)
    return path


def image() -> Tensor:
    """Return the RGB image of the end-to-end oracles: 3 x 240 x 320 uint8."""
    cells = np.random.RandomState(5).randint(0, 256, (15, 20, 3))
    pixels = np.kron(cells, np.ones((16, 16, 1))).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def expected_detections(oracles: Path, name: str) -> dict[str, Tensor]:
    """Return detectron2's answer for `image()`: boxes, scores, labels and, if any, masks."""
    _, arrays = oracle(oracles, f"detectron2_end_to_end_{name}")
    expected = {"boxes": arrays["boxes"], "scores": arrays["scores"], "labels": arrays["classes"]}
    if "masks" in arrays:
        bits = np.unpackbits(arrays["masks"].numpy(), axis=1)[:, : SIZE[0] * SIZE[1]]
        expected["masks"] = torch.from_numpy(bits.reshape(-1, *SIZE).astype(bool))
    return expected


def write_narrow_detectron2(folder: Path, form: str = "C4", num_classes: int = 3, **model) -> Path:
    """Write a small checkpoint of detectron2 with random weights and its config.

    The form "C4" is a Faster R-CNN of a ResNet-50, "FPN" of a ResNet-18 with few channels.
    """
    small = {"RPN": {"PRE_NMS_TOPK_TEST": 50, "POST_NMS_TOPK_TEST": 10}, "ROI_HEADS": {"NUM_CLASSES": num_classes}}
    small |= {"PIXEL_MEAN": [25.5, 51.0, 76.5], "PIXEL_STD": [51.0, 51.0, 51.0]}
    if form == "FPN":
        small |= {"RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}, "FPN": {"OUT_CHANNELS": 8}}
        small |= {"ROI_BOX_HEAD": {"FC_DIM": 8}}
    values = merge(merge(FORMS[form], {"MODEL": small}), {"MODEL": model})
    (folder / "cfg.yaml").write_text(yaml.safe_dump(values))
    config, *_ = detector_settings(Detectron2Config(values, "cfg.yaml"))
    state = randomise_norms(build_detector(config, load_weights=False)).state_dict()
    exported = detectron2_keys(config, is_bgr=True).export(state)
    path = folder / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {key: value.numpy() for key, value in exported.items()}}))
    return path
