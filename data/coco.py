"""Images and targets of a COCO-format dataset, resized and flipped, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from .annotations import Annotations, why_unreadable


@dataclass(frozen=True)
class Unreadable:
    """What the dataset gives in place of an image that does not decode; whoever asked decides what to do."""

    path: Path
    reason: str


def read_rgb(path: Path) -> Tensor:
    """3 x H x W uint8, its memory H x W x 3, as Pillow decodes and as the resize is fastest on.

    Raises what Pillow raises for a file that does not decode: OSError, SyntaxError or ValueError. (torchvision's decoder is
    no faster, and deprecated since 0.29.)
    """
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)


def resized(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """Height and width with the short side at `short_side`, or smaller where the long side would pass `long_side`."""
    if short_side is None:
        return height, width
    scale = short_side / min(height, width)
    if long_side is not None:
        scale = min(scale, long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def object_mask(segmentation, height: int, width: int, original: tuple[int, int]) -> np.ndarray:
    """Polygons or RLE of an image of size `original`, as a height x width uint8 mask.

    Polygons are scaled before they are filled, which is exact and cheaper than scaling a mask.
    """
    if isinstance(segmentation, list):
        scale = np.array([width / original[1], height / original[0]])
        polygons = [(np.asarray(p, dtype=float).reshape(-1, 2) * scale).ravel().tolist() for p in segmentation if len(p) >= 6]
        if not polygons:
            return np.zeros((height, width), np.uint8)
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    counts = segmentation["counts"]
    rle = coco_mask.frPyObjects(segmentation, *original) if isinstance(counts, list) else segmentation
    mask = torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rle)))[None]
    return TF.resize(mask, [height, width], interpolation=TF.InterpolationMode.NEAREST)[0].numpy()


class CocoDataset(Dataset):
    """RGB images with targets.

    Args:
        annotations: a checked annotation file.
        training: drop images without a usable object, leave crowd regions out of the targets, flip at random.
        short_side, long_side: see `resized`; several short sides are drawn from at random. None keeps the size.
        masks: add masks to the targets.
        flip: chance of a horizontal flip in training.

    An item is asked for with `(index, seed)`; the seed decides its augmentation, so a resumed run sees the same images.
    It is (image C x H x W uint8, target) or `Unreadable`. Targets: "boxes" N x 4 float32 xyxy in pixels of the resized
    image, "labels" N int64 (0 .. classes - 1), "masks" N x H x W bool, "image_id" int, "size" (height, width) on disk.
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
        self.labels = {category: label for label, category in enumerate(annotations.category_ids)}
        self.short_sides = list(short_side) if isinstance(short_side, Sequence) else [short_side]
        self.long_side, self.masks, self.training = long_side, masks, training
        self.flip = flip if training else 0.0
        self.images = [im for im in annotations.images if not training or self._objects(im["id"])]

    def _objects(self, image_id: int) -> list[dict]:
        return [o for o in self.annotations.objects.get(image_id, ()) if not (self.training and o.get("iscrowd", 0))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int | Sequence[int]]) -> tuple[Tensor, dict] | Unreadable:
        index, seed = item
        info = self.images[index]
        path = self.annotations.image_dir / info["file_name"]
        try:
            image = read_rgb(path)
        except (OSError, SyntaxError, ValueError) as error:
            return Unreadable(path, why_unreadable(path) or str(error))
        size = image.shape[-2:]
        if tuple(size) != (info["height"], info["width"]):
            return Unreadable(path, f"{size[1]}x{size[0]}, the annotation file says {info['width']}x{info['height']}")
        random = np.random.default_rng(seed)
        short_side = self.short_sides[random.integers(len(self.short_sides))]
        height, width = resized(*size, short_side, self.long_side)
        if (height, width) != tuple(size):
            image = TF.resize(image, [height, width], antialias=True)
        target = self._target(info["id"], height, width, tuple(size))
        if random.random() < self.flip:
            image = image.flip(-1)
            target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
            if self.masks:
                target["masks"] = target["masks"].flip(-1)
        return image, target

    def _target(self, image_id: int, height: int, width: int, original: tuple[int, int]) -> dict:
        objects = self._objects(image_id)
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= torch.tensor([width / original[1], height / original[0]] * 2)
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)  # a box inside the last pixel's overhang is gone
        objects = [o for o, k in zip(objects, keep.tolist()) if k]
        target = {
            "boxes": boxes[keep],
            "labels": torch.tensor([self.labels[o["category_id"]] for o in objects], dtype=torch.int64),
            "image_id": image_id,
            "size": original,
        }
        if self.masks:
            masks = [object_mask(o.get("segmentation", []), height, width, original) for o in objects]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
            target["masks"] = torch.from_numpy(stacked).bool()
        return target
