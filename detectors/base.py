"""Base class of detectors: pads images, checks targets, and maps results back to the size of the image.

A label is a class index, 0 to num_classes - 1; inside a head labels may start at `label_offset`, because torchvision's
RoI heads use 0 for the background. A size is (height, width).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection.image_list import ImageList

from ..backbones.base import Backbone
from ..backbones.weight_settings import settle_config
from ..errors import InputError
from ..layers import fuse
from ..layers.mask_ops import PASTES
from ..necks.base import Neck
from ..registry import BACKBONES, DETECTORS, Config, accepts, build_backbone, lookup
from ..specs import FeatureSpec
from ..weights.saved_models import PretrainedModel
from .sampling import loss_counts

LossesAndCounts = tuple[dict[str, Tensor], dict[str, Tensor]]


def resolve_backbone(cfg: Config, settle: bool = True) -> dict:
    """Return a backbone config with the detector's defaults for `norm` and `freeze` filled in.

    With weights: frozen norms, stem and c2 fixed. Without: live batch norms, nothing fixed.

    Args:
        settle: fill in what the weights settle too, such as `stride_in_1x1`.
    """
    cfg = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    factory = lookup(BACKBONES, cfg.get("type", ""))
    has_weights = cfg.get("weights") is not None
    defaults = {"norm": "frozen" if has_weights else "batch", "freeze": 2 if has_weights else 0}
    for name, value in defaults.items():
        given = cfg.get(name) is not None or (name == "norm" and cfg.get("norm_layer") is not None)
        if not given and accepts(factory, name):
            cfg[name] = value
    return settle_config(cfg) if settle else cfg


def shared_channels(feature_specs: Sequence[FeatureSpec]) -> int:
    """Return the number of channels of levels that share one head.

    Raises:
        InputError: the levels differ in their number of channels.
    """
    if len({spec.channels for spec in feature_specs}) > 1:
        widths = ", ".join(f"{spec.name}: {spec.channels}" for spec in feature_specs)
        raise InputError(
            f"heads share weights across levels, but the neck returns different numbers of channels ({widths}); "
            "use neck='fpn' or a single level"
        )
    return feature_specs[0].channels


class Float32Outputs(nn.Module):
    """Mixin before a head: float32 outputs under any autocast, so that decoding and NMS are float32."""

    def forward(self, x: Any) -> Any:
        return tree_map(Tensor.float, super().forward(x))


class Detector(PretrainedModel, pipeline_tag="object-detection"):
    """Base class of all detectors: images to losses or detections.

    In training mode a call needs targets and returns `losses(images, targets)`, in evaluation mode it returns
    `predict(images)`. Both can be called by name in either mode; the mode only decides what norm layers do, so `losses`
    in evaluation mode is a validation loss.

    A subclass adds `neck` and defines `head_losses` and `head_detections`.

    An image is padded with zeros at the right and the bottom to the largest of its batch. Its detections do not depend
    on the other images while the padding stays the same. More padding changes features near the right and bottom border
    (convolutions see the padding's response to the norms' biases) and adds anchors there.

    Args:
        backbone: a config, or a built backbone.
        num_classes: number of foreground classes.
        load_weights: False builds the backbone for its weights without reading them, because a checkpoint follows.
        size_divisor: sides of a batch are padded to multiples of it. Default: the backbone's, for exact strides.
            detectron2's detectors without a pyramid pad to the largest image only (1).

    Attributes:
        tasks: "bbox", and "segm" if targets and detections have masks (COCO's names).
        label_offset: label of class 0 inside the heads.
        counts_vary: False if every loss is a mean over the images, so that its count is known before it is computed.
        metadata: what is known about the weights, see PretrainedModel: "category_names" and "category_ids" by label.

    Raises:
        InputError: `num_classes` is below 1, or the backbone cannot be built.
    """

    config_key = "model"
    registry = DETECTORS
    tasks: tuple[str, ...] = ("bbox",)
    label_offset = 0
    counts_vary = False
    mask_paste = "torchvision"
    neck: Neck
    fuse_for_inference = fuse.fuse_for_inference

    def __init__(
        self, backbone: Config | Backbone, num_classes: int, load_weights: bool = True, size_divisor: int | None = None
    ):
        super().__init__()
        if num_classes < 1:
            raise InputError(
                f"num_classes is the number of foreground classes and must be at least 1, got {num_classes}"
            )
        self.num_classes = num_classes
        self.metadata = {}
        if isinstance(backbone, (str, Mapping)):
            backbone = build_backbone(resolve_backbone(backbone, settle=False), load_weights=load_weights)
        self.backbone = backbone
        self.size_divisor = backbone.size_divisor if size_divisor is None else size_divisor
        if self.size_divisor < 1:
            raise InputError(f"size_divisor must be at least 1, got {size_divisor}")

    def resolved_config(self) -> dict[str, Any]:
        return super().resolved_config() | {
            "backbone": self.backbone.resolved_config(),
            "num_classes": self.num_classes,
        }

    def resolved_metadata(self) -> dict[str, Any]:
        backbone = self.backbone.resolved_metadata()
        statistics = {name: backbone[name] for name in ("image_mean", "image_std") if name in backbone}
        return {"category_ids": list(range(self.num_classes))} | backbone | super().resolved_metadata() | statistics

    def adopt_metadata(self, metadata: Mapping[str, Any]) -> None:
        super().adopt_metadata(metadata)
        self.backbone.take_statistics(metadata)

    @classmethod
    def _complete_config(cls, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return a saved config with the number of classes, which the config of a run leaves to the annotations."""
        classes = {"num_classes": len(metadata["category_ids"])} if "category_ids" in metadata else {}
        return classes | dict(config)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Any]] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
        with_counts: bool = False,
    ) -> dict[str, Tensor] | LossesAndCounts | list[dict[str, Tensor]]:
        """Return `losses(images, targets)` in training mode, `predict(images, output_sizes)` in evaluation mode.

        Args:
            images: RGB images C x H x W, uint8 or float in [0, 1], of any sizes.
            targets: see `losses`.
            output_sizes: see `predict`.
            with_counts: see `losses`.

        Raises:
            ValueError: targets are missing in training mode, or an input does not fit.
        """
        if not self.training:
            return self.predict(images, output_sizes)
        if targets is None:
            raise ValueError("targets are required in training mode")
        return self.losses(images, targets, with_counts=True) if with_counts else self.losses(images, targets)

    @overload
    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]], with_counts: Literal[False] = False
    ) -> dict[str, Tensor]: ...
    @overload
    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]], with_counts: Literal[True]
    ) -> LossesAndCounts: ...
    def losses(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]], with_counts: bool = False
    ) -> dict[str, Tensor] | LossesAndCounts:
        """Compute scalar float32 losses by name.

        The loss of a large batch follows from those of its parts: each loss times its count, summed and divided by the
        sum of the counts (0 if that sum is 0, as for `loss_mask` without a foreground RoI). This holds for images with
        seeds, of one size, and without live batch statistics.

        Args:
            images: see `forward`.
            targets: one per image: "boxes" N x 4 xyxy in pixels of the image, "labels" N int64, and "masks" N x H x W
                bool, or `MaskCrops` of N masks, if the detector has masks; N may be 0. With an int "seed", the random
                sampling of anchors and RoIs of this image depends on that seed alone.
            with_counts: return (losses, counts); counts are float32 scalars under the same names, the number of things
                that each loss is a mean over: sampled anchors, sampled RoIs (their weight if classes are weighted),
                foreground RoIs for `loss_mask`, images for RetinaNet and for heads without counts.

        Raises:
            ValueError: targets do not fit the images or the classes.
        """
        batch = self.preprocess(images)
        features = self.neck(self.backbone(batch.tensors))
        losses = self.head_losses(features, batch, self.prepare_targets(targets, batch))
        return (dict(losses), loss_counts(losses, len(images))) if with_counts else dict(losses)

    def predict(
        self,
        images: Sequence[Tensor],
        output_sizes: Sequence[tuple[int, int]] | None = None,
        paste: bool = True,
    ) -> list[dict[str, Tensor]]:
        """Detect objects.

        Args:
            images: see `forward`.
            output_sizes: sizes that results are mapped to, such as those before resizing; default: the images' own.
            paste: paste masks into the image. False returns them as the mask head does, a few kB per object.

        Returns:
            Per image, best first: "boxes" N x 4 float32 xyxy in pixels of the output size, "scores" N float32, "labels"
            N int64 and, if the detector has them, "masks" N x H x W bool. Without `paste`, "masks" are N x 1 x M x M
            probabilities on the box of each object, see `paste_masks`.

        Raises:
            ValueError: an image is not C x H x W.
        """
        if not images:
            return []
        batch = self.preprocess(images)
        detections = self.head_detections(self.neck(self.backbone(batch.tensors)), batch)
        return [
            self.postprocess(detection, size, output_size, paste)
            for detection, size, output_size in zip(
                detections, batch.image_sizes, output_sizes or batch.image_sizes, strict=True
            )
        ]

    def head_losses(
        self, features: dict[str, Tensor], images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses of the heads; those that are not means over the images come as `CountedLosses`.

        Args:
            features: maps of the neck, by level.
            images: the padded batch and the sizes of its images.
            targets: as `prepare_targets` returns them.
        """
        raise NotImplementedError

    def head_detections(self, features: dict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        """Return per image "boxes" (pixels of the batch), "scores", "labels" and, if any, "masks" N x 1 x M x M."""
        raise NotImplementedError

    def preprocess(self, images: Sequence[Tensor]) -> ImageList:
        """Normalise images and pad them to the largest of the batch, rounded up to `size_divisor`."""
        if not images:
            raise ValueError("expected at least one image, got none")
        for image in images:
            if image.dim() != 3 or not image.numel():
                raise ValueError(f"an image must be C x H x W, got a tensor of shape {tuple(image.shape)}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        divisor = self.size_divisor
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes))
        # allocated in channels_last memory and written once; the padding is zero after normalising
        nhwc = (len(images), height, width, self.backbone.preprocess.channels)
        batch = images[0].new_zeros(nhwc, dtype=torch.float32).permute(0, 3, 1, 2)
        for index, (image, (h, w)) in enumerate(zip(images, sizes)):
            batch[index, :, :h, :w] = self.backbone.preprocess(image)
        return ImageList(batch, sizes)

    def prepare_targets(self, targets: Sequence[Mapping[str, Tensor]], images: ImageList) -> list[dict[str, Tensor]]:
        """Check targets, and return them with float32 boxes and the labels that the heads use."""
        if len(targets) != len(images.image_sizes):
            raise ValueError(
                f"expected one target per image, got {len(targets)} for {len(images.image_sizes)} image(s)"
            )
        boxes, labels = torch.cat([t["boxes"] for t in targets]).float(), torch.cat([t["labels"] for t in targets])
        if boxes.dim() != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
            raise ValueError(
                f"targets need N x 4 boxes and N labels, got {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if not ((boxes[:, 2:] > boxes[:, :2]).all() & (labels >= 0).all() & (labels < self.num_classes).all()):
            raise ValueError(f"a target has a box without area or a label outside 0 to {self.num_classes - 1}")
        for target in targets:
            if "segm" in self.tasks and len(target["masks"]) != len(target["boxes"]):
                raise ValueError(f"a target has {len(target['boxes'])} boxes and {len(target['masks'])} masks")
        return [dict(t, boxes=t["boxes"].float(), labels=t["labels"] + self.label_offset) for t in targets]

    def postprocess(
        self, detection: dict[str, Tensor], size: tuple[int, int], output_size: tuple[int, int], paste: bool = True
    ) -> dict[str, Tensor]:
        """Map the detections of one image from `size` to `output_size`; labels start at 0, masks are cut at 0.5."""
        boxes = detection["boxes"]
        if tuple(output_size) != tuple(size):
            boxes = boxes * boxes.new_tensor([output_size[1] / size[1], output_size[0] / size[0]] * 2)
        result = {"boxes": boxes, "scores": detection["scores"], "labels": detection["labels"] - self.label_offset}
        if "masks" in detection:
            masks = detection["masks"]
            result["masks"] = PASTES[self.mask_paste](masks, boxes, output_size) if paste else masks
        return result
