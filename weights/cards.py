"""Weight cards: what tensors do not say about themselves, such as channel order, mean, std and the place of strides."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ..errors import InputError, check_known, shorten

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHANNEL_ORDERS = ("RGB", "BGR")
FACTS = ("channel_order", "mean", "std", "stride_in_1x1", "dilation_convention", "norm_eps")  # what arguments may say
# arguments of a backbone that a card can settle, and what they are without one
STRUCTURE: dict[str, Any] = {"stride_in_1x1": False, "dilation_convention": "exact", "norm_eps": 1e-5}


@dataclass(frozen=True)
class WeightCard:
    """How weights were trained, and so how a network with them must be built and fed.

    Mean and standard deviation are always those of RGB images in [0, 1], in the order R, G, B, whatever the library of
    the weights subtracts from. A value that is None is not known, or does not matter for the network; then an argument
    of the backbone decides, or its default (torchvision's convention, ImageNet's mean and std, RGB).

    Attributes:
        source: named source or file, such as "torchvision:ResNet50_Weights.IMAGENET1K_V1".
        library: "torchvision", "timm", "detectron2", "mmdet", "huggingface", "cifar", "detbackbones", or "".
        architecture: name of the backbone in this package, such as "resnet50".
        channel_order: order of the input channels that the tensors expect, "RGB" or "BGR".
        source_channel_order: order in the file of the original library; weights are reversed to RGB once they are read.
        mean, std: of RGB images in [0, 1].
        input_range: largest value of the images in the original library: 1 or 255.
        stride_in_1x1: the first 1x1 of a Bottleneck carries the stride (Caffe's style).
        dilation_convention: as the argument of a backbone; "exact" if the network was trained without dilation.
        dilated_stages: for c3, c4 and c5, whether dilation replaced its stride in training.
        norm_eps: epsilon of the norms.
        class_names: classes of the classifier or detector, in the order of its outputs.
        published: number that the authors report, such as "80.858 % top-1 on ImageNet-1K".
        published_url: page with this number.
        licence: of the weights, as far as their authors name one.
        url: where the file is downloaded from.
    """

    source: str
    library: str = ""
    architecture: str = ""
    channel_order: str | None = None
    source_channel_order: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: float | None = None
    stride_in_1x1: bool | None = None
    dilation_convention: str | None = None
    dilated_stages: tuple[bool, ...] | None = None
    norm_eps: float | None = None
    class_names: tuple[str, ...] | None = None
    published: str = ""
    published_url: str = ""
    licence: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        orders = [order for order in (self.channel_order, self.source_channel_order) if order is not None]
        check_known("channel_order", CHANNEL_ORDERS, *orders)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON has them."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WeightCard":
        """Return the card with these fields; unknown ones, of a later version, are left out.

        Raises:
            InputError: a value is not that of a card.
        """
        known = {field.name for field in fields(cls)}
        taken: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known
        }
        try:
            return cls(**taken)
        except TypeError as error:
            raise InputError(f"not a weight card: {error}, got {shorten(dict(values))}") from None

    def summary(self) -> str:
        """Return the card in one line for people."""
        known = {
            "trained on {} images": self.source_channel_order,
            "mean {}": self.mean and _show(self.mean),
            "std {} (of RGB in [0, 1])": self.std and _show(self.std),
            "strides in the {} convolutions": {True: "1x1", False: "3x3"}.get(self.stride_in_1x1),  # type: ignore[arg-type]
            "dilation of {}": self.dilation_convention,
            "norm eps {}": self.norm_eps,
            "{} classes": self.class_names and len(self.class_names),
            "{}": self.published,
            "licence {}": self.licence,
            "see {}": self.published_url,
        }
        texts = [text.format(value) for text, value in known.items() if value not in (None, "")]
        return f"{self.source}: {', '.join(texts) or 'nothing is known about its training'}"

    def without_folder(self) -> "WeightCard":
        """Return the card without the folder of its file, which says something about the computer that it is from."""
        return self if re.match(r"\w\w+:", self.source) else replace(self, source=PurePath(self.source).name)

    def as_rgb(self) -> "WeightCard":
        """Return the card of the same weights after `reverse_input_channels`."""
        return replace(self, channel_order="RGB")


def reverse_input_channels(state: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """Return a state dict whose first convolution expects RGB in place of BGR images, or the reverse.

    The network's output stays the same up to the order of a sum, because mean and std are stored in RGB order. They
    are never folded into the convolution: its zero padding would stand for another value at the borders.

    Args:
        key: key of the weight of the first convolution, out x 3 x kernel x kernel.
    """
    return {name: value.flip(1) if name == key else value for name, value in state.items()}


CONSEQUENCES = {
    "channel_order": "the colours of images would be swapped",
    "mean": "images would be normalised otherwise than in training",
    "std": "images would be normalised otherwise than in training",
    "stride_in_1x1": "the strides would be in other convolutions, with the same tensors",
    "dilation_convention": "dilated convolutions would read other cells",
    "norm_eps": "every norm would scale its input otherwise",
}


def settle(card: WeightCard | None, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of a backbone that were given, completed by what the card of its weights says.

    Args:
        card: of the weights, or None.
        given: arguments by name, of `FACTS`; None stands for an argument that was not given.
        where: name of the weights in the message.

    Raises:
        InputError: an argument contradicts the card.
    """
    settled = dict(given)
    for name in given:
        fact, value = getattr(card, name, None), given[name]
        if value is not None and fact is not None and not _equal(value, fact):
            raise InputError(
                f"{name}={_show(value)} contradicts the weights {where}, which were trained with {name}={_show(fact)}: "
                f"{CONSEQUENCES[name]}; leave {name} out"
            )
        settled[name] = fact if value is None else value
    return settled


def _equal(value: Any, fact: Any) -> bool:
    if isinstance(fact, tuple):
        return len(value) == len(fact) and all(abs(a - b) < 1e-4 for a, b in zip(value, fact))
    return value == fact


def _show(value: Any) -> str:
    return f"({', '.join(f'{each:.4g}' for each in value)})" if isinstance(value, (tuple, list)) else repr(value)


def published_ap(dataset: str, box_ap: float | None, mask_ap: float | None) -> str:
    """Return the `published` field of a detector. An AP in percent that is None is left out."""
    values = {"box AP": box_ap, "mask AP": mask_ap}
    return f"{dataset}: " + ", ".join(f"{kind} {value:g}" for kind, value in values.items() if value is not None)
