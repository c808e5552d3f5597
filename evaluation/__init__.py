"""Evaluation: the COCO numbers."""
