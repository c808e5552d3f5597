"""3x3 convolutions of stride 1 with fewer multiplications, on the CPU: F(4 x 4, 3 x 3), 36 instead of 144 for 16 cells.

Fast Algorithms for Convolutional Neural Networks, Lavin and Gray 2015 (arXiv:1509.09308): output cells come in tiles of
4 x 4, each from 6 x 6 input cells d, as A^T [(G g G^T) * (B^T d B)] A for a kernel g. A dilated convolution is the same
on every phase of its lattice. PyTorch asks oneDNN for direct convolutions alone (oneDNN pull request 3139).

The points of interpolation decide about rounding (Barabasz et al. 2018, arXiv:1803.10986). With 0, +-1, +-2, the usual
ones, the largest error is four times that of these, which is about that of oneDNN's channels_last convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE, INPUT = 4, 6  # output and input cells of a tile, an axis
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity; exact in binary
FEWEST_TILES = 40  # below, with 128 or 256 channels, it gains nothing when the weights are not in the cache
FEWEST_CHANNELS = 128  # below, the transforms do
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


def transform_weight(weight: Tensor) -> Tensor:
    """out x in x 3 x 3 -> 36 x in x out float32, rounded once."""
    both = torch.einsum("ai,bj,ocij->abco", _G, _G, weight.double())
    return both.reshape(INPUT**2, weight.shape[1], weight.shape[0]).float().contiguous()


def tiles_of(size: int, dilation: int) -> int:
    """Tiles that cover one axis, for each phase."""
    return -(-size // (TILE * dilation))


def winograd(x: Tensor, transformed: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The 3x3 convolution of float32 `x`, N x C x H x W, padded by its dilation; the result is channels_last."""
    (n, c, height, width), out_channels = x.shape, transformed.shape[2]
    step = TILE * dilation  # cells that a tile of every phase covers
    down, across = tiles_of(height, dilation), tiles_of(width, dilation)
    tiles = max(1, BLOCK_BYTES // (4 * INPUT**2 * c))
    rows = max(1, min(down, tiles // (dilation**2 * across)))
    images = max(1, tiles // (dilation**2 * across * down))
    x = x.permute(0, 2, 3, 1)
    out = torch.empty(n, down, TILE, dilation, across, TILE, dilation, out_channels)
    for image in range(0, n, images):
        for row in range(0, down, rows):
            top, bottom = row * step - dilation, min(row + rows, down) * step + dilation
            block = F.pad(
                x[image : image + images, max(top, 0) : bottom],
                (0, 0, dilation, across * step - width + dilation, max(-top, 0), max(bottom - height, 0)),
            )
            of_image, of_row, of_cell, _ = block.stride()
            shape = (INPUT, INPUT, len(block), (bottom - top) // step, dilation, across, dilation, c)
            strides = (dilation * of_row, dilation * of_cell, of_image, step * of_row, of_row, step * of_cell, of_cell, 1)
            cells = TO_TILES @ block.as_strided(shape, strides).reshape(INPUT**2, -1)
            product = torch.bmm(cells.view(INPUT**2, -1, c), transformed)
            found = (FROM_TILES @ product.view(INPUT**2, -1)).view(TILE, TILE, *shape[2:-1], out_channels)
            torch.add(found.permute(2, 3, 0, 4, 5, 1, 6, 7), 0 if bias is None else bias,
                      out=out[image : image + images, row : row + rows])  # fmt: skip
    out = out.view(n, down * step, across * step, out_channels)[:, :height, :width].permute(0, 3, 1, 2)
    return out.contiguous(memory_format=torch.channels_last)


# one opaque operation for a compiler: its loops depend on the image size, and a graph shall not
_in_graph = torch.library.custom_op("detbackbones::winograd", winograd, mutates_args=())


@_in_graph.register_fake
def _(x: Tensor, transformed: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    shape = (len(x), transformed.shape[2], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class WinogradConv2d(nn.Conv2d):
    """A convolution with fixed weights that runs as `winograd` where that is faster, else directly, with equal results.

    Faster: float32 on the CPU, outside autocast, no gradient wanted, and a map of FEWEST_TILES or more. It keeps the
    transformed weights beside the weights (four times their size), outside of the state dict; loading one transforms
    anew, a change of `weight` in place does not. NaN or infinity in x spreads over whole tiles.
    """

    def __init__(self, conv: nn.Conv2d):
        with torch.device("meta"):
            super().__init__(conv.in_channels, conv.out_channels, 3, padding=conv.padding, dilation=conv.dilation)
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("transformed", transform_weight(conv.weight), persistent=False)

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.transformed = transform_weight(self.weight.detach())

    @staticmethod
    def suits(conv: nn.Conv2d) -> bool:
        """Whether such a convolution can do what `conv` does, and would be faster on large maps."""
        return (
            (conv.kernel_size, conv.stride, conv.groups, conv.padding_mode) == ((3, 3), (1, 1), 1, "zeros")
            and conv.padding == conv.dilation
            and conv.dilation[0] == conv.dilation[1]
            and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
            and (conv.weight.device.type, conv.weight.dtype) == ("cpu", torch.float32)
        )

    def forward(self, x: Tensor) -> Tensor:
        dilation = self.dilation[0]
        tiles = len(x) * tiles_of(x.shape[2], dilation) * tiles_of(x.shape[3], dilation) * dilation**2
        if (
            tiles < FEWEST_TILES
            or (x.device.type, x.dtype) != ("cpu", torch.float32)
            or torch.is_autocast_enabled("cpu")
            or (torch.is_grad_enabled() and x.requires_grad)
            or torch.compiler.is_exporting()  # an exported program shall not need this package
        ):
            return super().forward(x)
        run = _in_graph if torch.compiler.is_compiling() else winograd
        return run(x, self.transformed, self.bias, dilation)
