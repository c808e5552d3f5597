"""Backbones: networks that turn an image into the features C1-C5 and declare the geometry of each.

`resnet.py` holds the network, `variants.py` its registered names, `norm.py` normalisation and freezing,
`weights.py` where pretrained weights come from, `preprocess.py` what they expect of an image.
"""

from . import variants  # noqa: F401  (registers every name)
