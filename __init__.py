"""ResNet, ResNeXt and timm backbones with feature pyramids (C2-C5), necks, detectors and a training engine.

Public names load on first use (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones.base import Backbone as Backbone
    from .backbones.describe import describe as describe
    from .backbones.verify import verify_dilation as verify_dilation
    from .detectors.base import Detector as Detector
    from .engine.detections import Detections as Detections
    from .engine.predictor import Predictor as Predictor
    from .errors import InputError as InputError
    from .layers.fuse import fuse_for_inference as fuse_for_inference
    from .layers.norm import convert_norm as convert_norm
    from .necks.base import Neck as Neck
    from .registry import (
        BACKBONES as BACKBONES,
        DETECTORS as DETECTORS,
        NECKS as NECKS,
        PROPOSAL_GENERATORS as PROPOSAL_GENERATORS,
        ROI_HEADS as ROI_HEADS,
        TASKS as TASKS,
        build_backbone as build_backbone,
        build_detector as build_detector,
        build_neck as build_neck,
        list_backbones as list_backbones,
        list_detectors as list_detectors,
        list_necks as list_necks,
    )
    from .specs import FeatureSpec as FeatureSpec

__version__ = "0.1.0"

_MODULES = {
    "errors": ["InputError"],
    "specs": ["FeatureSpec"],
    "backbones.base": ["Backbone"],
    "backbones.describe": ["describe"],
    "backbones.verify": ["verify_dilation"],
    "detectors.base": ["Detector"],
    "engine.detections": ["Detections"],
    "engine.predictor": ["Predictor"],
    "layers.fuse": ["fuse_for_inference"],
    "layers.norm": ["convert_norm"],
    "necks.base": ["Neck"],
    "registry": [
        *("BACKBONES", "NECKS", "PROPOSAL_GENERATORS", "ROI_HEADS", "DETECTORS", "TASKS"),
        *("build_backbone", "build_neck", "build_detector", "list_backbones", "list_necks", "list_detectors"),
    ],
}
# pytest imports this file a second time under its folder's name, so it defines nothing that may not exist twice
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'detbackbones' has no attribute {name!r}")
    return getattr(importlib.import_module(f"detbackbones.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
