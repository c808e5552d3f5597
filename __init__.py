"""ResNet and ResNeXt feature pyramids (C2-C5) for detection and segmentation. Public names load on first use (PEP 562)."""

import importlib

__version__ = "0.1.0"

# pytest imports this file a second time under its folder's name: it must define nothing that could exist twice.
_HOME = {
    "FeatureSpec": "specs",
    "convert_norm": "layers.norm",
    "InputError": "errors",
    "describe": "backbones.describe",
    "verify_dilation": "backbones.verify",
    **dict.fromkeys(
        ["BACKBONES", "NECKS", "DETECTORS", "build_backbone", "build_neck", "build_detector",
         "list_backbones", "list_necks", "list_detectors"], "registry"),
}  # fmt: skip
__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'detbackbones' has no attribute {name!r}")
    return getattr(importlib.import_module(f"detbackbones.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
