import pytest
import torch
from torch import nn

from detbackbones import build_backbone
from detbackbones.backbones.describe import describe
from detbackbones.backbones.receptive_field import effective_box, gradient_field, theoretical_box
from detbackbones.layers.norm import convert_norm


@pytest.mark.parametrize(
    "config,level", [("resnet18", "c2"), ("resnet18", "c3"), ("resnet18_dilated", "c4"), ("resnet18d", "c3")]
)
def test_the_theoretical_window_is_where_the_gradient_is_not_zero(config, level):
    """With positive weights in float64, no derivative vanishes or cancels."""
    backbone = convert_norm(build_backbone(config, out_features=(level,)), "frozen").double().eval()
    for parameter in backbone.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel())
    description = describe(config, (64, 64))
    spec = next(entry for entry in description.levels if entry.name == level)
    side = spec.receptive_field + 80
    cell = (side // (2 * spec.stride), side // (2 * spec.stride) + 1)
    image = torch.rand(3, side, side + 32, dtype=torch.double)
    images = image[None].requires_grad_()
    backbone(images)[level][0, 0, cell[0], cell[1]].backward()
    rows, columns = ((images.grad[0].abs().sum((0, axis)) > 0).nonzero().flatten() for axis in (2, 1))
    x1, y1, x2, y2 = theoretical_box(spec.receptive_field, spec.stride, cell)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)


def test_the_field_of_a_linear_network_is_the_norm_of_its_weights():
    layer, image = nn.Conv2d(2, 50, 3, padding=1, bias=False), torch.rand(2, 5, 6)
    fields = [gradient_field(lambda images: {"c1": layer(images)}, image, "c1", (2, 3), seed) for seed in range(200)]
    squares = torch.stack(fields).square().mean(0)  # one field is an estimate from four random directions
    expected = layer.weight.detach().square().sum((0, 1))
    assert torch.allclose(squares[1:4, 2:5], expected, rtol=0.2)
    assert squares.count_nonzero() == 9


def test_the_field_of_a_dilated_backbone_is_that_of_the_undilated_one():
    dilated = build_backbone("resnet18_dilated", out_features=("c4",)).eval()
    plain = build_backbone("resnet18", out_features=("c4",)).eval()
    plain.load_state_dict(dilated.state_dict())
    image = torch.rand(3, 96, 96)
    fields = [gradient_field(net, image, "c4", cell) for net, cell in ((dilated, (6, 6)), (plain, (3, 3)))]
    assert torch.allclose(*fields, atol=1e-4 * fields[0].max().item())


def test_the_effective_window_holds_its_share():
    field = torch.zeros(21, 31)
    field[10, 20], field[10, 22], field[4, 20] = 3.0, 2.0, 1.0  # squares 9, 4, 1 at distances 0, 2, 6
    for share, reach in ((0.6, 0), (0.9, 2), (0.95, 6)):
        x1, y1, x2, y2 = effective_box(field, stride=5, cell=(2, 4), share=share)
        assert (x2 - x1, y2 - y1) == (2 * reach + 1, 2 * reach + 1)
        assert ((x1 + x2) / 2, (y1 + y2) / 2) == (20.5, 10.5)
