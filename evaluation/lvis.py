"""Recognise LVIS annotation files (https://www.lvisdataset.org), in which an image is annotated for some categories."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import InputError, shorten

KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


def is_lvis(images: Sequence[Mapping]) -> bool:
    """Return whether any image entry has a key of LVIS."""
    return any(key in image for image in images for key in KEYS)


def renumber_lvis(
    images: Sequence[Mapping], category_numbers: Mapping[Hashable, int]
) -> dict[Hashable, dict[str, list[int]]]:
    """Return per image id the entries under LVIS's keys, with category numbers instead of ids.

    A missing entry is an empty list: no other category is known to be absent, and every object is annotated.

    Raises:
        InputError: an entry is not a list of ids of categories.
    """
    return {image["id"]: {key: _numbers(image, key, category_numbers) for key in KEYS} for image in images}


def _numbers(image: Mapping[str, Any], key: str, category_numbers: Mapping[Hashable, int]) -> list[int]:
    ids = image.get(key, [])
    try:
        return [category_numbers[value] for value in ids]
    except (KeyError, TypeError):
        found = f"image {shorten(image['id'], 40)}: {key} is {shorten(ids)}"
        raise InputError(f"{found}; expected a list of category ids of the annotation file") from None
