"""Layers: convolution, norms, folding, Winograd, RoIAlign and masks, for backbones, necks and heads alike."""
