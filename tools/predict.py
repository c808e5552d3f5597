"""Detect objects in images.

    python tools/predict.py SOURCE ... weights=RUN_OR_NAME [key=value ...]
    detbackbones predict SOURCE ... weights=RUN_OR_NAME [key=value ...]

SOURCE is an image, a folder or a quoted pattern such as "photos/**/*.jpg". Folders are searched with their subfolders,
except hidden ones and folders that this program has written, for files that Pillow reads and for .npy arrays.

The output folder gets predictions.json, a COCO results file; images.json, the images and categories with their ids in
COCO's form; and per image a picture with its name. With ann_file= the images are those of an annotation file, with its
ids, in the folder SOURCE; `detbackbones evaluate ANN_FILE FOLDER/predictions.json` then scores them.
"""

import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from detbackbones.data.annotations import read_annotations
from detbackbones.data.image_entries import ImageUse, displayed_size
from detbackbones.data.image_files import read_headers
from detbackbones.data.image_inputs import ImageFile
from detbackbones.data.image_listing import distinct_names, find_images
from detbackbones.engine.config import Keys, Positive
from detbackbones.engine.console import plain_console, progress_bars
from detbackbones.engine.detection_config import Format
from detbackbones.engine.detections import DRAWN_SCORE, Detections
from detbackbones.engine.predictor import Predictor
from detbackbones.engine.schema import describe_fields, validate
from detbackbones.engine.task import Split
from detbackbones.errors import InputError, RunError, shorten
from detbackbones.tools.cli import run_command

RESULTS, IMAGES = "predictions.json", "images.json"
OVERLAP = 0.2  # of tiles, if tile= has their size alone
OUT = "predictions"  # with a number, unless out= says otherwise
Item = tuple[Path, ImageFile, dict[str, Any]]  # name of the picture, file, entry of images.json
Score = Annotated[float, Field(ge=0, le=1)]


class Settings(Keys):
    """The keys of the command line."""

    weights: str | Sequence[str] = Field(
        description="A run (its folder or a checkpoint), or the name of a trained detector; [a,b] is an ensemble of "
        "models with the same classes. Required."
    )
    out: str | None = Field(default=None, description="Folder to write to; none: predictions-<n>.")
    ann_file: str | None = Field(default=None, description="Annotation file that has the images and their ids.")
    format: Format | None = Field(default=None, description="Format of ann_file; none: recognised.")
    split: Split = Field(default="val", description="Split of ann_file, if its format has several in one file.")
    score_threshold: Score | None = Field(
        default=None,
        description="Lowest score; none: that of the model, usually 0.05. Pictures show those from 0.5 on.",
    )
    classes: str | Sequence[str] | None = Field(default=None, description="Names of the classes to keep: cat,dog.")
    batch_size: Positive = Field(default=1, description="Most images, tiles or views of one size at once.")
    device: str | None = Field(default=None, description="Device: cpu, cuda, cuda:1, ...; none: a GPU if there is one.")
    tile: int | tuple[int, float] | None = Field(
        default=None,
        description="(side,overlap): larger images are cut into tiles of so many pixels a side, of which neighbours "
        "share at least this part of a side, such as (1024,0.2); a side alone has the overlap 0.2; none: no tiles.",
    )
    tile_scale: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Factor by which tiles are resized; none: that of the training images."
    )
    tile_whole: bool = Field(default=False, description="Look at the whole image beside its tiles.")
    tta: bool | Sequence[float] = Field(
        default=False,
        description="Test-time augmentation: three scales, each also mirrored; or (0.8,1,1.2), the scales.",
    )
    pictures: bool = Field(default=True, description="Write a picture per image.")
    skip_unreadable: bool = Field(default=False, description="Skip images that cannot be read instead of stopping.")


def usage(_: Sequence[str]) -> str:
    """Return the usage and every key with its default, its type and its meaning."""
    return "\n".join([__doc__, "Keys and their defaults:\n", *describe_fields(Settings(weights="RUN_OR_NAME"))])


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Return the checked settings. Raises InputError."""
    values = dict(values)
    if not values.get("weights"):
        raise InputError("weights=RUN_OR_NAME is missing: the run or the trained detector to use")
    for key, is_list in (("classes", True), ("weights", values["weights"][0] in "[(")):  # [a,b] is not a Python literal
        if is_list and isinstance(values.get(key), str):
            names = [name.strip(" '\"") for name in values[key].strip("()[]").split(",")]
            values[key] = [name for name in names if name]
    settings = validate(Settings, values)
    return (
        settings.model_copy(update={"tile": (settings.tile, OVERLAP)}) if isinstance(settings.tile, int) else settings
    )


def choose_folder(out: str | None) -> Path:
    """Return the output folder, which is not made yet. Raises InputError if it cannot be made, or has results."""
    if out is None:
        taken = [
            int(path.name[len(OUT) + 1 :]) for path in Path().glob(f"{OUT}-*") if path.name[len(OUT) + 1 :].isdecimal()
        ]
        return Path(f"{OUT}-{max(taken, default=0) + 1}")
    if not out:
        raise InputError("out= is empty, expected a folder")
    folder = Path(out)
    parent = next(path for path in [folder, *folder.absolute().parents] if os.path.exists(path))
    if not parent.is_dir():
        raise InputError(f"out={shorten(folder)}: {shorten(parent)} is a file, expected a folder")
    if is_output(folder):
        raise InputError(f"out={shorten(folder)} already has {RESULTS}; choose another folder")
    return folder


def is_output(folder: Path) -> bool:
    """Return whether this program has written a folder."""
    return os.path.isfile(folder / RESULTS) and os.path.isfile(folder / IMAGES)


def list_files(inputs: Sequence[str], out: Path, channels: int, unreadable: list[str]) -> list[Item]:
    """Return the readable images of the inputs, and add an error message for each of the others to `unreadable`.

    Raises:
        InputError: an input does not exist or has no image, or pictures would be written among the images.
    """
    check_output = functools.cache(is_output)
    files: dict[Path, tuple[Path, Path]] = {}  # each file once
    for name, path in find_images(inputs, out):
        if not any(map(check_output, path.parents[: len(name.parts)])):
            files.setdefault(path.absolute(), (name, path))
    found = list(files.values())
    if not found:
        raise InputError(f"{shorten(', '.join(inputs))} has pictures of this program only, expected images")
    folders = {os.path.realpath(path.parent) for _, path in found}
    names = distinct_names(found)
    for name in names:
        if os.path.realpath((out / name).parent) in folders:
            where = shorten((out / name).parent)
            raise InputError(
                f"out={shorten(out)} would put pictures among the images in {where}; choose another folder"
            )
    items: list[Item] = []
    headers = read_headers([path for _, path in found], channels)
    for name, (relative, path), header in zip(names, found, headers, strict=True):
        if header.problem is not None:
            unreadable.append(f"image {shorten(path)} is unreadable ({header.problem})")
            continue
        width, height = displayed_size(header)
        entry = {"id": len(items) + 1, "file_name": relative.as_posix(), "width": width, "height": height}
        items.append((name, ImageFile(path, header.orientation), entry))
    return items


def list_annotated(
    inputs: Sequence[str], settings: Settings, predictor: Predictor, unreadable: list[str]
) -> list[Item]:
    """Return the readable images of the annotation file, and add a message for each of the others to `unreadable`.

    Raises:
        InputError: the file cannot be read, or there is more than one source.
    """
    if len(inputs) > 1:
        raise InputError(f"with ann_file= the only source is the folder of its images, got {len(inputs)} sources")
    detector = predictor.detectors[0]
    annotations = read_annotations(
        Path(str(settings.ann_file)),
        Path(inputs[0]) if inputs else None,
        format=settings.format,
        split=settings.split,
        masks=False,
        drop_bad_objects=True,
        skip_unreadable=True,
        use=ImageUse(detector.channels, detector.metadata.get("image_range")),
    )
    items = []
    names = distinct_names([(Path(entry["file_name"]), Path()) for entry in annotations.images])
    for name, entry in zip(names, annotations.images, strict=True):
        path = annotations.image_dir / entry["file_name"]
        if entry["id"] in annotations.unreadable:
            unreadable.append(f"image {shorten(path)} is unreadable ({annotations.unreadable[entry['id']]})")
            continue
        kept = {key: entry[key] for key in ("id", "file_name", "width", "height")}
        items.append((name, ImageFile(path, entry.get("exif_orientation", 1)), kept))
    return items


def detect(
    predictor: Predictor, items: Sequence[Item], skip_unreadable: bool, unreadable: list[str]
) -> Iterator[tuple[Item, Detections]]:
    """Yield each image with its detections.

    Raises:
        InputError: an image cannot be read. With `skip_unreadable` its message is added to `unreadable` instead.
    """
    for start in range(0, len(items), predictor.batch_size):
        batch = items[start : start + predictor.batch_size]
        try:
            yield from zip(batch, predictor([file for _, file, _ in batch]), strict=True)
        except InputError as error:
            if not skip_unreadable:
                raise
            if len(batch) == 1:
                unreadable.append(str(error))
            for item in batch if len(batch) > 1 else ():
                yield from detect(predictor, [item], skip_unreadable, unreadable)


def make_folder(path: Path) -> None:
    """Make a folder if it is missing. Raises RunError if the system cannot, or does not let us write into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RunError(f"cannot write {shorten(path)}: {error.strerror}") from None


def write_results(out: Path, found: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], predictor: Predictor) -> int:
    """Write both JSON files of images and their results, and return the number of results."""
    results = [row for _, rows in found for row in rows]
    categories = [{"id": key, "name": name} for key, name in zip(predictor.category_ids, predictor.names)]
    write_json(out / RESULTS, results)
    write_json(out / IMAGES, {"images": [entry for entry, _ in found], "annotations": [], "categories": categories})
    return len(results)


def write_json(path: Path, content: Any) -> None:
    """Write JSON. Raises RunError if the system cannot."""
    try:
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {shorten(path)}: {error.strerror}") from None


def write_picture(path: Path, detections: Detections, score: float) -> None:
    """Write a picture of the detections from a score on. Raises RunError if the system cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        detections.plot(score=score).save(path)
    except OSError as error:
        raise RunError(f"cannot write {shorten(path)}: {error.strerror or error}") from None


def predict(inputs: Sequence[str], values: Mapping[str, Any]) -> None:
    """Detect objects in images, and write the results and pictures."""
    settings, console = read_settings(values), plain_console()
    out = choose_folder(settings.out)
    keys = ("device", "score_threshold", "classes", "batch_size", "tile", "tile_scale", "tile_whole", "tta")
    if settings.ann_file is None and not inputs:
        raise InputError("expected images or folders, got none")
    predictor = Predictor(settings.weights, **{key: getattr(settings, key) for key in keys})
    unreadable: list[str] = []
    if settings.ann_file is None:
        items = list_files(inputs, out, predictor.detectors[0].channels, unreadable)
    else:
        items = list_annotated(inputs, settings, predictor, unreadable)
    if unreadable and not (settings.skip_unreadable and items):
        more = f", and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        advice = "; skip_unreadable=true skips such images" if items else "; none of the images can be read"
        raise InputError(f"{unreadable[0]}{more}{advice}")
    found: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []  # entry of an image, and its results
    drawn = DRAWN_SCORE if settings.score_threshold is None else settings.score_threshold
    make_folder(out)
    try:
        with progress_bars(console) as progress:
            bar = progress.add_task("predict", total=len(items), note="")
            for (name, _, entry), detections in detect(predictor, items, settings.skip_unreadable, unreadable):
                rows = [row | {"file_name": entry["file_name"]} for row in detections.to_coco(entry["id"])]
                found.append((entry, rows))
                if settings.pictures:
                    write_picture(out / f"{name}.png", detections, drawn)
                progress.advance(bar)
    except KeyboardInterrupt:
        if found:
            write_results(out, found, predictor)
            console.print(f"stopped after {len(found)} of {len(items)} images, whose detections are in {shorten(out)}")
        raise
    count = write_results(out, found, predictor)
    if unreadable:
        console.print(f"skipped {len(unreadable)} image(s), first: {unreadable[0]}")
    console.print(f"{count} detections in {len(found)} images -> {shorten(out, 200)}")


main = functools.partial(run_command, predict, usage)


if __name__ == "__main__":
    sys.exit(main())
