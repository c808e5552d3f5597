"""Encoders for segmentation_models_pytorch.

Importing this module registers every backbone without weights as "detbackbones-<name>"; `register_encoder` registers
one with weights or other arguments. Images are normalised by the caller, see `encoder.body.preprocess`.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..errors import InputError
from ..registry import Config, list_backbones
from .keys import hide_prefix
from .source import backbone_config, build_source, required

with required("segmentation_models_pytorch"):
    from segmentation_models_pytorch.encoders import encoders
    from segmentation_models_pytorch.encoders._base import EncoderMixin

PREFIX = "detbackbones-"
LEVELS = ("c1", "c2", "c3", "c4", "c5")
NO_DILATION = 32  # smp's output stride of a network without dilation


class DetBackbonesEncoder(nn.Module, EncoderMixin):
    """A backbone as encoder: returns the image and C1 to C5, as many as `depth`. State-dict keys are the backbone's.

    Args:
        backbone: a name, a config, or the path of a run of ours.
        depth: number of levels, 1 to 5.
        output_stride: 8, 16 or 32. Dilation gives the same weights as without, and is exact.

    Raises:
        InputError: `depth` is impossible, or the backbone lacks a level or the output stride.
    """

    def __init__(self, backbone: Config, depth: int = 5, output_stride: int = NO_DILATION):
        super().__init__()
        if depth not in range(1, len(LEVELS) + 1):
            raise InputError(f"encoder_depth must be 1 to {len(LEVELS)}, got {depth}")
        self._arguments = backbone_config(backbone) | {"out_features": LEVELS[:depth]}
        if output_stride != NO_DILATION:
            self._arguments["output_stride"] = output_stride
        self._depth = depth
        self._build(self._arguments.get("in_channels", 3))
        hide_prefix(self, "body")

    def _build(self, in_channels: int) -> None:
        self.body = build_source(self._arguments, in_channels=in_channels)
        specs = self.body.feature_specs
        self._in_channels = in_channels
        self._out_channels = [in_channels, *(spec.channels for spec in specs)]
        self._output_stride = specs[-1].stride

    @property
    def output_stride(self) -> int:
        """Stride of the deepest level."""
        return self._output_stride

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Build the backbone again for another number of image channels; pretrained weights are adapted."""
        if in_channels != self._in_channels:
            self._build(in_channels)

    def make_dilated(self, output_stride: int) -> None:
        """Do nothing: the backbone was built with this output stride."""

    def get_stages(self) -> Mapping[int, Sequence[nn.Module]]:
        """Return the modules of c4 and c5 by their stride without dilation."""
        modules = self.body.stage_modules
        return {2 ** int(name[1:]): modules[name] for name in ("c4", "c5") if name in modules}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return [images, C1, C2, ...] of N x C x H x W normalised images."""
        return [images, *self.body(images).values()]


def register_encoder(name: str, backbone: Config) -> None:
    """Register an encoder for `encoder_name=name` of smp's models, to be used with `encoder_weights=None`.

    Args:
        name: any name that is not taken by another library's encoder.
        backbone: a name, `dict(type=name, weights=..., freeze=...)`, or the path of a run of ours.

    Raises:
        InputError: the name is taken, or the backbone is unknown.
    """
    if name in encoders and encoders[name]["encoder"] is not DetBackbonesEncoder:
        raise InputError(f"segmentation_models_pytorch has an encoder {name!r} of its own; choose another name")
    parameters = {"backbone": backbone_config(backbone)}
    encoders[name] = {"encoder": DetBackbonesEncoder, "pretrained_settings": {}, "params": parameters}


for _name in list_backbones():
    if not _name.endswith("_cifar") and _name != "timm":  # three stages; needs a model
        register_encoder(PREFIX + _name, _name)
