"""Write the features of images to files, with their geometry.

    python tools/extract_features.py IMAGE_OR_FOLDER ... out=FOLDER [key=value ...]

    backbone=resnet50   weights=torchvision:IMAGENET1K_V2 (or a path, none)   neck=none|fpn|...
    features=(c2,c3,c4,c5)   short_side=none   batch_size=8   format=npz|safetensors   picture=false
    model.KEY=VALUE hands an argument to the backbone, e.g. model.output_stride=8

Each image gives OUT/<its name>.npz (or .safetensors) with a float32 array C x H x W for every level and the specs as
JSON under "specs". `picture=true` adds a PNG of each level's strength over the image. Images of one size go through the
network together, so padding never touches a feature. A run that was stopped goes on where it stopped.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.progress import track
from safetensors.numpy import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from detbackbones import FeatureSpec, InputError, build_backbone, build_neck
from detbackbones.data.coco import read_rgb, resized
from detbackbones.engine.config import parse_words
from detbackbones.errors import did_you_mean
from detbackbones.tools.cli import command

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
DEFAULTS = {"out": None, "backbone": "resnet50", "weights": None, "neck": None, "features": None, "short_side": None,
            "batch_size": 8, "format": "npz", "picture": False}  # fmt: skip
SETTINGS_FILE = "settings.json"


def find_images(inputs: list[str]) -> dict[Path, Path]:
    """Name below `out` without ending -> image file; a folder is searched with its subfolders, whose names are kept."""
    found: dict[Path, Path] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            files = [(path.relative_to(given), path) for path in sorted(given.rglob("*")) if path.suffix.lower() in SUFFIXES]
            if not files:
                raise InputError(f"folder {given} holds no image ({', '.join(SUFFIXES)})")
        elif given.is_file():
            files = [(Path(given.name), given)]
        else:
            raise InputError(f"image or folder {given} does not exist")
        for name, path in files:
            name = name.with_suffix("")
            if name in found and found[name] != path:
                raise InputError(f"{found[name]} and {path} would both be written to {name}; extract them to two folders")
            found[name] = path
    return found


def read_image(path: Path, short_side: int | None) -> Tensor:
    try:
        image = read_rgb(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"image {path} is unreadable ({error})") from None
    size = resized(*image.shape[-2:], short_side, None)
    return image if size == tuple(image.shape[-2:]) else TF.resize(image, list(size), antialias=True)


def batches(images: dict[Path, Path], batch_size: int) -> Iterator[list[tuple[Path, Path]]]:
    """Lists of (name, path) of at most `batch_size` images of one size."""

    def size(item: tuple[Path, Path]) -> tuple[int, int]:
        try:
            with Image.open(item[1]) as file:
                return file.size
        except OSError as error:
            raise InputError(f"image {item[1]} is unreadable ({error})") from None

    for _, group in itertools.groupby(sorted(images.items(), key=size), key=size):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def write(path: Path, features: dict[str, np.ndarray], specs: str) -> None:
    """Written beside its place, then moved: a file that is there is whole."""
    temporary = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        with open(temporary, "wb") as file:
            np.savez(file, specs=np.array(specs), **features)
    else:
        save_file(features, temporary, metadata={"specs": specs})
    os.replace(temporary, path)


def save_levels(path: Path, image: Tensor, features: dict[str, np.ndarray], specs: list[FeatureSpec]) -> None:
    """The image, and over it for every level how strong its cells are: the channels' root mean square, weak to strong."""
    height, width = image.shape[-2:]
    columns = min(6, len(features) + 1)
    rows = -(-(len(features) + 1) // columns)
    figure = Figure(figsize=(columns * 2.6, rows * (2.6 * height / width + 0.3)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    pixels = image.permute(1, 2, 0).numpy()
    axes[0].set_title(f"{width} x {height}", fontsize=8)
    for axis, (level, feature), spec in zip(axes[1:], features.items(), specs):
        strength = torch.from_numpy(np.sqrt((feature**2).mean(0)))[None, None]
        padded = (strength.shape[-2] * spec.stride, strength.shape[-1] * spec.stride)  # cells stand at multiples of the stride
        strength = F.interpolate(strength, size=padded, mode="nearest")[0, 0, :height, :width].numpy()
        low, high = np.percentile(strength, (1, 99))
        axis.imshow(pixels)
        axis.imshow(strength, cmap="inferno", alpha=0.65, vmin=low, vmax=max(high, low + 1e-12))
        axis.set_title(f"{level}: {feature.shape[0]} x {feature.shape[1]} x {feature.shape[2]}, stride {spec.stride}", fontsize=8)
    axes[0].imshow(pixels)
    for axis in axes:
        axis.axis("off")
    figure.savefig(path)


@torch.inference_mode()
def extract(inputs: list[str], settings: dict, console: Console) -> None:
    arguments = {key.removeprefix("model."): settings.pop(key) for key in list(settings) if key.startswith("model.")}
    for key in settings:
        if key not in DEFAULTS:
            raise InputError(f"unknown key {key!r}; {did_you_mean(key, DEFAULTS)}")
    chosen = DEFAULTS | settings
    if not inputs or chosen["out"] is None:
        raise InputError("name images or folders, and the folder to write to with out=FOLDER")
    if chosen["format"] not in ("npz", "safetensors"):
        raise InputError(f"format={chosen['format']!r}; known: npz, safetensors")
    for key in ("batch_size", "short_side"):
        if chosen[key] is not None and (not isinstance(chosen[key], int) or chosen[key] < 1):
            raise InputError(f"{key}={chosen[key]!r} must be a whole number of at least 1")
    features = chosen["features"]
    if isinstance(features, str):
        features = tuple(name.strip() for name in features.strip("()[]").split(",") if name.strip())
    images = find_images(inputs)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = build_backbone(chosen["backbone"], weights=chosen["weights"], **arguments,
                              **({} if features is None else {"out_features": features})).eval().to(device)  # fmt: skip
    neck = build_neck(chosen["neck"], backbone.feature_specs).eval().to(device) if chosen["neck"] else None
    specs = [*backbone.feature_specs, *(neck.feature_specs if neck else ())]

    out = Path(chosen["out"])
    same = {**{k: chosen[k] for k in ("backbone", "weights", "neck", "short_side", "format")}, "arguments": arguments,
            "specs": [asdict(spec) for spec in specs]}  # fmt: skip
    same = json.loads(json.dumps(same, default=str))
    kept = out / SETTINGS_FILE
    if kept.exists() and json.loads(kept.read_text()) != same:
        raise InputError(f"{out} holds features of other settings ({kept}); choose another folder")
    todo = {name: path for name, path in images.items() if not (out / f"{name}.{chosen['format']}").exists()}
    work = list(batches(todo, chosen["batch_size"]))
    for part in ("backbone",) * (chosen["weights"] is None) + ("neck",) * (neck is not None):
        console.print(f"the {part} has random weights", style="yellow")
    if len(todo) < len(images):
        console.print(f"{len(images) - len(todo)} of {len(images)} images are there already")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(same, indent=2) + "\n")
    for batch in track(work, "extract", console=console):
        pixels = torch.stack([read_image(path, chosen["short_side"]) for _, path in batch])
        maps = backbone(backbone.preprocess(pixels.to(device)))
        maps = maps | (neck(maps) if neck else {})
        for index, (name, _) in enumerate(batch):
            target = out / f"{name}.{chosen['format']}"
            own = {level: feature[index].float().contiguous().cpu().numpy() for level, feature in maps.items()}
            write(target, own, json.dumps([asdict(spec) for spec in specs]))
            if chosen["picture"]:
                save_levels(out / f"{name}.png", pixels[index], own, specs)
    console.print(f"{len(todo)} images, {', '.join(spec.name for spec in specs)} -> {out}")


def main(arguments: list[str] | None = None) -> int:
    def body(names: list[str], pairs: list[str]) -> None:
        torch.manual_seed(0)  # without weights, a run that goes on has the same random ones
        extract(names, parse_words(pairs), Console())

    return command(__doc__, body, arguments)


if __name__ == "__main__":
    sys.exit(main())
