"""Check a dataset as training does, and print a summary of it.

    python tools/check_data.py ANNOTATIONS [IMAGES] [key=value ...]
    detbackbones check-data ANNOTATIONS [IMAGES] [key=value ...]

ANNOTATIONS is a COCO file, or the path of another format (docs/own-data.md); IMAGES is the folder of its images.

    format=coco|voc|yolo|cvat|lvis    none: recognised
    split=train|val                   for formats whose path holds several splits
    masks=true|false                  check segmentations; none: if the file has some
    drop_bad_objects=true             accept unusable annotations, which training with this key leaves out
    skip_unreadable=true              accept unreadable images, which training with this key leaves out

The exit status is 0 if training can use the data as it is, or with these keys, and 2 if there are problems.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from detbackbones.data.annotations import Annotations, read_annotations
from detbackbones.data.summary import duplicate_files, summarise_classes
from detbackbones.engine.console import plain_console
from detbackbones.engine.detection_config import Format
from detbackbones.engine.schema import validate
from detbackbones.engine.task import Split
from detbackbones.errors import InputError, shorten
from detbackbones.tools.cli import run_command

MAX_CLASSES = 100


class Settings(BaseModel):
    """The keys of the program."""

    format: Format | None = None
    split: Split = "train"
    masks: bool | None = None
    drop_bad_objects: bool = False
    skip_unreadable: bool = False


def class_table(annotations: Annotations) -> Table:
    """Return a table with a row per class."""
    columns = ["objects", "small", "medium", "large", "crowds", "images"]
    table = Table("class", *(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD)
    summaries = summarise_classes(annotations)
    for summary in summaries[:MAX_CLASSES]:
        sizes = [summary.sizes[size] for size in ("small", "medium", "large")]
        numbers = [summary.objects, *sizes, summary.crowds, len(summary.images)]
        table.add_row(Text(shorten(summary.name, 40)), *map(str, numbers))
    if len(summaries) > MAX_CLASSES:
        table.add_row(f"... and {len(summaries) - MAX_CLASSES} more")
    return table


def check_data(names: Sequence[str], values: dict[str, Any]) -> int:
    """Print the summary and the problems; return the exit status."""
    settings = validate(Settings, values)
    if not 1 <= len(names) <= 2:
        raise InputError(f"expected ANNOTATIONS and IMAGES, got {len(names)} names")
    image_dir = Path(names[1]) if len(names) == 2 else None
    options = settings.model_dump()
    allowed = {key for key in ("drop_bad_objects", "skip_unreadable") if options.pop(key)}
    annotations = read_annotations(Path(names[0]), image_dir, drop_bad_objects=True, skip_unreadable=True, **options)
    console = plain_console()
    images = annotations.images
    objects = len(annotations.content["annotations"])
    empty = sum(image["id"] not in annotations.objects for image in images)
    console.print(
        f"{annotations.path}: {len(images)} images, {empty} of them empty, {objects} annotations of"
        f" {len(annotations.names)} classes"
    )
    console.print(class_table(annotations))
    readable = [image for image in images if image["id"] not in annotations.unreadable]
    for group in duplicate_files([annotations.image_dir / image["file_name"] for image in readable]):
        console.print(f"the same file {len(group)} times: {', '.join(shorten(path.name) for path in group[:10])}")
    for text, count in annotations.report.repairs.items():
        console.print(f"{text}: {count}")
    annotations.report.raise_problems(allowed)
    return 0


main = functools.partial(run_command, check_data, __doc__)


if __name__ == "__main__":
    sys.exit(main())
