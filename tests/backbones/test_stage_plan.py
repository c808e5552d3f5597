"""The stage plan: strides and dilations of every block, decided without torch."""

import itertools
import subprocess
import sys

import pytest
from helpers import input_error

from detbackbones.backbones.stage_plan import BlockPlan, Layout, check_convention, dilated_stages, plan_stages

RESNET18 = Layout((2, 2, 2, 2), (64, 128, 256, 512), bottleneck=False)
RESNET50 = Layout((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True)
RESNET50_CAFFE = Layout((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, stride_in_1x1=True)
RESNET50D = Layout((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, stem="deep", avg_down=True)
CIFAR = Layout((3, 3, 3), (16, 32, 64), bottleneck=False, stem="cifar")
CONVENTIONS = ["exact", "torchvision", "detectron2", "mmdet"]
DILATIONS = list(itertools.product([False, True], repeat=3))


def test_importing_the_plan_does_not_import_torch():
    code = "import sys, detbackbones.backbones.stage_plan; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("dilated", DILATIONS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_declared_geometry_of_resnet50(dilated, convention):
    """A removed stride becomes dilation, under every convention."""
    stride, dilation, expected = 4, 1, [(4, 1)]
    for replaced in dilated:
        stride, dilation = (stride, 2 * dilation) if replaced else (2 * stride, dilation)
        expected.append((stride, dilation))
    specs = [plan.spec for plan in plan_stages(RESNET50, dilated, convention)]
    assert [(spec.stride, spec.dilation) for spec in specs] == expected
    assert [(spec.name, spec.level) for spec in specs] == [("c2", 2), ("c3", 3), ("c4", 4), ("c5", 5)]
    assert [spec.channels for spec in specs] == [256, 512, 1024, 2048]


@pytest.mark.parametrize("dilated", DILATIONS)
@pytest.mark.parametrize("layout", [RESNET18, RESNET50, RESNET50_CAFFE, RESNET50D])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_strides_of_blocks_follow_the_declared_strides(layout, dilated, convention):
    stride = 4
    for plan in plan_stages(layout, dilated, convention):
        first, *later = [block.stride for block in plan.blocks]
        assert first * stride == plan.spec.stride
        assert set(later) == {1}
        stride = plan.spec.stride


@pytest.mark.parametrize("dilated", DILATIONS)
def test_torchvisions_bottlenecks_are_exact(dilated):
    assert plan_stages(RESNET50, dilated, "torchvision") == plan_stages(RESNET50, dilated, "exact")


@pytest.mark.parametrize("dilated", DILATIONS)
@pytest.mark.parametrize("convention", ["detectron2", "mmdet"])
def test_whole_dilated_stages_are_exact_if_and_only_if_the_first_1x1_carries_the_stride(dilated, convention):
    assert plan_stages(RESNET50_CAFFE, dilated, convention) == plan_stages(RESNET50_CAFFE, dilated, "exact")
    is_exact = plan_stages(RESNET50, dilated, convention) == plan_stages(RESNET50, dilated, "exact")
    assert is_exact == (not any(dilated))


def dilations(layout, dilated, convention="exact", **options):
    """Return the dilations of c4 and c5, block by block."""
    return [
        [block.dilations for block in plan.blocks] for plan in plan_stages(layout, dilated, convention, **options)[2:]
    ]


LAST, LAST_TWO = (False, False, True), (False, True, True)
C4_BLOCKS, C5_BLOCKS = 6, 3  # of resnet50


def test_exact_dilations_of_bottlenecks():
    """The 3x3 of a stage's first block carried the stride, so it keeps the previous dilation."""
    assert dilations(RESNET50, LAST) == [[(1,)] * C4_BLOCKS, [(1,)] + [(2,)] * (C5_BLOCKS - 1)]
    assert dilations(RESNET50, LAST_TWO) == [[(1,)] + [(2,)] * (C4_BLOCKS - 1), [(2,)] + [(4,)] * (C5_BLOCKS - 1)]


def test_exact_dilations_if_the_first_1x1_carried_the_stride():
    assert dilations(RESNET50_CAFFE, LAST_TWO) == [[(2,)] * C4_BLOCKS, [(4,)] * C5_BLOCKS]


def test_exact_dilations_of_basic_blocks():
    """The first 3x3 carried the stride, the second comes after it."""
    assert dilations(RESNET18, LAST_TWO) == [[(1, 2), (2, 2)], [(2, 4), (4, 4)]]


def test_mmdet_dilates_only_the_first_3x3_of_basic_blocks():
    assert dilations(RESNET18, LAST, "mmdet") == [[(1, 1), (1, 1)], [(2, 1), (2, 1)]]


def test_multi_grid_multiplies_the_dilations_of_the_deepest_stage():
    assert dilations(RESNET50, LAST, multi_grid=(1, 2, 4)) == [[(1,)] * C4_BLOCKS, [(1,), (4,), (8,)]]
    assert dilations(RESNET18, LAST, multi_grid=(2, 3)) == [[(1, 1), (1, 1)], [(2, 4), (6, 6)]]


def pool_dilations(convention, dilated):
    return [plan.blocks[0].pool_dilation for plan in plan_stages(RESNET50D, dilated, convention)]


def test_the_pool_of_a_shortcut_keeps_the_previous_dilation():
    assert pool_dilations("exact", (False, False, False)) == [0, 1, 1, 1]
    assert pool_dilations("exact", LAST_TWO) == [0, 1, 1, 2]


def test_mmdets_shortcut_does_not_pool_if_the_stride_is_removed():
    assert pool_dilations("mmdet", LAST_TWO) == [0, 1, 0, 0]


def test_shortcuts_of_plain_networks_do_not_pool():
    blocks = [block for plan in plan_stages(RESNET50, LAST_TWO) for block in plan.blocks]
    assert {block.pool_dilation for block in blocks} == {0}


def test_a_cifar_network_has_three_stages_at_strides_1_2_4():
    plans = plan_stages(CIFAR)
    assert [plan.spec.stride for plan in plans] == [1, 2, 4]
    assert plans[1].blocks == (BlockPlan(2, (1, 1)), BlockPlan(1, (1, 1)), BlockPlan(1, (1, 1)))


@pytest.mark.parametrize(
    "layout,output_stride,expected",
    [
        (RESNET50, None, (False, False, False)),
        (RESNET50, 32, (False, False, False)),
        (RESNET50, 16, (False, False, True)),
        (RESNET50, 8, (False, True, True)),
        (CIFAR, 2, (False, True)),
        (CIFAR, 1, (True, True)),
    ],
)
def test_output_stride_replaces_strides_from_the_deepest_stage_upwards(layout, output_stride, expected):
    assert dilated_stages(layout, output_stride, None) == expected


def test_strides_can_be_replaced_one_by_one():
    assert dilated_stages(RESNET50, None, [True, False, 1]) == (True, False, True)


@pytest.mark.parametrize(
    "layout,output_stride,replace,words",
    [
        (RESNET50, 12, None, ("output_stride", "8, 16, 32", "12")),
        (CIFAR, 8, None, ("output_stride", "1, 2, 4", "8")),
        (RESNET50, 8, (False, True, True), ("output_stride", "replace_stride_with_dilation", "not both")),
        (RESNET50, None, (False, True), ("replace_stride_with_dilation", "c3, c4, c5", "2")),
    ],
)
def test_bad_dilation(layout, output_stride, replace, words):
    with input_error(*words):
        dilated_stages(layout, output_stride, replace)


REFUSED = [
    (RESNET18, "torchvision", "BasicBlock"),
    (RESNET18, "detectron2", "BasicBlock"),
    (RESNET50_CAFFE, "torchvision", "stride_in_1x1"),
    (RESNET50D, "torchvision", "avg_down"),
    (RESNET50D, "detectron2", "avg_down"),
]


@pytest.mark.parametrize("layout,convention,feature", REFUSED)
def test_a_convention_refuses_to_dilate_what_its_library_does_not(layout, convention, feature):
    with input_error(convention, feature, "exact"):
        check_convention(layout, convention, LAST)


@pytest.mark.parametrize("layout,convention,feature", REFUSED)
def test_every_convention_has_every_network_without_dilation(layout, convention, feature):
    check_convention(layout, convention, (False, False, False))


def test_an_unknown_convention():
    with input_error("'detectron'", "did you mean detectron2"):
        check_convention(RESNET50, "detectron", LAST)
