"""Task and config of object detection and instance segmentation on COCO-format data."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import rich
import torch
from mmengine.registry import Registry
from pydantic import Field
from torch import Tensor, nn

from ..data.annotations import Annotations, read_annotations, suggest_path
from ..data.coco import CocoDataset, Unreadable
from ..data.shapes import ensure_shapes
from ..detectors.base import resolve_backbone
from ..errors import InputError
from ..evaluation.coco import CocoEvaluator, coco_table
from ..registry import (
    BACKBONES,
    DETECTORS,
    NECKS,
    PROPOSAL_GENERATORS,
    ROI_HEADS,
    TASKS,
    accepted_arguments,
    accepts,
    build_detector,
    lookup,
)
from ..visualization.detections import save_grid
from ..weights.sources import read_file
from ..weights.torchvision_detectors import CLASS_LAYERS, convert_torchvision_detector, is_torchvision_detector
from .checkpoint import find_checkpoint, fine_tune
from .config import Keys, Positive, TrainConfig
from .schema import check_part, describe_key, describe_part
from .task import Split, Task

EMBEDDED = "embedded:shapes"
NUM_PICTURES = 9
PARTS: dict[str, Registry] = {
    "backbone": BACKBONES,
    "neck": NECKS,
    "rpn": PROPOSAL_GENERATORS,
    "roi_heads": ROI_HEADS,
}
DECIDED = {  # arguments that a config cannot set -> what decides them
    "num_classes": "the annotation file",
    "load_weights": "the engine",
    "feature_specs": "the part before it",
    "masks": "model.type",
}


class DatasetPaths(Keys):
    """Where one split lies: paths below `data_root`, or any paths if `data_root` has no such file."""

    ann_file: str = Field(description="COCO annotation file.")
    image_dir: str = Field(description="Folder of the images.")


class DetectionConfig(TrainConfig):
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
    drop_bad_objects: bool = Field(
        default=False, description="Leave out annotations with an unusable box or mask instead of stopping."
    )
    eval_backend: Literal["hotcoco", "pycocotools"] = Field(
        default="hotcoco", description="Library that computes the metrics."
    )


class DetectionEvaluator:
    """COCO metrics of detections, whose labels become category ids."""

    def __init__(self, annotations: Annotations, tasks: Sequence[str], backend: str):
        self.coco = CocoEvaluator(annotations.content, tasks, backend)
        self.compute = self.coco.compute
        self.category_ids = torch.tensor(annotations.category_ids)

    def update(self, items: Sequence[tuple[Tensor, dict]], outputs: Sequence[dict[str, Tensor]]) -> None:
        for (_, target), output in zip(items, outputs, strict=True):
            self.coco.update({target["image_id"]: output | {"labels": self.category_ids[output["labels"]]}})


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
        """Return the values with every part of the model as a dict, also if it is left to the detector's default.

        A part whose type is overridden gets the new type and loses the arguments that the new type does not take. If
        the overrides remove the weights, `norm` and `freeze` go too: the file chose them for these weights.
        """
        model = _expand_part(DETECTORS, "model", values.get("model"), None, overrides)
        if not isinstance(model, dict):
            return values
        arguments = accepted_arguments(lookup(DETECTORS, model["type"])) or {}
        for name in PARTS:
            if name in arguments:
                default = arguments[name].default if isinstance(arguments[name].default, str) else None
                model[name] = _expand_part(PARTS[name], f"model.{name}", model.get(name, default), default, overrides)
        if isinstance(model.get("backbone"), dict) and overrides.get("model.backbone.weights", "") is None:
            kept = {key: value for key, value in model["backbone"].items() if key not in ("norm", "freeze")}
            model["backbone"] = kept
        return values | {"model": model}

    @classmethod
    def resolve_config(cls, config: DetectionConfig) -> DetectionConfig:
        """Check the arguments of every part, and write out `norm` and `freeze` of the backbone."""
        model = config.model
        _check_part(DETECTORS, model, "model")
        for name in PARTS:
            if name in model:
                _check_part(PARTS[name], model[name], f"model.{name}")
        return config.model_copy(update={"model": model | {"backbone": resolve_backbone(model["backbone"])}})

    @classmethod
    def describe_model(cls, config: DetectionConfig) -> list[str]:
        parts = {"model": (DETECTORS, config.model)}
        parts |= {f"model.{name}": (PARTS[name], config.model[name]) for name in PARTS if name in config.model}
        texts = []
        for key, (registry, part) in parts.items():
            names = ", ".join(registry.module_dict)
            texts.append(describe_key(f"{key}.type", part["type"], str, f"One of {names}."))
            texts += describe_part(lookup(registry, part["type"]), part, key, {*DECIDED, *PARTS})
        return texts

    def open_split(self, split: Split) -> CocoDataset:
        if split == "val":
            return self._dataset(self._read_annotations(self.config.val), training=False)
        annotations = self._read_annotations(self.config.train)
        dataset = self._dataset(annotations, training=True, masks=self.masks, short_side=self.config.short_side)
        if not len(dataset):
            raise InputError(f"{annotations.path} has no image with an object that is not a crowd")
        return dataset

    def metadata(self, dataset: CocoDataset) -> dict[str, Any]:
        """Return COCO ids and names of the categories, in the order of the labels."""
        return {"category_ids": dataset.annotations.category_ids, "category_names": dataset.annotations.names}

    def build_model(self, metadata: Mapping[str, Any], load_weights: bool) -> nn.Module:
        return build_detector(self.config.model, num_classes=len(metadata["category_ids"]), load_weights=load_weights)

    def start_from(self, model: nn.Module, path: str, metadata: Mapping[str, Any]) -> list[str]:
        """Load a checkpoint or a detector of torchvision; class layers start anew if the number of classes differs."""
        state = read_file(find_checkpoint(path))
        if is_torchvision_detector(state):
            state = convert_torchvision_detector(state, metadata["category_names"])
        return fine_tune(model, state, path, CLASS_LAYERS)

    def losses(self, model: Any, items: Sequence[tuple[Tensor, dict]]) -> dict[str, Tensor]:
        images = [image for image, _ in items]
        targets = [{k: v for k, v in target.items() if isinstance(v, Tensor)} for _, target in items]
        return model(images, targets) if model.training else model.losses(images, targets)

    def predict(self, model: nn.Module, items: Sequence[tuple[Tensor, dict]]) -> list[dict[str, Tensor]]:
        """Return detections in pixels of the images on disk."""
        return model([image for image, _ in items], output_sizes=[target["size"] for _, target in items])

    def evaluator(self, dataset: CocoDataset) -> DetectionEvaluator:
        return DetectionEvaluator(dataset.annotations, self.tasks, self.config.eval_backend)

    def unreadable(self, item: Any) -> str | None:
        return f"image {item.path} is unreadable ({item.reason})" if isinstance(item, Unreadable) else None

    def describe_items(self, items: Sequence[tuple[Tensor, dict]]) -> str:
        return f"images {[target['image_id'] for _, target in items]}"

    def grouping_flags(self, dataset: CocoDataset) -> list[bool]:
        """Return per image whether it is wider than high, because a batch is padded to its largest sides."""
        return [image["width"] > image["height"] for image in dataset.images]

    def parts_to_compile(self, model: Any) -> list[nn.Module]:
        """Return backbone and neck; the data-dependent control flow of the heads would break the graph."""
        return [model.backbone, model.neck]

    def validation_loss_dataset(self, dataset: CocoDataset) -> CocoDataset:
        return self._dataset(dataset.annotations, training=True, masks=self.masks, flip=0.0)

    def metrics_table(self, metrics: Mapping[str, float]) -> Any:
        return coco_table(metrics)

    def save_pictures(self, model: nn.Module, dataset: CocoDataset, folder: Path, device: torch.device) -> None:
        """Write `predictions.png`: ground truth and detections of the first readable images."""
        dataset = self._dataset(dataset.annotations, training=False, masks=self.masks)
        items = (dataset[index, 0] for index in range(len(dataset)))
        readable = (item for item in items if not isinstance(item, Unreadable))
        samples = []
        model.eval()
        with torch.inference_mode():
            for image, target in islice(readable, NUM_PICTURES):
                output = model([image.to(device)])[0]
                samples.append((image, target, {key: value.cpu() for key, value in output.items()}))
        if samples:
            save_grid(folder / "predictions.png", samples, dataset.annotations.names)

    def _dataset(self, annotations: Annotations, training: bool, **options: Any) -> CocoDataset:
        """Return a dataset with images as in validation, unless the options of CocoDataset say otherwise."""
        side = self.config.short_side
        defaults = {
            "short_side": max(side) if isinstance(side, Sequence) else side,
            "long_side": self.config.long_side,
            "masks": False,
            "flip": self.config.flip,
        }
        return CocoDataset(annotations, training=training, **(defaults | options))

    def _read_annotations(self, paths: DatasetPaths) -> Annotations:
        root = ensure_shapes() if self.config.data_root == EMBEDDED else Path(self.config.data_root or "")
        if not root.is_dir():
            raise InputError(f"data_root {root} does not exist{suggest_path(root)}")
        annotations = read_annotations(
            _below(root, paths.ann_file),
            _below(root, paths.image_dir),
            masks=self.masks,
            drop_bad_objects=self.config.drop_bad_objects,
            check_images=not self.config.skip_unreadable,
        )
        if annotations.dropped:
            rich.print(f"{annotations.path}: left out {annotations.dropped} annotation(s) with an unusable box or mask")
        return annotations


def _below(root: Path, path: str) -> Path:
    """Return `path` below `root`, or `path` itself if only that exists."""
    return Path(path) if Path(path).exists() and not (root / path).exists() else root / path


def _expand_part(registry: Registry, key: str, part: Any, default: str | None, overrides: Mapping[str, Any]) -> Any:
    """Return the config of a part as a dict with a type, see `DetectionTask.expand_config`."""
    part = {"type": part} if isinstance(part, str) else part
    if not isinstance(part, Mapping):
        return part
    part = {"type": default, **part}
    new_type = overrides.get(f"{key}.type") or part["type"]
    if new_type != part["type"]:
        factory = lookup(registry, new_type)
        dropped = [name for name in part if name != "type" and not accepts(factory, name)]
        part = {name: part[name] for name in part if name not in dropped} | {"type": new_type}
        if dropped:
            rich.print(f"{key}: {new_type} does not take {', '.join(dropped)} of the config; left out")
    return part


def _check_part(registry: Registry, part: Any, key: str) -> None:
    """Raise InputError for a part without a known type, or with arguments that it does not accept."""
    if not isinstance(part, Mapping):
        raise InputError(f"config key {key} must be a name or a dict with a 'type', got {part!r:.80}")
    factory = lookup(registry, part["type"])
    for name in part:
        if name in DECIDED:
            raise InputError(f"config key {key}.{name} cannot be set: {DECIDED[name]} decides it")
    check_part(factory, part, key)
