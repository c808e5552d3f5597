"""The minimal subclass of Backbone, with a constructor and one method, works everywhere."""

import pytest
import torch
from helpers import input_error, largest_error, objects, randomise
from torch import nn

from detbackbones import Backbone, FeatureSpec, build_detector, build_neck, describe

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


class TinyBackbone(Backbone):
    """Four levels, each from the one before by a convolution, a norm and a ReLU."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.feature_specs = tuple(
            FeatureSpec(name, level, width * level, stride)
            for level, (name, stride) in enumerate(STRIDES.items(), start=2)
        )
        self.levels = nn.ModuleDict()
        channels, pixels_per_cell = 3, 1
        for spec in self.feature_specs:
            stride = spec.stride // pixels_per_cell
            conv = nn.Conv2d(channels, spec.channels, 3, stride=stride, padding=1)
            self.levels[spec.name] = nn.Sequential(conv, nn.BatchNorm2d(spec.channels), nn.ReLU())
            channels, pixels_per_cell = spec.channels, spec.stride

    def forward_features(self, images):
        features = {}
        for name, level in self.levels.items():
            images = features[name] = level(images)
        return features


def test_forward_returns_the_declared_levels_in_order():
    features = TinyBackbone()(torch.randn(2, 3, 64, 96))
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        "c2": (2, 16, 16, 24),
        "c3": (2, 24, 8, 12),
        "c4": (2, 32, 4, 6),
        "c5": (2, 40, 2, 3),
    }
    assert list(features) == list(STRIDES)


def test_defaults():
    backbone = TinyBackbone()
    assert backbone.size_divisor == 32
    assert backbone.stage_specs == backbone.feature_specs
    assert backbone.preprocess(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).dtype == torch.float32


def test_wrong_inputs():
    with pytest.raises(ValueError, match="N x 3 x H x W"):
        TinyBackbone()(torch.zeros(1, 4, 32, 32))


def test_describe():
    description = describe(TinyBackbone(), (64, 64))
    assert [(level.name, level.stride, level.returned) for level in description.levels] == [
        (name, stride, True) for name, stride in STRIDES.items()
    ]
    assert description.gflops > 0
    assert description.parameters == sum(parameter.numel() for parameter in TinyBackbone().parameters())
    assert "no stage is dilated" in str(description)


def test_a_neck_fits_on_top():
    backbone = TinyBackbone()
    neck = build_neck(dict(type="fpn", out_channels=16), backbone.feature_specs)
    assert list(neck(backbone(torch.randn(1, 3, 64, 64)))) == ["p2", "p3", "p4", "p5", "p6"]


def test_it_cannot_be_frozen_by_parts():
    with input_error("freeze=1", "TinyBackbone"):
        TinyBackbone().freeze(1)


def test_freezing_nothing_is_allowed():
    backbone = TinyBackbone().freeze(0)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_it_cannot_give_away_a_stage():
    with input_error("'c5'", "TinyBackbone"):
        TinyBackbone().pop_stage("c5")


def test_the_c4_form_tells_that_it_needs_a_stage():
    with input_error("'c5'", "TinyBackbone"):
        build_detector(
            "faster_rcnn", backbone=TinyBackbone(), neck="identity", roi_heads=dict(type="stage", stage="c5")
        )


NECKS = {"fpn": dict(type="fpn", out_channels=16), "dc5": dict(type="identity", in_features=("c5",))}


@pytest.fixture(params=NECKS)
def neck(request):
    return NECKS[request.param]


def build(name, neck):
    return build_detector(name, backbone=TinyBackbone(), neck=neck, num_classes=3)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_a_detector_trains(name, neck):
    detector = build(name, neck).train()
    before = detector.backbone.levels["c2"][0].weight.clone()
    images = [torch.rand(3, 64, 90), torch.rand(3, 80, 64)]
    targets = [objects(2, *image.shape[-2:]) for image in images]
    losses = detector(images, targets)
    sum(losses.values()).backward()
    torch.optim.SGD(detector.parameters(), lr=0.01).step()
    assert all(loss.isfinite() for loss in losses.values())
    assert not torch.equal(detector.backbone.levels["c2"][0].weight, before)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_a_detector_predicts(name, neck):
    detector = build(name, neck).eval()
    with torch.no_grad():
        (detection,) = detector([torch.rand(3, 64, 90)])
    assert {"boxes", "scores", "labels"} <= detection.keys()
    assert ("masks" in detection) == (name == "mask_rcnn")


def test_fuse_for_inference():
    backbone = randomise(TinyBackbone(width=64)).eval()
    fused = backbone.fuse_for_inference()
    images = torch.randn(1, 3, 160, 192)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        assert largest_error(fused(images), backbone(images)) <= 1e-5


def test_fuse_for_inference_of_a_detector(neck):
    detector = randomise(build("faster_rcnn", neck)).eval()
    fused = detector.fuse_for_inference()
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        features, expected = (model.neck(model.backbone(images)) for model in (fused, detector))
    assert largest_error(features, expected) <= 1e-5


def with_specs(*changes):
    """Return a TinyBackbone whose deepest declarations are replaced."""
    backbone = TinyBackbone()
    backbone.feature_specs = (*backbone.feature_specs[:-1], *changes)
    return backbone


@pytest.mark.parametrize(
    "specs,words",
    [
        ([FeatureSpec("c5", 5, 48, 32)], ("'c5'", "48", "40")),
        ([FeatureSpec("c5", 5, 40, 16)], ("'c5'", "stride=16")),
        ([FeatureSpec("c5", 5, 40, 32), FeatureSpec("c6", 6, 40, 64)], ("c6", "c2", "c5")),
    ],
)
def test_declarations_that_disagree_with_the_maps_are_an_error(specs, words):
    with input_error(*words):
        describe(with_specs(*specs), (64, 64))
