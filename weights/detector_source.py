"""What a source of a whole trained detector tells before the detector is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from .cards import WeightCard


@dataclass(frozen=True)
class DetectorSource:
    """A trained detector, before it is built.

    Attributes:
        name: the source, for messages.
        model: config of the detector as `build_detector` takes it, with `num_classes`.
        metadata: "category_ids" and "category_names" in the order of the labels; if known, "image_mean" and "image_std"
            per RGB channel of images in [0, 1], and "image_range". With "unnamed_classes", names are only numbers;
            "unused_labels" do not stand for a class.
        read_state: reads or downloads the weights, under the keys of this package.
        card: what the weights mean; None for a checkpoint of ours.
        short_side, long_side: pixels that images are resized to for a test; None for the size on disk.
        imports: modules that register parts of the model.
        precision: "no", "bf16" or "fp16", in which it was trained and is tested.
        unclear: argument of the backbone -> why the file does not tell it; it must be given.
    """

    name: str
    model: dict[str, Any]
    metadata: dict[str, Any]
    read_state: Callable[[], Mapping[str, Tensor]]
    card: WeightCard | None = None
    short_side: int | None = None
    long_side: int | None = None
    imports: tuple[str, ...] = ()
    precision: str = "no"
    unclear: Mapping[str, str] | None = None

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """State dict under the keys of this package, read at the first use."""
        return self.read_state()

    def saved_metadata(self) -> dict[str, Any]:
        """Return the metadata of the detector with all that it is saved with: card and size of test images."""
        sizes = {"short_side": self.short_side, "long_side": self.long_side}
        card = {} if self.card is None else {"weight_card": self.card.without_folder().to_dict()}
        return {**self.metadata, **card, **sizes}


def foreign_source(
    name: str,
    library: str,
    model: Mapping[str, Any],
    metadata: dict[str, Any],
    read_state: Callable[[], Mapping[str, Tensor]],
    sides: tuple[int | None, int | None],
    channel_order: str = "RGB",
    unclear: Mapping[str, str] | None = None,
    published: Mapping[str, str] | None = None,
) -> DetectorSource:
    """Return the detector of another library, whose weights `read_state` already reverses to RGB, with its card.

    Args:
        name, model, metadata, read_state, unclear: see `DetectorSource`. Mean and std of the metadata become arguments
            of the backbone.
        library: name of the library.
        sides: short and long side of test images.
        channel_order: order of the channels in the original file.
        published: other fields of the card: published, published_url, licence, url.
    """
    statistics = {"mean": tuple(metadata["image_mean"]), "std": tuple(metadata["image_std"])}
    backbone = {**model["backbone"], **statistics}
    card = WeightCard(
        source=name,
        library=library,
        architecture=backbone["type"],
        channel_order="RGB",
        source_channel_order=channel_order,
        input_range=1.0 if library == "torchvision" else 255.0,
        stride_in_1x1=backbone.get("stride_in_1x1"),  # BasicBlocks do not have it
        dilation_convention=backbone.get("dilation_convention"),
        norm_eps=None if "norm_eps" in (unclear or {}) else backbone.get("norm_eps", 1e-5),
        class_names=tuple(metadata["category_names"]),
        **statistics,  # type: ignore[arg-type]
        **(published or {}),  # type: ignore[arg-type]
    )
    return DetectorSource(name, {**model, "backbone": backbone}, metadata, read_state, card, *sides, unclear=unclear)
