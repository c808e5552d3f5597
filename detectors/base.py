"""What every detector shares: images in, targets checked, results mapped back to the image.

Words: a label is a class index, 0 .. num_classes - 1 outside; inside a head it may start at `first_label` (torchvision's
RoI heads keep 0 for the background). Size is (height, width).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ..layers.fuse import fuse_for_inference
from ..specs import FeatureSpec
from ..errors import InputError
from ..registry import BACKBONES, accepted_arguments, build_backbone, lookup
from ..layers.mask_ops import paste_masks


def resolve_backbone(cfg: str | Mapping) -> dict:
    """The backbone config with `norm` and `freeze` written out, where not given, as a detector means them.

    With weights: norm frozen, stem and c2 fixed. Without: live batch norm, nothing fixed.
    """
    cfg = {"type": cfg} if isinstance(cfg, str) else dict(cfg)
    accepted = accepted_arguments(lookup(BACKBONES, cfg.get("type", "")))
    started = cfg.get("weights") is not None
    for name, value in (("norm", "frozen" if started else "batch"), ("freeze", 2 if started else 0)):
        if accepted is None or name in accepted:
            cfg[name] = value if cfg.get(name) is None else cfg[name]
    return cfg


def shared_width(specs: Sequence[FeatureSpec], neck: str | Mapping) -> int:
    """The channels of levels that one head works on. InputError where the neck's levels differ in width."""
    if len({spec.channels for spec in specs}) > 1:
        widths = ", ".join(f"{spec.name} {spec.channels}" for spec in specs)
        name = neck if isinstance(neck, str) else neck.get("type")
        raise InputError(f"the heads share weights over levels, but neck {name!r} hands on different widths ({widths}); "
                         f"take a neck of one width or fewer of the backbone's out_features")  # fmt: skip
    return specs[0].channels


class Detector(nn.Module):
    """Images to losses or detections; a child says what its heads make of the features.

    Call it with a list of RGB images, C x H x W, uint8 or float in [0, 1], of any sizes. In training mode it wants
    targets and returns `losses(...)`, in evaluation mode `detect(...)`; both may be called by name in either mode. A
    mode decides what norm layers do, nothing else: `losses` in evaluation mode is a validation loss.

    Children add `neck`, built on the backbone's specs, and define `head_losses(features, images, targets)` and
    `head_detections(features, images)`, with features = what the neck returns, images = the padded batch.

    An image is padded with zeros at the right and the bottom to the largest of its batch. Its detections do not depend
    on what else is in the batch while the padding stays the same; more padding changes features near the right and
    bottom border (there a convolution sees the padding's response to the norm layers' shifts) and adds anchors there.

    Args:
        backbone: config of the backbone.
        num_classes: foreground classes, at least 1.
        load_weights: False builds the backbone for its weights without reading them: a checkpoint follows.

    Attributes:
        has_masks: targets and detections have "masks".
        first_label: what label 0 is called inside the heads.
    """

    has_masks = False
    first_label = 0

    def __init__(self, backbone: str | Mapping, num_classes: int, load_weights: bool):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"num_classes counts the foreground classes, at least 1, not {num_classes}")
        self.num_classes = num_classes
        self.backbone = build_backbone(resolve_backbone(backbone), **({} if load_weights else {"load_weights": False}))

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        if not self.training:
            return self.detect(images, output_sizes)
        if targets is None:
            raise ValueError("training needs targets")
        return self.losses(images, targets)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Scalar float32 losses by name. Targets, one an image: "boxes" N x 4 xyxy in pixels of the image, "labels" N
        int64, and "masks" N x H x W bool where the detector has masks; N may be 0.

        Raises ValueError for targets that do not fit the images or the classes.
        """
        batch = self.batch(images)
        return self.head_losses(self.neck(self.backbone(batch.tensors)), batch, self.inner_targets(targets, batch))

    def detect(
        self, images: Sequence[Tensor], output_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[dict[str, Tensor]]:
        """For every image "boxes" (N x 4 float32 xyxy in pixels of the given image), "scores" (N float32), "labels"
        (N int64) and, where the detector has them, "masks" (N x H x W bool), best first.

        `output_sizes`, one an image, maps results to another size, such as the image's before resizing.
        """
        if not images:
            return []
        batch = self.batch(images)
        found = self.head_detections(self.neck(self.backbone(batch.tensors)), batch)
        sizes = batch.image_sizes
        return [self.mapped_back(f, size, out) for f, size, out in zip(found, sizes, output_sizes or sizes)]

    def batch(self, images: Sequence[Tensor]) -> ImageList:
        """Normalise each image, pad with zeros to the largest, rounded up to the backbone's size_divisor."""
        if not images:
            raise ValueError("no images")
        for image in images:
            if image.dim() != 3 or not image.numel():
                raise ValueError(f"an image is C x H x W, got a tensor of shape {tuple(image.shape)}")
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        divisor = self.backbone.size_divisor
        height, width = (-(-max(side) // divisor) * divisor for side in zip(*sizes))
        # laid out as channels_last memory and written once; the padding is zero after normalising
        shape = (len(images), height, width, self.backbone.preprocess.channels)
        batch = images[0].new_zeros(shape, dtype=torch.float32).permute(0, 3, 1, 2)
        for index, (image, (h, w)) in enumerate(zip(images, sizes)):
            batch[index, :, :h, :w] = self.backbone.preprocess(image)
        return ImageList(batch, sizes)

    def inner_targets(self, targets: Sequence[Mapping[str, Tensor]], images: ImageList) -> list[dict[str, Tensor]]:
        """Checked targets with float32 boxes and the labels that the heads use."""
        if len(targets) != len(images.image_sizes):
            raise ValueError(f"{len(images.image_sizes)} image(s) but {len(targets)} target(s)")
        boxes, labels = torch.cat([t["boxes"] for t in targets]).float(), torch.cat([t["labels"] for t in targets])
        if boxes.dim() != 2 or boxes.shape[1] != 4 or len(boxes) != len(labels):
            raise ValueError(f"targets want N x 4 boxes and N labels, got {tuple(boxes.shape)} and {tuple(labels.shape)}")
        if len(boxes) and not ((boxes[:, 2:] > boxes[:, :2]).all() & (labels >= 0).all() & (labels < self.num_classes).all()):
            raise ValueError(f"a target has a box without area or a label outside 0 .. {self.num_classes - 1}")
        return [dict(t, boxes=t["boxes"].float(), labels=t["labels"] + self.first_label) for t in targets]

    def mapped_back(self, found: dict[str, Tensor], size: tuple[int, int], out: tuple[int, int]) -> dict[str, Tensor]:
        """From the padded batch to the image asked for: labels from 0, boxes scaled, masks pasted and cut at 0.5."""
        boxes = found["boxes"]
        if tuple(out) != tuple(size):
            boxes = boxes * boxes.new_tensor([out[1] / size[1], out[0] / size[0]] * 2)
        result = {"boxes": boxes, "scores": found["scores"], "labels": found["labels"] - self.first_label}
        if "masks" in found:
            result["masks"] = paste_masks(found["masks"], boxes, out)
        return result

    def fuse_for_inference(self) -> "Detector":
        """A faster copy for deployment, see backbones/fuse.py."""
        return fuse_for_inference(self)
