"""Weights: where pretrained weights come from, and the key maps of other libraries."""
