"""Figures: every picture that the package draws.

detections.py draws boxes and masks, features.py draws feature maps; both on the grids of figures.py.
"""
