"""Backbones: networks that turn an image into the features C1-C5 and declare the geometry of each.

`backbone.py` is their contract, `resnet.py` the network, `blocks.py` what its stages are made of, `dilation.py` the rules of
dilation, `norm.py` normalisation and folding, `variants.py` the registered names, `timm_backbone.py` timm's networks,
`weights.py` where pretrained weights come from, `preprocess.py` what they expect of an image, `describe.py` and `verify.py`
what one can ask of a backbone.
"""

from . import timm_backbone, variants  # noqa: F401  (registers every name)
