"""Command-line programs. Each runs as a file (`python tools/train_coco.py`) or as a subcommand of `detbackbones`."""
