"""Compare the detections of two models on the same images."""

import math
from typing import Any

import hotcoco

from .coco import CocoEvaluator

CONFIDENCE = 0.95
# hotcoco 1.3 counts an image that is drawn twice only once. Its samples are subsets with a share of 1 - 1 / e of the
# images, which spread less around the value of all images than samples with repetition, by this factor.
WIDENING = math.sqrt(math.e - 1)


def compare(
    first: CocoEvaluator, second: CocoEvaluator, samples: int = 1000, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Return per kind a row per metric: how the second evaluator differs from the first.

    The interval is that of a paired bootstrap: images are drawn with replacement, the same for both.

    Args:
        first, second: evaluators of one annotation file, with equal kinds and `max_dets`.
        samples: of the bootstrap; 0: no interval.
        seed: of the bootstrap.

    Returns:
        Rows with "metric", "a", "b", "difference", "lower" and "upper" (the interval that holds 95% of the samples).
        All are None for a metric without objects; the bounds also without samples, and with a `max_dets` of at most 10
        for recall at fewer detections.
    """
    metrics = [evaluator.compute() for evaluator in (first, second)]
    result = {}
    for kind in first.kinds:
        scorers = (first.score(kind, "hotcoco"), second.score(kind, "hotcoco"))
        compared = hotcoco.compare(*scorers, n_bootstrap=samples, seed=seed, confidence=CONFIDENCE)
        intervals = {_our_name(name, first): interval for name, interval in (compared["ci"] or {}).items()}
        rows = []
        for name in first.metric_names:
            a, b = (values[f"{kind}/{name}"] for values in metrics)
            bounds = intervals.get(name, {})
            lower, upper = (_widen(bounds.get(side), b - a) for side in ("lower", "upper"))
            values = (None,) * 5 if a < 0 and b < 0 else (a, b, b - a, lower, upper)
            rows.append({"metric": name, **dict(zip(("a", "b", "difference", "lower", "upper"), values, strict=True))})
        result[kind] = rows
    return result


def _widen(bound: float | None, difference: float) -> float | None:
    return None if bound is None else difference + WIDENING * (bound - difference)


def _our_name(name: str, evaluator: CocoEvaluator) -> str | None:
    """Return our name of a metric of hotcoco's comparison, which names recalls by COCO's limits whatever they are."""
    name = name.partition("@")[0]
    if name in ("AR1", "AR10") and evaluator.max_dets <= 10:  # hotcoco then gives other limits these names
        return None
    return f"AR{evaluator.max_dets}" if name in ("AR", "AR100") else name
