"""Anchors, RoI pooling and mask pasting on declared geometry, against torchvision where it is right."""

import copy

import pytest
import torch
from helpers import maps, objects, pyramid
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, roi_align

from detbackbones.detectors import anchors as anchor_module
from detbackbones.detectors.anchors import DeclaredAnchorGenerator, default_sizes
from detbackbones.layers.mask_ops import paste_masks
from detbackbones.detectors.roi_pooler import DeclaredRoIPooler, roi_align_by_rows


def generator(specs, round_anchors=False):
    return DeclaredAnchorGenerator(specs, default_sizes(specs, 8.0, (2, 3, 4, 5, 6)), round_anchors=round_anchors)


def test_anchors_equal_torchvision_where_it_is_right():
    """Padded sides that are multiples of 64 make torchvision's inferred strides true."""
    specs = pyramid((4, 8, 16, 32, 64))
    features = list(maps(specs, 256, 320).values())
    images = ImageList(torch.zeros(2, 3, 256, 320), [(256, 320), (200, 300)])
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    for a, b in zip(generator(specs, round_anchors=True)(images, features), theirs(images, features)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("strides,levels", [((4, 8, 16, 32, 64), (2, 3, 4, 5, 6)), ((4, 8, 8, 8, 16), (2, 3, 4, 5, 6)),
                                            ((4, 8, 16, 16), (2, 3, 4, 5)), ((4, 16, 32), (2, 4, 5)),
                                            ((8, 16, 32), (3, 4, 5)), ((16,), (5,))])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_anchors_step_by_the_declared_stride_in_float32(strides, levels, dtype):
    specs = pyramid(strides, levels)
    features = [f.to(dtype) for f in maps(specs, 800, 1344).values()]
    images = ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)])
    with torch.autocast("cpu", dtype):
        anchors = generator(specs)(images, features)[0]
    assert anchors.dtype == torch.float32
    assert torch.equal(anchors, generator(specs)(images, [f.float() for f in features])[0])
    start = 0
    for spec, feature in zip(specs, features):
        h, w = feature.shape[-2:]
        sizes = [8.0 * 2**spec.level] if len(specs) > 1 else [32.0, 64, 128, 256, 512]
        count = 3 * len(sizes)
        own = anchors[start : start + h * w * count].view(h, w, count, 4)
        centres = (own[..., :2] + own[..., 2:]) / 2
        for axis, steps in ((0, torch.arange(w)[None, :, None]), (1, torch.arange(h)[:, None, None])):
            expected = (steps * spec.stride).float().expand(h, w, count)
            torch.testing.assert_close(centres[..., axis], expected, rtol=0, atol=1e-3)
        sides = own[..., 2:] - own[..., :2]
        torch.testing.assert_close(sides.prod(-1).sqrt(), torch.tensor(sizes * 3).expand(h, w, count))
        start += h * w * count
    assert start == len(anchors)


def test_anchors_of_a_grid_are_made_once(monkeypatch):
    specs = pyramid((4, 8))
    make, images = generator(specs), ImageList(None, [(64, 64)])
    with torch.inference_mode():
        first = make(images, list(maps(specs, 64, 64).values()))[0]
    assert not first.is_inference() and make(images, list(maps(specs, 64, 64).values()))[0] is first
    other = make(images, list(maps(specs, 64, 96).values()))[0]
    assert len(other) == 1.5 * len(first) and torch.equal(copy.deepcopy(make)(images, list(maps(specs, 64, 64).values()))[0], first)
    monkeypatch.setattr(anchor_module, "REMEMBERED", 2)
    make(images, list(maps(specs, 64, 64).values()))  # used again, so the other grid is forgotten first
    make(images, list(maps(specs, 32, 32).values()))
    assert [tuple(grids[0]) for grids, _ in make.made] == [(16, 16), (8, 8)]


@pytest.mark.parametrize("strides,levels", [((4, 8, 16, 32), (2, 3, 4, 5)), ((4, 8, 8, 8), (2, 3, 4, 5)),
                                            ((4, 8, 16, 16), (2, 3, 4, 5)), ((4, 16, 32), (2, 4, 5)),
                                            ((8, 16, 32), (3, 4, 5)), ((16,), (5,))])  # fmt: skip
@pytest.mark.parametrize("aligned,sampling_ratio", [(True, 2), (False, 2), (True, 0)])
def test_each_roi_is_pooled_from_the_level_that_the_rule_names(strides, levels, aligned, sampling_ratio):
    specs = pyramid(strides, levels)
    features = maps(specs, 900, 900)
    sizes = torch.tensor([10.0, 60, 111, 113, 223, 225, 447, 449, 800])
    boxes = torch.stack([sizes * 0 + 20, sizes * 0 + 30, sizes + 20, sizes + 30], 1)
    expected_level = torch.floor(4 + torch.log2(sizes.double() / 224) + 1e-6).clamp(levels[0], levels[-1]).int().tolist()
    pooled = DeclaredRoIPooler(specs, 7, sampling_ratio, aligned)(features, [boxes], [(900, 900)])
    for box, level, result in zip(boxes, expected_level, pooled):
        spec = [s for s in specs if s.level <= level][-1]  # an absent level goes to the next finer one
        rois = torch.cat([torch.zeros(1), box])[None]
        direct = roi_align(features[spec.name], rois, 7, 1 / spec.stride, sampling_ratio, aligned)
        torch.testing.assert_close(result[None], direct)
        assert result.abs().max() > 0


@pytest.mark.parametrize("aligned,ratio", [(True, 2), (False, 2), (True, 3)])
@pytest.mark.parametrize("side", [(40, 56), (1, 7), (2, 2)])
def test_roi_align_by_rows_is_torchvisions(aligned, ratio, side):
    """Values and gradients, also of RoIs that reach out of the map, lie outside it or have no area."""
    h, w = side
    features = [torch.randn(2, 6, *shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
                for shape in ((h, w), (h // 2 + 1, w // 2 + 1))]  # fmt: skip
    centre, size = torch.rand(60, 2) * torch.tensor([w, h]) * 4, torch.rand(60, 2) * torch.tensor([w, h]) * 6
    size[:3], centre[3] = 0, -50
    rois = torch.cat([torch.randint(2, (60, 1)), centre - size / 2, centre + size / 2], 1).double()
    level = torch.randint(2, (60,))
    ours = roi_align_by_rows(features, (0.25, 0.125), rois, level, 7, ratio, aligned)
    both = [roi_align(feature, rois, 7, scale, ratio, aligned) for feature, scale in zip(features, (0.25, 0.125))]
    theirs = torch.where(level[:, None, None, None] == 0, *both)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    towards = torch.randn_like(theirs)
    for a, b in zip(*(torch.autograd.grad(pooled, features, towards) for pooled in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert roi_align_by_rows(features, (0.25, 0.125), rois[:0], level[:0], 7, ratio, aligned).shape == (0, 6, 7, 7)


def test_a_nan_box_ends_in_nan_features():
    rois = torch.tensor([[0, float("nan"), 1, 5, 5]])
    assert roi_align_by_rows([torch.ones(1, 3, 8, 8)], [0.25], rois, torch.tensor([0]), 7, 2, True).isnan().all()


def test_pooler_equals_torchvision_on_the_standard_pyramid():
    specs = pyramid((4, 8, 16, 32))
    features = maps(specs, 512, 640, images=2)
    boxes = [objects(30, 512, 640)["boxes"] for _ in range(2)]
    theirs = MultiScaleRoIAlign([s.name for s in specs], 7, 2)
    ours = DeclaredRoIPooler(specs, 7, 2, aligned=False)
    torch.testing.assert_close(ours(features, boxes, [(512, 640)] * 2), theirs(features, boxes, [(512, 640)] * 2))
    assert ours(features, [boxes[0][:0]] * 2, [(512, 640)] * 2).shape == (0, 8, 7, 7)


def test_masks_are_pasted_as_torchvision_does():
    """Inside, across every border, outside, thinner than a pixel, larger than the image."""
    boxes = torch.tensor([[3.2, 4.7, 20.1, 17.9], [-6, -3, 9, 12], [30, 20, 55, 60.5], [60, 60, 70, 70], [5, 5, 5.2, 30],
                          [-40, -40, 90, 90]])  # fmt: skip
    probabilities = torch.rand(len(boxes), 1, 28, 28)
    expected = paste_masks_in_image(probabilities, boxes, (41, 47))[:, 0] >= 0.5
    assert torch.equal(paste_masks(probabilities, boxes, (41, 47)), expected) and expected.any((1, 2)).tolist() == [True, True, True, False, True, True]
    assert paste_masks(probabilities[:0], boxes[:0], (41, 47)).shape == (0, 41, 47)
