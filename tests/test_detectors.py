from collections import OrderedDict

import pytest
import torch
import torchvision
from helpers import randomise, relative_error
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align

from detbackbones import FeatureSpec, InputError, build_backbone, build_detector, build_neck, list_backbones
from detbackbones.detectors.anchors import DeclaredAnchorGenerator
from detbackbones.detectors.pooler import DeclaredRoIPooler
from detbackbones.detectors.rcnn import resolve_backbone

NARROW = dict(neck=dict(type="fpn", out_channels=32), num_classes=3, box_head_dim=32, rpn_pre_nms_top_n=(200, 100),
              rpn_post_nms_top_n=(50, 30), box_batch_size_per_image=16)  # fmt: skip
MASKS = dict(mask_channels=(16, 16), mask_dim=16)


def pyramid(strides, levels=None, channels=8):
    levels = levels or range(2, 2 + len(strides))
    return [FeatureSpec(f"p{level}", level, channels, stride) for level, stride in zip(levels, strides)]


def maps(specs, height, width):
    return OrderedDict((s.name, torch.randn(1, s.channels, -(-height // s.stride), -(-width // s.stride))) for s in specs)


def objects(count, height, width, masks=True):
    corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2) * torch.tensor([width, height]) * 0.3], 1)
    target = {"boxes": boxes, "labels": torch.randint(0, 3, (count,))}
    if masks:
        target["masks"] = torch.rand(count, height, width) > 0.5
    return target


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (4, 8, 8, 8), (4, 8, 16, 16), (4, 16, 32)])
def test_fpn_equals_torchvision_on_any_strides(strides):
    specs = [FeatureSpec(f"c{i}", i, 8 * i, s) for i, s in enumerate(strides, start=2)]
    ours = build_neck(dict(type="fpn", out_channels=16), specs)
    theirs = FeaturePyramidNetwork([s.channels for s in specs], 16, torchvision.ops.feature_pyramid_network.LastLevelMaxPool())
    theirs.load_state_dict(ours.state_dict())
    features = maps(specs, 90, 123)
    with torch.no_grad():
        for a, b in zip(ours(features).values(), theirs(features).values()):
            assert relative_error(a, b) <= 1e-6
    for spec, feature in zip(ours.feature_specs, ours(maps(specs, 128, 192)).values()):
        assert feature.shape == (1, spec.channels, 128 // spec.stride, 192 // spec.stride)


def test_anchors_equal_torchvision_where_it_is_right():
    """Padded sides that are multiples of 64 make torchvision's inferred strides true."""
    specs = pyramid((4, 8, 16, 32, 64))
    features = list(maps(specs, 256, 320).values())
    images = ImageList(torch.zeros(2, 3, 256, 320), [(256, 320), (200, 300)])
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    ours = DeclaredAnchorGenerator(specs, round_anchors=True)
    for a, b in zip(ours(images, features), theirs(images, features)):
        assert torch.equal(a, b)


def test_anchors_step_by_the_declared_stride_in_float32():
    specs = pyramid((4, 8, 16, 32, 64))
    features = [f.bfloat16() for f in maps(specs, 800, 1344).values()]
    anchors = DeclaredAnchorGenerator(specs)(ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)]), features)[0]
    assert anchors.dtype == torch.float32
    start = 0
    for spec, feature in zip(specs, features):
        h, w = feature.shape[-2:]
        own = anchors[start : start + h * w * 3].view(h, w, 3, 4)
        centres = (own[..., :2] + own[..., 2:]) / 2
        for axis, steps in ((0, torch.arange(w)[None, :, None]), (1, torch.arange(h)[:, None, None])):
            expected = (steps * spec.stride).float().expand(h, w, 3)
            torch.testing.assert_close(centres[..., axis], expected, rtol=0, atol=1e-3)
        sides = own[..., 2:] - own[..., :2]
        torch.testing.assert_close(sides.prod(-1).sqrt(), torch.full((h, w, 3), 8.0 * 2**spec.level))
        start += h * w * 3
    assert start == len(anchors)


@pytest.mark.parametrize("strides,levels", [((4, 8, 16, 32), (2, 3, 4, 5)), ((4, 8, 8, 8), (2, 3, 4, 5)),
                                            ((4, 8, 16, 16), (2, 3, 4, 5)), ((4, 16, 32), (2, 4, 5)),
                                            ((8, 16, 32), (3, 4, 5))])  # fmt: skip
def test_each_roi_is_pooled_from_the_level_that_the_rule_names(strides, levels):
    specs = pyramid(strides, levels)
    features = maps(specs, 900, 900)
    sizes = torch.tensor([10.0, 60, 111, 113, 223, 225, 447, 449, 800])
    boxes = torch.stack([sizes * 0 + 20, sizes * 0 + 30, sizes + 20, sizes + 30], 1)
    expected_level = torch.floor(4 + torch.log2(sizes.double() / 224) + 1e-6).clamp(levels[0], levels[-1]).int().tolist()
    pooled = DeclaredRoIPooler(specs, 7, 2, aligned=True)(features, [boxes], [(900, 900)])
    for box, level, result in zip(boxes, expected_level, pooled):
        spec = [s for s in specs if s.level <= level][-1]  # an absent level goes to the next finer one
        rois = torch.cat([torch.zeros(1), box])[None]
        direct = roi_align(features[spec.name], rois, 7, 1 / spec.stride, 2, aligned=True)
        torch.testing.assert_close(result[None], direct)
        assert result.abs().max() > 0


def test_pooler_equals_torchvision_on_the_standard_pyramid():
    specs = pyramid((4, 8, 16, 32))
    features = maps(specs, 512, 640)
    boxes = [objects(30, 512, 640, masks=False)["boxes"] for _ in range(1)]
    theirs = MultiScaleRoIAlign([s.name for s in specs], 7, 2)
    ours = DeclaredRoIPooler(specs, 7, 2, aligned=False)
    torch.testing.assert_close(ours(features, boxes, [(512, 640)]), theirs(features, boxes, [(512, 640)]))
    assert ours(features, [boxes[0][:0]], [(512, 640)]).shape == (0, 8, 7, 7)


def test_losses_equal_torchvision():
    """torchvision's own Mask R-CNN with its random weights, and ours with the same ones: the same losses, same sampling."""
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=256, max_size=256, image_mean=[0, 0, 0], image_std=[1, 1, 1],
        rpn_post_nms_top_n_train=1000, rpn_pre_nms_top_n_train=2000)  # fmt: skip
    ours = build_detector(dict(type="mask_rcnn", backbone="resnet50", num_classes=3, round_anchors=True, roi_aligned=False))
    randomise(theirs.backbone.body)
    names = {"backbone.body.": "backbone.", "backbone.fpn.": "neck."}
    state = {}
    for key, value in theirs.state_dict().items():
        prefix = next((p for p in names if key.startswith(p)), "")
        state[names.get(prefix, "") + key.removeprefix(prefix)] = value
    ours.load_state_dict(state)
    ours.backbone.preprocess.mean.zero_()
    ours.backbone.preprocess.std.fill_(1)
    images = [torch.rand(3, 256, 256) for _ in range(2)]
    targets = [objects(4, 256, 256) for _ in images]
    theirs.train(), ours.train()
    for m in (theirs, ours):  # batch statistics of two images would amplify float noise
        for module in m.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    with torch.no_grad():
        torch.manual_seed(3)
        inner = [dict(t, labels=t["labels"] + 1, masks=t["masks"].to(torch.uint8)) for t in targets]
        expected = theirs(images, inner)
        torch.manual_seed(3)
        torch.empty(1).uniform_(), torch.empty(1).uniform_()  # torchvision's transform draws a size for each image
        losses = ours(images, targets)
    assert losses.keys() == expected.keys()
    for key in losses:
        assert abs(losses[key] - expected[key]) <= (1e-5 if "objectness" in key or "rpn" in key else 1e-3) * expected[key].abs()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18_dilated", "resnet50_dc5", "resnext50_32x4d_dilated"])
@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_trains_and_detects(kind, backbone):
    masks = kind == "mask_rcnn"
    detector = build_detector(dict(type=kind, backbone=backbone, **NARROW, **(MASKS if masks else {})))
    images = [torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8), torch.rand(3, 64, 50)]
    targets = [objects(3, 70, 90, masks), objects(0, 64, 50, masks)]
    losses = detector.train()(images, targets)
    assert all(torch.isfinite(v) for v in losses.values()) and ("loss_mask" in losses) == masks
    sum(losses.values()).backward()
    assert detector.backbone.conv1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        results = detector.eval()(images, output_sizes=[(140, 180), (64, 50)])
    for result, (h, w) in zip(results, [(140, 180), (64, 50)]):
        assert result["boxes"].dtype == torch.float32
        assert (result["boxes"] <= torch.tensor([w, h, w, h]) + 1e-3).all() and (result["labels"] < 3).all()
        if masks:
            assert result["masks"].shape == (len(result["boxes"]), h, w) and result["masks"].dtype == torch.bool


def test_boxes_are_float32_under_bfloat16_autocast():
    detector = build_detector(dict(type="mask_rcnn", backbone="resnet18", **NARROW, **MASKS)).eval()
    seen = {}
    detector.rpn.register_forward_hook(lambda _, __, out: seen.update(proposals=out[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = detector([torch.rand(3, 64, 64)])[0]
    assert seen["proposals"][0].dtype == result["boxes"].dtype == result["scores"].dtype == torch.float32


def test_freeze_and_norm_follow_from_weights():
    assert resolve_backbone("resnet50") == dict(type="resnet50", norm="batch", freeze=0)
    started = resolve_backbone(dict(type="resnet50", weights="torchvision:IMAGENET1K_V1"))
    assert (started["norm"], started["freeze"]) == ("frozen", 2)
    assert resolve_backbone(dict(started, freeze=0, norm="batch"))["freeze"] == 0


def test_rebuilding_reads_no_weights():
    """A config with weights rebuilds offline for a checkpoint: same norm, same freezing, nothing read."""
    cfg = dict(type="faster_rcnn", backbone=dict(type="resnet18", weights="nowhere.pth"), **NARROW)
    detector = build_detector(cfg, load_weights=False)
    assert not list(detector.backbone.bn1.parameters()) and not detector.backbone.conv1.weight.requires_grad
    with pytest.raises(InputError, match="nowhere.pth"):
        build_detector(cfg)


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_makes_a_detector(name):
    with torch.device("meta"):
        detector = build_detector(dict(type="mask_rcnn", backbone=name))
    specs = build_backbone_specs(name)
    assert [s.stride for s in detector.roi_specs] == [s.stride for s in specs]
    assert detector.rpn.anchor_generator.strides == [s.stride for s in detector.neck.feature_specs]


def build_backbone_specs(name):
    with torch.device("meta"):
        return build_backbone(name).feature_specs


@pytest.mark.parametrize("cfg,message", [
    (dict(type="mask_rcn", backbone="resnet18"), "did you mean mask_rcnn"),
    (dict(type="mask_rcnn", backbone="resnet18", neck="fpm"), "did you mean fpn"),
    (dict(type="mask_rcnn", backbone="resnet18", box_scor_thresh=0.1), "did you mean box_score_thresh"),
    (dict(type="faster_rcnn", backbone="resnet18", mask_dim=3), "no argument 'mask_dim'"),
])  # fmt: skip
def test_bad_config(cfg, message):
    with pytest.raises(InputError, match=message):
        build_detector(cfg)
