"""Repeat-factor sampling: images of rare classes come more often (Gupta et al. 2019, arXiv:1908.03195)."""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence


def repeat_factors(classes: Sequence[Collection[Hashable]], threshold: float) -> list[float]:
    """Return how often each image should come per epoch, at least once.

    The factor of a class is max(1, sqrt(threshold / frequency)), where the frequency is the share of images with the
    class; the factor of an image is the largest of its classes.

    Args:
        classes: per image, the classes of its objects.
        threshold: frequency below which classes are repeated; LVIS is trained with 0.001.
    """
    counts = Counter(label for labels in classes for label in set(labels))
    factors = {label: max(1.0, math.sqrt(threshold * len(classes) / count)) for label, count in counts.items()}
    return [max((factors[label] for label in labels), default=1.0) for labels in classes]
