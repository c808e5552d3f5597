"""Command-line programs; `detbackbones train` and `python tools/train_coco.py` are the same."""
