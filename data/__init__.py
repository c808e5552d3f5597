"""Datasets: COCO-format annotations and images in, image tensors and targets out.

`annotations.py` reads and checks a JSON file, `coco.py` turns its images into tensors, `loader.py` into batches,
`shapes.py` generates the embedded dataset.
"""
