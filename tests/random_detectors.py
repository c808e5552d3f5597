"""Narrow detectors with random weights, and an image for them."""

import numpy as np
import torch
from helpers import randomise

from detbackbones import build_detector
from detbackbones.engine.detections import Detections
from detbackbones.engine.trained_detector import TrainedDetector

ROI_HEADS = dict(type="standard", box_head_dim=8, mask_channels=(8,), mask_dim=8, score_thresh=0.2)
METADATA = {"category_ids": [7, 3], "category_names": ["cat", "dog"], "image_size": [96, 128]}
IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def trained(name="mask_rcnn", metadata=None, short_side=None, **backbone) -> TrainedDetector:
    """A narrow detector with random weights, as `load_detector` returns it."""
    torch.manual_seed(3)
    backbone = dict(type="resnet18", weights=None, out_features=("c2", "c3", "c4")) | backbone
    parts = dict(rpn=dict(type="rpn", post_nms_top_n=(50, 20)), roi_heads=ROI_HEADS)
    model = dict(type=name, backbone=backbone, neck=dict(type="fpn", out_channels=8), **parts)
    detector = randomise(build_detector(model, num_classes=2)).eval()
    return TrainedDetector(detector, METADATA | (metadata or {}), model, short_side, None, f"a {name}")


def assert_same(detections: Detections, others: Detections, tolerance=0.0):
    assert len(detections) == len(others) > 0
    torch.testing.assert_close(detections.boxes, others.boxes, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(detections.scores, others.scores, atol=tolerance, rtol=tolerance)
    assert torch.equal(detections.labels, others.labels)
    if not tolerance:
        assert detections.rles == others.rles
