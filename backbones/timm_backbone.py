"""Any network of timm under the same contract: `timm:<name>` wraps `timm.create_model(..., features_only=True)`.

timm's own `feature_info` says channels and strides. Dilation is timm's too, and is measured where it is asked for:
it is exact for ResNets, not for average-pool shortcuts at output stride 8 nor for anti-aliased networks. timm is imported
where it is used, since most programs never do.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from math import log2
from pathlib import Path

import torch
from torch import Tensor, nn

from ..specs import FeatureSpec
from ..errors import InputError, did_you_mean
from ..registry import BACKBONES
from .base import Backbone
from ..layers.norm import LIVE, resolve_norm
from .preprocess import Preprocess
from .verify import EXACT, randomise_norms
from ..weights.sources import first_line, read_file


def create(model: str, weights: str | None = None, **arguments) -> nn.Module:
    """timm's feature network; InputError for what timm does not know or refuses, or weights that are not to be had."""
    import timm

    if model not in timm.list_models():
        raise InputError(f"timm has no model {model!r}; {did_you_mean(str(model), timm.list_models())}")
    loading = {}
    kind, _, tag = (weights or "").partition(":")
    if kind == "timm":
        known = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
        if tag not in known:
            raise InputError(f"timm has no weights {tag!r} for {model}; {did_you_mean(tag, known)}")
        model = f"{model}.{tag}"
        loading = {"pretrained": True}
    elif weights:
        state = read_file(Path(weights))
        broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
        if broken:
            raise InputError(f"weights {weights} do not fit: not finite {broken[0]}")
        loading = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
    try:
        return timm.create_model(model, features_only=True, **loading, **arguments)
    except Exception as error:  # a hub that is not reached, an argument the network lacks, a key that does not fit: timm's words
        asked = [f"{key}={value!r}" for key, value in arguments.items()] + ([f"weights={weights!r}"] if weights else [])
        way_out = "; put the file anywhere and give weights=PATH" if kind == "timm" else ""
        raise InputError(f"timm cannot build {model} with {', '.join(asked)}: {first_line(error)}{way_out}") from None


def levels(network: nn.Module, model: str) -> list[int]:
    """log2 of each feature's stride; InputError where they form no pyramid."""
    reductions = network.feature_info.reduction()
    if any(r & (r - 1) for r in reductions) or len(set(reductions)) < len(reductions):
        raise InputError(f"timm's {model} has features of stride {reductions}, which is no pyramid")
    return [int(log2(r)) for r in reductions]


@lru_cache
def dilation_error(model: str, output_stride: int) -> tuple[tuple[int, ...], dict[int, float]]:
    """Levels of a timm network and, per level, how far its dilated features are from the a-trous identity.

    Measured with random weights and norm statistics in float32: max|a - b| / max|b|, where exact networks stay below 1e-5.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        plain = randomise_norms(create(model)).eval()  # residual branches that start at zero would hide everything
        dilated = create(model, output_stride=output_stride).eval()
        dilated.load_state_dict(plain.state_dict())
        images = torch.randn(1, 3, 128, 160)
        errors, own = {}, levels(plain, model)
        for level, a, b in zip(own, dilated(images), plain(images)):
            step = a.shape[-1] // b.shape[-1]
            errors[level] = ((a[..., ::step, ::step] - b).abs().max() / b.abs().max()).item()
    return tuple(own), errors


@BACKBONES.register_module(name="timm")
class TimmBackbone(Backbone):
    """Features of a timm network, named by level: c2 is the one of stride 4 without dilation.

    Args:
        model: timm's name of the network.
        weights: None, `timm:<tag>` (a pretrained tag of this model) or the path of a state dict.
        out_features: which levels to return; default: c2 to c5, as far as the network has them. Deeper ones are not built.
        output_stride: 8, 16 or 32, where timm's network has it; a warning says by how much it is not exact.
        norm: "frozen" or "batch"; not given: frozen with weights, where there is batch norm.
        freeze: parts from the input that stay fixed: 0 none, 1 stem, 2 stem + c2, ... Survives `.train()`.
        in_channels: image channels; timm adapts pretrained weights.
        load_weights: False builds for these weights but reads none: a checkpoint follows.

    Raises InputError for a model, tag or argument that timm does not have.

    Attributes: see Backbone.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | None = None,
        out_features: Sequence[str] | None = None,
        output_stride: int | None = None,
        norm: str | None = None,
        freeze: int = 0,
        in_channels: int = 3,
        load_weights: bool = True,
    ):
        super().__init__()
        if norm not in (None, "frozen", "batch"):
            raise InputError(f"a timm network's norm is its own: 'frozen' or 'batch', not {norm!r}")
        resolve_norm(norm, weights, freeze, 1e-5)
        network_levels, self.identity_left = self._geometry(model, output_stride)
        known = [f"c{level}" for level in network_levels]
        out_features = [name for name in known if name not in ("c0", "c1")] if out_features is None else list(out_features)
        for name in out_features:
            if name not in known:
                raise InputError(f"out_features: timm's {model} has no feature {name!r}; {did_you_mean(str(name), known)}")
        depth = max((known.index(name) + 1 for name in out_features), default=0)
        if not depth:
            raise InputError("out_features is empty")
        arguments = {} if output_stride is None else {"output_stride": output_stride}
        self.network = create(model, weights if load_weights else None, in_chans=in_channels, out_indices=tuple(range(depth)),
                              **arguments)  # fmt: skip
        self._channels_last = str(getattr(self.network, "output_fmt", "") or "").endswith("NHWC")
        specs = zip(known, network_levels, self.network.feature_info.channels(), self.network.feature_info.reduction())
        self.built_specs = tuple(FeatureSpec(name, level, channels, stride, 2**level // stride)
                                 for name, level, channels, stride in specs)  # fmt: skip
        self.outputs = frozenset(out_features)
        expected = self.network.pretrained_cfg
        self.preprocess = Preprocess.for_channels(in_channels, expected["mean"], expected["std"])
        if norm == "frozen" or (norm is None and weights):
            has_norm = any(isinstance(m, LIVE) for m in self.network.modules())
            if norm == "frozen" and not has_norm:
                raise InputError(f"norm='frozen': timm's {model} has no batch norm to freeze")
            from timm.layers import freeze_batch_norm_2d

            self.network = freeze_batch_norm_2d(self.network)
        self.undilated = {"output_stride": None}
        self.freeze = freeze
        self._fixed: list[nn.Module] = []
        if freeze:
            parts = list(self.parts.values())
            if not parts:
                raise InputError(f"timm runs {model} as a whole: its parts cannot be frozen one by one")
            if freeze > len(parts):
                raise InputError(f"freeze counts the fixed parts from the input, 0 to {len(parts)}, not {freeze!r}")
            self._fixed = [module for part in parts[:freeze] for module in part]
            for module in self._fixed:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
            self.train(self.training)

    @staticmethod
    def _geometry(model: str, output_stride: int | None) -> tuple[Sequence[int], tuple[str, ...]]:
        if output_stride is None:
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                return levels(create(model), model), ()
        own, errors = dilation_error(model, output_stride)
        worst = max(errors, key=errors.get)
        if errors[worst] <= EXACT:
            return own, ()
        reason = f"timm's dilation (c{worst} is off by {errors[worst]:.0%})"
        warnings.warn(f"timm:{model} at output stride {output_stride} is not exact: c{worst} is off by {errors[worst]:.1%} "
                      "from the undilated features", stacklevel=4)  # fmt: skip
        return own, (reason,)

    @property
    def ends(self) -> dict[str, nn.Module]:
        """The module whose output is the level; empty where timm runs the network as a whole."""
        names = [name.replace(".", "_") for name in self.network.feature_info.module_name()]
        known = {name.replace(".", "_"): module for name, module in self.network.named_modules()}
        return {spec.name: known[name] for spec, name in zip(self.built_specs, names)} if set(names) <= known.keys() else {}

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """Modules of the stem ("c1") and of each further level, in timm's order; empty where it runs as a whole.

        Without a feature of stride 2, the stem is what comes before c2.
        """
        order = list(self.network.modules())
        size = [sum(1 for _ in module.modules()) for module in order]
        bounds = []
        for name, module in self.ends.items():
            first = next(i for i, other in enumerate(order) if other is module)
            if not bounds and name not in ("c0", "c1"):
                bounds.append(("c1", first - 1))
            bounds.append(("c1" if name == "c0" else name, first + size[first] - 1))
        parts: dict[str, list[nn.Module]] = {}
        start = 0
        for name, last in bounds:
            parts.setdefault(name, []).extend(order[i] for i in range(start, last + 1) if i + size[i] - 1 <= last)
            start = last + 1
        return parts

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self._fixed:
            module.training = False
        return self

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        features = self.network(images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return {spec.name: feature for spec, feature in zip(self.built_specs, features)}
