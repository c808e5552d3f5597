"""Functions on CPU tensors while the default device is another one, as in `torch.device("meta")`."""

import torch
from helpers import objects
from torch import nn

from detbackbones.layers import winograd
from detbackbones.layers.mask_crops import MaskCrops, project_masks
from detbackbones.layers.mask_ops import encode_masks, paste_masks
from detbackbones.layers.norm import NORMS, convert_norm
from detbackbones.layers.roi_align import roi_align_cpu
from detbackbones.layers.winograd_conv import WinogradConv2d


def on_cpu(*tensors) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)


def test_winograd_matrices_at_the_first_import():
    with torch.device("meta"):
        matrices = winograd.transform_matrices()
    assert on_cpu(*matrices)


def test_winograd_in_training():
    conv, x = WinogradConv2d(nn.Conv2d(128, 128, 3, padding=1)), torch.randn(1, 128, 65, 66, requires_grad=True)
    with torch.device("meta"):
        output = conv(x)
        output.square().mean().backward()
    assert "WinogradFunction" in type(output.grad_fn).__name__
    assert on_cpu(output, x.grad, conv.weight.grad, conv.bias.grad)


@torch.no_grad()
def test_winograd_with_transformed_weights():
    conv, x = WinogradConv2d(nn.Conv2d(128, 128, 3, padding=1)), torch.randn(1, 128, 32, 34)
    with torch.device("meta"):
        output = conv.precompute()(x)
    assert on_cpu(output, conv.transformed_weight)
    assert not torch.equal(output, nn.Conv2d.forward(conv, x))  # Winograd's form rounds otherwise
    torch.testing.assert_close(output, nn.Conv2d.forward(conv, x), atol=1e-5, rtol=1e-5)


def test_roi_align():
    features, boxes = [torch.randn(1, 4, 16, 24), torch.randn(1, 4, 8, 12)], objects(3, 64, 96)["boxes"]
    rois, level = torch.cat([torch.zeros(3, 1), boxes], 1), torch.tensor([0, 1, 1])
    with torch.device("meta"):
        pooled = roi_align_cpu(features, [1 / 4, 1 / 8], rois, level, 7, 2, True)
    assert on_cpu(pooled)


def test_masks():
    target = objects(3, 40, 50)
    packed, indices = MaskCrops.pack(target["masks"].numpy(), (40, 50)), torch.tensor([2, 0, 2])
    with torch.device("meta"):
        projected = project_masks(packed, target["boxes"], indices, 14)
        pasted = paste_masks(projected[:, None], target["boxes"], (40, 50))
        assert on_cpu(packed.crop(1), packed.dense(), projected, pasted)
        assert len(encode_masks(pasted)) == 3


def test_conversion_of_norms():
    for name in set(NORMS) - {"group"}:
        with torch.device("meta"):
            norm = convert_norm(nn.Sequential(nn.BatchNorm2d(4, device="cpu")), name)[0]
        assert on_cpu(*norm.state_dict().values())
