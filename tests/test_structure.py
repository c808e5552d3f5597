"""The layout of the repository: packages, sizes of files, and imports that run one way."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_IN_THE_WHEEL = {"tests", "benchmarks", "docs"}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in NOT_IN_THE_WHEEL)
MODULES = sorted(
    [*ROOT.glob("*.py"), *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))],
    key=lambda file: file.relative_to(ROOT),
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# A module imports modules of higher layers only. Folders of one layer do not import each other.
LAYERS = [
    {"tools", "integrations"},
    {"engine"},
    {"detectors", "data", "evaluation", "visualization"},
    {"necks"},
    {"backbones"},
    {"weights", "layers"},
    {"registry"},
    {"specs", "errors"},
]
EXCEPTIONS = {("evaluation", "data.annotations"), ("evaluation", "data.misread"), ("evaluation", "data.segmentations")}
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def module_name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def import_statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports of a module, also those inside functions, except those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        else:
            yield from import_statements(node)


def imported_modules(file: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports, such as "data.annotations"."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in import_statements(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            names = [".".join(["detbackbones", *base, alias.name]) for alias in node.names]
        else:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("detbackbones."):
                yield name.removeprefix("detbackbones.")


def folder_of(file: Path) -> str:
    """Return the folder of a module, or the name of a module that lies in the root."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("file", [file for file in MODULES if folder_of(file) in DEPTH], ids=module_name)
def test_imports_run_one_way(file):
    folder = folder_of(file)
    for name in imported_modules(file):
        target = name.split(".")[0]
        is_exception = any(folder == source and f"{name}.".startswith(f"{known}.") for source, known in EXCEPTIONS)
        if target == folder or target not in DEPTH or is_exception:
            continue
        assert DEPTH[target] > DEPTH[folder], f"{module_name(file)} imports {name}"


def test_every_package_has_its_place_in_the_order_of_imports():
    assert set(PACKAGES) - {"configs"} <= DEPTH.keys()


def test_the_package_list_equals_the_folders_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(["detbackbones", *(f"detbackbones.{name}" for name in PACKAGES)])


@pytest.mark.parametrize("file", MODULES, ids=module_name)
def test_files_of_the_package_have_at_most_300_lines(file):
    assert len(file.read_text().splitlines()) <= 300


@pytest.mark.parametrize("file", TESTS, ids=module_name)
def test_test_files_have_at_most_400_lines(file):
    assert len(file.read_text().splitlines()) <= 400


def test_file_names_of_tests_are_unique():
    names = [file.name for file in TESTS if file.name.startswith("test_")]
    assert sorted(set(names)) == sorted(names)


def python(code: str, cwd: Path | None = None) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd
    ).stdout.strip()


@pytest.mark.parametrize(
    "module,absent",
    [
        ("backbones.stage_plan", "torch"),
        ("data.annotations", "mmengine"),
    ],
)
def test_a_light_module_does_not_import(module, absent):
    assert python(f"import sys, detbackbones.{module}; print({absent!r} in sys.modules)") == "False"


@pytest.mark.parametrize("name", ["datasets", "transformers", "timm"])
def test_no_folder_hides_a_package_that_users_import(name):
    """Python puts the working directory first on its path."""
    code = f"""
import importlib.util
spec = importlib.util.find_spec({name!r})
print(list(spec.submodule_search_locations) if spec else [])
"""
    assert str(ROOT / name) not in python(code, cwd=ROOT)
