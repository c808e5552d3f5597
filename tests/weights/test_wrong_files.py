"""Files that are not what they should be end in one line, in Python and on the command line, and nothing is written."""

from pathlib import Path

import pytest
import torch
from helpers import input_error
from safetensors.torch import save_file
from tiny_runs import NARROW, words

from detbackbones import build_backbone
from detbackbones.tools.train_coco import main


def cut_off(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def html(path: Path, whole: bytes) -> None:
    path.write_text("<!DOCTYPE html>\n<html><body>Sign in to continue</body></html>")


def lfs_pointer(path: Path, whole: bytes) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 46830571\n")


def empty(path: Path, whole: bytes) -> None:
    path.touch()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "damage,words_of_error",
    [(cut_off, "cut off"), (html, "HTML page"), (lfs_pointer, "Git LFS pointer"), (empty, "empty file")],
)
def test_a_wrong_file(shapes, here, resnet18_weights, capsys, suffix, damage, words_of_error):
    content = Path(resnet18_weights).read_bytes()
    if suffix == ".safetensors":
        save_file(torch.load(resnet18_weights, weights_only=True), "whole")
        content = Path("whole").read_bytes()
    path = here / f"w{suffix}"
    damage(path, content)
    with input_error(path.name, words_of_error):
        build_backbone("resnet18", weights=str(path))
    check_command(shapes, here, capsys, path.name, words_of_error)


def test_a_wrong_hash(shapes, here, server, capsys, monkeypatch):
    """A download whose content is not that of the hash in its name."""
    monkeypatch.setenv("DETBACKBONES_MIRROR", server.base)
    with input_error("resnet18-", ".pth", "SHA-256"):
        build_backbone("resnet18", weights="torchvision:IMAGENET1K_V1")
    settings = {"weights": "torchvision:IMAGENET1K_V1", "backbone": "resnet18"}
    check_command(shapes, here, capsys, "resnet18-", "SHA-256", **settings)


def check_command(shapes, here, capsys, name, words_of_error, **settings):
    capsys.readouterr()
    settings = settings or {"init_from": name}
    assert main(words(NARROW | {"data_root": shapes, "work_dir": "run", **settings})) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1, errors
    assert name in errors[0] and words_of_error in errors[0]
    assert not (here / "run").exists()
