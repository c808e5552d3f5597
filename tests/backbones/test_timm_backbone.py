"""Any timm network under the contract of a backbone."""

import copy

import pytest
import timm
import torch
from helpers import input_error, randomise, relative_error

from detbackbones import build_backbone, build_detector, build_neck, describe, list_backbones, verify_dilation

FROM_C2 = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


def test_list_of_names():
    assert "timm:resnet50" in list_backbones("timm:resnet5*")
    assert list_backbones("timm:no_such*") == []


@pytest.mark.parametrize(
    "model,strides",
    [
        ("resnet18", {"c1": 2, **FROM_C2}),
        ("convnext_atto", FROM_C2),
        ("mobilenetv3_small_050", {"c1": 2, **FROM_C2}),
        ("regnety_002", {"c1": 2, **FROM_C2}),
    ],
)
def test_features_and_specs_are_timms(model, strides):
    backbone = build_backbone(f"timm:{model}", out_features=tuple(strides)).eval()
    theirs = timm.create_model(model, pretrained=False, features_only=True).eval()
    theirs.load_state_dict(randomise(backbone.network).state_dict())
    images = torch.randn(1, 3, 64, 96)
    assert {spec.name: spec.stride for spec in backbone.feature_specs} == strides
    assert backbone.size_divisor == 32
    with torch.no_grad():
        for spec, ours, expected in zip(backbone.feature_specs, backbone(images).values(), theirs(images)):
            assert relative_error(ours, expected) <= 1e-5
            assert ours.shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


def test_a_neck_fits_on_top():
    backbone = build_backbone("timm:convnext_atto")
    assert build_neck("fpn", backbone.feature_specs).feature_specs[-1].level == 6


def test_channels_come_first_even_if_timm_has_them_last():
    backbone = build_backbone("timm:swin_tiny_patch4_window7_224").eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 224, 224))
    assert {name: tuple(feature.shape[1:]) for name, feature in features.items()} == {
        "c2": (96, 56, 56),
        "c3": (192, 28, 28),
        "c4": (384, 14, 14),
        "c5": (768, 7, 7),
    }


def test_stages_deeper_than_the_levels_to_return_are_not_built():
    backbone = build_backbone("timm:resnet18", out_features=("c2", "c3"))
    assert [spec.name for spec in backbone.stage_specs] == ["c1", "c2", "c3"]
    assert not any("layer4" in key for key in backbone.state_dict())


DILATIONS = [
    ("resnet18", 8, True),
    ("resnet18d", 16, True),
    ("resnet18d", 8, False),
    ("resnetaa34d", 16, False),
    ("mobilenetv3_small_050", 16, False),
]


@pytest.mark.parametrize("model,output_stride,exact", DILATIONS)
def test_dilation_that_is_not_exact_is_declared(model, output_stride, exact, recwarn):
    backbone = build_backbone(f"timm:{model}", output_stride=output_stride)
    deepest = backbone.feature_specs[-1]
    assert (deepest.stride, deepest.dilation) == (output_stride, 32 // output_stride)
    assert (backbone.inexact_reasons == ()) == exact
    warnings = [str(warning.message) for warning in recwarn if model in str(warning.message)]
    assert bool(warnings) == (not exact)


@pytest.mark.filterwarnings("ignore:timm.*not exact")
@pytest.mark.parametrize("model,output_stride,exact", DILATIONS)
def test_declared_exactness_is_right_both_ways(model, output_stride, exact):
    errors = verify_dilation(f"timm:{model}", (128, 160), output_stride=output_stride)
    assert (max(errors.values()) <= 1e-4) == exact


@pytest.mark.filterwarnings("ignore:timm.*not exact")
def test_describe_tells_by_how_much_dilation_is_off():
    assert "is off by" in str(describe("timm:resnet18d", (64, 64), output_stride=8))


def test_weights_are_loaded(resnet18_weights):
    state = torch.load(resnet18_weights, weights_only=True)
    backbone = build_backbone("timm:resnet18", weights=resnet18_weights)
    assert torch.equal(backbone.network.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_with_weights_the_norms_are_frozen(resnet18_weights):
    backbone = build_backbone("timm:resnet18", weights=resnet18_weights).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))
    assert not any("num_batches_tracked" in key for key in before)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_frozen_parts(resnet18_weights):
    backbone = build_backbone("timm:resnet18", weights=resnet18_weights, freeze=2)
    fixed = {name.split(".")[1] for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert fixed == {"conv1", "layer1"}  # frozen norms have no parameters
    assert [level.weights for level in describe(backbone, (64, 64)).levels] == ["fixed", "fixed", *["trains"] * 3]


def test_live_norms_move_except_in_frozen_parts(resnet18_weights):
    backbone = build_backbone("timm:resnet18", weights=resnet18_weights, norm="batch", freeze=1).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    backbone(torch.randn(2, 3, 64, 64))
    state = backbone.state_dict()
    moved = {key.split(".")[1] for key, value in before.items() if not torch.equal(state[key], value)}
    assert moved == {"layer1", "layer2", "layer3", "layer4"}


def test_a_checkpoint_restores_a_frozen_backbone_without_its_weights(resnet18_weights):
    backbone = build_backbone("timm:resnet18", weights=resnet18_weights, freeze=2)
    rebuilt = build_backbone("timm:resnet18", weights="gone.pth", freeze=2, load_weights=False)
    rebuilt.load_state_dict(backbone.state_dict())


def test_other_image_channels(resnet18_weights):
    backbone = build_backbone("timm:resnet18", weights=resnet18_weights, in_channels=4)
    images = backbone.preprocess(torch.zeros(1, 4, 32, 32, dtype=torch.uint8))
    assert backbone(images)["c5"].shape == (1, 512, 1, 1)


@pytest.mark.parametrize("freeze,fixed", [(1, {"stem_0", "stem_1"}), (2, {"stem_0", "stem_1", "stages_0"})])
def test_a_stem_without_a_feature_freezes_too(freeze, fixed):
    backbone = build_backbone("timm:convnext_atto", weights="unread.pth", load_weights=False, freeze=freeze)
    names = {name.split(".")[1] for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert names == fixed


def test_a_feature_of_stride_1_belongs_to_the_stem():
    backbone = build_backbone("timm:vgg11_bn", weights="unread.pth", load_weights=False, freeze=1)
    assert [spec.name for spec in backbone.stage_specs][:2] == ["c0", "c1"]
    assert list(backbone.stage_modules) == ["c1", "c2", "c3", "c4", "c5"]
    names = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert names == {f"network.features_{index}.{kind}" for index in (0, 4) for kind in ("weight", "bias")}


def test_a_detector_trains_on_a_dilated_timm_network():
    backbone = dict(type="timm", model="resnet18", output_stride=8)
    neck = dict(type="fpn", out_channels=16)
    detector = build_detector("faster_rcnn", backbone=backbone, neck=neck, num_classes=3)
    assert [spec.stride for spec in detector.neck.feature_specs] == [4, 8, 8, 8, 16]
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    losses = detector.train()([torch.rand(3, 64, 64)], [target])
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    "cfg,words",
    [
        (dict(type="timm:resnet51"), ("'resnet51'", "did you mean resnet5")),
        (dict(type="timm:vit_tiny_patch16_224"), ("vit_tiny_patch16_224", "pyramid")),
        (dict(type="timm:densenet121", output_stride=16), ("densenet121", "output_stride=16")),
        (dict(type="timm:resnet18", out_features=("c6",)), ("out_features", "'c6'")),
        (dict(type="timm:resnet18", out_features=()), ("out_features", "empty")),
        (dict(type="timm:resnet18", norm="group"), ("'group'", "'frozen' or 'batch'")),
        (dict(type="timm:resnet18", freeze=2), ("freeze=2", "weights")),
        (dict(type="timm:resnet18", groups=2), ("'groups'",)),
        (dict(type="timm:resnet18", weights="timm:a1_in1"), ("'a1_in1'", "did you mean a1_in1k")),
        (dict(type="timm:resnet18", weights="nowhere.pth"), ("nowhere.pth",)),
        (dict(type="timm:convnext_atto", weights="x.pth", load_weights=False, norm="frozen"), ("norm='frozen'",)),
        (dict(type="timm:hrnet_w18_small", weights="x.pth", load_weights=False, freeze=1), ("freeze=1", "as a whole")),
        (dict(type="timm"), ("'model'",)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_bad_arguments(cfg, words):
    with input_error(*words):
        build_backbone(cfg)


def test_the_tag_of_weights_with_the_name_of_the_network():
    """timm's own spelling of weights is taken as weights, and as a name it is an error that says so."""
    backbone = build_backbone("timm:resnet18", weights="timm:resnet18.a1_in1k", load_weights=False)
    assert backbone.weight_card.source == "timm:resnet18.a1_in1k"
    assert backbone.weight_card.licence == "apache-2.0"
    with input_error("resnet18.a1_in1k", "weights='timm:a1_in1k'"):
        build_backbone("timm:resnet18.a1_in1k")


def test_weights_from_a_url(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("timm:resnet18", weights=f"file://{tmp_path / 'w.pth'}")
    stored = torch.load(tmp_path / "w.pth")
    assert torch.equal(backbone.state_dict()["network.layer2.0.conv1.weight"], stored["layer2.0.conv1.weight"])
    with input_error("openmmlab:detectron2/resnet50_caffe", "timm:TAG"):  # BGR, with the same keys
        build_backbone("timm:resnet50", weights="openmmlab:detectron2/resnet50_caffe")
