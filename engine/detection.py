"""Task and config of object detection and instance segmentation on COCO-format data."""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from torch import Tensor, nn

from ..data.annotations import Annotations, read_annotations
from ..data.augmentation import build_transforms
from ..data.coco import CocoDataset, Unreadable
from ..data.image_entries import ImageUse
from ..data.image_folder import suggest_path
from ..data.repeat_factors import repeat_factors
from ..data.shapes import ensure_shapes
from ..data.summary_tables import data_tables
from ..detectors.base import resolve_backbone
from ..errors import InputError, shorten
from ..evaluation.coco import CocoEvaluator
from ..evaluation.tables import coco_table
from ..registry import DETECTORS, TASKS, build_detector, lookup
from ..visualization.detections import save_grid
from ..weights.sources import read_file, read_metadata
from ..weights.torchvision_detectors import (
    CLASS_LAYERS,
    convert_torchvision_detector,
    is_torchvision_detector,
    select_classes,
)
from .augmentation_config import check_augmentation, name_callables
from .checkpoint import find_checkpoint, fine_tune
from .coco_results import save_details, save_predictions
from .console import plain_console
from .detection_config import EMBEDDED, DetectionConfig
from .detector_config import check_detector, describe_detector, expand_detector
from .image_input import (
    adopt_image_metadata,
    image_channels,
    image_metadata,
    resolve_channels,
    set_normalisation,
)
from .task import Split, Task

NUM_PICTURES = 9


@TASKS.register_module(name="detection")
class DetectionTask(Task):
    """Boxes, and masks if the detector has them. An item is (image C x H x W uint8, target), see `CocoDataset`."""

    config_class = DetectionConfig
    config: DetectionConfig

    def __init__(self, config: DetectionConfig):
        super().__init__(config)
        self.tasks: Sequence[str] = getattr(lookup(DETECTORS, config.model["type"]), "tasks", ("bbox",))
        self.masks = "segm" in self.tasks
        self.main_metric = "segm/AP" if self.masks else "bbox/AP"

    @classmethod
    def expand_config(cls, values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        return name_callables(expand_detector(values, overrides))

    @classmethod
    def resolve_config(cls, config: DetectionConfig) -> DetectionConfig:
        """Check the arguments of every part, and write out `norm` and `freeze` of the backbone."""
        check_detector(config.model)
        check_augmentation(config, has_masks="segm" in cls(config).tasks)
        backbone = resolve_backbone(resolve_channels(config))
        return config.model_copy(update={"model": config.model | {"backbone": backbone}})

    @classmethod
    def describe_model(cls, config: DetectionConfig) -> list[str]:
        return describe_detector(config.model)

    def open_split(self, split: Split) -> CocoDataset:
        if split == "val":
            dataset = self._dataset(self._read_annotations(split), training=False)
            unreadable = dataset.annotations.unreadable
            if len(unreadable) >= len(dataset):
                raise InputError(f"{dataset.annotations.path} has no readable image: {next(iter(unreadable.values()))}")
            self.evaluator(dataset)  # raises InputError if the annotations cannot be scored
            return dataset
        annotations = self._read_annotations(split)
        config = self.config
        transforms = None if config.transforms is None else build_transforms(config.transforms)
        if transforms is not None and config.short_side is not None:
            plain_console().print("training images get the transforms; short_side and long_side are for validation")
        options = {"masks": self.masks, "transforms": transforms, "copy_paste": config.copy_paste}
        dataset = self._dataset(annotations, training=True, short_side=config.short_side, **options)
        if dataset.num_empty:
            plain_console().print(f"{annotations.path}: {dataset.num_empty} images without objects train as background")
        if len(dataset) == dataset.num_empty:
            reasons = "".join(f"; {line}" for line in annotations.report.lines())
            raise InputError(f"{annotations.path} has no image with a usable object that is not a crowd{reasons}")
        return dataset

    def metadata(self, dataset: CocoDataset) -> dict[str, Any]:
        """Return ids and names of the categories, in the order of the labels, and how images are read."""
        classes = {"category_ids": dataset.category_ids, "category_names": dataset.names}
        return classes | image_metadata(self.config, dataset)

    def adopt_metadata(self, dataset: CocoDataset, metadata: Mapping[str, Any], where: str) -> None:
        """Give the dataset's classes the labels of the classes with the same names; read images as in training."""
        adopt_image_metadata(self.config, dataset, metadata)
        names, ids = metadata["category_names"], metadata["category_ids"]
        if (dataset.names, dataset.category_ids) == (names, ids):
            return
        path = dataset.annotations.path
        if sorted(dataset.names) != sorted(names) or len(set(names)) < len(names):
            if sorted(dataset.names) == sorted(names):
                doubled = shorten(", ".join(sorted({name for name in names if names.count(name) > 1})))
                raise InputError(
                    f"classes of {where} ({path}) have other ids, and cannot be matched by name: {doubled}"
                )
            missing = ", ".join(sorted(set(names) - set(dataset.names))) or "none"
            unknown = ", ".join(sorted(set(dataset.names) - set(names))) or "none"
            differences = f"missing: {shorten(missing)}, unknown: {shorten(unknown)}"
            raise InputError(f"the classes of {where} ({path}) differ from those of the model; {differences}")
        dataset.reorder_classes(names)
        plain_console().print(f"{path}: ids or order of the classes differ from the model's; they are matched by name")

    def build_model(self, metadata: Mapping[str, Any], load_weights: bool) -> nn.Module:
        classes = len(metadata["category_ids"])
        model = build_detector(self.config.model, num_classes=classes, load_weights=load_weights)
        set_normalisation(model.backbone, metadata, image_channels(self.config))
        return model

    def start_from(self, model: Any, path: str, metadata: Mapping[str, Any]) -> list[str]:
        """Load a checkpoint or a detector of torchvision.

        Class layers keep the rows of the same names; they start anew if a class is missing in the checkpoint.
        """
        state = read_file(find_checkpoint(path))
        names, trained_names = metadata["category_names"], read_metadata(path).get("category_names", [])
        if is_torchvision_detector(state):
            state = convert_torchvision_detector(state, names)
        elif trained_names != names and set(names) <= set(trained_names):
            offset = model.label_offset  # 1 if the layers have a row of the background
            rows = [trained_names.index(name) + offset for name in names]
            state = select_classes(state, rows, len(trained_names) + offset)
        elif trained_names and trained_names != names:  # other classes, perhaps as many: no row keeps its meaning
            state |= {key: value[:0] for key, value in state.items() if any(layer in key for layer in CLASS_LAYERS)}
        return fine_tune(model, state, path, CLASS_LAYERS)

    def losses(self, model: Any, items: Sequence[tuple[Tensor, dict]]) -> dict[str, Tensor]:
        images, targets = self._split(items)
        return model(images, targets) if model.training else model.losses(images, targets)

    def counted_losses(self, model: nn.Module, items: Sequence[tuple[Tensor, dict]]) -> tuple[dict, dict]:
        images, targets = self._split(items)
        return model(images, targets, with_counts=True)

    def counts_vary(self, model: nn.Module) -> bool:
        return getattr(model, "counts_vary", True)

    def _split(self, items: Sequence[tuple[Tensor, dict]]) -> tuple[list[Tensor], list[dict]]:
        keys = {"boxes", "labels", "seed"} | ({"masks"} if self.masks else set())
        return [image for image, _ in items], [{k: v for k, v in target.items() if k in keys} for _, target in items]

    def predict(self, model: nn.Module, items: Sequence[tuple[Tensor, dict]]) -> list[dict[str, Tensor]]:
        """Return detections in pixels of the images on disk."""
        return model([image for image, _ in items], output_sizes=[target["size"] for _, target in items])

    def evaluator(self, dataset: CocoDataset) -> CocoEvaluator:
        content, config = dataset.annotations.content, self.config
        return CocoEvaluator(content, self.tasks, config.eval_backend, config.max_dets, dataset.category_ids)

    def unreadable(self, item: Any) -> str | None:
        return f"image {item.path} is unreadable ({item.reason})" if isinstance(item, Unreadable) else None

    def describe_items(self, items: Sequence[tuple[Tensor, dict]]) -> str:
        return f"images {[target['image_id'] for _, target in items]}"

    def grouping_flags(self, dataset: CocoDataset) -> list[bool]:
        """Return per image whether it is wider than high, because a batch is padded to its largest sides."""
        return [image["width"] > image["height"] for image in dataset.images]

    def repeat_factors(self, dataset: CocoDataset) -> list[float] | None:
        """Return how often each image comes per epoch, or None if `repeat_factor_threshold` is not set."""
        threshold = self.config.repeat_factor_threshold
        return None if threshold is None else repeat_factors(dataset.classes(), threshold)

    def metric_names(self, dataset: CocoDataset) -> Sequence[str]:
        return [f"{kind}/{name}" for kind in self.tasks for name in self.evaluator(dataset).metric_names]

    def describe_data(self, training: CocoDataset, validation: CocoDataset) -> Group:
        """Return tables of the images, of the objects and of the classes."""
        return data_tables(training, validation)

    def parts_to_compile(self, model: Any) -> list[nn.Module]:
        """Return backbone and neck; the data-dependent control flow of the heads would break the graph."""
        return [model.backbone, model.neck]

    def validation_loss_dataset(self, dataset: CocoDataset) -> CocoDataset:
        return self._variant(dataset, training=True, flip=0.0)

    def metrics_table(self, metrics: Mapping[str, float]) -> Any:
        return coco_table(metrics)

    def save_results(self, evaluator: CocoEvaluator, folder: Path, is_last: bool) -> Any:
        save_predictions(evaluator, folder, for_pycocotools=is_last)
        return save_details(evaluator, folder) if is_last else None

    def save_pictures(
        self, model: nn.Module, dataset: CocoDataset, folder: Path, device: torch.device
    ) -> Sequence[Path]:
        """Write `predictions.png`: ground truth and detections of the first readable images."""
        dataset = self._variant(dataset, training=False)
        items = (dataset[index, 0] for index in range(len(dataset)))
        readable = (item for item in items if not isinstance(item, Unreadable))
        samples = []
        model.eval()
        with torch.inference_mode():
            for image, target in islice(readable, NUM_PICTURES):
                output = model([image.to(device)])[0]
                target |= {"masks": target["masks"].dense()} if self.masks else {}
                samples.append((image, target, {key: value.cpu() for key, value in output.items()}))
        if not samples:
            return []
        save_grid(folder / "predictions.png", samples, dataset.names)
        return [folder / "predictions.png"]

    @property
    def _largest_side(self) -> int | None:
        side = self.config.short_side
        return max(side) if isinstance(side, Sequence) else side

    def _dataset(self, annotations: Annotations, training: bool, **options: Any) -> CocoDataset:
        """Return a dataset with images as in validation, unless the options of CocoDataset say otherwise."""
        defaults = {
            "short_side": self._largest_side,
            "long_side": self.config.long_side,
            "masks": False,
            "flip": self.config.flip,
            "keep_empty": self.config.keep_empty,
            "channels": image_channels(self.config),
            "image_range": self.config.image_range,
        }
        return CocoDataset(annotations, training=training, **(defaults | options))

    def _variant(self, dataset: CocoDataset, training: bool, **options: Any) -> CocoDataset:
        """Return the dataset with masks and other options; classes and values of images stay as they are."""
        variant = self._dataset(dataset.annotations, training, masks=self.masks, **options)
        variant.category_ids, variant.names = dataset.category_ids, dataset.names
        variant.image_range = dataset.image_range
        return variant

    def _read_annotations(self, split: Split) -> Annotations:
        paths = self.config.train if split == "train" else self.config.val
        root = ensure_shapes() if self.config.data_root == EMBEDDED else Path(self.config.data_root or "")
        if not os.path.isdir(root):
            raise InputError(f"data_root {shorten(root)} does not exist{suggest_path(root)}")
        config = self.config
        use = ImageUse(image_channels(config), config.image_range, self._largest_side, config.long_side)
        annotations = read_annotations(
            _below(root, paths.ann_file),
            None if paths.image_dir is None else _below(root, paths.image_dir),
            format=paths.format,
            split=split,
            masks=self.masks,
            drop_bad_objects=self.config.drop_bad_objects,
            skip_unreadable=self.config.skip_unreadable,
            use=use,
        )
        for line in annotations.report.lines():
            plain_console().print(f"{annotations.path}: {line}")
        return annotations


def _below(root: Path, path: str) -> Path:
    """Return `path` below `root`, or `path` itself if only that exists."""
    return Path(path) if Path(path).exists() and not (root / path).exists() else root / path
