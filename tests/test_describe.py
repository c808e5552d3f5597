"""describe(): its figures confirmed by measuring, not by repeating the formula."""

import json

import pytest
import torch
import torchvision

from detbackbones import InputError, build_backbone, describe
from detbackbones.layers.norm import convert_norm


def measured_field(backbone, level, size):
    """Side of the input window that reaches the middle cell: the gradient of that cell, in float64, since the corners of
    the window get gradients that float32 rounds to zero. All-positive weights let nothing cancel."""
    backbone = convert_norm(backbone, "frozen").double().eval()
    for parameter in backbone.parameters():
        torch.nn.init.constant_(parameter, 1 / parameter[0].numel())
    images = torch.rand(1, 3, size, size, dtype=torch.double, requires_grad=True)
    feature = backbone(images)[level]
    middle = feature.shape[-1] // 2
    feature[0, 0, middle, middle].backward()
    reached = images.grad[0].abs().sum(0) > 0
    rows, columns = reached.any(1).nonzero(), reached.any(0).nonzero()
    assert rows.min() > 0 and rows.max() < size - 1, "the image is too small to hold the window"
    return (rows.max() - rows.min() + 1).item(), (columns.max() - columns.min() + 1).item()


@pytest.mark.parametrize("arguments,levels", [
    (dict(type="resnet18"), ("c1", "c2", "c3", "c4")), (dict(type="resnet50"), ("c2", "c3", "c4")),
    (dict(type="resnet50", stride_in_1x1=True), ("c3", "c4")), (dict(type="resnet18d"), ("c1", "c3")),
    (dict(type="resnet18_dilated"), ("c4",)), (dict(type="resnet20_cifar"), ("c1", "c2", "c4")),
    pytest.param(dict(type="resnet50_dilated", multi_grid=(1, 2, 4)), ("c5",), marks=pytest.mark.slow),
    pytest.param(dict(type="resnet50d_dc5"), ("c5",), marks=pytest.mark.slow),
])  # fmt: skip
def test_receptive_field(arguments, levels):
    told = {level.name: level.receptive_field for level in describe(arguments).levels}
    for level in levels:
        backbone = build_backbone(arguments, out_features=(level,))
        if "multi_grid" in arguments:
            backbone = build_backbone(arguments)
        side = told[level]
        assert measured_field(backbone, level, side + 80) == (side, side)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext101_32x8d", "wide_resnet50_2"])
def test_operations_are_twice_torchvisions_published_multiply_adds(name):
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["_ops"]
    ours = describe(name, (224, 224), num_classes=1000)
    classifier = 2 * build_meta(name).feature_specs[-1].channels * 1000 / 1e9
    assert (ours.gflops + classifier) / 2 == pytest.approx(published, abs=2e-3)
    assert sum(level.gflops for level in ours.levels) == pytest.approx(ours.gflops)


def build_meta(name, **arguments):
    with torch.device("meta"):
        return build_backbone(name, **arguments)


def test_deformable_operations_are_those_of_the_convolution_and_its_offsets():
    plain, deform = (describe("resnet18", (224, 224), deform_stages=s) for s in ((), ("c5",)))
    offsets = 2 * 2 * 512 * 27 * 9 * 7 * 7 / 1e9  # two blocks, 512 channels to 27, 3x3, on 7 x 7
    assert deform.levels[-1].gflops - plain.levels[-1].gflops == pytest.approx(offsets)
    assert deform.levels[-1].receptive_field is None and "deformable stages" in str(deform)


def test_data_and_text():
    described = describe("resnet101_dilated")
    data = json.loads(json.dumps(described.to_dict()))
    assert [(level["name"], level["channels"], level["stride"], level["dilation"]) for level in data["levels"]] == [
        ("c1", 64, 2, 1), ("c2", 256, 4, 1), ("c3", 512, 8, 1), ("c4", 1024, 8, 2), ("c5", 2048, 8, 4)]  # fmt: skip
    text = str(described)
    assert "2048" in text and "42.500 M" in text and "c1*" in text and "a multiply-add is two" in text
    assert "no stage is dilated" in str(describe("resnet50")) and "multi_grid" in str(describe("resnet18", multi_grid=(2, 2)))


def test_what_is_fixed(tmp_path):
    path = tmp_path / "r18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    rows = [(level.weights, level.statistics, level.affine)
            for level in describe(build_backbone("resnet18", weights=str(path), norm="batch", freeze=2)).levels]  # fmt: skip
    assert rows == [("fixed",) * 3] * 2 + [("trains", "live", "trains")] * 3
    rows = [(level.weights, level.statistics, level.affine)
            for level in describe("resnet18", weights="unread.pth", freeze=1).levels]  # fmt: skip
    assert rows == [("fixed",) * 3] + [("trains", "fixed", "fixed")] * 4
    rows = [(level.statistics, level.affine) for level in describe("resnet18", norm="batch_eval").levels]
    assert set(rows) == {("fixed", "trains")}
    assert {level.statistics for level in describe("resnet18", norm="group").levels} == {"none"}


def test_a_built_backbone_is_not_changed():
    backbone = build_backbone("resnet18").eval()
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    describe(backbone, (64, 64))
    assert not backbone.training and all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
    with pytest.raises(InputError, match="did you mean resnet18"):
        describe("resnet17")
