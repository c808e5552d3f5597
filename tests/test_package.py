"""The package as an import: one copy of everything, and light."""

import subprocess
import sys
from pathlib import Path

import pytest

import detbackbones
import detbackbones.registry

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, cwd: Path | None = None) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_file_is_imported_once():
    """Two copies of a module would mean two registries."""
    detbackbones.list_backbones()
    modules = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        is_ours = Path(file).is_relative_to(ROOT) and "site-packages" not in file
        if is_ours and Path(file) != ROOT / "__init__.py" and name != "__main__":
            assert file not in modules, f"{file} is both {name} and {modules[file]}"
            modules[file] = name
    assert detbackbones.BACKBONES is detbackbones.registry.BACKBONES


@pytest.mark.parametrize("name", detbackbones.__all__)
def test_public_names(name):
    assert getattr(detbackbones, name) is not None
    assert name in dir(detbackbones)


def test_an_unknown_public_name():
    with pytest.raises(AttributeError, match="no_such_name"):
        detbackbones.no_such_name  # noqa: B018


def test_the_package_alone_does_not_import_torch():
    assert python("import sys, detbackbones; print('torch' in sys.modules)").strip() == "False"


def test_the_training_program_does_not_import_slow_packages():
    code = "import sys, detbackbones.tools.train_coco; print({'cv2', 'mmengine.runner'} & set(sys.modules))"
    assert python(code).strip() == "set()"
