"""The package as an import: one copy of everything, light, and the README's own code runs."""

import re
import subprocess
import sys
from pathlib import Path

import detbackbones

ROOT = Path(__file__).resolve().parent.parent


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_one_registry_and_no_second_copy_of_a_module():
    from detbackbones import BACKBONES
    from detbackbones.registry import BACKBONES as same

    assert BACKBONES is same is detbackbones.BACKBONES
    detbackbones.list_backbones()
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(ROOT) and Path(file) != ROOT / "__init__.py":
            assert file not in files or name == "__main__", f"{file} is both {name} and {files.get(file)}"
            files[file] = name


def test_every_public_name_is_there():
    assert all(getattr(detbackbones, name) is not None for name in detbackbones.__all__)
    assert set(detbackbones.__all__) <= set(dir(detbackbones))


def test_import_is_light_and_never_needs_cv2():
    assert python("import sys, detbackbones; print('torch' in sys.modules)").strip() == "False"
    code = "import sys; from detbackbones.tools import train_coco; print('cv2' in sys.modules, 'mmengine.runner' in sys.modules)"
    assert python(code).split() == ["False", "False"]


def test_the_readme_code_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    printed = python(code)
    assert "'c2': (1, 256, 120, 160)" in printed and "'c5': (1, 2048, 15, 20)" in printed and "FeatureSpec(name='c3'" in printed


def test_third_parties_add_backbones(tmp_path):
    """Through the decorator, and through an entry point of an installed distribution."""
    (tmp_path / "theirs.py").write_text("def tiny(width: int = 4):\n    return ('tiny', width)\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[detbackbones.backbones]\ntiny_net = theirs:tiny\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from detbackbones import BACKBONES, build_backbone, list_backbones
BACKBONES.register_module(name="other_net", module=lambda: "other")
print(build_backbone("tiny_net", width=7), build_backbone("other_net"), list_backbones("tiny*"))
"""
    assert python(code).strip() == "('tiny', 7) other ['tiny_net']"


def test_an_entry_point_cannot_take_a_name_that_is_there(tmp_path):
    (tmp_path / "theirs.py").write_text("def net():\n    return None\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[detbackbones.backbones]\nresnet50 = theirs:net\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from detbackbones import InputError, list_backbones
try:
    list_backbones()
except InputError as error:
    print(error)
"""
    assert python(code).strip() == "entry point theirs:net wants the backbone name 'resnet50', which is taken"
