"""Every code block of the documentation runs, or is checked as far as possible without its files."""

import json
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from docs_blocks import PAGES, ROOT, blocks, check_command, command_lines
from PIL import Image
from saved_runs import save_run

FILE_NAME = re.compile(r"# (\w+\.py)\b")  # the first line of a block that is a file of the reader's
# tests/integrations runs those of integrations.md
PYTHON_PAGES = [page for page in PAGES if page.name != "integrations.md" and blocks(page, "python")]


def name(page):
    return str(page.relative_to(ROOT))


def test_blocks_have_a_language_that_is_tested():
    languages = {
        match for page in PAGES for match in re.findall(r"^```(\w*)\n", page.read_text(encoding="utf-8"), re.M)
    }
    assert languages <= {"python", "bash", "text", "toml", "yaml", "json", ""}  # "" also ends a block


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_python_blocks_run(page, tmp_path):
    """The blocks of a page in order, as one program in a folder of its own.

    The folder has the configs, a photo, a run of a detector, and the files that a block shows.
    """
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    classes = {"category_ids": [1, 18], "category_names": ["person", "dog"]}
    save_run(tmp_path / "runs/mask_rcnn_resnet50_fpn_1x_coco-1", metadata=classes)
    program, configs = [], []
    for block in blocks(page, "python"):
        file = FILE_NAME.match(block.code)
        if block.not_run:
            compile(block.code, name(page), "exec")
        elif file:
            (tmp_path / file[1]).write_text(block.code, encoding="utf-8")
            if "_base_" in block.code:  # read after the last block, because it may name a file that comes later
                configs.append(f"from detbackbones.engine.config import load_config; load_config({file[1]!r})")
        else:
            program.append(block.code)
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(program + configs)], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_known_names_and_keys(page):
    for line in command_lines(page):
        check_command(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_other_blocks_parse(page):
    for block in blocks(page, "toml"):
        tomllib.loads(block.code)
    for block in blocks(page, "json"):
        json.loads(block.code)


@pytest.mark.parametrize(
    "line",
    [
        "detbackbones tain mask_rcnn_resnet50_fpn_1x_coco",
        "detbackbones train mask_rcnn_resnet50_fpn_1x_coco bach_size=2",
        "python tools/train_coco.py no_such_config",
        "detbackbones evaluate a.json b.json uot=x",
        "detbackbones draw errors run=runs/mine",
        "detbackbones draw eror runs/mine",
        "rm -rf data",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises(Exception):  # noqa: B017
        check_command(line)
