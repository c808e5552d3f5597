"""Plan a residual network: stride and dilation of every block, and the FeatureSpec of every stage.

Dilation in place of a stride is exact if the dilated features sampled at the removed stride equal the undilated ones
(the a-trous identity). That holds if and only if

* convolutions up to and including the one that carried the removed stride keep the previous dilation,
* convolutions after it get the new dilation, and
* the average pool of a shortcut keeps the previous dilation.

The convolution that carries the stride depends on the block: the first 3x3 of a BasicBlock, the 3x3 of a Bottleneck, or
its first 1x1 with `stride_in_1x1`. The other conventions are those of libraries with published weights.

This module does not import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, check_known
from ..specs import FeatureSpec

STAGE_KEYS = {"c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}  # level -> torchvision's module name
STEM_STRIDES = {"conv7": (2, 4), "deep": (2, 4), "cifar": (1, 1)}  # stem -> strides of c1 and of the input of c2
UNSUPPORTED = {  # convention -> what that library does not dilate
    "exact": (),
    "torchvision": ("BasicBlock", "avg_down", "stride_in_1x1"),
    "detectron2": ("BasicBlock", "avg_down"),
    "mmdet": (),
}


@dataclass(frozen=True)
class Layout:
    """Structure of a network, from which `plan_stages` computes its geometry.

    Attributes:
        layers: number of blocks per stage.
        planes: width per stage before the block's expansion.
        bottleneck: the blocks are Bottlenecks (1x1, 3x3, 1x1) and not BasicBlocks (3x3, 3x3).
        stem: "conv7", "deep" or "cifar".
        stride_in_1x1: the first 1x1 of a Bottleneck carries the stride.
        avg_down: shortcuts average-pool before their convolution.

    Raises:
        InputError: the stem is unknown.
    """

    layers: tuple[int, ...]
    planes: tuple[int, ...]
    bottleneck: bool
    stem: str = "conv7"
    stride_in_1x1: bool = False
    avg_down: bool = False

    def __post_init__(self) -> None:
        check_known("stem", STEM_STRIDES, self.stem)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Level names of the stages, shallow to deep: ("c2", "c3", "c4", "c5")."""
        return tuple(STAGE_KEYS)[: len(self.layers)]


@dataclass(frozen=True)
class BlockPlan:
    """Geometry of one block.

    Attributes:
        stride: 2 in the first block of a stage that keeps its stride, else 1.
        dilations: of the 3x3 convolutions in order, one for a Bottleneck and two for a BasicBlock.
        pool_dilation: of the shortcut's average pool; 0 if the shortcut does not pool.
    """

    stride: int
    dilations: tuple[int, ...]
    pool_dilation: int = 0


@dataclass(frozen=True)
class StagePlan:
    """Geometry of one stage: the blocks that compute one level.

    Attributes:
        spec: what the stage declares.
        planes: width before the block's expansion.
        blocks: one plan per block.
    """

    spec: FeatureSpec
    planes: int
    blocks: tuple[BlockPlan, ...]


def plan_stages(
    layout: Layout,
    dilated: Sequence[bool] = (False, False, False),
    convention: str = "exact",
    multi_grid: Sequence[int] | None = None,
) -> tuple[StagePlan, ...]:
    """Decide stride and dilation of every block.

    Args:
        layout: the network.
        dilated: for each stage after the first, whether dilation replaces its stride; see `dilated_stages`.
        convention: "exact", or "torchvision", "detectron2", "mmdet".
        multi_grid: factor on the dilations of each block of the deepest stage.
    """
    plans = []
    net_stride, dilation = STEM_STRIDES[layout.stem][1], 1
    for index, name in enumerate(layout.stage_names):
        stride = 2 if index > 0 else 1
        prev_dilation, removed_stride = dilation, 1
        if index > 0 and dilated[index - 1]:
            stride, removed_stride = 1, stride
            dilation *= removed_stride
        net_stride *= stride
        grid = multi_grid if multi_grid and name == layout.stage_names[-1] else (1,) * layout.layers[index]
        first = _first_block(layout, convention, stride, removed_stride, prev_dilation, dilation, grid[0])
        later = [BlockPlan(1, _whole_stage_dilations(layout, convention, dilation * factor)) for factor in grid[1:]]
        channels = layout.planes[index] * (4 if layout.bottleneck else 1)
        spec = FeatureSpec(name, index + 2, channels, net_stride, dilation)
        plans.append(StagePlan(spec, layout.planes[index], (first, *later)))
    return tuple(plans)


def _first_block(
    layout: Layout, convention: str, stride: int, removed_stride: int, prev_dilation: int, dilation: int, factor: int
) -> BlockPlan:
    """Plan the block that carries, or carried, the stride of its stage."""
    if convention not in ("exact", "torchvision"):
        # detectron2 and mmdet dilate whole stages; mmdet pools the shortcut only if the block keeps its stride
        pool_dilation = 1 if layout.avg_down and stride > 1 else 0
        return BlockPlan(stride, _whole_stage_dilations(layout, convention, dilation * factor), pool_dilation)
    pool_dilation = prev_dilation if layout.avg_down and stride * removed_stride > 1 else 0
    if not layout.bottleneck:
        dilations: tuple[int, ...] = (prev_dilation * factor, dilation * factor)
    elif layout.stride_in_1x1:  # the 3x3 comes after the stride
        dilations = (dilation * factor,)
    else:
        dilations = (prev_dilation * factor,)
    return BlockPlan(stride, dilations, pool_dilation)


def _whole_stage_dilations(layout: Layout, convention: str, dilation: int) -> tuple[int, ...]:
    """Return the dilations of a block whose 3x3 convolutions all have the dilation of the stage."""
    if layout.bottleneck:
        return (dilation,)
    return (dilation, 1 if convention == "mmdet" else dilation)  # mmdet dilates only conv1 of a BasicBlock


def dilated_stages(
    layout: Layout, output_stride: int | None, replace_stride_with_dilation: Sequence[bool] | None
) -> tuple[bool, ...]:
    """Return for each stage after the first whether dilation replaces its stride.

    Args:
        layout: the network.
        output_stride: stride of the deepest stage; strides are replaced from the deepest stage upwards.
        replace_stride_with_dilation: the answer, given stage by stage.

    Raises:
        InputError: both are given, or one has an impossible value.
    """
    stages = layout.stage_names[1:]
    if output_stride is not None and replace_stride_with_dilation is not None:
        raise InputError("give output_stride or replace_stride_with_dilation, not both")
    if replace_stride_with_dilation is not None:
        if len(replace_stride_with_dilation) != len(stages):
            raise InputError(
                f"replace_stride_with_dilation must have {len(stages)} entries ({', '.join(stages)}), "
                f"got {len(replace_stride_with_dilation)}"
            )
        return tuple(bool(replace) for replace in replace_stride_with_dilation)
    full = STEM_STRIDES[layout.stem][1] * 2 ** len(stages)
    choices = {full // 4: 2, full // 2: 1, full: 0}  # output stride -> number of dilated stages
    if output_stride is None:
        output_stride = full
    if output_stride not in choices:
        raise InputError(f"output_stride must be one of {', '.join(map(str, choices))}, got {output_stride!r}")
    num_dilated = choices[output_stride]
    return (False,) * (len(stages) - num_dilated) + (True,) * num_dilated


def check_convention(layout: Layout, convention: str, dilated: Sequence[bool]) -> None:
    """Check that the library of a dilation convention has such a network.

    Raises:
        InputError: the convention is unknown, or its library cannot dilate this network.
    """
    check_known("dilation_convention", UNSUPPORTED, convention)
    features = {
        "BasicBlock": not layout.bottleneck,
        "avg_down": layout.avg_down,
        "stride_in_1x1": layout.stride_in_1x1,
    }
    for feature in UNSUPPORTED[convention]:
        if any(dilated) and features[feature]:
            raise InputError(
                f"dilation_convention={convention!r}: {convention} does not dilate networks with {feature}; use 'exact'"
            )
