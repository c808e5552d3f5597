"""COCO-format dataset: images and targets as tensors, resized or transformed at random in training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from ..layers.mask_crops import MaskCrops
from .annotations import Annotations, Id
from .augmentation import Transform, apply_transforms
from .copy_paste import draw_objects, paste_objects
from .images import Range, read_image
from .sizes import resized_shape
from .transforms import object_mask


@dataclass(frozen=True)
class Unreadable:
    """Item of a dataset in place of an image that does not decode, or has another size than annotated."""

    path: Path
    reason: str


class CocoDataset(Dataset):
    """RGB images with targets.

    An item is requested with `(index, seed)`, such as `dataset[3, 0]`. The seed decides its augmentation, so that a
    resumed run gets the same images. An item is (image C x H x W uint8, target), or `Unreadable`. The target has:

        "boxes"     N x 4 float32, xyxy in pixels of the resized image
        "labels"    N int64, 0 .. classes - 1
        "masks"     MaskCrops (only with `masks`)
        "image_id"  the image's id in the annotation file
        "size"      (height, width) of the image on disk
        "seed"      for random sampling in the losses, 63 bits

    Args:
        annotations: a checked annotation file.
        training: leave out unreadable images and those whose only objects are crowd regions or unusable, leave crowd
            regions out of the targets, flip at random.
        short_side, long_side: see `resized_shape`; one of several short sides is drawn per item. None keeps the size.
        masks: add masks to the targets.
        flip: probability of a horizontal flip in training.
        transforms: in training, what to run in place of the resize and the flip, see `data.augmentation`. All masks of
            an image are then dense while they run: a byte per object and pixel, 105 MB for 100 objects in 1024 x 1024.
        copy_paste: probability in training that objects of another image are pasted, see `data.copy_paste`.
        keep_empty: train on images without any annotation, as background.
        channels, image_range: see `read_image`.

    Attributes:
        category_ids: label -> id of the category in the annotation file.
        names: label -> name.
        statistics: "image_mean" and "image_std" that a model normalises the images with, if they are known.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        training: bool,
        short_side: int | Sequence[int] | None = None,
        long_side: int | None = None,
        masks: bool = True,
        flip: float = 0.5,
        keep_empty: bool = True,
        channels: int = 3,
        image_range: Range | None = None,
        transforms: Sequence[Transform] | None = None,
        copy_paste: float = 0.0,
    ):
        self.annotations = annotations
        self.training = training
        self.short_sides = list(short_side) if isinstance(short_side, Sequence) else [short_side]
        self.long_side, self.masks = long_side, masks
        self.flip, self.copy_paste = (flip, copy_paste) if training else (0.0, 0.0)
        self.transforms = transforms if training else None
        self.channels, self.image_range = channels, image_range
        self.statistics: dict[str, Any] | None = None
        self.category_ids, self.names = annotations.category_ids, annotations.names
        self.images = [
            image for image in annotations.images if not training or self._is_usable(image["id"], keep_empty)
        ]

    @property
    def num_empty(self) -> int:
        """Number of images without an object."""
        return sum(not self._objects(image["id"]) for image in self.images)

    def reorder_classes(self, names: Sequence[str]) -> None:
        """Give the classes the labels 0, 1, ... in the order of `names`, which are those of the dataset."""
        ids = dict(zip(self.names, self.category_ids, strict=True))
        self.names, self.category_ids = list(names), [ids[name] for name in names]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        """Read an image in its size on disk, see `read_image`."""
        info = self.images[index]
        path = self.annotations.image_dir / info["file_name"]
        return read_image(path, self.channels, self.image_range, info.get("exif_orientation", 1))

    def __getitem__(self, item: tuple[int, int | Sequence[int]]) -> tuple[Tensor, dict] | Unreadable:
        index, seed = item
        random = np.random.default_rng(seed)
        loaded = self._load(index, random)
        if isinstance(loaded, Unreadable):
            return loaded
        image, target = loaded
        if self.copy_paste and random.random() < self.copy_paste:
            image, target = self._paste(image, target, random)
        return image, target | {"seed": int(random.integers(2**63))}

    def _load(self, index: int, random: np.random.Generator) -> tuple[Tensor, dict] | Unreadable:
        """Return an image with its target after the transforms."""
        info = self.images[index]
        path = self.annotations.image_dir / info["file_name"]
        try:
            image = self.read(index)
        except ValueError as error:
            return Unreadable(path, str(error))
        original = (image.shape[-2], image.shape[-1])
        if original != (info["height"], info["width"]):
            reason = f"{original[1]}x{original[0]}, but annotated as {info['width']}x{info['height']}"
            return Unreadable(path, reason)
        if self.transforms is not None:
            return self._transform(image, info["id"], self.transforms, int(random.integers(2**63)))
        short_side = self.short_sides[random.integers(len(self.short_sides))]
        height, width = resized_shape(*original, short_side, self.long_side)
        if (height, width) != original:
            image = TF.resize(image, [height, width], antialias=True)
        flipped = random.random() < self.flip
        target, objects = self._target(info["id"], height, width, original)
        if self.masks:
            masks = _draw_masks(objects, height, width, original)
            target["masks"] = MaskCrops.pack((m[:, ::-1] if flipped else m for m in masks), (height, width))
        if flipped:
            image = image.flip(-1)
            target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
        return image, target

    def _transform(
        self, image: Tensor, image_id: Id, transforms: Sequence[Transform], seed: int
    ) -> tuple[Tensor, dict]:
        shape = (image.shape[-2], image.shape[-1])
        target, objects = self._target(image_id, *shape, shape)
        if self.masks:
            target["masks"] = torch.zeros((len(objects), *shape), dtype=torch.uint8)
            for dense, mask in zip(target["masks"], _draw_masks(objects, *shape, shape), strict=True):
                dense.copy_(torch.from_numpy(mask))
        image, target = apply_transforms(transforms, image, target, seed)
        if self.masks:
            size = (image.shape[-2], image.shape[-1])
            target["masks"] = MaskCrops.pack((mask.numpy() for mask in target["masks"]), size)
        return image, target

    def _paste(self, image: Tensor, target: dict, random: np.random.Generator) -> tuple[Tensor, dict]:
        """Paste some objects of another image, unless that is unreadable."""
        loaded = self._load(int(random.integers(len(self))), random)
        if isinstance(loaded, Unreadable):
            return image, target
        return paste_objects(image, target, *loaded, draw_objects(loaded[1]["masks"], random))

    def classes(self) -> list[set[Id]]:
        """Return per image the ids of its objects' categories."""
        return [{entry["category_id"] for entry in self._objects(image["id"])} for image in self.images]

    def _is_usable(self, image_id: Id, keep_empty: bool) -> bool:
        if image_id in self.annotations.unreadable:
            return False
        is_empty = image_id not in self.annotations.objects and image_id not in self.annotations.incomplete
        return bool(self._objects(image_id)) or (keep_empty and is_empty)

    def _objects(self, image_id: Id) -> list[dict]:
        objects = self.annotations.objects.get(image_id, [])
        return [entry for entry in objects if not entry.get("iscrowd", 0)] if self.training else objects

    def _target(self, image_id: Id, height: int, width: int, original: tuple[int, int]) -> tuple[dict, list[dict]]:
        """Return the target without masks for an image of another size, and the annotations of its objects."""
        objects = self._objects(image_id)
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        boxes = torch.tensor([entry["bbox"] for entry in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= torch.tensor([width / original[1], height / original[0]] * 2)
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # drop boxes that clipping left without area
        objects = [entry for entry, kept in zip(objects, keep.tolist(), strict=True) if kept]
        target: dict[str, Any] = {
            "boxes": boxes[keep],
            "labels": torch.tensor([labels[entry["category_id"]] for entry in objects], dtype=torch.int64),
            "image_id": image_id,
            "size": original,
        }
        return target, objects


def _draw_masks(objects: Sequence[dict], height: int, width: int, original: tuple[int, int]) -> Iterator[np.ndarray]:
    return (object_mask(entry.get("segmentation", []), height, width, original) for entry in objects)
