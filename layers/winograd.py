"""Winograd's form of 3x3 convolutions with stride 1 on the CPU: F(4 x 4, 3 x 3), 36 multiplications in place of 144.

Fast Algorithms for Convolutional Neural Networks, Lavin and Gray 2015 (arXiv:1509.09308): output cells come in tiles of
4 x 4, each computed from 6 x 6 input cells d as A^T [(G g G^T) * (B^T d B)] A for a kernel g. A dilated convolution
splits each axis into `dilation` phases and works on every phase alike. PyTorch requests only direct convolutions from
oneDNN (oneDNN pull request 3139).

The interpolation points decide the rounding error (Barabasz et al. 2018, arXiv:1803.10986). The usual points 0, +-1,
+-2 give a maximum error four times that of the points used here, which is about that of oneDNN's channels_last
convolution.

Both gradients have the same form. The gradient of the input is a convolution with the rotated kernel. The gradient of
the weights is the adjoint, G^T [sum over tiles of (A e A^T) * (B^T d B)] G for the gradient e of an output tile.

In the comments a tensor's axes are named in order: n image, t tile, p phase, i cell within a tile, c channel; the
suffixes y and x are rows and columns.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OUT_TILE, IN_TILE = 4, 6  # output and input cells per tile and axis
IN_CELLS, OUT_CELLS = IN_TILE**2, OUT_TILE**2
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity; exact in binary
BLOCK_BYTES = 8 << 20  # transformed input per block: it and the product stay in the cache


def transform_matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Return B^T (6 x 6), G (6 x 3) and A^T (4 x 6) in float64: Toom-Cook interpolation in POINTS, transposed."""

    def powers(count: int) -> Tensor:
        finite = torch.tensor(POINTS, dtype=torch.float64, device="cpu")[:, None] ** torch.arange(count, device="cpu")
        infinity = torch.eye(count, dtype=torch.float64, device="cpu")[-1:]
        return torch.cat([finite, infinity])

    b, g, a = torch.linalg.inv(powers(IN_TILE)).T, powers(3), powers(OUT_TILE).T
    balance = (g.abs().sum(1) / b.abs().sum(1)).sqrt()[:, None]  # large inputs times small weights round worse
    return b * balance, g / balance, a


# Kronecker products transform both axes at once; on the CPU, whatever the default device at the first import
_B, _G, _A = transform_matrices()
INPUT_TRANSFORM = torch.kron(_B, _B).float()  # 36 x 36
OUTPUT_TRANSFORM = torch.kron(_A, _A).float()  # 16 x 36
WEIGHT_TRANSFORM = torch.kron(_G, _G)  # 36 x 9, float64


def transform_weight(weight: Tensor) -> Tensor:
    """Return the weight, out x in x 3 x 3, as 36 x in x out in its own dtype (a transposed view)."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)  # 9 x (out in)
    return (WEIGHT_TRANSFORM.to(weight.dtype) @ taps).view(IN_CELLS, *weight.shape[:2]).transpose(1, 2)


def num_tiles(size: int, dilation: int) -> int:
    """Return the number of tiles that cover one axis, per phase."""
    return -(-size // (OUT_TILE * dilation))


class TileGrid:
    """The tiles of a map N x C x H x W, block by block.

    A block is some images and some rows of tiles, small enough for its transformed input to stay in the cache.

    Args:
        shape: N, C, H, W of the map.
        dilation: of the convolution.
        channels: of the widest tensor that is transformed.
    """

    def __init__(self, shape: torch.Size, dilation: int, channels: int):
        self.num_images, _, self.height, self.width = shape
        self.dilation = dilation
        self.span = OUT_TILE * dilation  # cells per axis that one tile of every phase covers
        self.rows, self.columns = num_tiles(self.height, dilation), num_tiles(self.width, dilation)
        tiles_per_block = max(1, BLOCK_BYTES // (4 * IN_CELLS * channels))
        tiles_per_row = dilation**2 * self.columns
        self.block_rows = max(1, min(self.rows, tiles_per_block // tiles_per_row))
        self.block_images = max(1, tiles_per_block // (tiles_per_row * self.rows))

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield (images, rows of tiles)."""
        for image in range(0, self.num_images, self.block_images):
            for row in range(0, self.rows, self.block_rows):
                yield slice(image, image + self.block_images), slice(row, min(row + self.block_rows, self.rows))

    def transform_input(self, x: Tensor, images: slice, rows: slice) -> Tensor:
        """Return B^T d B of every 6 x 6 input tile d of a block: 36 x tiles x C.

        Tiles are ordered by image, tile row, row phase, tile column, column phase. `images` and `rows` (of tiles) are
        those of `blocks`.
        """
        d = self.dilation
        top, bottom = rows.start * self.span - d, rows.stop * self.span + d
        padding = (
            *(0, 0),  # channels
            *(d, self.columns * self.span - self.width + d),  # left, right
            *(max(-top, 0), max(bottom - self.height, 0)),  # top, bottom
        )
        block = F.pad(x.permute(0, 2, 3, 1)[images, max(top, 0) : bottom], padding)  # n y x c
        image_stride, y_stride, x_stride, _ = block.stride()
        # neighbouring tiles overlap by two cells, so they are a strided view: iy ix n ty py tx px c
        size = (IN_TILE, IN_TILE, len(block), rows.stop - rows.start, d, self.columns, d, block.shape[-1])
        stride = (
            *(d * y_stride, d * x_stride),
            image_stride,
            *(self.span * y_stride, y_stride),
            *(self.span * x_stride, x_stride),
            1,
        )
        cells = block.as_strided(size, stride).reshape(IN_CELLS, -1)
        return (INPUT_TRANSFORM @ cells).view(IN_CELLS, -1, block.shape[-1])

    def transform_gradient(self, gradient: Tensor, images: slice, rows: slice) -> Tensor:
        """Return A e A^T of every 4 x 4 tile e of an output gradient, ordered as `transform_input`: 36 x tiles x C."""
        top, bottom = rows.start * self.span, rows.stop * self.span
        padding = (0, 0, 0, self.columns * self.span - self.width, 0, max(bottom - self.height, 0))
        block = F.pad(gradient.permute(0, 2, 3, 1)[images, top:bottom], padding)  # n y x c
        tiles = block.reshape(*self.tiled_shape(len(block), rows.stop - rows.start), block.shape[-1])
        cells = tiles.permute(2, 5, 0, 1, 3, 4, 6, 7).reshape(OUT_CELLS, -1)  # iy ix n ty py tx px c
        return (OUTPUT_TRANSFORM.T @ cells).view(IN_CELLS, -1, block.shape[-1])

    def tiled_shape(self, num_images: int, rows: int) -> tuple[int, ...]:
        """Return the axes n ty iy py tx ix px of a padded output."""
        return (num_images, rows, OUT_TILE, self.dilation, self.columns, OUT_TILE, self.dilation)


def winograd_conv2d(x: Tensor, transformed_weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Compute a 3x3 convolution of stride 1 that pads by its dilation.

    Args:
        x: N x C x H x W float32.
        transformed_weight: 36 x C x out, see `transform_weight`.
        bias: out, or None.

    Returns:
        N x out x H x W in channels_last memory.
    """
    num_images, in_channels, height, width = x.shape
    out_channels = transformed_weight.shape[2]
    grid = TileGrid(x.shape, dilation, in_channels)
    size = (num_images, out_channels, grid.rows * grid.span, grid.columns * grid.span)
    padded = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    out = padded.permute(0, 2, 3, 1).view(*grid.tiled_shape(num_images, grid.rows), out_channels)
    for images, rows in grid.blocks():
        product = torch.bmm(grid.transform_input(x, images, rows), transformed_weight)
        block = out[images, rows]  # n ty iy py tx ix px c
        n, ty, _, py, tx, _, px, _ = block.shape
        cells = (OUTPUT_TRANSFORM @ product.view(IN_CELLS, -1)).view(
            OUT_TILE, OUT_TILE, n, ty, py, tx, px, out_channels
        )
        torch.add(cells.permute(2, 3, 0, 4, 5, 1, 6, 7), 0 if bias is None else bias, out=block)
    if padded.shape[2:] == x.shape[2:]:
        return padded
    # clone: a view returned by an autograd.Function cannot be modified in place
    return padded[..., :height, :width].clone(memory_format=torch.channels_last)


def weight_gradient(x: Tensor, gradient: Tensor, dilation: int) -> Tensor:
    """Return the gradient of the weight, out x in x 3 x 3, for a gradient of the output, N x out x H x W."""
    in_channels, out_channels = x.shape[1], gradient.shape[1]
    grid = TileGrid(x.shape, dilation, max(in_channels, out_channels))
    total = x.new_zeros(IN_CELLS, out_channels, in_channels)
    for images, rows in grid.blocks():
        outputs = grid.transform_gradient(gradient, images, rows)
        total.baddbmm_(outputs.transpose(1, 2), grid.transform_input(x, images, rows))
    taps = WEIGHT_TRANSFORM.T.float() @ total.view(IN_CELLS, -1)
    return taps.view(3, 3, out_channels, in_channels).permute(2, 3, 0, 1)


class WinogradFunction(torch.autograd.Function):
    """`winograd_conv2d` of weights that may train, with both gradients in Winograd's form."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        return winograd_conv2d(x, transform_weight(weight), bias, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives need a differentiable backward pass
            if x is None:  # not saved because the weight is fixed; only its shape counts then
                x = gradient.new_empty(len(gradient), weight.shape[1], *gradient.shape[2:])
            gradients = torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                bias_sizes=[len(weight)],
                stride=[1, 1],
                padding=[ctx.dilation] * 2,
                dilation=[ctx.dilation] * 2,
                transposed=False,
                output_padding=[0, 0],
                groups=1,
                output_mask=list(ctx.needs_input_grad[:3]),
            )
            return *gradients, None
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        rotated = weight.flip(2, 3).transpose(0, 1)
        return (
            winograd_conv2d(gradient, transform_weight(rotated), None, ctx.dilation) if needs_x else None,
            weight_gradient(x, gradient, ctx.dilation) if needs_weight else None,
            gradient.sum((0, 2, 3)) if needs_bias else None,
            None,
        )
