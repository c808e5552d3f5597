"""Checkpoints as the engine writes them, of small detectors that were not trained."""

from pathlib import Path

import torch
from helpers import randomise

from detbackbones import build_detector
from detbackbones.detectors.base import resolve_backbone

FORMS: dict[str, dict] = {
    "fpn": dict(
        type="faster_rcnn", neck=dict(type="fpn", out_channels=8), roi_heads=dict(type="standard", box_head_dim=8)
    ),
    "c4": dict(
        type="faster_rcnn",
        backbone=dict(type="resnet18", out_features=("c4", "c5")),
        neck=dict(type="identity"),
        roi_heads=dict(type="stage", stage="c5"),
    ),
    "retinanet": dict(type="retinanet", neck=dict(type="pafpn", out_channels=8)),
}


def save_run(folder: Path, form: str = "fpn", metadata: dict | None = None, **backbone):
    """Write the run of a detector with random weights into a folder; return the detector in evaluation mode."""
    model = {"backbone": dict(type="resnet18"), **FORMS[form]}
    model["backbone"] = resolve_backbone(model["backbone"] | backbone)
    detector = randomise(build_detector(model, num_classes=2)).eval()
    folder.mkdir(parents=True)
    content = {"model": detector.state_dict(), "config": {"model": model}, "metadata": metadata or {}}
    torch.save(content, folder / "last.pt")
    return detector
