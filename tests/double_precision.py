"""Detectors in float64, in which neither a ReLU nor a near tie of scores turns float noise into another result."""

import pytest
import torch

from detbackbones.detectors.base import Detector


def in_double_precision(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Detector:
    """Convert a detector to float64, with the parts that are float32 otherwise."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    detector.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return detector.double()
