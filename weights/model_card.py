"""The README of a saved model: what it is, how its images are normalised, its classes, and how to build it."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from .weight_files import to_json

BUILDERS = {"backbone": "Backbone", "model": "Detector"}  # key of the config -> class with `from_pretrained`
MAX_CLASSES = 100
FACTS = {
    "source": "Weights",
    "published": "Published result",
    "published_url": "See",
    "licence": "Licence",
}  # of a card


def model_card_text(data: ModelCardData, key: str, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the Markdown text of a model card.

    Args:
        data: what stands in the header, which the Hub reads.
        key: key of the config in the file, "backbone" or "model".
        config, metadata: of the saved model.
    """
    builder = BUILDERS[key]
    names, card = metadata.get("category_names", ()), metadata.get("weight_card", {})
    lines = [
        *("---", data.to_yaml(), "---", "", f"# {_title(key, config)}", ""),
        f"A {'backbone' if key == 'backbone' else 'detector'} of the Python package `detbackbones`.",
        *("", "```python", f"from detbackbones import {builder}", ""),
        *(f'model = {builder}.from_pretrained("owner/name")  # this repository, or its folder', "```", ""),
    ]
    if "image_mean" in metadata:
        mean, std = ([round(value, 4) for value in metadata[name]] for name in ("image_mean", "image_std"))
        lines += [f"- Images: RGB, uint8 or in [0, 1]; the model subtracts {mean} and divides by {std} itself."]
    lines += [f"- {title}: {card[name]}" for name, title in FACTS.items() if card.get(name)]
    if names:
        more = f" and {len(names) - MAX_CLASSES} more" if len(names) > MAX_CLASSES else ""
        lines += [f"- {len(names)} classes: {', '.join(map(str, names[:MAX_CLASSES]))}{more}"]
    lines += ["", "| argument | value |", "|---|---|"]
    lines += [f"| `{name}` | `{to_json(value)}` |" for name, value in config.items()]
    return "\n".join(lines) + "\n"


def _title(key: str, config: Mapping[str, Any]) -> str:
    backbone = config.get("backbone")
    return f"{config['type']} with {backbone['type']}" if isinstance(backbone, Mapping) else str(config["type"])
