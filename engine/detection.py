"""Task and config of object detection and instance segmentation on COCO-format data."""

import os
from collections.abc import Mapping, Sequence
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
from ..evaluation.verdicts import content_of_images, judge
from ..registry import DETECTORS, TASKS, build_detector, lookup
from ..visualization.detections import save_judged_samples
from ..weights.detector_sources import is_foreign, read_detector
from ..weights.loading import fine_tune
from ..weights.torchvision_detectors import CLASS_LAYERS
from .augmentation_config import check_augmentation, name_callables
from .coco_results import save_details, save_predictions
from .console import plain_console
from .detection_config import EMBEDDED, DetectionConfig
from .detector_classes import label_map, match_classes, start_state
from .detector_config import check_detector, describe_detector, expand_detector
from .foreign_detectors import config_of_foreign, fit_foreign, fit_own
from .image_input import (
    adopt_image_metadata,
    image_channels,
    image_metadata,
    resolve_channels,
    set_normalisation,
)
from .judged_samples import judged_samples
from .task import Split, Task

NUM_PICTURES, MIN_SCORE = 8, 0.5


@TASKS.register_module(name="detection")
class DetectionTask(Task):
    """Boxes, and masks if the detector has them. An item is (image C x H x W uint8, target), see `CocoDataset`."""

    config_class = DetectionConfig
    config: DetectionConfig

    def __init__(self, config: DetectionConfig):
        super().__init__(config)
        self.tasks: Sequence[str] = getattr(lookup(DETECTORS, config.model["type"]), "tasks", ("bbox",))
        self.masks = "segm" in self.tasks
        self._labels: Tensor | None = None  # of the data, by label of the model; see `label_map`
        self.main_metric = "segm/AP" if self.masks else "bbox/AP"

    @classmethod
    def expand_config(cls, values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        return name_callables(expand_detector(values, overrides))

    @classmethod
    def resolve_config(cls, config: DetectionConfig) -> DetectionConfig:
        """Check the arguments of every part, and write out `norm` and `freeze` of the backbone."""
        check_detector(config.model)
        check_augmentation(config, has_masks="segm" in cls(config).tasks)
        if config.init_from is not None:
            fit = fit_foreign if is_foreign(config.init_from) else fit_own
            config = fit(config, config.init_from)
        backbone = resolve_backbone(resolve_channels(config))
        return config.model_copy(update={"model": config.model | {"backbone": backbone}})

    @classmethod
    def describe_model(cls, config: DetectionConfig) -> list[str]:
        return describe_detector(config.model)

    @classmethod
    def config_of(cls, source: str) -> dict[str, Any] | None:
        return config_of_foreign(source)

    def read_trained(self, source: str) -> tuple[DetectionConfig, Mapping[str, Tensor], Mapping[str, Any]]:
        if not is_foreign(source):
            return super().read_trained(source)
        found = read_detector(source)
        return fit_foreign(self.config, source), found.state, found.metadata

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
        """Return ids and names of the categories, in the order of the labels, and size and values of the images."""
        classes = {"category_ids": dataset.category_ids, "category_names": dataset.names}
        return classes | image_metadata(self.config, dataset)

    def adopt_metadata(self, dataset: CocoDataset, metadata: Mapping[str, Any], where: str) -> None:
        """Give the dataset's classes the labels of the classes with the same names; read images as in training."""
        adopt_image_metadata(self.config, dataset, metadata)
        self._labels = label_map(metadata)
        match_classes(dataset, metadata, where)

    def build_model(self, metadata: Mapping[str, Any], load_weights: bool) -> nn.Module:
        classes = len(metadata["category_ids"])
        model = build_detector(self.config.model, num_classes=classes, load_weights=load_weights)
        set_normalisation(model.backbone, metadata, image_channels(self.config))
        return model

    def start_from(self, model: Any, path: str, metadata: Mapping[str, Any]) -> list[str]:
        """Load a checkpoint of ours or a detector of another library.

        Class layers keep the rows of the same names; they start anew if a class is missing in the checkpoint.
        """
        return fine_tune(model, start_state(path, metadata["category_names"], model.label_offset), path, CLASS_LAYERS)

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
        outputs = model([image for image, _ in items], output_sizes=[target["size"] for _, target in items])
        return [self._used(output) for output in outputs]

    def _used(self, output: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return detections with the labels of the data, without those of rows that do not stand for a class."""
        if self._labels is None:
            return output
        labels = self._labels.to(output["labels"].device)[output["labels"]]
        return {name: values[labels >= 0] for name, values in (output | {"labels": labels}).items()}

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
        """Write `predictions.png`: ground truth and detections of the first readable images, coloured by verdict."""
        model.eval()
        outputs: dict[Any, dict[str, Tensor]] = {}
        with torch.inference_mode():
            for index in range(len(dataset)):
                item = dataset[index, 0]
                if isinstance(item, Unreadable):
                    continue
                image, target = item
                [output] = self.predict(model, [(image.to(device), target)])
                outputs[target["image_id"]] = {key: value.cpu() for key, value in output.items()}
                if len(outputs) == NUM_PICTURES:
                    break
        if not outputs:
            return []
        content = content_of_images(dataset.annotations.content, outputs.keys())
        evaluator = CocoEvaluator(content, self.tasks, max_dets=self.config.max_dets, category_ids=dataset.category_ids)
        for image_id, output in outputs.items():
            evaluator.add(image_id, output)
        verdicts = judge(evaluator, evaluator.kinds[-1], MIN_SCORE)
        samples = list(judged_samples(evaluator, dataset, verdicts, list(outputs)))
        save_judged_samples(folder / "predictions.png", samples, evaluator.category_names, MIN_SCORE)
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
