"""Detect objects in images with a trained detector: `Predictor`."""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.image_inputs import ImageFile, ImageInput, read_input
from ..errors import InputError, check_known
from ..layers.fuse import fuse_for_inference
from ..layers.mask_ops import PASTES
from .detections import Detections
from .detector_classes import used_classes
from .merging import Found, fuse, select
from .predictor_arguments import check_options, choose_device, match_labels
from .tiling import Window, merge_tiles, tile_windows
from .trained_detector import TrainedDetector, load_detector
from .views import View, input_size, run_views

Source = str | Path | TrainedDetector
TTA_SCALES = (0.8, 1.0, 1.2)
USUAL_SIZE = (480, 640)  # height and width of most images of COCO, for models that do not know their training images
SINGLE_IMAGES = (str, Path, ImageFile, Image.Image, np.ndarray, Tensor)


class Predictor:
    """Detect objects in images, resized and normalised as the model was trained.

        predictor = Predictor("runs/mask_rcnn_resnet50_fpn_1x_coco-1")
        detections = predictor("photo.jpg")

    With the defaults, the detections are those of an evaluation.

    Args:
        source: a run (its folder or a checkpoint), another source that `load_detector` takes, or a loaded
            `TrainedDetector`. Several of them are an ensemble: their classes must have the same names, and their
            detections are fused.
        device: "cpu", "cuda", "cuda:1", ...; None for a GPU if there is one.
        score_threshold: detections with a lower score are left out; None: the threshold of the model, usually 0.05.
            With `tta` or several sources it holds per view, and a fused score may be lower.
        classes: names of the classes to keep; None for all.
        batch_size: most images, tiles or views of one size that go through the network together.
        tile: (side, overlap): an image with a longer side is cut into square tiles with `side` pixels of the image;
            neighbours share at least `overlap` of them, a number from 0 to below 1. Objects up to `overlap * side`
            pixels are seen whole by one of the tiles. See `engine.tiling`.
        tile_scale: factor by which tiles are resized; None: that of the training images.
        tile_whole: look at the whole image, too, for objects larger than the overlap of the tiles.
        tta: test-time augmentation: True for three scales (0.8, 1 and 1.2 times the usual size), each also mirrored;
            or the scales themselves.

    Raises:
        InputError: a source cannot be loaded, models of an ensemble do not fit each other, or an argument is not
            usable.

    Attributes:
        detectors: the loaded detectors.
        names: name of each class.
        category_ids: id of each class in the training data.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        *,
        device: str | torch.device | None = None,
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 1,
        tile: tuple[int, float] | None = None,
        tile_scale: float | None = None,
        tile_whole: bool = False,
        tta: bool | Sequence[float] = False,
    ):
        sources = [source] if isinstance(source, (str, Path, TrainedDetector)) else list(source)
        if not sources:
            raise InputError("expected a trained detector, got none")
        check_options(score_threshold, batch_size, tile, tile_scale, tta)
        self.device = choose_device(device)
        self.detectors = [item if isinstance(item, TrainedDetector) else load_detector(str(item)) for item in sources]
        self.names, self.category_ids = used_classes(self.detectors[0].metadata)
        if classes is not None:
            check_known("class", self.names, *classes)
        self._label_maps = [match_labels(detector, self.detectors[0]) for detector in self.detectors]
        self._models = [self._prepare(detector, score_threshold) for detector in self.detectors]
        self.score_threshold, self.classes, self.batch_size = score_threshold, classes, batch_size
        self.tile, self.tile_scale, self.tile_whole = tile, tile_scale, tile_whole
        self.scales: Sequence[float] = (1.0,) if tta is False else TTA_SCALES if tta is True else tuple(tta)
        self.flips: Sequence[bool] = (False,) if tta is False else (False, True)

    @overload
    def __call__(self, images: ImageInput) -> Detections: ...  # type: ignore[overload-overlap]  # str is a Sequence
    @overload
    def __call__(self, images: Sequence[ImageInput]) -> list[Detections]: ...
    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Detections | list[Detections]:
        """Detect the objects in an image, or in each image of a list.

        Args:
            images: see `read_input`.

        Returns:
            `Detections`, in pixels of the image as given; a list of them for a list.

        Raises:
            InputError: an image cannot be read, or is too large without tiles.
        """
        if isinstance(images, SINGLE_IMAGES):
            return next(self.stream([images]))
        return list(self.stream(images))

    def stream(self, images: Sequence[ImageInput]) -> Iterator[Detections]:
        """Yield the detections of one image after another; `batch_size` images are in memory at once."""
        rest = iter(images)
        while chunk := list(islice(rest, self.batch_size)):
            yield from self._predict(chunk)

    @torch.no_grad()  # results of inference_mode() could not be changed in place
    def _predict(self, images: Sequence[ImageInput]) -> list[Detections]:
        """Return the detections of a few images."""
        pixels: dict[tuple, list[Tensor]] = {}
        found: list[dict[Window, list[Found]]] = [{} for _ in images]
        for detector, model, labels in zip(self.detectors, self._models, self._label_maps):
            reading = (detector.channels, _range(detector))
            if reading not in pixels:
                pixels[reading] = [read_input(image, *reading) for image in images]
            jobs = [
                (index, view) for index, image in enumerate(pixels[reading]) for view in self._views(image, detector)
            ]
            if self.batch_size > 1:
                jobs.sort(key=lambda job: job[1].size)
            rendered = ((pixels[reading][index], view) for index, view in jobs)
            with autocast(detector.precision, self.device):
                results = list(run_views(model, rendered, self.batch_size, self.device))
            for (index, view), result in zip(jobs, results, strict=True):
                result["labels"] = labels[result["labels"]]
                found[index].setdefault(view.window, []).append(select(result, result["labels"] >= 0))
        first = next(iter(pixels.values()))
        return [self._merge(image, first[index], found[index]) for index, image in enumerate(images)]

    def _views(self, image: Tensor, detector: TrainedDetector) -> list[View]:
        """Return what a detector looks at: the whole image or its tiles, in every scale and flip."""
        height, width = image.shape[-2:]
        sides = (detector.short_side, detector.long_side)
        whole: Window = (0, 0, width, height)
        tiles: list[Window] = []
        if self.tile is not None and max(height, width) > self.tile[0]:
            tiles = tile_windows(height, width, *self.tile)
        trained = input_size(*training_size(detector), *sides)
        tile_scale = self.tile_scale or trained[0] / training_size(detector)[0]
        views = []
        for scale in self.scales:
            if not tiles or self.tile_whole:
                size = input_size(height, width, *sides, scale)
                views += [View(whole, size, flip) for flip in self.flips]
            for x1, y1, x2, y2 in tiles:
                size = input_size(y2 - y1, x2 - x1, None, None, tile_scale * scale)
                # a tile with more pixels than the training images has more objects than they have
                factor = max(1.0, math.prod(size) / (math.prod(trained) * scale**2))
                views += [View((x1, y1, x2, y2), size, flip, factor) for flip in self.flips]
        return views

    def _merge(self, image: ImageInput, pixels: Tensor, found: dict[Window, list[Found]]) -> Detections:
        size = (pixels.shape[-2], pixels.shape[-1])
        merged = {window: fuse(views) for window, views in found.items()}
        whole = merged.pop((0, 0, size[1], size[0]), None)
        if merged:
            result = merge_tiles(list(merged.values()), list(merged), size, whole)
        else:
            assert whole is not None
            result = whole
        detector = self.detectors[0]
        return Detections.from_found(
            self._filter(result),
            paste=PASTES[detector.model.mask_paste],
            names=self.names,
            category_ids=self.category_ids,
            size=size,
            _read=partial(read_input, image, detector.channels, _range(detector)),
        )

    def _filter(self, found: Found) -> Found:
        keep = torch.ones(len(found["labels"]), dtype=torch.bool)
        if self.score_threshold is not None:
            keep &= found["scores"] >= self.score_threshold
        if self.classes is not None:
            keep &= torch.isin(found["labels"], torch.tensor([self.names.index(name) for name in self.classes]))
        return select(found, keep)

    def _prepare(self, detector: TrainedDetector, score_threshold: float | None) -> Any:
        """Return a copy of a model for inference, as an evaluation uses it, that finds what the threshold asks for."""
        is_cpu = self.device.type == "cpu"
        model: Any = fuse_for_inference(detector.model) if is_cpu else copy.deepcopy(detector.model).to(self.device)
        parts: tuple[Any, ...] = (model, getattr(model, "roi_heads", None))
        for part in parts:
            if score_threshold is not None and hasattr(part, "score_thresh"):
                part.score_thresh = min(part.score_thresh, score_threshold)
        return model


def training_size(detector: TrainedDetector) -> tuple[int, int]:
    """Return the median height and width of the training images."""
    height, width = detector.metadata.get("image_size") or USUAL_SIZE
    return height, width


def _range(detector: TrainedDetector) -> tuple[float, float] | None:
    limits = detector.metadata.get("image_range")
    return None if limits is None else (limits[0], limits[1])


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which an evaluation would run; float32 if the device does not have the precision."""
    has_it = precision == "bf16" or (precision == "fp16" and device.type == "cuda")
    return torch.autocast(device.type, torch.float16 if precision == "fp16" else torch.bfloat16, enabled=has_it)
