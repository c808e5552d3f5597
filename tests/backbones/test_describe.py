"""describe(): its figures are compared with measurements and published numbers."""

import copy
import json

import pytest
import torch
import torchvision
from helpers import build_meta, input_error

from detbackbones import build_backbone, describe
from detbackbones.layers.norm import convert_norm


def measured_field(backbone, level, size):
    """Return height and width of the input window that the middle cell of a level depends on.

    The window is where the cell's gradient is not zero: in float64, because gradients at the corners are tiny, and with
    positive weights, because others could cancel.
    """
    backbone = convert_norm(backbone, "frozen").double().eval()
    for parameter in backbone.parameters():
        torch.nn.init.constant_(parameter, 1 / parameter[0].numel())
    images = torch.rand(1, 3, size, size, dtype=torch.double, requires_grad=True)
    feature = backbone(images)[level]
    middle = feature.shape[-1] // 2
    feature[0, 0, middle, middle].backward()
    reached = images.grad[0].abs().sum(0) > 0
    assert not reached[0].any()
    assert not reached[-1].any()
    return reached.any(1).sum().item(), reached.any(0).sum().item()


@pytest.mark.parametrize(
    "cfg,levels",
    [
        (dict(type="resnet18"), ("c1", "c2", "c3", "c4")),
        (dict(type="resnet50"), ("c2", "c3")),
        (dict(type="resnet50", stride_in_1x1=True), ("c3",)),
        (dict(type="resnet18d"), ("c1", "c3")),
        (dict(type="resnet18_dilated"), ("c4",)),
        (dict(type="resnet20_cifar"), ("c1", "c2", "c4")),
        pytest.param(dict(type="resnet50"), ("c4",), marks=pytest.mark.slow),
        pytest.param(dict(type="resnet50", stride_in_1x1=True), ("c4",), marks=pytest.mark.slow),
        pytest.param(dict(type="resnet50_dilated", multi_grid=(1, 2, 4)), ("c5",), marks=pytest.mark.slow),
        pytest.param(dict(type="resnet50d_dc5"), ("c5",), marks=pytest.mark.slow),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "-".join(value),
)
def test_receptive_fields_are_measured_ones(cfg, levels):
    fields = {level.name: level.receptive_field for level in describe(cfg, (64, 64)).levels}
    for level in levels:
        backbone = build_backbone(cfg, out_features=(level,))
        side = fields[level]
        assert measured_field(backbone, level, side + 80) == (side, side)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext101_32x8d", "wide_resnet50_2"])
def test_operations_are_twice_the_multiply_adds_that_torchvision_publishes(name):
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["_ops"]
    description = describe(name, (224, 224))
    classifier = 2 * build_meta(name).feature_specs[-1].channels * 1000 / 1e9
    assert (description.gflops + classifier) / 2 == pytest.approx(published, abs=2e-3)


def test_operations_of_levels_add_up():
    description = describe("resnet18", (224, 224))
    assert sum(level.gflops for level in description.levels) == pytest.approx(description.gflops)


def test_deformable_convolutions_cost_a_convolution_and_their_offsets():
    plain, deformable = (describe("resnet18", (224, 224), deform_stages=stages) for stages in ((), ("c5",)))
    offsets = 2 * 2 * 512 * 27 * 9 * 7 * 7 / 1e9  # two blocks, 512 channels to 27, 3x3, on 7 x 7
    assert deformable.levels[-1].gflops - plain.levels[-1].gflops == pytest.approx(offsets)


def test_deformable_stages_have_no_receptive_field():
    levels = describe("resnet18", (64, 64), deform_stages=("c4",)).levels
    assert [level.receptive_field is None for level in levels] == [False, False, False, True, True]


def test_data():
    data = json.loads(json.dumps(describe("resnet101_dilated", (64, 64)).to_dict()))
    geometry = [(level["name"], level["channels"], level["stride"], level["dilation"]) for level in data["levels"]]
    assert geometry == [
        ("c1", 64, 2, 1),
        ("c2", 256, 4, 1),
        ("c3", 512, 8, 1),
        ("c4", 1024, 8, 2),
        ("c5", 2048, 8, 4),
    ]


def test_text_has_the_table_and_marks_levels_that_are_not_returned():
    text = str(describe("resnet101_dilated", (64, 64)))
    for words in ("42.500 M", "2048", "c1*", "* built, not returned"):
        assert words in text


@pytest.mark.parametrize(
    "arguments,words",
    [
        (dict(), "no stage is dilated"),
        (dict(output_stride=8), "holds"),
        (dict(output_stride=16, multi_grid=(2, 2)), "multi_grid"),
        (dict(output_stride=16, norm="group"), "group norm"),
        (dict(output_stride=16, deform_stages=("c5",)), "deformable stages"),
    ],
)
def test_text_tells_whether_the_identity_holds(arguments, words):
    last_line = str(describe("resnet18", (64, 64), **arguments)).splitlines()[-1]
    assert words in last_line


def training_state(backbone, **arguments):
    return [
        (level.weights, level.statistics, level.affine) for level in describe(backbone, (64, 64), **arguments).levels
    ]


def test_what_is_fixed_with_live_norms(resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights, norm="batch", freeze=2)
    assert training_state(backbone) == [("fixed",) * 3] * 2 + [("trains", "live", "trains")] * 3


def test_what_is_fixed_with_frozen_norms():
    state = training_state("resnet18", weights="unread.pth", freeze=1)
    assert state == [("fixed",) * 3] + [("trains", "fixed", "fixed")] * 4


@pytest.mark.parametrize("norm,statistics,affine", [("batch_eval", "fixed", "trains"), ("group", "none", "trains")])
def test_what_is_fixed_with_other_norms(norm, statistics, affine):
    assert set(training_state("resnet18", norm=norm)) == {("trains", statistics, affine)}


def test_a_built_backbone_is_not_changed():
    backbone = build_backbone("resnet18").eval()
    state = copy.deepcopy(backbone.state_dict())
    describe(backbone, (64, 64))
    assert not backbone.training
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


def test_an_unknown_name():
    with input_error("'resnet17'", "did you mean resnet18"):
        describe("resnet17")
