"""The pages of the reference say what the code says; the site builds without a broken link."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs_blocks import ROOT

SCRIPT = ROOT / ".ci" / "write_reference.py"


def write_reference():
    spec = importlib.util.spec_from_file_location("write_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "config.md", "results.md"])
def test_a_generated_page_is_up_to_date(page):
    module = write_reference()
    assert (module.FOLDER / page).read_text(encoding="utf-8") == module.PAGES[page](), f"run python {SCRIPT.name}"


def test_the_readmes_results_are_those_of_the_configs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| `mask_rcnn_resnet50_fpn` | 38.2 / 34.7 | 41.0 / 37.2 |" in text
    assert write_reference().readme(text) == text, f"run python {SCRIPT.name}"


def test_the_site_builds_without_a_broken_link(tmp_path):
    program = Path(sys.executable).parent / "zensical"
    if not program.is_file():
        pytest.skip("zensical is not installed (pip install detbackbones[docs])")
    copy = tmp_path / "detbackbones"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "runs", "tests", "*.egg-info", ".*_cache")
    )
    path = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    result = subprocess.run([copy / ".ci" / "docs"], capture_output=True, text=True, env=path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "No issues found" in result.stdout + result.stderr

    page = copy / "docs" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[broken](no-such-page.md)\n", encoding="utf-8")
    result = subprocess.run([copy / ".ci" / "docs"], capture_output=True, text=True, env=path)
    assert result.returncode != 0
