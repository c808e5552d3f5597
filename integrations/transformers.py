"""Backbones for Hugging Face transformers: DETR, Deformable DETR, MaskFormer, Mask2Former, UperNet and others.

Importing this module registers `DetBackbonesConfig` for `AutoConfig` and `DetBackbonesBackbone` for `AutoBackbone`.
The images that a model gets are normalised by its image processor, so give that `config.image_mean` and `image_std`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.preprocess import Preprocess
from ..registry import build_backbone
from .source import backbone_config, required

with required("transformers"):
    import transformers.initialization as init
    from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
    from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    from transformers.modeling_outputs import BackboneOutput


class DetBackbonesConfig(BackboneConfigMixin, PreTrainedConfig):
    """Config of `DetBackbonesBackbone`.

    Args:
        backbone: a name, `dict(type=name, ...)` with any argument of the backbone, or the path of a run of ours.
        out_features: levels to return, of c1 to c5; or `out_indices`, their positions in `stage_names`. Default:
            `out_features` of `backbone`, or else the deepest level.

    Attributes:
        stage_names: names of all levels of the backbone.
        hidden_sizes, strides: channels and stride of each of them.
        image_mean, image_std: statistics of the images that the weights expect, in [0, 1]; None until a model is built.
    """

    model_type = "detbackbones"  # models freeze and fuse layers by the word "resnet" in it

    backbone: str | dict = "resnet50"
    image_mean: list[float] | None = None
    image_std: list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        arguments = backbone_config(self.backbone)
        default = arguments.pop("out_features", None)
        self.backbone = arguments
        with torch.device("meta"):
            specs = build_backbone(arguments, load_weights=False).stage_specs
        for derived in ("stage_names", "hidden_sizes", "strides"):  # of a saved config
            kwargs.pop(derived, None)
        self.stage_names = [spec.name for spec in specs]
        self.hidden_sizes = [spec.channels for spec in specs]
        self.strides = [spec.stride for spec in specs]
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        if out_features is None and out_indices is None and default is not None:
            out_features = [name for name in self.stage_names if name in default]
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        super().__post_init__(**kwargs)


class DetBackbonesBackbone(BackboneMixin, PreTrainedModel):
    """A backbone of ours as transformers' models use it. State-dict keys are ours after the prefix "backbone.".

    `from_pretrained` does not read the weights that the config names, because those of the checkpoint follow.

    Args:
        config: see `DetBackbonesConfig`.
    """

    config_class = DetBackbonesConfig
    config: DetBackbonesConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    has_attentions = False

    def __init__(self, config: DetBackbonesConfig):
        super().__init__(config)
        self.num_features = list(config.hidden_sizes)
        is_meta = torch.get_default_device().type == "meta"  # from_pretrained
        self.backbone = build_backbone(
            config.backbone, load_weights=not is_meta, out_features=tuple(config.out_features)
        )
        if not is_meta:
            preprocess = self.backbone.preprocess
            config.image_mean, config.image_std = preprocess.mean.flatten().tolist(), preprocess.std.flatten().tolist()
            for module in self.backbone.modules():  # initialised here, or loaded
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    def train(self, mode: bool = True) -> "DetBackbonesBackbone":
        """Set the mode; frozen parts stay frozen, also after `from_pretrained`, which replaces every parameter."""
        super().train(mode)
        self.backbone.freeze(self.backbone.frozen_count)
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a checkpoint does not have; transformers calls this for modules that are not initialised yet."""
        if isinstance(module, Preprocess):
            default = Preprocess.for_channels(module.channels)
            mean, std = self.config.image_mean, self.config.image_std
            values = Preprocess(mean, std) if mean and std else default
            init.copy_(module.mean, values.mean)
            init.copy_(module.std, values.std)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif hasattr(module, "running_var"):
            for name, fill in NORM_VALUES.items():
                value = getattr(module, name, None)
                if value is not None:
                    fill(value)
        else:
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple:
        """Compute the feature maps.

        Args:
            pixel_values: N x C x H x W float, normalised by an image processor.
            output_hidden_states: also return the maps as `hidden_states`.
            output_attentions: ignored, because the network does not have attention layers.
            return_dict: False returns a tuple.

        Returns:
            `feature_maps`: the maps of `out_features`, shallow to deep.
        """
        features = self.backbone(pixel_values)
        maps = tuple(features[name] for name in self.out_features)
        hidden_states = maps if output_hidden_states else None
        if return_dict is False:
            return (maps, hidden_states) if hidden_states else (maps,)
        return BackboneOutput(feature_maps=maps, hidden_states=hidden_states, attentions=None)


NORM_VALUES = {  # attribute of a norm layer with statistics -> how its values start
    "weight": init.ones_,
    "bias": init.zeros_,
    "running_mean": init.zeros_,
    "running_var": init.ones_,
    "num_batches_tracked": init.zeros_,
}

AutoConfig.register(DetBackbonesConfig.model_type, DetBackbonesConfig)
AutoBackbone.register(DetBackbonesConfig, DetBackbonesBackbone)
