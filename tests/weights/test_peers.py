"""Networks of torchvision, timm and transformers, and Caffe2's and CIFAR's files: equal features through `weights=`."""

import json
import pickle
import re

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from helpers import input_error, largest_error, randomise, relative_error
from safetensors.torch import save_file
from shared_data import shared_folder
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from detbackbones import build_backbone
from detbackbones.weights.cifar import move_padding_behind, move_padding_to_both_sides

CIFAR = ("resnet20", "resnet32", "resnet44", "resnet56")


def image():
    return torch.randn(1, 3, 65, 98)


@torch.no_grad()
def features_of(weights, backbone, images, **arguments):
    return build_backbone(backbone, weights=str(weights), **arguments).eval()(images)


def torchvision_features(model, images):
    layers = {f"layer{number}": f"c{number + 1}" for number in (1, 2, 3, 4)}
    with torch.no_grad():
        return dict(IntermediateLayerGetter(model.eval(), layers)(images))


@pytest.mark.parametrize(
    "name", ["resnet50", "resnext50_32x4d", pytest.param("wide_resnet50_2", marks=pytest.mark.slow)]
)
def test_torchvision(name, tmp_path):
    model = randomise(getattr(torchvision.models, name)())
    torch.save(model.state_dict(), tmp_path / "w.pth")
    images = image()
    assert largest_error(features_of(tmp_path / "w.pth", name, images), torchvision_features(model, images)) <= 1e-5


def test_the_dilated_backbone_of_torchvisions_segmentation_models(tmp_path):
    model = randomise(torchvision.models.segmentation.fcn_resnet50(weights_backbone=None))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    images = image()
    features = features_of(tmp_path / "w.pth", "resnet50_dilated", images, dilation_convention="torchvision")
    assert largest_error(features, torchvision_features(model.backbone, images)) <= 1e-5


@pytest.mark.parametrize("name", ["resnet50", "resnet50d", "resnext50_32x4d"])
def test_timm(name, tmp_path):
    model = randomise(timm.create_model(name)).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    images = image()
    with torch.no_grad():
        theirs = model.forward_intermediates(images, indices=4, intermediates_only=True)
    expected = {f"c{level}": feature for level, feature in enumerate(theirs, start=2)}
    assert largest_error(features_of(tmp_path / "w.safetensors", name, images), expected) <= 1e-5


@pytest.mark.parametrize(
    "name,options",
    [
        ("resnet18", dict(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])),
        ("resnet50", {}),
        ("resnet50", dict(downsample_in_bottleneck=True)),
    ],
)
def test_transformers(name, options, tmp_path):
    from transformers import ResNetBackbone, ResNetConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    model = randomise(ResNetBackbone(ResNetConfig(**options, out_features=stages))).eval()
    model.save_pretrained(tmp_path)
    images = image()
    with torch.no_grad():
        expected = {f"c{level}": feature for level, feature in enumerate(model(images).feature_maps, start=2)}
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        assert largest_error(features_of(weights, name, images), expected) <= 1e-5


def test_a_classifier_of_transformers(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    options = dict(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=5)
    model = randomise(ResNetForImageClassification(ResNetConfig(**options))).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    backbone = build_backbone("resnet18", weights=str(tmp_path), num_classes=5).eval()
    images = image()
    with torch.no_grad():
        assert relative_error(backbone.logits(images), model(images).logits) <= 1e-5
    assert backbone.preprocess.mean.flatten().tolist() == [0.5] * 3
    assert backbone.weight_card.class_names == tuple(f"LABEL_{number}" for number in range(5))


def test_without_its_config_a_file_of_transformers_is_ambiguous(tmp_path):
    from transformers import ResNetBackbone, ResNetConfig

    model = ResNetBackbone(ResNetConfig())
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with input_error("Hugging Face", "config.json", "stride_in_1x1"):
        build_backbone("resnet50", weights=str(tmp_path))
    assert not build_backbone("resnet50", weights=str(tmp_path), stride_in_1x1=False).weight_card.stride_in_1x1


BLOB_NAMES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def caffe2_name(key: str) -> str:
    """Return the name that Caffe2 has for a key of torchvision."""
    names = [
        (r"conv1\.weight", "conv1_w"),
        (r"bn1\.(\w+)", lambda m: f"res_conv1_bn_{BLOB_NAMES[m[1]]}"),
        (r"fc\.(\w)\w+", r"fc1000_\1"),
        (r"layer(\d)\.(\d+)\.conv(\d)\.weight", lambda m: f"res{int(m[1]) + 1}_{m[2]}_branch2{'abc'[int(m[3]) - 1]}_w"),
        (
            r"layer(\d)\.(\d+)\.bn(\d)\.(\w+)",
            lambda m: f"res{int(m[1]) + 1}_{m[2]}_branch2{'abc'[int(m[3]) - 1]}_bn_{BLOB_NAMES[m[4]]}",
        ),
        (r"layer(\d)\.(\d+)\.downsample\.0\.weight", lambda m: f"res{int(m[1]) + 1}_{m[2]}_branch1_w"),
        (
            r"layer(\d)\.(\d+)\.downsample\.1\.(\w+)",
            lambda m: f"res{int(m[1]) + 1}_{m[2]}_branch1_bn_{BLOB_NAMES[m[3]]}",
        ),
    ]
    return next(re.sub(pattern, to, key) for pattern, to in names if re.fullmatch(pattern, key))


@pytest.mark.parametrize("folded", [True, False])
def test_blobs_of_caffe2(folded, tmp_path):
    """Detectron's files: BGR, Caffe's strides, norms with or without statistics."""
    model = randomise(torchvision.models.resnet50()).eval()
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    if folded:
        for key in [key for key in state if key.endswith("running_var")]:
            state[key].fill_(1 - 1e-5)
            state[key.replace("var", "mean")].zero_()
        model.load_state_dict(state, strict=False)
        state = {key: value for key, value in state.items() if "running" not in key}
    blobs = {caffe2_name(key): value.numpy() for key, value in state.items()}
    blobs |= {"conv1_b": torch.zeros(64).numpy(), "fc1000_w_momentum": torch.ones(1).numpy()}
    with open(tmp_path / "R-50.pkl", "wb") as file:
        pickle.dump({"blobs": blobs}, file)
    images = image()
    expected = torchvision_features(model, images.flip(1))  # it takes BGR
    backbone = build_backbone("resnet50", weights=str(tmp_path / "R-50.pkl")).eval()
    with torch.no_grad():
        assert largest_error(backbone(images), expected) <= 1e-5
    pixels = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    theirs = pixels.float() - torch.tensor([122.7717, 115.9465, 102.9801]).view(3, 1, 1)
    torch.testing.assert_close(backbone.preprocess(pixels), theirs)
    with input_error("stride_in_1x1=False", "contradicts", "R-50.pkl"):
        build_backbone("resnet50", weights=str(tmp_path / "R-50.pkl"), stride_in_1x1=False)


class OptionA(nn.Module):
    """The network of the CIFAR files: shortcuts without parameters pad zero channels on both sides."""

    def __init__(self, blocks: int, state: dict):
        super().__init__()
        self.blocks, self.state = blocks, state

    def conv_norm(self, x, conv, norm, stride=1):
        s = self.state
        x = F.conv2d(x, s[f"{conv}.weight"], stride=stride, padding=1)
        moments = (s[f"{norm}.running_mean"], s[f"{norm}.running_var"])
        return F.batch_norm(x, *moments, s[f"{norm}.weight"], s[f"{norm}.bias"])

    def forward(self, x):
        x = F.relu(self.conv_norm(x, "conv1", "bn1"))
        for stage in (1, 2, 3):
            for block in range(self.blocks):
                name = f"layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                out = F.relu(self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride))
                out = self.conv_norm(out, f"{name}.conv2", f"{name}.bn2")
                if stride == 2:
                    quarter = out.shape[1] // 4
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
                x = F.relu(out + x)
        return F.linear(x.mean((2, 3)), self.state["linear.weight"], self.state["linear.bias"])


@pytest.mark.parametrize("name", CIFAR)
def test_cifar(name):
    (path,) = shared_folder("cifar-weights", "CIFAR_WEIGHTS").glob(f"{name}-*.th")
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in content["state_dict"].items()}
    images = torch.randn(4, 3, 32, 32)
    backbone = build_backbone(f"{name}_cifar", weights=str(path), num_classes=10).eval()
    with torch.no_grad():
        expected = OptionA((int(name[6:]) - 2) // 6, state)(images)
        assert relative_error(backbone.logits(images), expected) <= 1e-5
    assert f"{content['best_prec1']:.2f}" in backbone.weight_card.published


def test_the_permutation_of_channels_can_be_undone():
    state = build_backbone("resnet20_cifar", num_classes=10).state_dict()
    converted = move_padding_behind(state)
    assert not torch.equal(converted["fc.weight"], state["fc.weight"])
    back = move_padding_to_both_sides(converted)
    assert all(torch.equal(back[key], value) for key, value in state.items())
