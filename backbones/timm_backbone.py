"""Wrap timm's networks as backbones: `timm:<name>` calls `timm.create_model(<name>, features_only=True)`.

Channels and strides come from timm's own `feature_info`. Dilation is timm's too; if `output_stride` is given, its error
is measured: it is exact for ResNets, but not for average-pool shortcuts at output stride 8 nor for anti-aliased
networks. timm is imported inside the functions because most programs never use it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, check_known, first_line, shorten
from ..layers.norm import BATCH_NORMS, resolve_norm
from ..registry import BACKBONES
from ..specs import FeatureSpec
from ..weights.loading import load_state
from ..weights.named_sources import KINDS, find_named, timm_card
from ..weights.sources import read_metadata, read_network_file
from .base import Backbone, check_levels
from .preprocess import Preprocess
from .verify import TOLERANCE, randomise_norms, sampled_error


def create_network(
    model: str,
    weights: str | None = None,
    load_weights: bool = True,
    state: Mapping[str, Tensor] | None = None,
    **arguments: Any,
) -> Any:
    """Build timm's feature network, a module with `feature_info`.

    Args:
        model: timm's name of the network.
        weights: None, `timm:<tag>` or the path of a state dict.
        load_weights: False builds for `weights`, with the mean and standard deviation of their images, without them.
        state: state dict of timm's whole network, read from the path in `weights`.
        arguments: passed on to `timm.create_model`.

    Raises:
        InputError: timm does not know or refuses the network, or the weights cannot be had.
    """
    import timm

    if "." in model and model.partition(".")[0] in timm.list_models():
        network, _, model_tag = model.partition(".")
        raise InputError(
            f"timm model {model!r} has a tag of weights in its name; give {network} weights='timm:{model_tag}'"
        )
    check_known("timm model", timm.list_models(), model)
    name = model
    loading: dict[str, Any] = {}
    kind, _, tag = (weights or "").partition(":")
    if kind == "timm":
        tag = tag.removeprefix(f"{model}.")
        known = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
        check_known(f"timm weights of {model}:", known, tag)
        name, loading = f"{model}.{tag}", {"pretrained": load_weights}
    elif state is not None:
        loading = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": dict(state)}}
    try:
        return timm.create_model(name, features_only=True, **loading, **arguments)
    except Exception as error:  # unreachable hub, unsupported argument, mismatched key: report timm's message
        settings = [f"{key}={value!r}" for key, value in {**arguments, "weights": weights}.items() if value is not None]
        advice = "; put the file anywhere and give weights=PATH" if kind == "timm" else ""
        raise InputError(f"timm cannot build {name} with {', '.join(settings)}: {first_line(error)}{advice}") from None


def _weights_file(weights: str) -> Path:
    """Return the path of weights that timm has no tag for: of a path itself, a URL or a Hugging Face repository."""
    kind, colon, _ = weights.partition(":")
    if colon and kind in KINDS and kind != "hf":
        raise InputError(
            f"weights={shorten(weights)} are for the ResNets of this package; a network of timm takes timm:TAG, "
            "hf:REPOSITORY, a URL or a path"
        )
    named = find_named(weights)
    return Path(weights) if named is None else named.fetch()


@lru_cache
def undilated_levels(model: str) -> tuple[int, ...]:
    """Return the levels of a timm network without dilation: log2 of each feature's stride.

    Raises:
        InputError: the strides do not form a pyramid.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        strides = create_network(model).feature_info.reduction()
    if any(stride & (stride - 1) for stride in strides) or len(set(strides)) < len(strides):
        raise InputError(f"timm's {model} has features of strides {strides}, which do not form a pyramid")
    return tuple(int(log2(stride)) for stride in strides)


@lru_cache
def worst_dilation_error(model: str, output_stride: int) -> tuple[float, str]:
    """Return how far dilated features are from the a-trous identity, max|a - b| / max|b|, and the level of this error.

    Measured in float32 with random weights and norm statistics. Exact networks stay below 1e-5.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        # random norms, because residual branches that start at zero would hide every difference
        plain = randomise_norms(create_network(model)).eval()
        dilated = create_network(model, output_stride=output_stride).eval()
        dilated.load_state_dict(plain.state_dict())
        images = torch.randn(1, 3, 128, 160)
        return max(
            (sampled_error(fine, coarse, fine.shape[-1] // coarse.shape[-1]), f"c{level}")
            for level, fine, coarse in zip(undilated_levels(model), dilated(images), plain(images))
        )


@BACKBONES.register_module(name="timm")
class TimmBackbone(Backbone):
    """Features of a timm network, named by level: c2 is the feature that has stride 4 without dilation.

    Args:
        model: timm's name of the network.
        weights: None, `timm:<tag>` or `timm:<model>.<tag>` (a pretrained tag of this model), the path or URL of a state
            dict, `hf:<repository>`, or a run of ours.
        out_features: levels to return; default: c2 to c5, as far as the network has them. Deeper ones are not built.
        output_stride: 8, 16 or 32, if timm's network has it; a warning says by how much it is not exact.
        norm: "frozen" or "batch"; default: frozen with weights, if the network has batch norms.
        freeze: number of parts from the input that stay fixed: 0 none, 1 stem, 2 stem and c2, ...
        in_channels: number of image channels; timm adapts pretrained weights.
        load_weights: False builds for `weights` without reading them, because a checkpoint follows.

    Raises:
        InputError: timm does not have the model, the tag or the argument.
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
        super().__init__(in_channels)
        if norm not in (None, "frozen", "batch"):
            raise InputError(f"the norm of a timm network must be 'frozen' or 'batch', got {norm!r}")
        resolve_norm(norm, bool(weights) or not load_weights, freeze)  # refuses to fix random layers
        names = [f"c{level}" for level in undilated_levels(model)]
        if out_features is None:
            out_features = [name for name in names if name not in ("c0", "c1")]
        check_levels("out_features", names, out_features)
        num_levels = max(names.index(name) for name in out_features) + 1
        arguments: dict[str, Any] = {"in_chans": in_channels, "out_indices": tuple(range(num_levels))}
        if output_stride is not None:
            self._measure_dilation(model, output_stride)
            arguments["output_stride"] = output_stride
        path = _weights_file(weights) if weights and load_weights and not weights.startswith("timm:") else None
        state = None if path is None else read_network_file(path)
        is_own = state is not None and all(key.startswith("network.") for key in state)  # saved from this class
        self.network: Any = create_network(model, weights, load_weights, None if is_own else state, **arguments)
        self._is_nhwc = str(getattr(self.network, "output_fmt", "") or "").endswith("NHWC")
        info = self.network.feature_info
        self._stage_specs = tuple(
            FeatureSpec(name, int(name[1:]), channels, stride, dilation=2 ** int(name[1:]) // stride)
            for name, channels, stride in zip(names, info.channels(), info.reduction())
        )
        self.feature_specs = tuple(spec for spec in self._stage_specs if spec.name in out_features)
        statistics = self.network.pretrained_cfg
        self.preprocess = Preprocess.for_channels(in_channels, statistics["mean"], statistics["std"])
        if weights and weights.startswith("timm:"):
            self.weight_card = timm_card(model, weights.partition(":")[2].removeprefix(f"{model}."))
        has_batch_norms = any(isinstance(module, BATCH_NORMS) for module in self.network.modules())
        if norm is None:
            norm = "frozen" if weights and has_batch_norms else "batch"
        self.resolved_arguments = {"norm": norm}
        if norm == "frozen":
            from timm.layers import freeze_batch_norm_2d

            if not has_batch_norms:
                raise InputError(f"norm='frozen': timm's {model} does not have a batch norm to freeze")
            self.network = freeze_batch_norm_2d(self.network)
        if state is not None and is_own:
            self._load(state, str(weights))
            self.take_statistics(read_metadata(str(path)))
        self.undilated_kwargs = {"output_stride": None}
        self.freeze(freeze)

    @staticmethod
    def list_names(pattern: str) -> list[str]:
        """Return timm's model names that match a shell pattern, for `list_backbones("timm:<pattern>")`."""
        import timm

        return timm.list_models(pattern)

    def _measure_dilation(self, model: str, output_stride: int) -> None:
        """Warn and note the reason if timm's dilation is not exact."""
        error, level = worst_dilation_error(model, output_stride)
        if error > TOLERANCE:
            self.inexact_reasons = (f"timm's dilation ({level} is off by {error:.0%})",)
            warnings.warn(
                f"timm:{model} at output stride {output_stride} is not exact: {level} is off by {error:.1%} "
                "from the undilated features",
                stacklevel=4,
            )

    def _load(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict of this class without stages that are not built."""
        children = {".".join(key.split(".")[:2]) for key in state}
        dropped = [f"{name}." for name in children if name.removeprefix("network.") not in self.network._modules]
        load_state(self, state, source, drop_prefixes=tuple(dropped))

    @property
    def stage_specs(self) -> tuple[FeatureSpec, ...]:
        return self._stage_specs

    @property
    def stage_outputs(self) -> dict[str, nn.Module]:
        module_names = [name.replace(".", "_") for name in self.network.feature_info.module_name()]
        modules = {name.replace(".", "_"): module for name, module in self.network.named_modules()}
        if not set(module_names) <= modules.keys():  # timm runs the network as a whole
            return {}
        return {spec.name: modules[name] for spec, name in zip(self._stage_specs, module_names)}

    @property
    def stage_modules(self) -> dict[str, list[nn.Module]]:
        """Modules up to and including the output of each level, in timm's order.

        The stem ("c1") includes a feature of stride 1. Without a feature of stride 2, it is what comes before c2.
        """
        level_of = {id(module): name for name, module in self.stage_outputs.items()}
        parts: dict[str, list[nn.Module]] = {}
        pending: list[nn.Module] = []
        for module in _largest_modules(self.network, set(level_of)):
            pending.append(module)
            if id(module) not in level_of:
                continue
            level = "c1" if level_of[id(module)] == "c0" else level_of[id(module)]
            if not parts and level != "c1":
                parts["c1"] = pending[:-1]
                pending = [module]
            parts.setdefault(level, []).extend(pending)
            pending = []
        return parts

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        features = self.network(images)
        if self._is_nhwc:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return {spec.name: feature for spec, feature in zip(self._stage_specs, features)}


def _largest_modules(module: nn.Module, outputs: set[int]) -> Iterator[nn.Module]:
    """Yield the largest modules that do not have an output (the id of a module) inside, in order."""
    for child in module.children():
        if any(id(inner) in outputs for inner in child.modules() if inner is not child):
            yield from _largest_modules(child, outputs)
        else:
            yield child
