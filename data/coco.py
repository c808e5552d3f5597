"""COCO-format dataset: images and targets as tensors, resized, and flipped at random in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from .annotations import Annotations, unreadable_reason
from .transforms import object_mask, read_rgb, resized_shape


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
        "masks"     N x H x W bool (only with `masks`)
        "image_id"  the image's id in the annotation file
        "size"      (height, width) of the image on disk

    Args:
        annotations: a checked annotation file.
        training: leave out images without a usable object, leave crowd regions out of the targets, flip at random.
        short_side, long_side: see `resized_shape`; one of several short sides is drawn per item. None keeps the size.
        masks: add masks to the targets.
        flip: probability of a horizontal flip in training.
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
    ):
        self.annotations = annotations
        self.training = training
        self.short_sides = list(short_side) if isinstance(short_side, Sequence) else [short_side]
        self.long_side, self.masks = long_side, masks
        self.flip = flip if training else 0.0
        self.labels = {category_id: label for label, category_id in enumerate(annotations.category_ids)}
        self.images = [image for image in annotations.images if not training or self._objects(image["id"])]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int | Sequence[int]]) -> tuple[Tensor, dict] | Unreadable:
        index, seed = item
        info = self.images[index]
        path = self.annotations.image_dir / info["file_name"]
        try:
            image = read_rgb(path)
        except (OSError, SyntaxError, ValueError) as error:
            return Unreadable(path, unreadable_reason(path) or str(error))
        original = (image.shape[-2], image.shape[-1])
        if original != (info["height"], info["width"]):
            reason = f"{original[1]}x{original[0]}, but annotated as {info['width']}x{info['height']}"
            return Unreadable(path, reason)
        random = np.random.default_rng(seed)
        short_side = self.short_sides[random.integers(len(self.short_sides))]
        height, width = resized_shape(*original, short_side, self.long_side)
        if (height, width) != original:
            image = TF.resize(image, [height, width], antialias=True)
        target = self._target(info["id"], height, width, original)
        if random.random() < self.flip:
            image = image.flip(-1)
            target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
            if self.masks:
                target["masks"] = target["masks"].flip(-1)
        return image, target

    def _objects(self, image_id: int) -> list[dict]:
        objects = self.annotations.objects.get(image_id, [])
        return [entry for entry in objects if not entry.get("iscrowd", 0)] if self.training else objects

    def _target(self, image_id: int, height: int, width: int, original: tuple[int, int]) -> dict:
        objects = self._objects(image_id)
        boxes = torch.tensor([entry["bbox"] for entry in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= torch.tensor([width / original[1], height / original[0]] * 2)
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # drop boxes that clipping left without area
        objects = [entry for entry, kept in zip(objects, keep.tolist(), strict=True) if kept]
        target = {
            "boxes": boxes[keep],
            "labels": torch.tensor([self.labels[entry["category_id"]] for entry in objects], dtype=torch.int64),
            "image_id": image_id,
            "size": original,
        }
        if self.masks:
            masks = [object_mask(entry.get("segmentation", []), height, width, original) for entry in objects]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
            target["masks"] = torch.from_numpy(stacked).bool()
        return target
