"""Base class of backbones: takes preprocessed images, returns the feature maps that `feature_specs` describes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, check_known
from ..layers import fuse
from ..registry import BACKBONES, accepts, lookup
from ..specs import FeatureSpec
from ..weights.cards import WeightCard
from ..weights.saved_models import PretrainedModel
from .preprocess import Preprocess


def check_levels(argument: str, known: Sequence[str], names: Sequence[str]) -> None:
    """Raise InputError unless `names` are one or more of the levels of a backbone."""
    check_known(f"level in {argument}:", known, *names)
    if not names:
        raise InputError(f"{argument} is empty; name at least one level")


class Backbone(PretrainedModel, pipeline_tag="image-feature-extraction"):
    """Base class of all backbones.

    A subclass sets `feature_specs` in its constructor and defines `forward_features`. With that it works in `describe`,
    in every detector that its levels allow, in training, evaluation and export. The other attributes have defaults.

    Args:
        in_channels: number of image channels.

    Attributes:
        feature_specs: FeatureSpec of every map that `forward` returns, shallow to deep.
        preprocess: turns RGB images, uint8 or float in [0, 1], into what the weights expect. Default: ImageNet's mean
            and standard deviation.
        inexact_reasons: why dilated features differ from undilated ones, such as ("multi_grid",); empty if they are
            equal (the a-trous identity).
        undilated_kwargs: constructor arguments that build the network without dilation, for `verify_dilation`.
        frozen_count: number of parts fixed by `freeze`.
        resolved_arguments: constructor arguments that were not given, as the constructor has chosen them, if another
            choice would be possible for other weights.
        metadata: what is known about the weights, see PretrainedModel.
        weight_card: what the pretrained weights mean; None without weights, or if it is not known.
    """

    config_key = "backbone"
    registry = BACKBONES
    feature_specs: tuple[FeatureSpec, ...]
    fuse_for_inference = fuse.fuse_for_inference

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.preprocess = Preprocess.for_channels(in_channels)
        self.inexact_reasons: tuple[str, ...] = ()
        self.undilated_kwargs: dict[str, Any] = {}
        self.resolved_arguments: dict[str, Any] = {}
        self.metadata = {}
        self.frozen_count = 0
        self.weight_card: WeightCard | None = None

    @property
    def stage_specs(self) -> tuple[FeatureSpec, ...]:
        """FeatureSpec of every level that is built, also of those that `forward` does not return."""
        return self.feature_specs

    @property
    def stage_modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """Modules of each part (stem and stages) by level name, in running order; empty if the parts are not known."""
        return {}

    @property
    def stage_outputs(self) -> Mapping[str, nn.Module]:
        """The module of each level whose output is the feature map; empty if the parts are not known."""
        return {name: modules[-1] for name, modules in self.stage_modules.items()}

    @property
    def size_divisor(self) -> int:
        """Image sides that are multiples of it give exactly the declared strides; other sides work too."""
        return max(spec.stride for spec in self.feature_specs)

    def forward_features(self, images: Tensor) -> Mapping[str, Tensor]:
        """Compute at least the levels of `feature_specs`, by name.

        Extra levels are allowed, but their activations stay alive while deeper levels run.

        Args:
            images: N x C x H x W, preprocessed, in channels_last memory.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps.

        Args:
            images: N x C x H x W float, preprocessed.

        Returns:
            {"c2": N x channels x ceil(H / stride) x ceil(W / stride), ...} in the order of `feature_specs`.

        Raises:
            ValueError: `images` is not such a batch.
        """
        features = self.forward_features(self._check_input(images))
        return {spec.name: features[spec.name] for spec in self.feature_specs}

    def _check_input(self, images: Tensor) -> Tensor:
        """Return `images` in channels_last memory. Raises ValueError unless they are a float batch N x C x H x W."""
        channels = self.preprocess.channels
        if images.dim() != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise ValueError(
                f"expected preprocessed float images N x {channels} x H x W, got {images.dtype} {tuple(images.shape)}; "
                "use backbone.preprocess(images)"
            )
        return images.contiguous(memory_format=torch.channels_last)

    def take_statistics(self, metadata: Mapping[str, Any]) -> None:
        """Normalise images with the mean and std in the metadata of weights, if they are there."""
        mean, std = metadata.get("image_mean"), metadata.get("image_std")
        if mean and std and len(mean) == len(std) == self.preprocess.channels:
            self.preprocess = Preprocess(mean, std)

    def resolved_config(self) -> dict[str, Any]:
        config = super().resolved_config()
        factory = lookup(BACKBONES, config["type"])
        chosen = {name: value for name, value in self.resolved_arguments.items() if value is not None}
        if self.frozen_count > config.get("freeze", 0):
            chosen["freeze"] = self.frozen_count
        return config | {name: value for name, value in chosen.items() if accepts(factory, name)}

    def resolved_metadata(self) -> dict[str, Any]:
        metadata = super().resolved_metadata()
        if self.weight_card is not None:
            metadata["weight_card"] = self.weight_card.without_folder().to_dict()
        if type(self.preprocess) is Preprocess:
            metadata["image_mean"] = self.preprocess.mean.flatten().tolist()
            metadata["image_std"] = self.preprocess.std.flatten().tolist()
        return metadata

    def adopt_metadata(self, metadata: Mapping[str, Any]) -> None:
        super().adopt_metadata(metadata)
        if "weight_card" in metadata:
            self.weight_card = WeightCard.from_dict(metadata["weight_card"])
        self.take_statistics(metadata)

    def freeze(self, count: int) -> "Backbone":
        """Fix the parameters and norm statistics of the first parts; `.train()` does not release them.

        Args:
            count: 0 none, 1 the stem, 2 the stem and c2, ... (detectron2's FREEZE_AT).

        Returns:
            The backbone itself.

        Raises:
            InputError: there are not that many parts.
        """
        parts = list(self.stage_modules.values())
        if count and not parts:
            raise InputError(
                f"freeze={count}: {type(self).__name__} runs as a whole, its parts cannot be frozen one by one"
            )
        if count not in range(self.frozen_count, len(parts) + 1):
            bounds = f"{self.frozen_count} to {len(parts)}"
            raise InputError(f"freeze must be {bounds}, the number of parts from the input, got {count!r}")
        self.frozen_count = count
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        return [module for part in list(self.stage_modules.values())[: self.frozen_count] for module in part]

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def pop_stage(self, name: str) -> nn.Module:
        """Remove the deepest stage and return it, for RoI heads that run it on every RoI (the C4 form)."""
        raise InputError(f"{type(self).__name__} cannot give its stage {name!r} to RoI heads; use heads of their own")
