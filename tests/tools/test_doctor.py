"""`detbackbones doctor`: what it finds, compared with this environment."""

from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from detbackbones.tools import doctor
from detbackbones.tools.cli import main

PYPROJECT = """
[project]
name = "detbackbones"
dependencies = ["torch>=2", "no-such-package>=1"]
[project.optional-dependencies]
export = ["numpy>=999"]
test = ["detbackbones[export]", "pytest"]
"""


def test_it_prints_versions_devices_features_and_folders(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed
    assert "CPU " in printed and "bfloat16" in printed
    for extra in ("core", "export", "integrations"):
        assert f"\n{extra} " in printed
    assert f"working folder: {tmp_path} can be written" in printed
    assert main(["doctor", "now"]) == 2


def test_problems_of_a_feature(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    needs = doctor.read_requirements(tmp_path / "pyproject.toml")
    assert [one.name for one in needs["test"]] == ["pytest"]
    lines = {line.split()[0]: line for line in doctor.feature_lines(needs)}
    assert "no-such-package is missing; pip install 'detbackbones'" in lines["core"]
    assert f"numpy {metadata.version('numpy')} is installed, needed is >=999" in lines["export"]
    assert "pip install 'detbackbones[export]'" in lines["export"]
    assert lines["test"].split(maxsplit=1)[1] == "complete (1 packages)"


def test_metadata_of_an_installed_package_gives_the_same(tmp_path, monkeypatch):
    """The metadata repeats every requirement with a marker of its extra."""
    lines = ["torch>=2", "no-such-package>=1", "numpy>=999; extra == 'export'"]
    lines += ["detbackbones[export]; extra == 'test'", "pytest; extra == 'test'"]
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    expected = doctor.read_requirements(tmp_path / "pyproject.toml")
    message = metadata.metadata("pytest")
    del message["Provides-Extra"]
    for extra in ("export", "test"):
        message["Provides-Extra"] = extra
    monkeypatch.setattr(metadata, "metadata", lambda name: message)
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    found = doctor.read_requirements()

    def plain(needs):
        return {extra: [(one.name, str(one.specifier)) for one in given] for extra, given in needs.items()}

    assert plain(found) == plain(expected)


def test_gpus(capsys):
    cpu = {"name": "CPU", "cores": 1, "threads": 1, "memory_gib": 1.0, "instructions": "AVX2"}
    gpus = [{"name": "V100", "memory_gib": 16.0, "capability": "7.0"}]
    gpus.append({"name": "H200", "memory_gib": 139.0, "capability": "9.0"})
    lines = "\n".join(doctor.device_lines({"cpu": cpu, "gpus": gpus}))
    assert "V100: 16.0 GiB, compute capability 7.0, no bfloat16" in lines
    assert "H200: 139.0 GiB, compute capability 9.0, has bfloat16" in lines
    assert "does not use AVX-512" in lines and "none that torch" not in lines


def test_a_folder_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("DETBACKBONES_CACHE", "/proc/no-such-folder/cache")
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: Path(path) != Path("/proc"))
    assert "cache: /proc/no-such-folder/cache CANNOT be written" in list(doctor.folder_lines())


@pytest.mark.parametrize("line,problem", [("numpy", None), ("numpy<1", "needed is <1"), ("no-such-package", "missing")])
def test_find_problems(line, problem):
    problems = list(doctor.find_problems([Requirement(line)]))
    assert (not problems) if problem is None else problem in problems[0]
