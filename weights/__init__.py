"""Weights: `sources.py` reads them, `loading.py` loads them with a report, `torchvision_detectors.py` maps its keys."""
