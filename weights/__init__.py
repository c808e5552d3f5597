"""Pretrained weights: where they come from, what they mean, and their keys.

`backbone_weights.py` reads the weights of a backbone from any source, with a `WeightCard` (`cards.py`) of what their
tensors do not say. `named_sources.py` and `published_weights.py` know the published files, `recognition.py`,
`architectures.py` and `key_maps.py` what is in a file, `meanings.py` and `library_configs.py` how it was trained.
`sources.py` reads files, `downloads.py` gets them, `loading.py` loads a state dict into a module and reports what
differs, and `checkpoints.py` finds the parts of a model in our own checkpoints.
"""
