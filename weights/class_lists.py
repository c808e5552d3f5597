"""Classes of public datasets, in the order in which detectors of other libraries have them."""

from collections.abc import Mapping
from typing import Any

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

UNUSED, BACKGROUND = "N/A", "__background__"  # names of rows of class layers without a class
COCO_ROWS = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])  # by category id
COCO = {number: name for number, name in enumerate(COCO_ROWS) if number and name != UNUSED}  # id -> name
VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
# first word of the names of detectron2's datasets -> category id -> name
DATASETS: dict[str, dict[int, str]] = {
    "coco": COCO,
    "voc": dict(enumerate(VOC, start=1)),
    "cityscapes": dict(enumerate(CITYSCAPES, start=1)),
}


def class_metadata(names: Mapping[int, str] | None, num_classes: int) -> dict[str, Any]:
    """Return the metadata of a detector's classes: "category_ids" and "category_names" in the order of its labels.

    Args:
        names: category id -> name; None if they are not known. Then the ids are 0, 1, ..., the names tell the number of
            the class, and "unnamed_classes" is True.
        num_classes: number of classes.

    Returns:
        Also "unused_labels" if the class layers have rows that do not stand for a class.
    """
    if names is not None and len(names) == num_classes:
        unused = [label for label, name in enumerate(names.values()) if name in (UNUSED, BACKGROUND)]
        metadata = {"category_ids": list(names), "category_names": list(names.values())}
        return metadata | ({"unused_labels": unused} if unused else {})
    numbers = list(range(num_classes))
    return {"category_ids": numbers, "category_names": [f"class {i}" for i in numbers], "unnamed_classes": True}
