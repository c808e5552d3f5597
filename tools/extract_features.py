"""Write the feature maps of images to files, with their levels, strides and channels.

    python tools/extract_features.py IMAGE_OR_FOLDER ... out=FOLDER [key=value ...]
    detbackbones features IMAGE_OR_FOLDER ... out=FOLDER [key=value ...]

    model.KEY=VALUE sets an argument of the backbone, e.g. model.output_stride=8

Each image gives OUT/<its name>.npz (or .safetensors) with a float32 array C x H x W per level, and the specs of the
levels as JSON under "specs", and the SHA-256 of the image file under "source". Folders are searched with their
subfolders, also linked ones, except below OUT and hidden ones, for files that Pillow reads and for .npy arrays. EXIF's
orientation is applied. Images of one size go through the network together, so padding never touches a feature; a batch
has at most 8.4 megapixels, or one image, and an image at most 25 megapixels after resizing. An interrupted run
continues where it stopped.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from detbackbones.data.image_batches import Item, make_batches, make_items
from detbackbones.data.image_listing import list_images
from detbackbones.engine.config import Keys, Positive
from detbackbones.engine.console import plain_console, progress_bars
from detbackbones.engine.extractor import Extractor, build_extractor
from detbackbones.engine.schema import describe_fields, validate
from detbackbones.errors import InputError, RunError, shorten
from detbackbones.registry import import_modules
from detbackbones.tools.cli import run_command
from detbackbones.visualization.features import save_feature_maps

SETTINGS_FILE = "settings.json"


class Settings(Keys):
    """The keys of the command line."""

    out: str = Field(description="Folder that the features are written to. Required.")
    backbone: str | None = Field(
        default=None, description="Name of the backbone; none: that of the run in `weights`, otherwise resnet50."
    )
    weights: str | None = Field(
        default=None,
        description="Pretrained weights: torchvision:IMAGENET1K_V2, timm:TAG, the path of a state dict, or a run (its "
        "folder or a checkpoint in it); none: random weights.",
    )
    neck: str | bool | None = Field(
        default=None,
        description="Name of a neck, whose levels are written too; true: the neck of the run in `weights`. The run's "
        "own neck has its trained weights, any other neck random ones.",
    )
    features: Sequence[str] | None = Field(
        default=None, description="Levels of the backbone, such as (c2,c3,c4,c5); none: the backbone's default."
    )
    short_side: Positive | None = Field(
        default=None,
        description="Pixels of an image's short side; the long side is at most ten times as long. none: the size on "
        "disk.",
    )
    batch_size: Positive = Field(default=8, description="Most images per forward pass.")
    format: Literal["npz", "safetensors"] = Field(default="npz", description="Format of the files.")
    visualize: bool = Field(
        default=False, description="Also write a PNG per image with the activation of each level over the image."
    )
    skip_unreadable: bool = Field(default=False, description="Skip images that cannot be read instead of stopping.")
    image_channels: Positive | None = Field(
        default=None, description="Channels of the images; none: `in_channels` of the backbone."
    )
    image_range: tuple[float, float] | None = Field(
        default=None,
        description="Values of 16-bit, 32-bit and float images that become black and white; none: those that the run "
        "in `weights` has, otherwise chosen per image.",
    )
    imports: str | Sequence[str] = Field(
        default=(), description="Modules that register backbones of your own, also from the working directory."
    )


def usage(_: Sequence[str]) -> str:
    """Return the usage and every key with its default, its type and its meaning."""
    return "\n".join([__doc__, "Keys and their defaults:\n", *describe_fields(Settings(out="FOLDER"))])


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Return the checked settings. Raises InputError."""
    values = dict(values)
    if values.get("out", "") == "":
        raise InputError("out=FOLDER is missing: where to write the features")
    if isinstance(values.get("features"), str):  # (c2,c3) is not a Python literal
        names = [name.strip(" '\"") for name in values["features"].strip("()[]").split(",")]
        values["features"] = [name for name in names if name]
    settings = validate(Settings, values)
    limits = settings.image_range
    if limits is not None and not (limits[0] < limits[1] and all(map(math.isfinite, limits))):
        raise InputError(f"image_range must be (low,high) with low < high, got {limits}")
    if os.path.exists(settings.out) and not os.path.isdir(settings.out):
        raise InputError(f"out={shorten(settings.out)} is a file, expected a folder")
    return settings


def check_targets(inputs: Sequence[str], images: Mapping[Path, Path], out: Path) -> None:
    """Raise InputError if a file in `out` would overwrite an image, or be an image of the next run."""
    out = Path(os.path.realpath(out))
    for folder in (Path(os.path.realpath(path)) for path in inputs if os.path.isdir(path)):
        inside = [name for name in images if folder in (out / name).parents]
        if inside and folder not in out.parents:  # else files below `out` are skipped
            raise InputError(
                f"out={shorten(out)} would put {shorten(inside[0])} among the images; choose another folder"
            )
    pictures = {out / f"{name}.png" for name in images}
    for path in images.values():
        if Path(os.path.realpath(path)) in pictures:
            raise InputError(f"out={shorten(out)} has the image {shorten(path)}; choose another folder")


def compute(
    extractor: Extractor,
    batch: Sequence[Item],
    image_range: tuple[float, float] | None,
    skip_unreadable: bool,
    unreadable: list[str],
) -> Iterator[tuple[Item, Tensor, dict[str, np.ndarray]]]:
    """Yield each image of a batch with its pixels C x H x W uint8 and its features C x H x W float32 by level.

    Raises:
        InputError: an image does not decode. With `skip_unreadable` it is added to `unreadable` instead.
    """
    readable, images = [], []
    for item in batch:
        try:
            images.append(item.read(extractor.backbone.preprocess.channels, image_range))
            readable.append(item)
        except InputError as error:
            unreadable.append(str(error))
            if not skip_unreadable:
                raise
    if images:
        pixels = torch.stack(images)
        features = extractor(pixels.to(extractor.backbone.preprocess.mean.device))
        for index, item in enumerate(readable):
            arrays = {level: maps[index].float().contiguous().cpu().numpy() for level, maps in features.items()}
            yield item, pixels[index], arrays


def hash_image(path: Path) -> str:
    """Return the SHA-256 of an image file. Raises InputError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"image {shorten(path)} cannot be read: {error.strerror}") from None


def find_missing(images: Mapping[Path, Path], targets: Mapping[Path, Path]) -> dict[Path, Path]:
    """Return the images without features.

    Raises:
        InputError: features were made of another image of the same name, or of this one before it was changed.
    """
    missing = {name: path for name, path in images.items() if not os.path.isfile(targets[name])}
    for name in images.keys() - missing.keys():
        if os.path.isfile(images[name]) and read_source(targets[name]) != hash_image(images[name]):
            found = f"{shorten(targets[name])} has features of another image than {shorten(images[name])}"
            raise InputError(f"{found}, or of an older one; choose another folder or remove it")
    return missing


def read_source(path: Path) -> str | None:
    """Return the hash of the image that features were made of; None if the file has none."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return str(arrays["source"])
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("source")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, SafetensorError):
        return None


def write_features(path: Path, features: dict[str, np.ndarray], texts: dict[str, str]) -> None:
    """Write to a temporary file, then rename it, so that a file that exists is complete."""
    temporary = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        with open(temporary, "wb") as file:
            np.savez(file, **{key: np.array(text) for key, text in texts.items()}, **features)  # type: ignore[arg-type]
    else:
        save_file(features, temporary, metadata=texts)
    os.replace(temporary, path)


@contextlib.contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system, such as a full disk, into a RunError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write {shorten(path)}: {shorten(reason)}") from None


def prepare_folder(out: Path, content: Mapping[str, Any]) -> None:
    """Create the folder and note in it what its features depend on.

    Raises:
        InputError: it has features of other settings, or cannot be written to.
    """
    file = out / SETTINGS_FILE
    text = json.dumps(content, default=str, indent=2) + "\n"
    try:
        if os.path.exists(file) and json.loads(file.read_text(encoding="utf-8")) != json.loads(text):
            where = f"{shorten(out)} has features of other settings ({shorten(file)})"
            raise InputError(f"{where}; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"out={shorten(out)} cannot be written to ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{shorten(file)} is not the settings of features; choose another folder") from None


def hash_state(extractor: Extractor) -> str:
    """Return a hash of all parameters and buffers, also of the mean and standard deviation of images."""
    state_hash = hashlib.sha256()
    for key, value in itertools.chain(extractor.named_parameters(), extractor.named_buffers()):
        state_hash.update(key.encode())
        state_hash.update(value.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return state_hash.hexdigest()


@torch.inference_mode()
def extract(inputs: Sequence[str], values: dict[str, Any]) -> None:
    """Write the features of the images that have none in the folder yet."""
    arguments = {key.removeprefix("model."): value for key, value in values.items() if key.startswith("model.")}
    settings = read_settings({key: value for key, value in values.items() if not key.startswith("model.")})
    if settings.image_channels is not None:
        given = arguments.setdefault("in_channels", settings.image_channels)
        if given != settings.image_channels:
            found = f"image_channels={settings.image_channels} contradicts model.in_channels={given}"
            raise InputError(f"{found}; set one of them")
    out, console = Path(settings.out), plain_console()
    images = list_images(inputs, skipped=out)
    check_targets(inputs, images, out)
    import_modules(settings.imports)
    extractor = build_extractor(settings.backbone, settings.weights, settings.neck, settings.features, arguments)
    image_range = settings.image_range or extractor.image_range
    targets = {name: out / f"{name}.{settings.format}" for name in images}
    missing = find_missing(images, targets)
    items, unreadable = make_items(missing, settings.short_side, extractor.backbone.preprocess.channels)
    if unreadable and not settings.skip_unreadable:
        more = f", and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        raise InputError(f"{unreadable[0]}{more}; skip_unreadable=true skips such images")
    chosen = settings.model_dump(include={"backbone", "weights", "neck", "short_side", "format"})
    specs = json.dumps([asdict(spec) for spec in extractor.specs])
    origin = {"image_range": image_range, "specs": json.loads(specs), "parameters": hash_state(extractor)}
    prepare_folder(out, chosen | {"arguments": arguments} | origin)

    for part in extractor.random_parts:
        console.print(f"the {part} has random weights", style="yellow")
    if len(missing) < len(images):
        console.print(f"{len(images) - len(missing)} of {len(images)} images have features already")
    extractor.to("cuda" if torch.cuda.is_available() else "cpu")
    with progress_bars(console) as progress:
        bar = progress.add_task("extract", total=len(items), note="")
        for batch in make_batches(items, settings.batch_size):
            for item, pixels, features in compute(extractor, batch, image_range, settings.skip_unreadable, unreadable):
                target = targets[item.name]
                with report_write_errors(target):
                    write_features(target, features, {"specs": specs, "source": hash_image(item.path)})
                    if settings.visualize:
                        save_feature_maps(target.with_suffix(".png"), pixels, features, extractor.specs)
            progress.advance(bar, len(batch))
    if unreadable:
        console.print(f"skipped {len(unreadable)} image(s), first: {unreadable[0]}", style="yellow")
    levels = ", ".join(spec.name for spec in extractor.specs)
    console.print(f"{len(missing) - len(unreadable)} images, {levels} -> {shorten(out, 200)}")


main = functools.partial(run_command, extract, usage)


if __name__ == "__main__":
    sys.exit(main())
