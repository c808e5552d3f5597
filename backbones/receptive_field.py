"""The receptive field of one cell: where it can look, and where its gradient says that it looks."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Box = tuple[float, float, float, float]

SHARE = 0.9  # of the squared gradient, in the effective field
DRAWS = 4


def theoretical_box(side: int, stride: int, cell: tuple[int, int]) -> Box:
    """Return the window x1, y1, x2, y2 that a cell can depend on, in pixels; it may leave the image.

    Args:
        side: `LevelDescription.receptive_field`.
        stride: of the level.
        cell: row and column. Convolutions with symmetric padding centre it on pixel (row * stride, column * stride).
    """
    row, column = (index * stride + 0.5 for index in cell)  # centres of pixels lie at halves
    return column - side / 2, row - side / 2, column + side / 2, row + side / 2


def gradient_field(
    features: Callable[[Tensor], Mapping[str, Tensor]], image: Tensor, level: str, cell: tuple[int, int], seed: int = 0
) -> Tensor:
    """Return how strongly one cell depends on each pixel (https://arxiv.org/abs/1701.04128), H x W.

    It is the root of the summed squares of the derivatives of all channels of the cell with respect to all channels of
    the pixel, estimated with a few random directions.

    Args:
        features: a backbone in evaluation mode.
        image: C x H x W, preprocessed.
        level: name of the map.
        cell: row and column.
        seed: of the directions.
    """
    images = image.detach()[None].requires_grad_()
    values = features(images)[level][0, :, cell[0], cell[1]]
    generator = torch.Generator().manual_seed(seed)
    squares = torch.zeros(image.shape[-2:])
    for draw in range(DRAWS):
        direction = torch.randn(len(values), generator=generator).to(values)
        [gradient] = torch.autograd.grad(values @ direction, images, retain_graph=draw < DRAWS - 1)
        squares += gradient[0].float().square().sum(0).cpu()
    return (squares / DRAWS).sqrt()


def effective_box(field: Tensor, stride: int, cell: tuple[int, int], share: float = SHARE) -> Box:
    """Return the smallest square around a cell that holds a share of the squared gradient.

    Args:
        field: of `gradient_field`.
        stride: of the level.
        cell: row and column.
        share: of the sum of squares in the image.
    """
    rows = (torch.arange(field.shape[0]) - cell[0] * stride).abs()
    columns = (torch.arange(field.shape[1]) - cell[1] * stride).abs()
    distance = torch.maximum(rows[:, None], columns[None, :])
    energy = torch.bincount(distance.flatten(), weights=field.double().square().flatten()).cumsum(0)
    reach = int((energy < share * energy[-1]).sum())
    return theoretical_box(2 * reach + 1, stride, cell)
