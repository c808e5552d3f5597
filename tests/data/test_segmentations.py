import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detbackbones.data.segmentations import clean_segmentation, decode_counts, to_rle, whole_number

SIZE = (37, 53)
SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask):
    return {"size": list(mask.shape), "counts": decode_counts(rle_of(mask)["counts"])}


def random_mask(density, seed=0):
    return np.random.default_rng(seed).random(SIZE) < density


def decode(segmentation):
    return coco_mask.decode(to_rle(segmentation, *SIZE))


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("encode", [rle_of, uncompressed])
def test_an_rle_of_pycocotools_is_left_as_it_is(density, encode):
    segmentation = encode(random_mask(density))
    assert clean_segmentation(segmentation, *SIZE) is segmentation


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_equal_those_of_pycocotools(seed):
    mask = random_mask(0.3, seed)
    assert (decode(uncompressed(mask)) == mask).all()


@pytest.mark.parametrize("length", range(1, 60, 7))
def test_a_truncated_rle_is_an_error(length):
    """pycocotools would not return from scoring it, and its decoder leaves pixels uninitialised."""
    rle = rle_of(random_mask(0.5))
    with pytest.raises(ValueError, match="RLE"):
        clean_segmentation(rle | {"counts": rle["counts"][:length]}, *SIZE)


@pytest.mark.parametrize(
    "segmentation",
    [[SQUARE, [5, 5, 8, 8]], [[5, 5, 8, 8], SQUARE], [[[1, 1], [9, 1], [9, 9], [1, 9]]], SQUARE]
    + [[[1, 1], [9, 1], [9, 9], [1, 9]]],
)
def test_other_spellings_give_the_same_mask(segmentation):
    assert (decode(clean_segmentation(segmentation, *SIZE)) == decode([SQUARE])).all()


def test_whole_runs_may_be_floats():
    rle = uncompressed(random_mask(0.5))
    floats = {"size": [37.0, 53.0], "counts": [float(count) for count in rle["counts"]]}
    assert clean_segmentation(floats, *SIZE) == rle


def test_a_polygon_is_left_as_it_is():
    polygons = [SQUARE, [0.5, 0.5, 60, 3, 4, 4]]
    assert clean_segmentation(polygons, *SIZE) is polygons


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(8))
def test_a_polygon_must_be_finite(value, place):
    polygon = SQUARE[:place] + [value] + SQUARE[place + 1 :]
    with pytest.raises(ValueError, match="not finite"):
        clean_segmentation([polygon], *SIZE)


@pytest.mark.parametrize("value", [2e8, -2e8, 10**400, 107, -54])
def test_a_polygon_must_lie_near_its_image(value):
    with pytest.raises(ValueError, match="outside"):
        clean_segmentation([[value, *SQUARE[1:]]], *SIZE)


@pytest.mark.parametrize(
    "segmentation,word",
    [
        (None, "missing"),
        ([], "3 points"),
        ([[1, 2, 3, 4]], "3 points"),
        ([["1"] * 6], "polygons"),
        ([[1, 2, 3, 4, 5, True]], "polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygons"),
        ([[[1, 2], [3, 4], 5]], "polygons"),
        ("mask.png", "polygons or an RLE"),
        ({"size": [37, 53]}, "polygons or an RLE"),
        ({"size": [53, 37], "counts": [37 * 53]}, "another size"),
        ({"size": "x", "counts": [37 * 53]}, "another size"),
        ({"size": [37, 53], "counts": [5]}, "add up"),
        ({"size": [37, 53], "counts": [37 * 53 + 5, -5]}, "not negative: -5"),
        ({"size": [37, 53], "counts": [0.5, 37 * 53]}, "whole numbers"),
        ({"size": [37, 53], "counts": None}, "whole numbers"),
        ({"size": [37, 53], "counts": []}, "add up"),
        ({"size": [37, 53], "counts": "b'ab'"}, "bytes"),
        ({"size": [37, 53], "counts": "a b"}, "cut off"),
        ({"size": [37, 53], "counts": ""}, "add up"),
        ({"size": [37, 53], "counts": "o" * 1_500_000 + "0"}, "cut off"),
    ],
)
def test_an_unusable_segmentation_is_an_error(segmentation, word):
    with pytest.raises(ValueError, match=word):
        clean_segmentation(segmentation, *SIZE)


@pytest.mark.parametrize("value,number", [(3, 3), (3.0, 3), (3.5, None), (True, None), ("3", None), (None, None)])
def test_whole_numbers(value, number):
    assert whole_number(value) == number
