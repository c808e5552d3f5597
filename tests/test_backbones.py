"""The contract of every backbone: names, geometry, state dict, memory, arguments, errors."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from helpers import randomise, relative_error
from timm.models import adapt_input_conv
from torch import nn

from detbackbones import BACKBONES, InputError, build_backbone, list_backbones
from detbackbones.backbones.blocks import DeformConv2d, PadShortcut

NAMES = [n for n in list_backbones() if n != "timm"]
ALL = ("c1", "c2", "c3", "c4", "c5")


def test_names():
    assert {"resnet101_dilated", "resnext50_32x4d_dc5", "resnet50d", "resnet1202_cifar", "timm"} <= set(list_backbones())
    assert list_backbones("*_cifar") == [f"resnet{n}_cifar" for n in (20, 32, 44, 56, 110, 1202)]
    assert "timm:resnet50" in list_backbones("timm:resnet5*") and list_backbones("timm:no_such*") == []
    with pytest.raises(KeyError, match="already registered"):
        BACKBONES.register_module(name="resnet50", module=nn.Identity)


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_what_comes_out(name):
    levels = ALL[:4] if "cifar" in name else ALL
    with torch.device("meta"):
        backbone = build_backbone(name, out_features=levels)
        features = backbone(torch.zeros(1, 3, 256, 320))
    assert list(features) == [s.name for s in backbone.feature_specs] == list(levels)
    for spec, feature in zip(backbone.feature_specs, features.values()):
        assert feature.shape == (1, spec.channels, 256 // spec.stride, 320 // spec.stride)
        assert spec.level == int(spec.name[1:])
    deepest = backbone.feature_specs[-1]
    full = 4 if "cifar" in name else 32
    assert deepest.stride == backbone.size_divisor == {"dc5": 16, "dilated": 8}.get(name.rsplit("_", 1)[-1], full)
    assert deepest.stride * deepest.dilation == full


@pytest.mark.parametrize("name,parameters", [
    ("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032), ("resnet101", 44_549_160),
    ("resnet152", 60_192_808), ("resnext50_32x4d", 25_028_904), ("resnext101_32x8d", 88_791_336),
    ("resnext101_64x4d", 83_455_272), ("wide_resnet50_2", 68_883_240), ("wide_resnet101_2", 126_886_696)])  # fmt: skip
def test_parameter_counts_of_torchvisions_weights(name, parameters):
    with torch.device("meta"):
        backbone = build_backbone(name, num_classes=1000)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert weights.meta["num_params"] == parameters


@pytest.mark.parametrize("name", ["resnet18d", "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnext101_32x4d"])
def test_parameter_counts_of_timm(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in build_backbone(name, num_classes=1000).parameters()) == \
            sum(p.numel() for p in timm.create_model(name).parameters())  # fmt: skip


@pytest.mark.parametrize("name,millions", [("resnet20_cifar", 0.27), ("resnet32_cifar", 0.46), ("resnet44_cifar", 0.66),
                                           ("resnet56_cifar", 0.85), ("resnet110_cifar", 1.7), ("resnet1202_cifar", 19.4)])  # fmt: skip
def test_cifar_as_in_the_paper(name, millions):
    """6n + 2 layers, the parameter counts of table 6, strides 1, 2, 4, shortcuts without parameters."""
    with torch.device("meta"):
        backbone = build_backbone(name, num_classes=10)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2 if millions < 1 else 1) == millions
    weighted = [m for m in backbone.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == int(name.removeprefix("resnet").removesuffix("_cifar"))
    assert [s.stride for s in backbone.feature_specs] == [1, 2, 4] and not any("downsample" in k for k in backbone.state_dict())


def test_the_cifar_shortcut_subsamples_and_pads_channels():
    block = build_backbone("resnet20_cifar").layer2[0]
    x = torch.randn(1, 16, 9, 9)
    assert isinstance(block.downsample, PadShortcut)
    out = block.downsample(x)
    assert torch.equal(out[:, :16], x[..., ::2, ::2]) and out.shape == (1, 32, 5, 5) and not out[:, 16:].any()


def test_stages_that_nobody_asked_for_are_not_built():
    backbone = build_backbone("resnet18", out_features=("c3", "c1"))
    assert not any(key.startswith(("layer3", "layer4")) for key in backbone.state_dict())
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == ["c1", "c3"]  # shallow to deep, whatever the order asked
    assert backbone.size_divisor == 8


KINDS = [dict(type="resnet18_dc5"), dict(type="resnet50"), dict(type="resnext50_32x4d"), dict(type="resnet18d_dilated"),
         dict(type="resnet20_cifar"), dict(type="resnet18", deform_stages=("c5",)), dict(type="timm:resnet18")]  # fmt: skip
OTHERS = [pytest.param(dict(type=n), marks=pytest.mark.slow) for n in NAMES if dict(type=n) not in KINDS]


@pytest.mark.parametrize("arguments", [*KINDS, *OTHERS], ids=lambda a: a["type"])
def test_every_backbone(arguments):
    """Forward, backward, freezing, state dict, pickling, deepcopy, meta device, empty batch, channels_last, tiny images."""
    if arguments["type"] == "resnet1202_cifar":  # six hundred residual sums without normalisation leave float32's range
        backbone = build_backbone(arguments, zero_init_residual=True).eval()
    else:
        backbone = randomise(build_backbone(arguments)).eval()
    images = torch.randn(2, 3, 33, 47)
    features = backbone(images)
    last = list(features)[-1]
    assert features[last].is_contiguous(memory_format=torch.channels_last)
    sum(f.square().mean() for f in features.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    backbone.zero_grad()
    with torch.no_grad():
        again = build_backbone(arguments).eval()
        again.load_state_dict(backbone.state_dict())
        for other in (again, pickle.loads(pickle.dumps(backbone)), copy.deepcopy(backbone)):
            assert torch.equal(other(images)[last], features[last])
        channels = backbone.feature_specs[-1].channels
        assert backbone(images[:0])[last].shape[:2] == (0, channels)
        assert backbone(torch.zeros(1, 3, 1, 1))[last].shape == (1, channels, 1, 1)
    with torch.device("meta"):
        frozen = build_backbone(arguments, weights="unread.pth", load_weights=False, freeze=2).train()
        assert frozen(torch.zeros(1, 3, 64, 64))[last].shape[1] == channels
    fixed = {id(p) for name in ("c1", "c2") for m in frozen.parts[name] for p in m.parameters()}
    assert fixed and fixed == {id(p) for p in frozen.parameters() if not p.requires_grad}


def test_the_classifier():
    backbone = build_backbone("resnet18", num_classes=10, zero_init_residual=True)
    assert backbone.logits(torch.randn(2, 3, 40, 40)).shape == (2, 10)
    assert list(backbone(torch.randn(1, 3, 40, 40))) == list(ALL[1:])
    assert not backbone.layer1[0].bn2.weight.any() and backbone.layer1[0].bn1.weight.all()
    with pytest.raises(InputError, match="num_classes="):
        build_backbone("resnet18").logits(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name,arguments", [("resnet18", {}), ("resnet18d", {}), ("resnet18", {"norm": "batch_eval"})])
def test_checkpointing_changes_memory_not_results(name, arguments):
    """Same gradients, and live statistics count each batch once, though the stages are computed twice."""
    plain = build_backbone(name, **arguments).train()
    checkpointed = build_backbone(name, checkpoint_stages=("c2", "c4"), **arguments).train()
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    kept = []
    for backbone in (plain, checkpointed):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
            loss = sum(f.square().mean() for f in backbone(images).values())
        loss.backward()
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.8 * kept[0]
    for (key, a), b in zip(plain.named_parameters(), checkpointed.parameters()):
        torch.testing.assert_close(b.grad, a.grad, msg=key)
    for (key, a), b in zip(plain.named_buffers(), checkpointed.buffers()):
        assert torch.equal(a, b), key


def test_checkpointed_and_frozen_stages_together(resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights, freeze=3, checkpoint_stages=("c2", "c3", "c4", "c5")).train()
    backbone(torch.randn(2, 3, 64, 64))["c5"].sum().backward()
    trained = {n.split(".")[0] for n, p in backbone.named_parameters() if p.grad is not None}
    assert trained == {"layer3", "layer4"}


def test_deformable_stages(resnet18_weights):
    """Loaded from plain weights; with zero offsets and full masks the plain convolution; offsets get gradients."""
    backbone = build_backbone("resnet18", weights=resnet18_weights, deform_stages=("c4", "c5")).eval()
    plain = build_backbone("resnet18", weights=resnet18_weights).eval()
    deformable = [m for m in backbone.modules() if isinstance(m, DeformConv2d)]
    assert len(deformable) == 4
    for module in deformable:
        nn.init.constant_(module.conv_offset.bias[18:], 40.0)  # sigmoid = 1
    images = torch.randn(1, 3, 65, 97)
    features = backbone(images)
    for a, b in zip(features.values(), plain(images).values()):
        assert relative_error(a, b) <= 1e-5
    features["c5"].square().mean().backward()
    assert all(m.conv_offset.weight.grad[:18].abs().sum() > 0 for m in deformable)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_image_channels_adapt_pretrained_weights_as_timm_does(channels, resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights, in_channels=channels).eval()
    given = torch.load(resnet18_weights, weights_only=True)["conv1.weight"]
    torch.testing.assert_close(backbone.conv1.weight, adapt_input_conv(channels, given))
    image = torch.randint(0, 256, (1, channels, 40, 40), dtype=torch.uint8)
    assert backbone(backbone.preprocess(image))["c5"].shape == (1, 512, 2, 2)
    with pytest.raises(ValueError, match=f"N x {channels} x H x W"):
        backbone(torch.zeros(1, channels + 1, 32, 32))


def test_split_stage_has_one_owner(resnet18_weights):
    """What the head gets from c4 is c5: weights, freezing and geometry go with it and leave the backbone."""
    whole = build_backbone("resnet18", weights=resnet18_weights, freeze=5).eval()
    backbone = build_backbone("resnet18", weights=resnet18_weights, freeze=5)
    stage = backbone.split_stage("c5")
    assert backbone.feature_specs[-1].name == "c4" and backbone.size_divisor == 16 and stage.spec == whole.feature_specs[-1]
    assert not any(k.startswith("layer4") for k in backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    features = backbone.eval()(images)
    assert list(features) == ["c2", "c3", "c4"] and torch.equal(stage(features["c4"]), whole(images)["c5"])
    assert not any(p.requires_grad for p in stage.parameters()) and not any(m.training for m in stage.train().modules())
    with pytest.raises(InputError, match="deepest stage, c4, not 'c5'"):
        backbone.split_stage("c5")


@pytest.fixture(scope="module")
def resnet18_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(randomise(torchvision.models.resnet18()).state_dict(), path)
    return str(path)


def test_torchvision_named_weights_come_from_its_cache(tmp_path, monkeypatch, resnet18_weights):
    """torchvision's loader finds the file by the name in its enum; without it and offline the error says where it goes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    target = folder / url.rsplit("/", 1)[1]
    target.write_bytes(open(resnet18_weights, "rb").read())
    backbone = build_backbone("resnet18_dilated", weights="torchvision:IMAGENET1K_V1")
    assert torch.equal(backbone.conv1.weight, torch.load(resnet18_weights, weights_only=True)["conv1.weight"])
    target.unlink()

    def offline(*_, **__):
        raise __import__("urllib.error", fromlist=["URLError"]).URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(InputError, match="no route to host.*put the file at") as error:
        build_backbone("resnet18", weights="torchvision:IMAGENET1K_V1")
    assert str(target) in str(error.value)


def test_weights_and_the_classifier(resnet18_weights):
    state = torch.load(resnet18_weights, weights_only=True)
    same = build_backbone("resnet18", weights=resnet18_weights, num_classes=1000)
    other = build_backbone("resnet18", weights=resnet18_weights, num_classes=7)
    assert torch.equal(same.fc.weight, state["fc.weight"]) and other.fc.weight.shape == (7, 512)
    assert torch.equal(other.conv1.weight, state["conv1.weight"])


def test_weights_from_safetensors(tmp_path, resnet18_weights):
    from safetensors.torch import save_file

    state = torch.load(resnet18_weights, weights_only=True)
    save_file(state, tmp_path / "r18.safetensors")
    backbone = build_backbone("resnet18", weights=str(tmp_path / "r18.safetensors"))
    assert torch.equal(backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


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
        (dict(type="resnet20_cifar", output_stride=8), "1, 2 or 4"),
        (dict(type="resnet18", output_stride=8, replace_stride_with_dilation=(False, True, True)), "not both"),
        (dict(type="resnet18", replace_stride_with_dilation=(False, True)), "one entry for each of c3, c4, c5, not 2"),
        (dict(type="resnet18", out_features=("c2", "c7")), "unknown feature 'c7'"),
        (dict(type="resnet20_cifar", out_features=("c5",)), "unknown feature 'c5'"),
        (dict(type="resnet18", out_features=()), "empty"),
        (dict(type="resnet18", groups=32), "BasicBlock"),
        (dict(type="resnet18", stride_in_1x1=True), "BasicBlock"),
        (dict(type="resnet18", norm="frozen"), "random layers"),
        (dict(type="resnet18", freeze=2), "random layers"),
        (dict(type="resnet18", freeze=6), "0 to 5"),
        (dict(type="resnet18", norm="frosen"), "did you mean frozen"),
        (dict(type="resnet18", norm="batch", norm_layer=nn.BatchNorm2d), "norm or norm_layer"),
        (dict(type="resnet18", dilation_convention="detectron"), "did you mean detectron2"),
        (dict(type="resnet18", stem="deap"), "did you mean deep"),
        (dict(type="resnet18", deform_stages=("c1",)), "deform_stages"),
        (dict(type="resnet18", multi_grid=(1, 2, 4)), "2 blocks of c5, not 3"),
        (dict(type="resnet18", num_classes=10, out_features=("c2",)), "needs c5"),
        (dict(type="resnet18", weights="torchvision:IMAGENET1K_V3"), "did you mean IMAGENET1K_V1"),
        (dict(type="resnet50d", weights="torchvision:IMAGENET1K_V1"), "torchvision has no resnet50d"),
        (dict(type="resnet18", weights="nowhere.pth"), "does not exist"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        build_backbone(arguments)


def test_weights_that_do_not_fit_are_listed(tmp_path, resnet18_weights):
    with pytest.raises(InputError, match=r"missing layer1.0.conv3.weight|wrong shape layer1.0.conv1.weight"):
        build_backbone("resnet50", weights=resnet18_weights)
    state = torch.load(resnet18_weights, weights_only=True)
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InputError, match="not finite layer2.0.conv1.weight"):
        build_backbone("resnet18", weights=str(tmp_path / "broken.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="text.pth: no file of plain tensors"):
        build_backbone("resnet18", weights=str(tmp_path / "text.pth"))


def test_wrong_input():
    backbone = build_backbone("resnet18")
    for bad in (torch.zeros(3, 32, 32), torch.zeros(1, 4, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="N x 3 x H x W"):
            backbone(bad)
