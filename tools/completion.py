"""Print a script that completes subcommands, keys, names and files of `detbackbones` in a shell.

    python tools/completion.py SHELL
    detbackbones completion SHELL

SHELL is bash, zsh or fish. To have it in every new shell:

    bash    detbackbones completion bash > ~/.local/share/bash-completion/completions/detbackbones
    zsh     detbackbones completion zsh > "${fpath[1]}/_detbackbones"
    fish    detbackbones completion fish > ~/.config/fish/completions/detbackbones.fish

The script has the names of this version of the package: print it again after an update.
"""

import contextlib
import functools
import importlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from detbackbones.engine.config import CONFIG_DIR
from detbackbones.errors import check_known
from detbackbones.registry import BACKBONES, accepted_arguments, list_backbones, list_necks, lookup
from detbackbones.tools.cli import SUBCOMMANDS, one_name, run_command
from detbackbones.tools.completion_scripts import SCRIPTS, Completions

# "name = value" at the start of a line, or "name=" anywhere; words in capitals stand for the user's own
KEY = re.compile(r"^    ([a-z][\w.]*) = |(?<![\w.\"'(-])([a-z][a-z\d_.]*)=", re.MULTILINE)
STAND_FOR_KEYS = {"key", "argument"}
KIND = re.compile(r"^    (?!python |detbackbones )([a-z]\w*)(?: [A-Z]+)? +[^\s=]", re.MULTILINE)  # "name  meaning"


def help_text(subcommand: str, *words: str) -> str:
    """Return what `detbackbones SUBCOMMAND --help` prints."""
    module = importlib.import_module(f"detbackbones.tools.{SUBCOMMANDS[subcommand][0]}")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        module.main([*words, "--help"])
    return printed.getvalue()


def find_keys(text: str) -> list[str]:
    """Return the keys that a help text names, in its order."""
    found = [described or given for described, given in KEY.findall(text)]
    return [key for key in dict.fromkeys(found) if key not in STAND_FOR_KEYS]


def backbone_keys() -> list[str]:
    """Return the arguments of the ResNet backbones."""
    return [name for name in accepted_arguments(lookup(BACKBONES, "resnet50")) or {} if name != "load_weights"]


def config_names() -> list[str]:
    """Return the names of the ready configs."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.py") if path.stem != "__init__")


def find_kinds(subcommand: str) -> list[str]:
    """Return the first words of a subcommand that its help text lists, one per line."""
    return KIND.findall(help_text(subcommand))


def drawing_keys() -> list[str]:
    """Return the keys of all kinds of pictures."""
    return find_keys("\n".join(help_text("draw", kind) for kind in find_kinds("draw")))


MORE_KEYS: dict[str, Callable[[], list[str]]] = {  # that the help text does not list
    "describe": backbone_keys,
    "verify": backbone_keys,
    "features": lambda: [f"model.{name}" for name in backbone_keys()],
    "draw": drawing_keys,
    "bench": lambda: ["data_root"],
}
NAMES: dict[str, Callable[[], list[str]]] = {  # what the first word after a subcommand may be, besides a file
    "train": config_names,
    "describe": list_backbones,
    "verify": list_backbones,
    "draw": lambda: find_kinds("draw"),
    "bench": lambda: find_kinds("bench"),
    "completion": lambda: list(SCRIPTS),
}
VALUES: dict[str, Callable[[], list[str]]] = {  # of keys
    "backbone": lambda: [name for name in list_backbones() if name != "timm"],  # needs a model
    "neck": list_necks,
}


def find_completions() -> Completions:
    """Collect what can be completed, from the help texts and the registries."""
    texts = {name: help_text(name) for name in SUBCOMMANDS if name != "completion"} | {"completion": ""}
    return Completions(
        meanings={name: meaning for name, (_, meaning) in SUBCOMMANDS.items()},
        keys={
            name: list(dict.fromkeys([*find_keys(text), *MORE_KEYS.get(name, list)()])) for name, text in texts.items()
        },
        names={name: find() for name, find in NAMES.items() if name in SUBCOMMANDS},
        values={key: find() for key, find in VALUES.items()},
    )


def print_script(names: Sequence[str], values: dict[str, Any]) -> None:
    """Print the script of the shell that the command line names."""
    check_known("key", (), *values)
    shell = one_name(names, "shell")
    check_known("shell", SCRIPTS, shell)
    print(SCRIPTS[shell](find_completions()), end="")


main = functools.partial(run_command, print_script, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
