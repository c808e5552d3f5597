import copy
import itertools
import pickle

import pytest
import torch
import torchvision
from helpers import randomise, relative_error
from torch import nn

from detbackbones import InputError, build_backbone, list_backbones

PLAIN = [n for n in list_backbones() if not n.endswith(("_dc5", "_dilated"))]
DILATIONS = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize("name", PLAIN)
def test_equals_torchvision(name):
    """Same keys, and the same C2-C5 from torchvision's own random state dict."""
    theirs = randomise(torchvision.models.get_model(name, weights=None)).eval()
    ours = build_backbone(name).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 65, 97)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    with torch.no_grad():
        features = ours(images)
        for level, stage in zip(("c2", "c3", "c4", "c5"), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
            x = stage(x)
            assert relative_error(features[level], x) <= 1e-5


@pytest.mark.parametrize("replace", DILATIONS)
def test_dilation_equals_torchvision(replace):
    theirs = randomise(torchvision.models.resnet50(replace_stride_with_dilation=list(replace))).eval()
    ours = build_backbone("resnet50", replace_stride_with_dilation=replace).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 64, 96)
    expected = nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        assert relative_error(ours(images)["c5"], expected(images)) <= 1e-5


@pytest.mark.parametrize("replace", DILATIONS)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_trous_identity(name, replace):
    """Dilated features sampled at the removed strides are the undilated ones, at sides that are no multiple of 32."""
    plain = randomise(build_backbone(name)).eval()
    dilated = build_backbone(name, replace_stride_with_dilation=replace).eval()
    dilated.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        for spec, reference, (key, feature) in zip(plain.feature_specs, plain(images).values(), dilated(images).items()):
            own = next(s for s in dilated.feature_specs if s.name == key)
            step = spec.stride // own.stride
            assert relative_error(feature[..., ::step, ::step], reference) <= 1e-4


@pytest.mark.parametrize("name", list_backbones())
def test_specs_are_what_comes_out(name):
    with torch.device("meta"):
        backbone = build_backbone(name, out_features=("c1", "c2", "c3", "c4", "c5"))
        features = backbone(torch.zeros(1, 3, 256, 320))
    assert list(features) == [s.name for s in backbone.feature_specs]
    for spec, feature in zip(backbone.feature_specs, features.values()):
        assert feature.shape == (1, spec.channels, 256 // spec.stride, 320 // spec.stride)
        assert spec.level == int(spec.name[1:])
    deepest = backbone.feature_specs[-1]
    assert deepest.stride == backbone.size_divisor == {"dc5": 16, "dilated": 8}.get(name.rsplit("_", 1)[-1], 32)
    assert deepest.stride * deepest.dilation == 32


@pytest.mark.parametrize(
    "name,millions", [("resnet18", 11.689512), ("resnet34", 21.797672), ("resnet50", 25.557032), ("resnet101", 44.549160),
                      ("resnet152", 60.192808), ("resnext50_32x4d", 25.028904), ("resnext101_32x8d", 88.791336)])  # fmt: skip
def test_published_parameter_counts(name, millions):
    with torch.device("meta"):
        backbone = build_backbone(name)
    classifier = (backbone.feature_specs[-1].channels + 1) * 1000
    assert sum(p.numel() for p in backbone.parameters()) + classifier == round(millions * 1e6)


def test_stages_that_nobody_asked_for_are_not_built():
    backbone = build_backbone("resnet18", out_features=("c2", "c3"))
    assert not any(key.startswith(("layer3", "layer4")) for key in backbone.state_dict())
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == ["c2", "c3"]
    assert backbone.size_divisor == 8


@pytest.fixture(scope="module")
def resnet18_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(randomise(torchvision.models.resnet18()).state_dict(), path)
    return path


def test_weights_from_a_path_freeze_and_stay_frozen(resnet18_weights):
    backbone = build_backbone("resnet18", weights=str(resnet18_weights), freeze=2).train()
    state = torch.load(resnet18_weights, weights_only=True)
    assert all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
    fixed = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    assert fixed == {n for n, _ in backbone.named_parameters() if n.startswith(("conv1", "bn1", "layer1"))}
    before = copy.deepcopy(backbone.state_dict())
    sum(f.sum() for f in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())  # no statistic moves


def test_frozen_parts_with_live_norm_keep_their_statistics(resnet18_weights):
    backbone = build_backbone("resnet18", weights=str(resnet18_weights), norm="batch", freeze=1).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))
    after = backbone.state_dict()
    moved = {k for k in after if "running" in k and not torch.equal(after[k], before[k])}
    assert moved and not any(k.startswith("bn1.") for k in moved)


def test_torchvision_named_weights_come_from_its_cache(tmp_path, monkeypatch, resnet18_weights):
    """torchvision's loader finds the file by the name in its enum; without it and offline the error says where it goes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    target = folder / url.rsplit("/", 1)[1]
    target.write_bytes(resnet18_weights.read_bytes())
    backbone = build_backbone("resnet18_dilated", weights="torchvision:IMAGENET1K_V1")
    assert torch.equal(backbone.conv1.weight, torch.load(resnet18_weights, weights_only=True)["conv1.weight"])
    target.unlink()

    def offline(*_, **__):
        raise __import__("urllib.error", fromlist=["URLError"]).URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(InputError, match="no route to host.*put the file at") as error:
        build_backbone("resnet18", weights="torchvision:IMAGENET1K_V1")
    assert str(target) in str(error.value)


def test_pickle_deepcopy_and_state_dict_round_trip():
    backbone = randomise(build_backbone("resnet18_dc5")).eval()
    images = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        expected = backbone(images)["c5"]
        for other in (pickle.loads(pickle.dumps(backbone)), copy.deepcopy(backbone)):
            assert torch.equal(other(images)["c5"], expected)


def test_preprocess():
    backbone = build_backbone("resnet18")
    image = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(image / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(backbone.preprocess(image), expected)
    torch.testing.assert_close(backbone.preprocess(image / 255), expected)
    with pytest.raises(TypeError, match="int64"):
        backbone.preprocess(image.long())


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(type="resnet101_dilatd"), "did you mean resnet101_dilated"),
        (dict(type="resnet18", output_strid=8), "did you mean output_stride"),
        (dict(type="resnet18", output_stride=12), "8, 16 or 32"),
        (dict(type="resnet18", output_stride=8, replace_stride_with_dilation=(False, True, True)), "not both"),
        (dict(type="resnet18", out_features=("c2", "c7")), "unknown feature 'c7'"),
        (dict(type="resnet18", groups=32), "BasicBlock"),
        (dict(type="resnet18", norm="frozen"), "random layers"),
        (dict(type="resnet18", freeze=2), "random layers"),
        (dict(type="resnet18", norm="frosen"), "did you mean frozen"),
        (dict(type="resnet18", weights="torchvision:IMAGENET1K_V3"), "did you mean IMAGENET1K_V1"),
        (dict(type="resnet18", weights="nowhere.pth"), "does not exist"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        build_backbone(arguments)


def test_weights_that_do_not_fit_are_listed(tmp_path, resnet18_weights):
    with pytest.raises(InputError, match=r"missing layer1.0.conv3.weight|wrong shape layer1.0.conv1.weight"):
        build_backbone("resnet50", weights=str(resnet18_weights))


def test_wrong_input():
    backbone = build_backbone("resnet18")
    for bad in (torch.zeros(3, 32, 32), torch.zeros(1, 4, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="N x 3 x H x W"):
            backbone(bad)
    assert backbone.eval()(torch.zeros(1, 3, 1, 1))["c5"].shape == (1, 512, 1, 1)
