"""Dilation instead of stride: which stages, by whose rule, and what follows for the convolutions of a block.

Exact dilation (the a-trous identity: dilated features sampled at the removed stride equal the undilated ones) asks that
convolutions up to and including the one that carried the removed stride keep the previous dilation, that only those
after it get the new one, and that a shortcut's pool keeps the previous one too. Which convolution carries the stride
depends on the block: the first 3x3 of a BasicBlock, the 3x3 of a Bottleneck, or its first 1x1 with `stride_in_1x1`.
The other conventions belong to libraries with published weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, did_you_mean

CONVENTIONS = {  # what the library does not dilate, so that there is nothing to be equal to
    "exact": (),
    "torchvision": ("BasicBlock", "avg_down", "stride_in_1x1"),
    "detectron2": ("BasicBlock", "avg_down"),
    "mmdet": (),
}


@dataclass(frozen=True)
class BlockGeometry:
    """Geometry of one block.

    Attributes:
        stride: 1, or that of a stage's first block where no dilation replaces it.
        dilation: of the block's first 3x3 convolution.
        second: dilation of a BasicBlock's second 3x3 convolution.
        pool: dilation of the shortcut's average pool, 0 where there is nothing to pool.
    """

    stride: int
    dilation: int
    second: int
    pool: int = 0


@dataclass(frozen=True)
class Dilation:
    """The rule by which a network's stages are dilated.

    Args:
        convention: "exact", "torchvision", "detectron2" or "mmdet".
        basic: the blocks are BasicBlocks.
        stride_in_1x1: the convolution before the 3x3 carries the stride.
        avg_down: the shortcut pools.

    Raises InputError for an unknown convention.
    """

    convention: str
    basic: bool
    stride_in_1x1: bool
    avg_down: bool

    def __post_init__(self):
        if self.convention not in CONVENTIONS:
            raise InputError(f"unknown dilation_convention {self.convention!r}; {did_you_mean(str(self.convention), CONVENTIONS)}")

    def check(self) -> None:
        """InputError where this convention's library has no such dilated network."""
        asked = {"BasicBlock": self.basic, "avg_down": self.avg_down, "stride_in_1x1": self.stride_in_1x1}
        for what in CONVENTIONS[self.convention]:
            if asked[what]:
                raise InputError(f"dilation_convention={self.convention!r}: {self.convention} dilates no network with "
                                 f"{what}; 'exact' does")  # fmt: skip

    def first(self, stride: int, removed: int, before: int, after: int, grid: int) -> BlockGeometry:
        """A stage's first block. `removed` is the stride that dilation replaced (1 where none), `grid` a factor on the 3x3s."""
        if self.convention in ("exact", "torchvision"):
            pool = before if self.avg_down and stride * removed > 1 else 0
            return BlockGeometry(stride, (after if self.stride_in_1x1 else before) * grid, after * grid, pool)
        # detectron2 and mmdet dilate whole stages; mmdet's pool goes with the stride
        return BlockGeometry(stride, after * grid, self._second(after, grid), 1 if self.avg_down and stride > 1 else 0)

    def later(self, after: int, grid: int) -> BlockGeometry:
        """Any other block of a stage."""
        return BlockGeometry(1, after * grid, self._second(after, grid))

    def _second(self, after: int, grid: int) -> int:
        return 1 if self.convention == "mmdet" and self.basic else after * grid  # mmdet dilates conv1 alone


def dilated_stages(
    stages: Sequence[str], output_stride: int | None, replace: Sequence[bool] | None, full: int
) -> tuple[bool, ...]:
    """Which of `stages` (c3, c4, c5) trade their stride for dilation, from one of the two ways to say it.

    `full` is the output stride without dilation: 32 gives a choice of 8, 16 and 32.
    """
    if output_stride is not None and replace is not None:
        raise InputError("give output_stride or replace_stride_with_dilation, not both")
    if replace is not None:
        if len(replace) != len(stages):
            raise InputError(f"replace_stride_with_dilation has one entry for each of {', '.join(stages)}, not {len(replace)}")
        return tuple(bool(r) for r in replace)
    choices = {full >> removed: removed for removed in (2, 1, 0)}
    if output_stride is not None and output_stride not in choices:
        raise InputError(f"output_stride must be {', '.join(map(str, list(choices)[:-1]))} or {full}, not {output_stride!r}")
    removed = choices[output_stride or full]
    return (False,) * (len(stages) - removed) + (True,) * removed
