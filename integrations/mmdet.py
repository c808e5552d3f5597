"""Backbones for mmdetection, mmsegmentation and other projects on mmengine.

Importing this module, in a config with `custom_imports = dict(imports="detbackbones.integrations.mmdet")`, makes every
backbone available as `dict(type="detbackbones.<name>", ...)`. Images are normalised by the model's data preprocessor,
see `data_preprocessor`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS, Registry
from torch import Tensor

from ..backbones.base import Backbone
from ..registry import Config, list_backbones
from ..specs import FeatureSpec
from .keys import hide_prefix
from .source import build_source, pixel_statistics

DETBACKBONES = Registry("model", parent=MODELS, scope="detbackbones")


class MMBackbone(BaseModule):
    """A backbone that returns a tuple of maps, shallow to deep. State-dict keys are the backbone's.

    `freeze` of the backbone stands for mmdetection's `frozen_stages` (which is one less, and -1 for none), and
    norm="batch_eval" for `norm_eval=True`.

    Args:
        backbone: a name, a config, the path of a run of ours, or a built backbone.
        init_cfg: mmengine's, such as `dict(type="Pretrained", checkpoint=...)`; applied by `init_weights`. Without it
            `init_weights` leaves the weights as they are.
        arguments: arguments of the backbone.

    Raises:
        InputError: a name or argument is unknown or cannot be honoured.
    """

    def __init__(self, backbone: Config | Backbone, init_cfg: dict | list | None = None, **arguments: Any):
        super().__init__(init_cfg)
        self.body = build_source(backbone, **arguments)
        hide_prefix(self, "body")

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """FeatureSpec of every output; a neck's `in_channels` are its channels."""
        return self.body.feature_specs

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of N x C x H x W normalised images."""
        return tuple(self.body(images).values())


def data_preprocessor(backbone: Backbone) -> dict[str, Any]:
    """Return the arguments of a data preprocessor that normalises OpenCV's images (BGR) for a backbone."""
    mean, std = pixel_statistics(backbone)
    return {"mean": mean, "std": std, "bgr_to_rgb": True, "pad_size_divisor": backbone.size_divisor}


def _register(name: str, builder: Callable[..., MMBackbone]) -> None:
    DETBACKBONES.register_module(name=name, module=builder)


for _name in list_backbones():
    if _name != "timm":
        _register(_name, partial(MMBackbone, _name))
_register("run", MMBackbone)
