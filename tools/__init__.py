"""Command-line programs. Each runs as a file, e.g. `python tools/train_coco.py`, and as `detbackbones train`."""
