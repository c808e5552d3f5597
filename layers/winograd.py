"""3x3 convolutions of stride 1 with fewer multiplications, on the CPU: F(4 x 4, 3 x 3), 36 instead of 144 for 16 cells.

Fast Algorithms for Convolutional Neural Networks, Lavin and Gray 2015 (arXiv:1509.09308): output cells come in tiles of
4 x 4, each from 6 x 6 input cells d, as A^T [(G g G^T) * (B^T d B)] A for a kernel g. A dilated convolution is the same
on every phase of its lattice. PyTorch asks oneDNN for direct convolutions alone (oneDNN pull request 3139).

The points of interpolation decide about rounding (Barabasz et al. 2018, arXiv:1803.10986). With 0, +-1, +-2, the usual
ones, the largest error is four times that of these, which is about that of oneDNN's channels_last convolution.

Both gradients have the same form: that of the input is a convolution with the turned kernel, that of the weights the
adjoint, G^T [sum over tiles of (A e A^T) * (B^T d B)] G, for the gradient e of a tile's output.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE, INPUT = 4, 6  # output and input cells of a tile, an axis
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity; exact in binary
FEWEST_TILES = 40  # below, with 128 or 256 channels, it gains nothing when the weights are not in the cache
FEWEST_TILES_TRAINED = 250  # below, weights that are transformed at every call cost what the tiles gain
FEWEST_CHANNELS = 128  # below, the transforms of the tiles do
BLOCK_BYTES = 8 << 20  # transformed input worked on at once: it and the product stay in the cache


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """B^T (6 x 6), G (6 x 3) and A^T (4 x 6) in float64: Toom-Cook interpolation in POINTS, transposed."""

    def powers(count: int) -> Tensor:
        finite = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(count)
        infinity = torch.eye(count, dtype=torch.float64)[-1:]
        return torch.cat([finite, infinity])

    b, g, a = torch.linalg.inv(powers(INPUT)).T, powers(3), powers(TILE).T
    balance = (g.abs().sum(1) / b.abs().sum(1)).sqrt()[:, None]  # large input times small weights rounds worse
    return b * balance, g / balance, a


_B, _G, _A = transforms()
TO_TILES, FROM_TILES = torch.kron(_B, _B).float(), torch.kron(_A, _A).float()  # 36 x 36 and 16 x 36: both axes at once
OF_WEIGHT = torch.kron(_G, _G)  # 36 x 9, float64


def transform_weight(weight: Tensor) -> Tensor:
    """out x in x 3 x 3 -> 36 x in x out in its own dtype, a transposed view."""
    nine = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (OF_WEIGHT.to(weight.dtype) @ nine).view(INPUT**2, *weight.shape[:2]).transpose(1, 2)


def tiles_of(size: int, dilation: int) -> int:
    """Tiles that cover one axis, for each phase."""
    return -(-size // (TILE * dilation))


class Blocks:
    """The tiles of a map N x C x H x W, block by block, for layers as wide as `channels`.

    A block is some images and some rows of tiles, so that its transformed input stays in the cache.
    """

    def __init__(self, x: Tensor, dilation: int, channels: int):
        self.size, self.dilation = x.shape, dilation
        self.step = TILE * dilation  # cells that a tile of every phase covers
        self.down, self.across = (tiles_of(size, dilation) for size in x.shape[2:])
        tiles = max(1, BLOCK_BYTES // (4 * INPUT**2 * channels))
        self.rows = max(1, min(self.down, tiles // (dilation**2 * self.across)))
        self.images = max(1, tiles // (dilation**2 * self.across * self.down))

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Images, and rows of tiles."""
        for image in range(0, self.size[0], self.images):
            for row in range(0, self.down, self.rows):
                yield slice(image, image + self.images), slice(row, min(row + self.rows, self.down))

    def inputs(self, x: Tensor, images: slice, rows: slice) -> tuple[Tensor, tuple[int, ...]]:
        """B^T d B of every tile of a block, 36 x tiles x C; and what the tiles are: images, down, phase, across, phase."""
        (_, c, height, width), d = self.size, self.dilation
        top, bottom = rows.start * self.step - d, rows.stop * self.step + d
        block = F.pad(
            x.permute(0, 2, 3, 1)[images, max(top, 0) : bottom],
            (0, 0, d, self.across * self.step - width + d, max(-top, 0), max(bottom - height, 0)),
        )
        of_image, of_row, of_cell, _ = block.stride()
        tiles = (len(block), rows.stop - rows.start, d, self.across, d)
        strides = (d * of_row, d * of_cell, of_image, self.step * of_row, of_row, self.step * of_cell, of_cell, 1)
        cells = block.as_strided((INPUT, INPUT, *tiles, c), strides).reshape(INPUT**2, -1)
        return (TO_TILES @ cells).view(INPUT**2, -1, c), tiles

    def gradients(self, gradient: Tensor, images: slice, rows: slice) -> Tensor:
        """A g A^T of every tile of a block, 36 x tiles x C, for a gradient of the output."""
        (_, _, height, width), d = self.size, self.dilation
        top, bottom = rows.start * self.step, rows.stop * self.step
        block = F.pad(gradient.permute(0, 2, 3, 1)[images, top:bottom],
                      (0, 0, 0, self.across * self.step - width, 0, max(bottom - height, 0)))  # fmt: skip
        block = block.reshape(len(block), -1, TILE, d, self.across, TILE, d, block.shape[-1])
        cells = block.permute(2, 5, 0, 1, 3, 4, 6, 7).reshape(TILE**2, -1)
        return (FROM_TILES.T @ cells).view(INPUT**2, -1, block.shape[-1])


def winograd(x: Tensor, transformed: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The 3x3 convolution of float32 `x`, N x C x H x W, padded by its dilation; the result is channels_last."""
    (n, c, height, width), out_channels = x.shape, transformed.shape[2]
    blocks = Blocks(x, dilation, c)
    whole = torch.empty(n, out_channels, blocks.down * blocks.step, blocks.across * blocks.step, memory_format=torch.channels_last)
    out = whole.permute(0, 2, 3, 1).view(n, blocks.down, TILE, dilation, blocks.across, TILE, dilation, out_channels)
    for images, rows in blocks:
        cells, tiles = blocks.inputs(x, images, rows)
        product = torch.bmm(cells, transformed)
        found = (FROM_TILES @ product.view(INPUT**2, -1)).view(TILE, TILE, *tiles, out_channels)
        torch.add(found.permute(2, 3, 0, 4, 5, 1, 6, 7), 0 if bias is None else bias, out=out[images, rows])
    if whole.shape[2:] == x.shape[2:]:
        return whole
    return whole[..., :height, :width].clone(memory_format=torch.channels_last)  # no view, which an in-place ReLU could not change


def weight_gradient(x: Tensor, gradient: Tensor, dilation: int) -> Tensor:
    """out x in x 3 x 3 for the gradient of the output, N x out x H x W: the adjoint of `winograd` in its weights."""
    blocks = Blocks(x, dilation, max(x.shape[1], gradient.shape[1]))
    found = x.new_zeros(INPUT**2, gradient.shape[1], x.shape[1])
    for images, rows in blocks:
        found.baddbmm_(blocks.gradients(gradient, images, rows).transpose(1, 2), blocks.inputs(x, images, rows)[0])
    return (OF_WEIGHT.T.float() @ found.view(INPUT**2, -1)).view(3, 3, *found.shape[1:]).permute(2, 3, 0, 1)


# one opaque operation for a compiler: its loops depend on the image size, and a graph shall not
_in_graph = torch.library.custom_op("detbackbones::winograd", winograd, mutates_args=())


@_in_graph.register_fake
def _(x: Tensor, transformed: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    shape = (len(x), transformed.shape[2], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class Differentiable(torch.autograd.Function):
    """`winograd` of weights that may train, with both gradients in the same form."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        return winograd(x, transform_weight(weight), bias, dilation)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (x, weight), d, (to_x, to_weight, to_bias, _) = ctx.saved_tensors, ctx.dilation, ctx.needs_input_grad
        if torch.is_grad_enabled():  # second derivatives are asked for
            x = gradient.new_empty(len(gradient), weight.shape[1], *gradient.shape[2:]) if x is None else x
            found = torch.ops.aten.convolution_backward(
                gradient, x, weight, [len(weight)], [1, 1], [d, d], [d, d], False, [0, 0], 1, [to_x, to_weight, to_bias])  # fmt: skip
            return *found, None
        turned = weight.flip(2, 3).transpose(0, 1)
        return (winograd(gradient, transform_weight(turned), None, d) if to_x else None,
                weight_gradient(x, gradient, d) if to_weight else None,
                gradient.sum((0, 2, 3)) if to_bias else None, None)  # fmt: skip


def suits(conv: nn.Conv2d) -> bool:
    """Whether `winograd` can do what `conv` does, and would be faster on large maps."""
    return (
        (conv.kernel_size, conv.stride, conv.groups, conv.padding_mode) == ((3, 3), (1, 1), 1, "zeros")
        and conv.padding == conv.dilation
        and conv.dilation[0] == conv.dilation[1]
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
    )


def is_faster(conv: nn.Conv2d, x: Tensor, fewest: int) -> bool:
    """Whether a conv that `suits` is: float32 on the CPU, outside autocast, and a map of that many tiles or more."""
    dilation = conv.dilation[0]
    tiles = len(x) * tiles_of(x.shape[2], dilation) * tiles_of(x.shape[3], dilation) * dilation**2
    return tiles >= fewest and (x.device.type, x.dtype) == ("cpu", torch.float32) and not torch.is_autocast_enabled("cpu")


def wants_gradient(x: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `conv` does, with another weight and bias: with gradients as `winograd` where that is faster, else directly.

    Without gradients it is direct, which gives the bits of torchvision's heads; `fuse_for_inference` is for speed.
    """
    if (
        wants_gradient(x, weight)
        and suits(conv)
        and not torch.compiler.is_compiling()
        and weight.dtype == torch.float32
        and is_faster(conv, x, FEWEST_TILES_TRAINED)
    ):
        return Differentiable.apply(x, weight, bias, conv.dilation[0])
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class WinogradConv2d(nn.Conv2d):
    """A convolution that `suits`, which runs as `convolve` says, and faster once its weights are fixed: `bake`.

    Baked, it keeps the transformed weights beside the weights (four times their size), outside of the state dict, and uses
    them where no gradient is wanted; loading a state dict transforms anew, a change of `weight` in place does not. NaN or
    infinity in x spreads over whole tiles.
    """

    def __init__(self, conv: nn.Conv2d):
        with torch.device("meta"):
            super().__init__(conv.in_channels, conv.out_channels, 3, padding=conv.padding, dilation=conv.dilation)
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("transformed", None, persistent=False)

    def bake(self) -> "WinogradConv2d":
        # rounded once
        self.transformed = transform_weight(self.weight.detach().double()).float().contiguous()
        return self

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        if self.transformed is not None:
            self.bake()

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.transformed is not None
            and is_faster(self, x, FEWEST_TILES)
            and not wants_gradient(x, self.weight)
            and not torch.compiler.is_exporting()  # an exported program shall not need this package
        ):
            run = _in_graph if torch.compiler.is_compiling() else winograd
            return run(x, self.transformed, self.bias, self.dilation[0])
        return convolve(self, x, self.weight, self.bias)


def with_winograd(model: nn.Module) -> nn.Module:
    """`model`, changed in place: its plain convolutions that suit become WinogradConv2d, with the same parameters."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d and suits(child):
                setattr(module, name, WinogradConv2d(child))
    return model
