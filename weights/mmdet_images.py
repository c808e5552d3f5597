"""How an mmdetection config feeds images: mean, std, order of channels, padding, and sizes in tests."""

from collections.abc import Mapping
from typing import Any

from .mmdet_config import Section

SIDE_DEFAULTS = (800, 1333)


def image_settings(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], bool, int]:
    """Return mean and std of RGB images in [0, 1] as metadata, whether the weights expect BGR, and the size divisor."""
    model = values.get("model")
    found = (model.get("data_preprocessor") if isinstance(model, Mapping) else None) or values.get("data_preprocessor")
    is_new = isinstance(found, Mapping)
    if is_new:
        images = Section(found, "data_preprocessor", where)
        order = "to_rgb" if "to_rgb" in images else "bgr_to_rgb"  # mmpretrain's name, and mmdetection's
    else:
        images, order = Section(values.get("img_norm_cfg"), "img_norm_cfg", where), "to_rgb"
    is_rgb = images.choose(order, {True: True, False: False}, not is_new)
    statistics = {}
    for name in ("mean", "std"):
        numbers = images.numbers(name)
        if len(numbers) != 3:
            raise images.refused(name, "three numbers")
        statistics[f"image_{name}"] = [value / 255 for value in (numbers if is_rgb else numbers[::-1])]
    divisor = images.number("pad_size_divisor", 1) if is_new else 32  # mmdetection 2 pads in the pipeline
    return statistics, not is_rgb, int(divisor)


def sides_of_tests(values: Mapping[str, Any]) -> tuple[int, int]:
    """Return the short and the long side of test images: the first scale of the test pipeline, else (800, 1333)."""
    waiting = [values.get("test_pipeline")]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, Mapping):
            for name in ("scale", "img_scale"):
                scale = value.get(name)
                if isinstance(scale, list) and len(scale) == 2 and all(isinstance(side, int) for side in scale):
                    return min(scale), max(scale)
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
    return SIDE_DEFAULTS
