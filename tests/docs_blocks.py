"""Code blocks of the documentation, and checks of commands without running them."""

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detbackbones.engine.config import ALIASES, DEFAULT_CONFIG, find_config, load_config
from detbackbones.tools.cli import SUBCOMMANDS, parse_pairs
from detbackbones.tools.draw import KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
# an HTML comment before a block says why it is not run
BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```", re.S | re.M)
PROGRAM = re.compile(r"(?:^|\s)(?:detbackbones (?P<subcommand>[\w-]+)|(?:\S*/)?tools/(?P<module>\w+)\.py)(?P<words>.*)")
OTHER_PROGRAMS = {"git", "pre-commit", "pip", "python", "source", "bash", "pytest", "cd", "export", "#SBATCH", "eval"}
FREE_ARGUMENTS = {"describe", "verify", "bench", "convert"}  # take the arguments of a backbone, or of a benchmark
PLACEHOLDERS = ("CONFIG", "...")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    not_run: str | None


def blocks(page: Path, language: str) -> list[Block]:
    found = [
        Block(match["language"], match["code"], match["reason"])
        for match in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if block.language == language]


def command_lines(page: Path) -> Iterator[str]:
    """Yield the lines of the bash blocks, joined where a backslash continues them, without comments."""
    for block in blocks(page, "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            for command in re.sub(r"(^|\s)# .*", "", line).split("&&"):
                if command.strip():
                    yield command.strip()


def check_command(line: str) -> None:
    """Raise an error unless a command is one of ours with known keys, or one of `OTHER_PROGRAMS`."""
    match = PROGRAM.search(line)
    if match is None:
        assert shlex.split(line, comments=False)[0] in OTHER_PROGRAMS, f"unknown program: {line}"
        return
    modules = {module: name for name, (module, _) in SUBCOMMANDS.items()}
    name = match["subcommand"] or modules[match["module"]]
    assert name in SUBCOMMANDS, f"unknown subcommand: {line}"
    words = shlex.split(match["words"])
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    values = parse_pairs([word for word in words if "=" in word and word != "..."])
    if name == "train":
        _check_training(names, values)
    elif name == "draw":
        _check_drawing(names, values)
    elif name not in FREE_ARGUMENTS:
        module = importlib.import_module(f"detbackbones.tools.{SUBCOMMANDS[name][0]}")
        usage = getattr(module, "usage", module.__doc__)
        known = set(re.findall(r"(\w[\w.-]*) ?=", usage(names) if callable(usage) else usage))
        known |= set(getattr(getattr(module, "Settings", None), "model_fields", ()))
        known |= set(ALIASES) if "config" in known else set()  # a program that reads a config takes its short keys
        assert set(values) <= known, f"{sorted(set(values) - known)} are not keys of {name}: {line}"


def _check_drawing(names: list[str], values: dict) -> None:
    if not names:
        return
    kind = KINDS[names[0]]
    assert len(names) <= 2, f"draw {names[0]} takes one {kind.source}: {names}"
    own = set(kind.keys.model_fields)
    assert kind.other_keys or set(values) <= own, f"{sorted(set(values) - own)} are not keys of draw {names[0]}"


def _check_training(names: list[str], values: dict) -> None:
    if "imports" in values:  # a module that only the reader has
        values = {
            key: value for key, value in values.items() if not key.startswith(("imports", "backbone", "model.backbone"))
        }
    names = [name for name in names if name not in PLACEHOLDERS]
    load_config(find_config(names[0]) if names and not names[0].startswith("my_") else DEFAULT_CONFIG, values)
