"""What the command-line programs share, and the command `detbackbones`."""

import os
import subprocess
import sys

import pytest

from detbackbones import InputError
from detbackbones.engine.console import plain_console
from detbackbones.errors import RunError
from detbackbones.tools.cli import SUBCOMMANDS, main, one_name, parse_pairs, run_command


def test_values_are_literals_or_text():
    words = ["a=1", "b=(1,2)", "c=none", "d=True", "e=resnet50", "f=x=y", "g={'k': 1e-3}", "h=(c2,c3)", "i="]
    assert parse_pairs(words) == {
        "a": 1,
        "b": (1, 2),
        "c": None,
        "d": True,
        "e": "resnet50",
        "f": "x=y",
        "g": {"k": 1e-3},
        "h": "(c2,c3)",
        "i": "",
    }
    with pytest.raises(InputError, match="key=value, got '=3'"):
        parse_pairs(["=3"])


def test_errors_are_one_line_with_an_exit_code(capsys):
    def fail(names, values):
        raise values["error"](f"no {names[0]}")

    for error, status in ((InputError, 2), (RunError, 1)):
        assert run_command(lambda names, values: fail(names, {"error": error}), "usage", ["x"]) == status  # noqa: B023
        assert capsys.readouterr().err == "error: no x\n"
    assert run_command(lambda names, values: 7, "usage", ["x"]) == 7


def test_the_value_of_a_path_is_text():
    words = ["out=2024", "work_dir=1e3", "train.ann_file=(1)", "weights=true", "init_from=None"]
    values = {"out": "2024", "work_dir": "1e3", "train.ann_file": "(1)", "weights": "true", "init_from": None}
    assert parse_pairs(words) == values


@pytest.mark.parametrize("path", ["/data/lr=0.1/a.json", "./lr=0.1/a.json", "C:\\lr=0.1\\a.json"])
def test_a_path_may_have_an_equals_sign_after_a_slash(path, capsys):
    assert run_command(lambda names, values: print(names, values), "usage", [path, f"out={path}"]) == 0
    assert capsys.readouterr().out == f"{[path]} {{'out': {path!r}}}\n"


@pytest.mark.parametrize("message", ["a\nb", "a\r\x1b[2Jb", "a\u2028b", "\udcff", "[bold]a[/x]"])
def test_an_error_is_one_line_whatever_its_message(message, capsys):
    def fail(names, values):
        raise InputError(message)

    assert run_command(fail, "usage", ["x"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.rstrip("\n").isprintable()


@pytest.mark.parametrize("text", ["[bold]a[/x]", ":smile: [/]", "x" * 500])
def test_text_on_the_console_is_not_interpreted(text, capsys):
    plain_console().print(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_usage(capsys):
    for words in ([], ["-h"], ["x", "--help"]):
        assert run_command(lambda names, values: 7, lambda names: f"usage {names}", words) == 0
        assert capsys.readouterr().out == f"usage {words[:-1]}\n"
    assert run_command(lambda names, values: 7, "usage", [], needs_words=False) == 7


def test_one_name():
    assert one_name(["resnet50"], "backbone") == "resnet50"
    with pytest.raises(InputError, match="one backbone, got none"):
        one_name([], "backbone")
    with pytest.raises(InputError, match="one backbone, got a and b"):
        one_name(["a", "b"], "backbone")


def test_subcommands_are_listed_and_run(capsys):
    for words in ([], ["--help"]):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert all(f"    {name} " in printed for name in SUBCOMMANDS)
    for name, (module, _) in SUBCOMMANDS.items():
        assert main([name, "--help"]) == 0
        assert f"tools/{module}.py" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_bench_outside_a_clone_ends_in_one_line(monkeypatch, capsys):
    for module in ("", ".measure", ".settings"):  # None makes an import fail as if the folder were missing
        monkeypatch.setitem(sys.modules, f"detbackbones.benchmarks{module}", None)
    assert main(["bench", "features"]) == 2
    error = capsys.readouterr().err
    assert "clone" in error
    assert error.count("\n") == 1


def test_backbone_tools_load_neither_engine_nor_detectors():
    heavy = ["detbackbones.engine", "detbackbones.detectors", "pydantic"]
    tools = "detbackbones.tools.verify_dilation, detbackbones.tools.describe"
    code = f"import sys, {tools}; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_console_cannot_encode_are_escaped(encoding):
    code = "from detbackbones.tools.cli import run_command; run_command(lambda *_: print('\\u732b'), '', ['x'])"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "\\u732b\n")
