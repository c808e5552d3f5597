"""Anchors on declared geometry, against torchvision's generator where its inferred strides are right."""

import copy
import gc
import weakref

import pytest
import torch
from helpers import maps, pyramid
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detbackbones import InputError
from detbackbones.detectors.anchors import AnchorGenerator, default_sizes


def make_generator(specs, round_anchors=False):
    return AnchorGenerator(specs, default_sizes(specs, 8.0, (2, 3, 4, 5, 6)), round_anchors=round_anchors)


def compute_anchors(generator, specs, height, width):
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    return generator(images, list(maps(specs, height, width).values()))[0]


def test_equal_to_torchvision_on_exact_strides():
    """Padded sides that are multiples of 64 make the strides that torchvision infers exact."""
    specs = pyramid((4, 8, 16, 32, 64))
    features = list(maps(specs, 256, 320).values())
    images = ImageList(torch.zeros(2, 3, 256, 320), [(256, 320), (200, 300)])
    reference = TorchvisionAnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    expected = reference(images, features)
    actual = make_generator(specs, round_anchors=True)(images, features)
    assert len(actual) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


PYRAMIDS = [
    ((4, 8, 16, 32, 64), (2, 3, 4, 5, 6)),
    ((4, 8, 8, 8, 16), (2, 3, 4, 5, 6)),
    ((4, 8, 16, 16), (2, 3, 4, 5)),
    ((4, 16, 32), (2, 4, 5)),
    ((8, 16, 32), (3, 4, 5)),
    ((16,), (5,)),
]


@pytest.mark.parametrize("strides,levels", PYRAMIDS)
def test_centres_step_by_the_declared_stride(strides, levels):
    specs = pyramid(strides, levels)
    generator = make_generator(specs)
    features = list(maps(specs, 800, 1344).values())
    anchors = generator(ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)]), features)[0]
    counts = generator.anchors_per_level(features)
    assert sum(counts) == len(anchors)
    for spec, feature, level_anchors in zip(specs, features, anchors.split(counts)):
        height, width = feature.shape[-2:]
        corners = level_anchors.view(height, width, -1, 4)
        x, y = ((corners[..., :2] + corners[..., 2:]) / 2).unbind(-1)
        columns = torch.arange(width)[None, :, None] * spec.stride
        rows = torch.arange(height)[:, None, None] * spec.stride
        torch.testing.assert_close(x, columns.float().expand_as(x), rtol=0, atol=1e-3)
        torch.testing.assert_close(y, rows.float().expand_as(y), rtol=0, atol=1e-3)


@pytest.mark.parametrize("strides,levels", PYRAMIDS)
def test_sizes_follow_the_level(strides, levels):
    """A single level carries the sizes of the levels 2 to 6."""
    specs = pyramid(strides, levels)
    generator = make_generator(specs)
    features = list(maps(specs, 800, 1344).values())
    anchors = generator(ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)]), features)[0]
    for spec, level_anchors in zip(specs, anchors.split(generator.anchors_per_level(features))):
        sizes = [8.0 * 2**spec.level] if len(specs) > 1 else [32.0, 64.0, 128.0, 256.0, 512.0]
        sides = level_anchors[:, 2:] - level_anchors[:, :2]
        areas = sides.prod(1).view(-1, 3 * len(sizes))
        torch.testing.assert_close(areas.sqrt(), torch.tensor(sizes * 3).expand_as(areas))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_for_any_features(dtype):
    specs = pyramid((4, 8, 16, 32, 64))
    features = list(maps(specs, 800, 1344).values())
    images = ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)])
    with torch.autocast("cpu", dtype):
        anchors = make_generator(specs)(images, [feature.to(dtype) for feature in features])[0]
    assert anchors.dtype == torch.float32
    assert torch.equal(anchors, make_generator(specs)(images, features)[0])


def test_octaves():
    """RetinaNet, section 4: sizes 1, 2**(1/3) and 2**(2/3) times the base size on every level."""
    sizes = default_sizes(pyramid((8, 16), (3, 4)), 4.0, (3, 4), octaves=3)
    assert sizes == [[pytest.approx(base * 2 ** (octave / 3)) for octave in range(3)] for base in (32, 64)]


def test_cached_per_grid():
    specs = pyramid((4, 8))
    generator = make_generator(specs)
    first = compute_anchors(generator, specs, 64, 64)
    assert compute_anchors(generator, specs, 64, 64) is first
    assert len(compute_anchors(generator, specs, 64, 96)) == 1.5 * len(first)
    assert torch.equal(compute_anchors(copy.deepcopy(generator), specs, 64, 64), first)


def test_the_cache_is_bounded():
    """Grids that were not used for long are dropped; a grid in use stays."""
    specs = pyramid((4, 8))
    generator = make_generator(specs)
    in_use = compute_anchors(generator, specs, 64, 64)
    unused = weakref.ref(compute_anchors(generator, specs, 64, 96))
    for width in range(104, 504, 8):
        compute_anchors(generator, specs, 64, width)
        assert compute_anchors(generator, specs, 64, 64) is in_use
    gc.collect()
    assert unused() is None


def test_anchors_of_an_evaluation_serve_training():
    specs = pyramid((4, 8))
    with torch.inference_mode():
        anchors = compute_anchors(make_generator(specs), specs, 64, 64)
    assert not anchors.is_inference()


@pytest.mark.parametrize(
    "sizes,message",
    [
        ([[32], [64], [128]], r"3 entries, .* 2 levels \(p2, p3\)"),
        ([[32], [64, 128]], r"\[1, 2\]"),
        ([[], []], r"\[0, 0\]"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(InputError, match=f"anchor_sizes .*{message}"):
        AnchorGenerator(pyramid((4, 8)), sizes)
