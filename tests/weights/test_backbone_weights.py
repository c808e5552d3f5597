"""The backbone of a detector's file: it is named as such, and what its tensors do not tell is asked for."""

import pytest
import torch
import torchvision
from helpers import input_error

from detbackbones.weights.backbone_weights import read_backbone


def save_detector(path, model):
    network = getattr(torchvision.models.detection, model)(weights=None, weights_backbone=None, num_classes=2)
    torch.save(network.state_dict(), path)
    return str(path)


def test_frozen_norms_of_torchvisions_detectors(tmp_path, capsys):
    source = save_detector(tmp_path / "mine.pth", "fasterrcnn_resnet50_fpn")
    with input_error("mine.pth", "norm_eps=0.0", "or 1e-5"):
        read_backbone(source)
    weights = read_backbone(source, given={"norm_eps": 0.0})
    assert weights.card.norm_eps == 0.0
    assert "mine.pth is a detector; its backbone is used" in capsys.readouterr().out
    assert not [key for key in weights.state if "fpn" in key or "roi_heads" in key]


@pytest.mark.parametrize("model", ["retinanet_resnet50_fpn_v2"])
def test_trained_norms_of_torchvisions_detectors(tmp_path, model):
    assert read_backbone(save_detector(tmp_path / "mine.pth", model)).card.norm_eps == 1e-5
