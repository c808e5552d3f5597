"""Completion in real shells."""

import contextlib
import io
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from detbackbones import list_backbones
from detbackbones.tools.cli import SUBCOMMANDS, main
from detbackbones.tools.completion import find_keys

DRIVER = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_detbackbones
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, Path]:
    """The script of each shell, written by the command."""
    folder = tmp_path_factory.mktemp("completion")
    files = {}
    for shell in ("bash", "zsh", "fish"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["completion", shell]) == 0
        files[shell] = folder / f"_detbackbones.{shell}"
        files[shell].write_text(printed.getvalue(), encoding="utf-8")
    return files


@pytest.fixture
def folder(tmp_path) -> Path:
    """A working folder with files to complete."""
    (tmp_path / "photo 1.jpg").touch()
    (tmp_path / "outdoors").mkdir()
    return tmp_path


def shell(name: str, code: str, folder: Path) -> list[str]:
    """Run code in a shell; return the lines that it prints."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    options = ["--norc", "--noprofile"] if name == "bash" else ["-f"] if name == "zsh" else ["--no-config"]
    result = subprocess.run([program, *options, "-c", code], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout.splitlines()


def bash(scripts, folder, words: str) -> list[str]:
    """What bash offers for the last of `words`, which are split as bash splits them, at "=" too."""
    return shell("bash", DRIVER.format(script=shlex.quote(str(scripts["bash"])), words=words), folder)


def test_bash_completes_subcommands(scripts, folder):
    assert bash(scripts, folder, "detbackbones ''") == list(SUBCOMMANDS)
    assert bash(scripts, folder, "detbackbones tr") == ["train"]


def test_bash_completes_keys_of_the_subcommand(scripts, folder):
    assert bash(scripts, folder, "detbackbones train max_it") == ["max_iters="]
    assert bash(scripts, folder, "detbackbones predict score") == ["score_threshold="]
    assert bash(scripts, folder, "detbackbones describe resnet50 output_str") == ["output_stride="]
    assert bash(scripts, folder, "detbackbones features model.output_str") == ["model.output_stride="]
    assert "data_root=" in bash(scripts, folder, "detbackbones draw data data")


def test_bash_completes_names(scripts, folder):
    assert bash(scripts, folder, "detbackbones train faster_rcnn_resnet18") == ["faster_rcnn_resnet18_fpn_bccd"]
    assert "resnet101_dilated" in bash(scripts, folder, "detbackbones verify resnet101")
    assert set(bash(scripts, folder, "detbackbones train backbone = ''")) == set(list_backbones()) - {"timm"}
    assert bash(scripts, folder, "detbackbones train neck = pa") == ["pafpn"]
    assert bash(scripts, folder, "detbackbones train neck=pa") == ["neck=pafpn"]  # "=" does not split words
    assert bash(scripts, folder, "detbackbones draw confu") == ["confusion"]


def test_bash_completes_files(scripts, folder):
    assert bash(scripts, folder, "detbackbones predict pho") == ["photo 1.jpg"]
    assert bash(scripts, folder, "detbackbones predict weights = out") == ["outdoors"]
    assert bash(scripts, folder, "detbackbones predict weights =") == sorted(["outdoors", "photo 1.jpg"])
    assert bash(scripts, folder, "detbackbones predict out") == ["out=", "outdoors"]


def test_fish_completes(scripts, folder):
    def fish(line):
        code = f"source {shlex.quote(str(scripts['fish']))}; complete -C {shlex.quote(line)}"
        return [found.split("\t")[0] for found in shell("fish", code, folder)]

    assert fish("detbackbones tr") == ["train"]
    assert fish("detbackbones train max_it") == ["max_iters="]
    assert fish("detbackbones train neck=pa") == ["neck=pafpn"]
    assert fish("detbackbones predict pho") == ["photo 1.jpg"]


def test_zsh_loads_the_script(scripts, folder):
    code = (
        f"autoload -Uz compinit; compinit -u -D; source {shlex.quote(str(scripts['zsh']))}; print $_comps[detbackbones]"
    )
    assert shell("zsh", code, folder) == ["_detbackbones"]


def test_mistakes(capsys):
    assert main(["completion", "powershell"]) == 2
    assert capsys.readouterr().err == "error: unknown shell 'powershell'; known: bash, fish, zsh\n"
    assert main(["completion", "bash", "out=file"]) == 2


def test_keys_come_from_help_texts():
    text = """Train.

    detbackbones train [CONFIG] [key=value ...]

Short keys: backbone= (model.backbone.type). model.KEY=VALUE sets one; see run (eval_only=true).

    resume=true work_dir=FOLDER
    optimizer.lr = 0.1  (float)
"""
    assert find_keys(text) == ["backbone", "resume", "work_dir", "optimizer.lr"]
