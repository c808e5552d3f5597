"""Write the feature maps of images to files, with their levels, strides and channels.

    python tools/extract_features.py IMAGE_OR_FOLDER ... out=FOLDER [key=value ...]
    detbackbones features IMAGE_OR_FOLDER ... out=FOLDER [key=value ...]

    backbone=resnet50   weights=torchvision:IMAGENET1K_V2 (or a path, none)   neck=fpn (none)
    features=(c2,c3,c4,c5)   short_side=none   batch_size=8   format=npz|safetensors   visualize=false
    model.KEY=VALUE sets an argument of the backbone, e.g. model.output_stride=8
    imports=MODULE imports a module that registers backbones of your own

Each image gives OUT/<its name>.npz (or .safetensors) with a float32 array C x H x W per level, and the specs of the
levels as JSON under "specs". `visualize=true` adds a PNG that shows the activation of each level over the image. Images
of one size go through the network together, so padding never touches a feature. An interrupted run continues where it
stopped.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from safetensors.numpy import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from detbackbones.backbones.base import Backbone
from detbackbones.data.transforms import read_rgb, resized_shape
from detbackbones.errors import InputError, did_you_mean
from detbackbones.registry import build_backbone, build_neck, import_modules
from detbackbones.tools.cli import run_command
from detbackbones.visualization.features import save_feature_maps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("npz", "safetensors")
SETTINGS_FILE = "settings.json"
DEFAULTS: dict[str, Any] = {
    "out": None,
    "backbone": "resnet50",
    "weights": None,
    "neck": None,
    "features": None,
    "short_side": None,
    "batch_size": 8,
    "format": "npz",
    "visualize": False,
}


def check_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with their defaults. Raises InputError for an unknown key or a value that does not fit."""
    for key in values:
        if key not in DEFAULTS:
            raise InputError(f"unknown key {key!r}; {did_you_mean(key, DEFAULTS)}")
    settings = DEFAULTS | values
    if settings["out"] is None:
        raise InputError("out=FOLDER is missing: where to write the features")
    if settings["format"] not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {settings['format']!r}")
    for key in ("batch_size", "short_side"):
        if settings[key] is not None and (not isinstance(settings[key], int) or settings[key] < 1):
            raise InputError(f"{key} must be an int of at least 1, got {settings[key]!r}")
    if isinstance(settings["features"], str):  # (c2,c3) is not a Python literal
        settings["features"] = re.findall(r"\w+", settings["features"])
    return settings


def build_extractor(settings: dict[str, Any], arguments: dict[str, Any], device: torch.device) -> tuple[Backbone, Any]:
    """Return a backbone, and the neck on it or None, in evaluation mode."""
    torch.manual_seed(0)  # a continued run gets the same random weights
    levels = {} if settings["features"] is None else {"out_features": settings["features"]}
    backbone = build_backbone(settings["backbone"], weights=settings["weights"], **levels, **arguments)
    neck = build_neck(settings["neck"], backbone.feature_specs).eval().to(device) if settings["neck"] else None
    return backbone.eval().to(device), neck


def find_images(inputs: Sequence[str]) -> dict[Path, Path]:
    """Return image files by their name below `out`, without suffix; folders are searched with their subfolders."""
    images: dict[Path, Path] = {}
    if not inputs:
        raise InputError("expected images or folders, got none")
    for path in map(Path, inputs):
        if not path.exists():
            raise InputError(f"image or folder {path} does not exist")
        files = (
            [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES] if path.is_dir() else [path]
        )
        if not files:
            raise InputError(f"folder {path} has no image ({', '.join(SUFFIXES)})")
        for file in files:
            name = file.relative_to(path if path.is_dir() else path.parent).with_suffix("")
            if images.setdefault(name, file) != file:
                raise InputError(f"{images[name]} and {file} would both be written to {name}; use two folders")
    return images


def batches(images: dict[Path, Path], batch_size: int) -> Iterator[list[tuple[Path, Path]]]:
    """Yield lists of (name, path) of at most `batch_size` images of one size."""
    sizes = {}
    for name, path in images.items():
        with reported(path), Image.open(path) as file:
            sizes[name] = file.size
    for _, group in itertools.groupby(sorted(images, key=lambda name: (sizes[name], name)), key=sizes.get):
        names = list(group)
        for start in range(0, len(names), batch_size):
            yield [(name, images[name]) for name in names[start : start + batch_size]]


def read_image(path: Path, short_side: int | None) -> Tensor:
    """Return an image as 3 x H x W uint8, resized so that its short side has `short_side` pixels."""
    with reported(path):
        image = read_rgb(path)
    size = resized_shape(image.shape[-2], image.shape[-1], short_side, None)
    return image if size == tuple(image.shape[-2:]) else TF.resize(image, list(size), antialias=True)


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn the errors of an image that does not decode into an InputError that names it."""
    try:
        yield
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"image {path} is unreadable ({error})") from None


def write_features(path: Path, features: dict[str, np.ndarray], specs: str) -> None:
    """Write to a temporary file, then rename it, so that a file that exists is complete."""
    temporary = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        with open(temporary, "wb") as file:
            np.savez(file, specs=np.array(specs), **features)  # type: ignore[arg-type]
    else:
        save_file(features, temporary, metadata={"specs": specs})
    os.replace(temporary, path)


def prepare_folder(settings: dict[str, Any], arguments: dict[str, Any], specs: list[dict]) -> None:
    """Create the folder and note the settings in it. Raises InputError if it has features of other settings."""
    kept = {key: settings[key] for key in ("backbone", "weights", "neck", "short_side", "format")}
    text = json.dumps(kept | {"arguments": arguments, "specs": specs}, default=str, indent=2) + "\n"
    file = Path(settings["out"]) / SETTINGS_FILE
    if file.exists() and json.loads(file.read_text()) != json.loads(text):
        raise InputError(f"{file.parent} has features of other settings ({file}); choose another folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@torch.inference_mode()
def extract(inputs: Sequence[str], values: dict[str, Any]) -> None:
    """Write the features of the images that have none in the folder yet."""
    console = Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    import_modules(values.pop("imports", ()))
    arguments = {key.removeprefix("model."): values.pop(key) for key in list(values) if key.startswith("model.")}
    settings = check_settings(values)
    images = find_images(inputs)
    backbone, neck = build_extractor(settings, arguments, device)
    specs = [*backbone.feature_specs, *(neck.feature_specs if neck else ())]
    spec_dicts = [asdict(spec) for spec in specs]
    targets = {name: Path(settings["out"]) / f"{name}.{settings['format']}" for name in images}
    missing = {name: path for name, path in images.items() if not targets[name].exists()}
    work = list(batches(missing, settings["batch_size"]))
    prepare_folder(settings, arguments, spec_dicts)
    for part in ("backbone",) * (settings["weights"] is None) + ("neck",) * (neck is not None):
        console.print(f"the {part} has random weights", style="yellow")
    if len(missing) < len(images):
        console.print(f"{len(images) - len(missing)} of {len(images)} images have features already")
    for batch in track(work, "extract", console=console):
        pixels = torch.stack([read_image(path, settings["short_side"]) for _, path in batch])
        features = backbone(backbone.preprocess(pixels.to(device)))
        features = features | neck(features) if neck else features
        for index, (name, _) in enumerate(batch):
            arrays = {level: map_[index].float().contiguous().cpu().numpy() for level, map_ in features.items()}
            write_features(targets[name], arrays, json.dumps(spec_dicts))
            if settings["visualize"]:
                save_feature_maps(targets[name].with_suffix(".png"), pixels[index], arrays, specs)
    console.print(f"{len(missing)} images, {', '.join(spec.name for spec in specs)} -> {settings['out']}")


main = functools.partial(run_command, extract, __doc__)


if __name__ == "__main__":
    sys.exit(main())
