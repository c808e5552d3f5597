"""Evaluation: COCO's metrics for boxes and masks."""
