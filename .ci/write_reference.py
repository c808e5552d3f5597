"""Write what the documentation takes from the code: commands, config keys, configs with published results.

    python .ci/write_reference.py

It writes pages of docs/reference/ and the table of results in README.md. tests/docs/test_reference.py compares them
with what this program would write.
"""

import importlib
import re
from pathlib import Path

from detbackbones.engine.config import CONFIG_DIR, DEFAULT_CONFIG, load_config
from detbackbones.engine.schema import describe_fields
from detbackbones.engine.task import build_task
from detbackbones.tools.cli import SUBCOMMANDS
from detbackbones.tools.completion import help_text
from detbackbones.tools.draw import KINDS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
CONFIG_NAME = re.compile(r"(?P<detector>faster_rcnn|mask_rcnn|retinanet)_(?P<model>.+)_(?P<schedule>1x|3x)_coco")
README_TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.S)
NOT_DOCUMENTED = ("published", "task")


def commands() -> str:
    """Return the page of the subcommands: the help text of each."""
    parts = [
        "# Command line\n\nEvery program is a subcommand of `detbackbones`. `SUBCOMMAND --help` prints these texts. "
        "The keys of `train` and `test` have [a page of their own](config.md)."
    ]
    for name, (module, meaning) in SUBCOMMANDS.items():
        usage = importlib.import_module(f"detbackbones.tools.{module}").__doc__ or ""
        texts = [usage] if name in ("train", "test") else [help_text(name)]
        texts += [help_text(name, kind) for kind in KINDS] if name == "draw" else []
        blocks = "\n\n".join(f"```text\n{text.strip()}\n```" for text in texts)
        parts.append(f"## {name}\n\n{meaning[:1].upper()}{meaning[1:]}.\n\n{blocks}")
    return "\n\n".join(parts) + "\n"


def config_keys() -> str:
    """Return the page of the config keys, with the values of the default config."""
    config = load_config(DEFAULT_CONFIG)
    texts = describe_fields(config, skip=["model", *NOT_DOCUMENTED]) + build_task(config).describe_model(config)
    head = (
        "# Config keys\n\nKey, value in the config of the first run, type and meaning. A config file sets them as "
        "Python values, the command line as `key=value`. Keys of `model` are the constructor arguments of the parts "
        "that the config chooses; `detbackbones train CONFIG --help` prints them for any config."
    )
    return f"{head}\n\n```text\n" + "\n".join(texts) + "\n```\n"


def results() -> str:
    """Return the page of the configs, with the results that their sources report."""
    lines = [
        "# Configs and published results",
        "",
        "Average precision on COCO val2017 as the source of each config reports it. **None of these configs was "
        "trained here**: the numbers say what the same recipe reached elsewhere.",
        "",
        "| config | box AP | mask AP | source |",
        "|---|---:|---:|---|",
    ]
    for path in sorted(CONFIG_DIR.glob("[!_]*.py")):
        published = load_config(path).published
        if published:
            source = re.sub(r"(https://\S+)", r"<\1>", str(published.get("source", "")))
            values = [str(published.get(key) or "") for key in ("box_ap", "mask_ap")]
            lines.append(f"| `{path.stem}` | {values[0]} | {values[1]} | {source} |")
    return "\n".join(lines) + "\n"


def readme(text: str) -> str:
    """Return the text of README.md with the table of results for the schedules 1x and 3x, by detector and model."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for path in sorted(CONFIG_DIR.glob("[!_]*.py")):
        match = CONFIG_NAME.fullmatch(path.stem)
        published = load_config(path).published if match else None
        if match and published and published.get("box_ap"):
            values = [str(published[key]) for key in ("box_ap", "mask_ap") if published.get(key)]
            table.setdefault((match["detector"], match["model"]), {})[match["schedule"]] = " / ".join(values)
    rows = [
        f"| `{detector}_{model}` | {values.get('1x', '')} | {values.get('3x', '')} |"
        for (detector, model), values in table.items()
    ]
    lines = ["| config, without `_1x_coco` or `_3x_coco` | 1x | 3x |", "|---|---:|---:|", *rows]
    return README_TABLE.sub("\n".join(lines) + "\n", text)


PAGES = {"commands.md": commands, "config.md": config_keys, "results.md": results}


if __name__ == "__main__":
    for page, write in PAGES.items():
        (FOLDER / page).write_text(write(), encoding="utf-8")
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8")
