"""Against the installed segmentation_models_pytorch."""

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers import input_error, randomise, relative_error

from detbackbones import build_backbone
from detbackbones.integrations.smp import DetBackbonesEncoder, register_encoder

NARROW = dict(encoder_weights=None, classes=2)


@pytest.fixture
def encoder(source) -> str:
    """Name of a registered encoder with weights; its output stride is smp's to choose."""
    register_encoder("test-resnet18", source | dict(type="resnet18"))
    return "test-resnet18"


def test_unet_equals_smps_own_and_has_its_keys(images):
    expected = randomise(smp.Unet("resnet18", **NARROW)).eval()
    model = smp.Unet("detbackbones-resnet18", **NARROW).eval()
    assert model.load_state_dict(expected.state_dict())
    assert relative_error(model(images), expected(images)) < 1e-4  # of convolutions in another order: 1.4e-5 with AVX2


@pytest.mark.parametrize("depth,stride", [(1, 32), (3, 32), (5, 32), (5, 16), (5, 8)])
def test_features_are_ours(depth, stride, encoder, source, images):
    levels = ("c1", "c2", "c3", "c4", "c5")[:depth]
    plug = smp.encoders.get_encoder(encoder, depth=depth, output_stride=stride).eval()
    ours = build_backbone(source | dict(type="resnet18", output_stride=stride), out_features=levels).eval()
    features = plug(images)
    assert torch.equal(features[0], images)
    assert all(torch.equal(a, b) for a, b in zip(features[1:], ours(images).values(), strict=True))
    assert plug.out_channels == [3, *(spec.channels for spec in ours.feature_specs)]
    assert plug.output_stride == ours.feature_specs[-1].stride
    assert list(plug.get_stages()) == [2 ** int(name[1:]) for name in levels if name in ("c4", "c5")]


@pytest.mark.parametrize("arguments", [dict(arch="Unet"), dict(arch="DeepLabV3Plus", encoder_output_stride=8)])
def test_models_train(arguments, encoder, images):
    model = smp.create_model(encoder_name=encoder, **arguments, **NARROW)
    labels = torch.ones(2, 64, 96, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
        assert model.encoder.body.conv1.weight.grad.abs().max() > 0
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]


def test_other_channels_adapt_the_weights(encoder, source):
    model = smp.Unet(encoder, in_channels=4, **NARROW).eval()
    ours = build_backbone(source | dict(type="resnet18"), in_channels=4).eval()
    images = torch.randn(1, 4, 64, 64)
    assert model.encoder.out_channels[0] == 4
    assert torch.equal(model.encoder(images)[-1], ours(images)["c5"])


def test_saved_models_come_back(encoder, images, tmp_path):
    model = smp.DeepLabV3Plus(encoder, encoder_output_stride=16, **NARROW).eval()
    model.save_pretrained(tmp_path)
    again = smp.from_pretrained(str(tmp_path)).eval()
    assert torch.equal(again(images), model(images))


def test_a_run_as_encoder(run, images):
    folder, detector = run
    register_encoder("test-run", folder)
    plug = smp.encoders.get_encoder("test-run").eval()
    assert torch.equal(plug(images)[-1], detector.backbone(images)["c5"])
    assert plug.body.preprocess.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_what_cannot_be_honoured():
    with input_error("resnet50", "another name"):
        register_encoder("resnet50", "resnet50")
    with input_error("encoder_depth", "0"):
        DetBackbonesEncoder("resnet18", depth=0)
    with input_error("output_stride", "4"):
        DetBackbonesEncoder("resnet18", output_stride=4)
