"""Arguments of ResNets: levels, classifier, deformable stages, image channels, weights, and the C4 form."""

from contextlib import nullcontext

import pytest
import torch
from helpers import input_error, largest_error
from torch import nn

from detbackbones import build_backbone
from detbackbones.layers.conv import DeformConv2d


def test_stages_deeper_than_the_levels_to_return_are_not_built():
    backbone = build_backbone("resnet18", out_features=("c3", "c1"))
    assert not any(key.startswith(("layer3", "layer4")) for key in backbone.state_dict())
    assert backbone.size_divisor == 8


def test_levels_come_shallow_to_deep_whatever_the_order_of_out_features():
    backbone = build_backbone("resnet18", out_features=("c3", "c1"))
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == ["c1", "c3"]
    assert [spec.name for spec in backbone.feature_specs] == ["c1", "c3"]


def test_stage_specs_have_all_levels_that_are_built():
    backbone = build_backbone("resnet18", out_features=("c3",))
    assert [spec.name for spec in backbone.stage_specs] == ["c1", "c2", "c3"]


def test_the_classifier():
    backbone = build_backbone("resnet18", num_classes=10)
    assert backbone.logits(torch.randn(2, 3, 40, 40)).shape == (2, 10)
    assert list(backbone(torch.randn(1, 3, 40, 40))) == ["c2", "c3", "c4", "c5"]


def test_logits_without_a_classifier():
    with input_error("num_classes="):
        build_backbone("resnet18").logits(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name,last_norm", [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_residual_branches_can_start_at_zero(name, last_norm):
    block = build_backbone(name, zero_init_residual=True, out_features=("c2",)).layer1[0]
    assert not getattr(block, last_norm).weight.any()
    assert block.bn1.weight.all()


def test_deformable_stages(resnet18_weights):
    """Loaded from plain weights; with zero offsets and full masks they are the plain convolution."""
    backbone = build_backbone("resnet18", weights=resnet18_weights, deform_stages=("c4", "c5")).eval()
    plain = build_backbone("resnet18", weights=resnet18_weights).eval()
    deformable = {name for name, module in backbone.named_modules() if isinstance(module, DeformConv2d)}
    assert deformable == {f"layer{stage}.{block}.conv2" for stage in (3, 4) for block in (0, 1)}
    for name in deformable:
        nn.init.constant_(backbone.get_submodule(name).conv_offset.bias[18:], 40.0)  # sigmoid = 1
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert largest_error(backbone(images), plain(images)) <= 1e-5


@pytest.mark.parametrize("channels", [1, 4])
def test_other_image_channels(channels, resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights, in_channels=channels).eval()
    image = torch.randint(0, 256, (1, channels, 40, 40), dtype=torch.uint8)
    assert backbone(backbone.preprocess(image))["c5"].shape == (1, 512, 2, 2)


def test_weights_are_loaded_and_the_classifier_is_dropped(resnet18_weights):
    state = torch.load(resnet18_weights, weights_only=True)
    backbone = build_backbone("resnet18_dilated", weights=resnet18_weights)
    assert {key for key in state if key not in backbone.state_dict()} == {
        "fc.weight",
        "fc.bias",
        *(key for key in state if key.endswith("num_batches_tracked")),  # frozen norms do not count
    }
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_weights_of_stages_that_are_not_built_are_dropped(resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights, out_features=("c3",))
    state = torch.load(resnet18_weights, weights_only=True)
    assert torch.equal(backbone.layer2[1].conv2.weight, state["layer2.1.conv2.weight"])


@pytest.mark.parametrize("num_classes,loaded", [(1000, True), (7, False)])
def test_a_classifier_is_loaded_if_it_fits(resnet18_weights, num_classes, loaded):
    state = torch.load(resnet18_weights, weights_only=True)
    with nullcontext() if loaded else pytest.warns(UserWarning, match="1000 classes; the one of 7 starts anew"):
        backbone = build_backbone("resnet18", weights=resnet18_weights, num_classes=num_classes)
    assert backbone.fc.weight.shape == (num_classes, 512)
    assert torch.equal(backbone.fc.weight, state["fc.weight"]) == loaded
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"])


def test_weights_of_another_network_are_an_error(resnet18_weights):
    with input_error(resnet18_weights, "ResNet-18", "ResNet-50", "build resnet18"):
        build_backbone("resnet50", weights=resnet18_weights)


def test_without_load_weights_the_file_is_not_read():
    backbone = build_backbone("resnet18", weights="unread.pth", load_weights=False)
    assert not any("num_batches_tracked" in key for key in backbone.state_dict())  # frozen, as with weights


@pytest.mark.parametrize(
    "cfg,words",
    [
        (dict(type="resnet18", out_features=("c2", "c7")), ("out_features", "'c7'")),
        (dict(type="resnet20_cifar", out_features=("c5",)), ("out_features", "'c5'", "c4")),
        (dict(type="resnet18", out_features=()), ("out_features", "empty")),
        (dict(type="resnet18", groups=32), ("groups", "Bottleneck")),
        (dict(type="resnet18", stride_in_1x1=True), ("stride_in_1x1", "Bottleneck")),
        (dict(type="resnet18", freeze=2), ("freeze=2", "weights")),
        (dict(type="resnet18", norm="frosen"), ("'frosen'", "did you mean frozen?")),
        (dict(type="resnet18", norm="batch", norm_layer=nn.BatchNorm2d), ("norm", "norm_layer", "not both")),
        (dict(type="resnet18", output_stride=12), ("output_stride", "8, 16, 32")),
        (dict(type="resnet18_dc5", dilation_convention="detectron2"), ("detectron2", "BasicBlock")),
        (dict(type="resnet18", stem="deap"), ("'deap'", "did you mean deep?")),
        (dict(type="resnet18", deform_stages=("c1",)), ("deform_stages", "'c1'")),
        (dict(type="resnet18", checkpoint_stages=("c1",)), ("checkpoint_stages", "'c1'")),
        (dict(type="resnet18", multi_grid=(1, 2, 4)), ("multi_grid", "2", "c5", "3")),
        (dict(type="resnet18", num_classes=10, out_features=("c2",)), ("num_classes", "c5", "c2")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_bad_arguments(cfg, words):
    with input_error(*words):
        build_backbone(cfg)


@pytest.fixture
def c4_form(resnet18_weights):
    """A whole frozen backbone, the same one without c5, and its c5."""
    whole = build_backbone("resnet18", weights=resnet18_weights, freeze=5).eval()
    backbone = build_backbone("resnet18", weights=resnet18_weights, freeze=5).eval()
    return whole, backbone, backbone.pop_stage("c5")


def test_a_popped_stage_leaves_the_backbone(c4_form):
    _, backbone, _ = c4_form
    assert [spec.name for spec in backbone.feature_specs] == ["c2", "c3", "c4"]
    assert backbone.size_divisor == 16
    assert not any(key.startswith("layer4") for key in backbone.state_dict())


def test_a_popped_stage_computes_c5_from_c4(c4_form):
    whole, backbone, stage = c4_form
    images = torch.randn(1, 3, 64, 64)
    features = backbone(images)
    assert list(features) == ["c2", "c3", "c4"]
    assert torch.equal(stage(features["c4"]), whole(images)["c5"])
    assert stage.spec == whole.feature_specs[-1]


def test_a_popped_stage_stays_frozen(c4_form):
    _, _, stage = c4_form
    assert not any(parameter.requires_grad for parameter in stage.parameters())
    assert not any(module.training for module in stage.train().modules())


def test_only_the_deepest_stage_can_be_popped(c4_form):
    _, backbone, _ = c4_form
    with input_error("must be the backbone's deepest, c4", "'c5'"):
        backbone.pop_stage("c5")


def test_logits_need_the_stage_that_was_popped():
    backbone = build_backbone("resnet18", num_classes=3)
    backbone.pop_stage("c5")
    with input_error("logits", "deepest stage"):
        backbone.logits(torch.randn(1, 3, 64, 64))
