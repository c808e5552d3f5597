"""Config keys of object detection and instance segmentation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from .config import Keys, Positive
from .image_input import ImageConfig

EMBEDDED = "embedded:shapes"
Format = Literal["coco", "voc", "yolo", "cvat", "lvis"]


class AugmentationConfig(Keys):
    """Config keys on augmentation and sampling of training images."""

    transforms: Sequence[dict[str, Any]] | None = Field(
        default=None,
        description="Transforms of the training images in place of short_side, long_side and flip: a list of dicts, "
        "each with the `type` and arguments of a class of torchvision.transforms.v2, of LargeScaleJitter or "
        "BoxesFromMasks, or of one of your own, which is registered in TRANSFORMS or named 'module:name'. none: resize "
        "and flip.",
    )
    copy_paste: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Probability that objects of a second training image are pasted onto an image; needs masks.",
    )
    repeat_factor_threshold: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Share of images below which a class is rare, so that its images come more often (repeat-factor "
        "sampling; LVIS: 0.001). none: every image comes once per epoch.",
    )


class DatasetPaths(Keys):
    """Where one split lies: paths below `data_root`, or any paths if `data_root` has no such file."""

    ann_file: str = Field(description="COCO annotation file, or what the format has instead, such as data.yaml.")
    image_dir: str | None = Field(default=None, description="Folder of the images; none: where the format has it.")
    format: Format | None = Field(default=None, description="Format of the annotations; none: recognised.")


class DetectionConfig(ImageConfig, AugmentationConfig):
    """The keys of a config for detection."""

    data_root: str | None = Field(
        default=None, description=f"Folder of the data; {EMBEDDED} draws the embedded dataset."
    )
    train: DatasetPaths = Field(description="Training data.")
    val: DatasetPaths = Field(description="Validation data.")
    short_side: Positive | Annotated[Sequence[Positive], Field(min_length=1)] | None = Field(
        default=800,
        description="Pixels of an image's short side; one of several is drawn per training image, and validation takes "
        "the largest. none: the size on disk.",
    )
    long_side: Positive | None = Field(default=1333, description="Most pixels of the long side.")
    flip: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Probability of a horizontal flip in training."
    )
    keep_empty: bool = Field(default=True, description="Train on images without any annotation, as background.")
    drop_bad_objects: bool = Field(
        default=False, description="Leave out annotations with an unusable box or mask instead of stopping."
    )
    eval_backend: Literal["hotcoco", "pycocotools"] = Field(
        default="hotcoco", description="Library that computes the metrics."
    )
    max_dets: Positive | None = Field(
        default=None,
        description="Detections that are scored per image and class (LVIS: per image); none: 100, LVIS 300. "
        "A detector finds at most its detections_per_img per image.",
    )
