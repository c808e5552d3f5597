"""tools/describe.py and tools/verify_dilation.py."""

import pytest

from detbackbones import describe
from detbackbones.tools import describe as describe_tool, verify_dilation as verify_tool


def test_describe_prints_the_description(capsys):
    assert describe_tool.main(["resnet18_dilated", "norm=group"]) == 0
    assert capsys.readouterr().out == f"{describe('resnet18_dilated', norm='group')}\n"


def test_verify_prints_errors_and_ends_with_their_verdict(capsys):
    assert verify_tool.main(["resnet18_dilated", "size=(64,96)"]) == 0
    printed = capsys.readouterr().out
    assert "resnet18_dilated" in printed
    assert len([line for line in printed.splitlines() if line.endswith(" exact") and "not" not in line]) == 4
    assert verify_tool.main(["resnet18_dilated", "dilation_convention=mmdet"]) == 1
    assert "not exact" in capsys.readouterr().out


def test_a_backbone_of_ones_own(here, capsys):
    (here / "own_backbone.py").write_text(
        "from detbackbones.registry import BACKBONES, build_backbone\n"
        "@BACKBONES.register_module()\n"
        "def own_resnet(load_weights: bool = True, **arguments):\n"
        "    return build_backbone('resnet18_dc5', **arguments)\n"
    )
    assert verify_tool.main(["own_resnet", "imports=own_backbone", "size=(64,64)"]) == 0
    assert describe_tool.main(["own_resnet", "imports=own_backbone"]) == 0
    assert "own_resnet" in capsys.readouterr().out


@pytest.mark.parametrize("tool", [describe_tool, verify_tool])
@pytest.mark.parametrize(
    "words, culprit, suggestion",
    [
        (["resnet17"], "'resnet17'", "did you mean resnet"),
        (["resnet18", "output_strid=8"], "'output_strid'", "did you mean output_stride"),
        (["resnet18", "resnet34"], "one backbone", "resnet18 and resnet34"),
        (["resnet18", "imports=no_such_module"], "no_such_module", "import"),
    ],
)
def test_bad_input_is_one_line(tool, words, culprit, suggestion, capsys):
    assert tool.main(words) == 2
    error = capsys.readouterr().err
    assert culprit in error
    assert suggestion in error
    assert error.count("\n") == 1


def test_verify_checks_the_size(capsys):
    assert verify_tool.main(["resnet18", "size=64"]) == 2
    assert "size must be (height,width) in pixels, got 64" in capsys.readouterr().err
