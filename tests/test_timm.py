"""Any timm network behind the same contract."""

import pickle

import pytest
import timm
import torch
from helpers import randomise, relative_error

from detbackbones import InputError, build_backbone, build_detector, build_neck, describe, verify_dilation

ARGUMENTS = dict(pretrained=False, features_only=True)


@pytest.mark.parametrize("model,strides", [("resnet18", {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}),
                                           ("convnext_atto", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),
                                           ("mobilenetv3_small_050", {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}),
                                           ("regnety_002", {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32})])  # fmt: skip
def test_features_and_specs_are_timms(model, strides):
    backbone = build_backbone(f"timm:{model}", out_features=tuple(strides)).eval()
    theirs = timm.create_model(model, **ARGUMENTS).eval()
    theirs.load_state_dict(randomise(backbone.network).state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for spec, ours, other in zip(backbone.feature_specs, backbone(images).values(), theirs(images)):
            assert relative_error(ours, other) <= 1e-5
            assert ours.shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
    assert {s.name: s.stride for s in backbone.feature_specs} == strides
    assert backbone.size_divisor == 32 and build_neck("fpn", backbone.feature_specs).feature_specs[-1].level == 6


def test_channels_come_first_even_where_timm_has_them_last():
    backbone = build_backbone("timm:swin_tiny_patch4_window7_224").eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 224, 224))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        "c2": (1, 96, 56, 56), "c3": (1, 192, 28, 28), "c4": (1, 384, 14, 14), "c5": (1, 768, 7, 7)}  # fmt: skip


def test_deep_stages_that_nobody_asked_for_are_not_built():
    assert [s.name for s in build_backbone("timm:resnet18", out_features=("c2", "c3")).built_specs] == ["c1", "c2", "c3"]
    assert not any("layer4" in k for k in build_backbone("timm:resnet18", out_features=("c2", "c3")).state_dict())


@pytest.mark.parametrize("model,output_stride,exact", [("resnet18", 8, True), ("resnet18d", 16, True), ("resnet18d", 8, False),
                                                       ("resnetaa34d", 16, False), ("mobilenetv3_small_050", 16, False)])  # fmt: skip
def test_dilation_that_is_not_exact_says_so(model, output_stride, exact, recwarn):
    backbone = build_backbone(f"timm:{model}", output_stride=output_stride)
    assert backbone.feature_specs[-1].stride == output_stride and backbone.feature_specs[-1].dilation == 32 // output_stride
    said = [str(w.message) for w in recwarn if "is not exact" in str(w.message)]
    assert bool(said) == bool(backbone.identity_left) == (not exact)
    assert ("is off by" in str(describe(f"timm:{model}", output_stride=output_stride))) == (not exact)
    assert (max(verify_dilation(f"timm:{model}", (128, 160), output_stride=output_stride).values()) <= 1e-4) == exact


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "timm_resnet18.pth"
    torch.save(randomise(timm.create_model("resnet18", pretrained=False)).state_dict(), path)
    return str(path)


def test_weights_freezing_and_frozen_norm(weights):
    backbone = build_backbone("timm:resnet18", weights=weights, freeze=2).train()
    state = torch.load(weights, weights_only=True)
    assert torch.equal(backbone.network.conv1.weight, state["conv1.weight"])
    assert not any("num_batches_tracked" in k for k in backbone.state_dict())  # frozen
    fixed = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "layer1"} and {level.weights for level in describe(backbone).levels[2:]} == {"trains"}
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    live = build_backbone("timm:resnet18", weights=weights, norm="batch", freeze=1).train()
    before = {k: v.clone() for k, v in live.state_dict().items() if "running" in k}
    live(torch.randn(2, 3, 64, 64))
    moved = {k.split(".")[1] for k, v in live.state_dict().items() if k in before and not torch.equal(v, before[k])}
    assert moved == {"layer1", "layer2", "layer3", "layer4"}
    assert len(pickle.loads(pickle.dumps(backbone)).feature_specs) == 4
    rebuilt = build_backbone("timm:resnet18", weights="gone.pth", freeze=2, load_weights=False)
    rebuilt.load_state_dict(backbone.state_dict())


def test_other_image_channels(weights):
    backbone = build_backbone("timm:resnet18", weights=weights, in_channels=4)
    assert backbone.preprocess(torch.zeros(1, 4, 8, 8, dtype=torch.uint8)).shape == (1, 4, 8, 8)
    assert backbone.network.conv1.weight.shape[1] == 4


def test_a_stem_without_a_feature_freezes_too(tmp_path):
    path = tmp_path / "convnext.pth"
    torch.save(timm.create_model("convnext_atto", pretrained=False).state_dict(), path)
    backbone = build_backbone("timm:convnext_atto", weights=str(path), freeze=1)
    assert {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad} == {"stem_0", "stem_1"}
    backbone = build_backbone("timm:convnext_atto", weights=str(path), freeze=2)
    assert {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad} == {"stem_0", "stem_1", "stages_0"}


def test_in_a_detector():
    detector = build_detector(dict(type="faster_rcnn", backbone=dict(type="timm", model="resnet18", output_stride=8), num_classes=3,
                                   neck=dict(type="fpn", out_channels=16), box_head_dim=16))  # fmt: skip
    assert [s.stride for s in detector.neck.feature_specs] == [4, 8, 8, 8, 16]
    target = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    losses = detector.train()([torch.rand(3, 64, 64)], [target])
    assert all(v.isfinite() for v in losses.values())


@pytest.mark.parametrize("arguments,message", [
    (dict(type="timm:resnet51"), "timm has no model 'resnet51'; did you mean resnet5"),
    (dict(type="timm:vit_tiny_patch16_224"), "no pyramid"),
    (dict(type="timm:densenet121", output_stride=16), "timm cannot build densenet121 with output_stride=16"),
    (dict(type="timm:resnet18", out_features=("c6",)), "no feature 'c6'"),
    (dict(type="timm:resnet18", norm="group"), "'frozen' or 'batch'"),
    (dict(type="timm:resnet18", freeze=2), "random layers"),
    (dict(type="timm:resnet18", groups=2), "no argument 'groups'"),
    (dict(type="timm:resnet18", weights="timm:a1_in1"), "did you mean a1_in1k"),
    (dict(type="timm:resnet18", weights="nowhere.pth"), "nowhere.pth does not exist"),
    (dict(type="timm:convnext_atto", weights="x.pth", load_weights=False, norm="frozen"), "no batch norm"),
    (dict(type="timm:hrnet_w18_small", weights="x.pth", load_weights=False, freeze=1), "as a whole"),
    (dict(type="timm"), "missing a required argument: 'model'"),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        build_backbone(arguments)
