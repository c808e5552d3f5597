"""Data: read COCO-format annotations and images as tensors and targets.

annotations.py reads and checks a JSON file, coco.py makes items of its images with the functions of transforms.py,
loader.py makes batches of the items, and shapes.py generates the embedded dataset (drawn by shapes_drawing.py).
image_listing.py finds the images of folders, and image_batches.py makes batches of one size of them.
"""
