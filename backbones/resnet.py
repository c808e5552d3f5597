"""ResNet and ResNeXt backbones, built from the plan that `stage_plan.py` computes.

State-dict keys are torchvision's. A stage is the blocks that compute one level (c2 = layer1 ... c5 = layer4); c1 is the
stem before its pool. `freeze` counts parts: the stem, then the stages.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, check_known
from ..layers.conv import DeformConv2d
from ..layers.fold import conv_norm
from ..layers.norm import Norm, resolve_norm
from ..layers.winograd_conv import convert_to_winograd_
from ..specs import FeatureSpec
from ..weights.architectures import check_architecture, read_architecture
from ..weights.backbone_weights import BackboneWeights
from ..weights.loading import adapt_first_conv, load_state
from .base import Backbone, check_levels
from .blocks import BasicBlock, Bottleneck, Shortcut, Stage
from .preprocess import Preprocess
from .resnet_arguments import check_arguments
from .shortcuts import ConvShortcut, PadShortcut, PoolShortcut
from .stage_plan import STAGE_KEYS, STEM_STRIDES, Layout, check_convention, dilated_stages, plan_stages
from .stem import DeepStem, stem_conv
from .weight_settings import read_settings, settle_convention


class ResNet(Backbone):
    """Features C1-C5 of a residual network.

    Args:
        block: BasicBlock or Bottleneck.
        layers: number of blocks per stage.
        planes: width per stage before the block's expansion.
        weights: None, a named source such as `torchvision:IMAGENET1K_V2`, `timm:a1_in1k`, `detectron2:MSRA/R-50`,
            `openmmlab:detectron2/resnet50_caffe`, `hf:microsoft/resnet-50`, or the path of a file of these libraries or
            of a run of ours. Their card settles `stride_in_1x1`, `dilation_convention`, `norm_eps`, `mean` and `std`.
        out_features: levels to return, of c1 to c5 (default: every stage); stages after the deepest one are not built.
        output_stride: 8, 16 or 32 (default); dilation replaces strides from the deepest stage upwards.
        replace_stride_with_dilation: the same for c3, c4 and c5 one by one; not together with `output_stride`.
        dilation_convention: "exact" (default without weights), or "torchvision", "detectron2", "mmdet" for weights
            trained with that library.
        norm: "frozen", "batch", "batch_eval", "sync", "group", or a callable channels -> layer. Default: frozen with
            weights, batch without.
        norm_layer: torchvision's name of a callable `norm`.
        norm_eps: epsilon of a norm given by name; default without weights: 1e-5.
        freeze: number of parts from the input that stay fixed: 0 none, 1 stem, 2 stem and c2, ... 5 all.
        in_channels: number of image channels; pretrained weights for three are adapted.
        channel_order: "RGB" or "BGR", what weights of unknown origin expect; the backbone always takes RGB.
        mean, std: of RGB images in [0, 1], for `preprocess`; default without weights: ImageNet's.
        stem: "conv7" (7x7, stride 2), "deep" (three 3x3) or "cifar" (3x3 at stride 1 without pool).
        avg_down: average-pool before the shortcut's convolution (ResNet-D).
        stride_in_1x1: the first 1x1 of a Bottleneck carries the stride (the original paper and Caffe); default without
            weights: False.
        pad_shortcut: shortcuts without parameters (option A of the paper).
        groups, width_per_group: cardinality and base width of ResNeXt.
        zero_init_residual: start every residual branch at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        deform_stages: stages whose blocks have a modulated deformable convolution as their last 3x3.
        multi_grid: factors on the dilations of the deepest stage's blocks (Chen et al. 2017, arXiv:1706.05587, 3.2).
        checkpoint_stages: stages that keep no activations in training and compute them again in the backward pass.
        num_classes: build the paper's classifier too, for `logits`.
        architecture: torchvision's name of the network, to find named weights.
        load_weights: False builds for `weights` without reading them, because a checkpoint follows.

    Raises:
        InputError: arguments contradict each other or the weights, or the weights do not fit.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        planes: Sequence[int] = (64, 128, 256, 512),
        *,
        weights: str | None = None,
        out_features: Sequence[str] | None = None,
        output_stride: int | None = None,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        dilation_convention: str | None = None,
        norm: str | Norm | None = None,
        norm_layer: Norm | None = None,
        norm_eps: float | None = None,
        freeze: int = 0,
        in_channels: int = 3,
        channel_order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stem: str = "conv7",
        avg_down: bool = False,
        stride_in_1x1: bool | None = None,
        pad_shortcut: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        zero_init_residual: bool = False,
        deform_stages: Sequence[str] = (),
        multi_grid: Sequence[int] | None = None,
        checkpoint_stages: Sequence[str] = (),
        num_classes: int | None = None,
        architecture: str = "",
        load_weights: bool = True,
    ):
        super().__init__(in_channels)
        if norm is not None and norm_layer is not None:
            raise InputError("give norm or norm_layer (torchvision's name of a callable norm), not both")
        norm = norm if norm_layer is None else norm_layer
        given: dict[str, Any] = dict(channel_order=channel_order, mean=mean, std=std, stride_in_1x1=stride_in_1x1)
        given |= dict(dilation_convention=dilation_convention, norm_eps=norm_eps)
        settings = read_settings(weights, architecture, given, load_weights)
        self.weight_card = settings.card
        stride_in_1x1 = bool(settings.arguments["stride_in_1x1"])
        norm_eps = norm_eps if callable(norm) else settings.arguments["norm_eps"]
        layout = Layout(tuple(layers), tuple(planes), issubclass(block, Bottleneck), stem, stride_in_1x1, avg_down)
        out_features = layout.stage_names if out_features is None else tuple(out_features)
        check_levels("out_features", ("c1", *layout.stage_names), out_features)
        num_stages = max(("c1", *layout.stage_names).index(name) for name in out_features)
        check_known("level in deform_stages:", layout.stage_names[:num_stages], *deform_stages)
        check_known("level in checkpoint_stages:", layout.stage_names[:num_stages], *checkpoint_stages)
        check_arguments(layout, out_features, multi_grid, num_classes, groups, width_per_group)
        norm = norm or ("frozen" if weights else "batch")
        make_norm = resolve_norm(norm, weights or not load_weights, freeze, norm_eps)  # a checkpoint may follow
        if pad_shortcut and avg_down:
            raise InputError("pad_shortcut and avg_down contradict each other")
        shortcut: Shortcut = PadShortcut if pad_shortcut else PoolShortcut if avg_down else ConvShortcut
        options = {"groups": groups, "width_per_group": width_per_group, "stride_in_1x1": stride_in_1x1}
        block_options: dict[str, Any] = options if layout.bottleneck else {}

        dilated = dilated_stages(layout, output_stride, replace_stride_with_dilation)
        dilation_convention = settle_convention(dilation_convention, settings, layout, dilated, num_stages, weights)
        check_convention(layout, dilation_convention, dilated)
        plans = plan_stages(layout, dilated, dilation_convention, multi_grid)[:num_stages]
        exact_plans = plan_stages(layout, dilated, "exact", multi_grid)[:num_stages]

        channels = planes[0]
        self.conv1 = stem_conv(stem, in_channels, channels, make_norm)
        self.bn1 = make_norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        self._stem_spec = FeatureSpec("c1", 1, channels, STEM_STRIDES[stem][0])
        for plan in plans:
            name = plan.spec.name
            blocks = []
            for block_plan in plan.blocks:
                # dilation removes the stride of a stage's first block, but its channels still change
                projects = block_plan.stride > 1 or channels != plan.spec.channels
                blocks.append(
                    block(
                        channels,
                        plan.planes,
                        block_plan,
                        make_norm,
                        shortcut=shortcut if projects else None,
                        deformable=name in deform_stages,
                        **block_options,
                    )
                )
                channels = plan.spec.channels
            self.add_module(STAGE_KEYS[name], Stage(blocks, plan.spec, checkpointed=name in checkpoint_stages))
        if num_classes is not None:
            self.fc = nn.Linear(channels, num_classes)

        self.preprocess = Preprocess.for_channels(in_channels, settings.arguments["mean"], settings.arguments["std"])
        self._out_features = frozenset(out_features)
        self.inexact_reasons = self._find_inexact_reasons(plans != exact_plans, dilation_convention, multi_grid)
        self.resolved_arguments = {"norm": norm, "norm_eps": norm_eps, "stride_in_1x1": stride_in_1x1}
        self.resolved_arguments |= {"dilation_convention": dilation_convention}
        self.undilated_kwargs = {
            "output_stride": None,
            "replace_stride_with_dilation": (False,) * len(dilated),
            "multi_grid": None,
            "stride_in_1x1": stride_in_1x1,
            "norm_eps": norm_eps,
        }
        self._initialise(zero_init_residual)
        self.to(memory_format=torch.channels_last)
        convert_to_winograd_(self)
        self.freeze(freeze)
        if settings.weights is not None:
            self._load(settings.weights, in_channels, str(weights))

    def _find_inexact_reasons(
        self, other_dilations: bool, convention: str, multi_grid: Sequence[int] | None
    ) -> tuple[str, ...]:
        modules = list(self.modules())
        reasons = {
            "deformable stages": any(isinstance(module, DeformConv2d) for module in modules),
            f"dilation_convention={convention}": other_dilations,
            "group norm": any(isinstance(module, nn.GroupNorm) for module in modules),
            "multi_grid": multi_grid is not None and set(multi_grid) != {1},
        }
        return tuple(reason for reason, applies in reasons.items() if applies)

    def _initialise(self, zero_init_residual: bool) -> None:
        """Draw the weights as torchvision does; `zero_init_residual` zeroes the last norm weight of every block."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.endswith("conv_offset"):
                # He et al. 2015 (arXiv:1502.01852); fan out as in torchvision
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                last_norm = module.get_submodule(module.conv_norm_pairs[-1][1])
                nn.init.zeros_(last_norm.weight)  # type: ignore[arg-type]

    def _load(self, weights: BackboneWeights, in_channels: int, source: str) -> None:
        """Load weights without stages that are not built and without a classifier that does not fit."""
        state = weights.state
        if weights.architecture is not None:
            check_architecture(weights.architecture, read_architecture(self.state_dict()), source)
        first_key = "conv1.0.weight" if isinstance(self.conv1, DeepStem) else "conv1.weight"
        drop = [f"{key}." for key in STAGE_KEYS.values() if key not in self._modules]
        may_be_missing = [".conv_offset."]
        if "fc" not in self._modules:
            drop.append("fc.")
        elif "fc.weight" not in state or state["fc.weight"].shape != self.fc.weight.shape:
            found = f"{len(state['fc.weight'])} classes" if "fc.weight" in state else "no classifier"
            warnings.warn(f"weights {source} have {found}; the one of {len(self.fc.weight)} starts anew", stacklevel=4)
            drop.append("fc.")
            may_be_missing.append("fc.")
        state = adapt_first_conv(state, first_key, in_channels)
        load_state(self, state, source, drop_prefixes=tuple(drop), may_be_missing=tuple(may_be_missing))

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages that are built, by level."""
        return {name: getattr(self, key) for name, key in STAGE_KEYS.items() if key in self._modules}

    @property
    def stage_specs(self) -> tuple[FeatureSpec, ...]:
        return (self._stem_spec, *(stage.spec for stage in self.stages.values()))

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:  # type: ignore[override]
        return tuple(spec for spec in self.stage_specs if spec.name in self._out_features)

    @property
    def stage_modules(self) -> dict[str, Sequence[nn.Module]]:
        stages = {name: (self.maxpool, stage) if name == "c2" else (stage,) for name, stage in self.stages.items()}
        return {"c1": (self.conv1, self.bn1, self.relu), **stages}

    @property
    def conv_norm_pairs(self) -> tuple[tuple[str, str], ...]:
        """Names of the stem's convolution and its norm, for `fuse_for_inference`."""
        return (("conv1.6" if isinstance(self.conv1, DeepStem) else "conv1", "bn1"),)

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        x, conv = images, self.conv1
        if isinstance(conv, DeepStem):
            x, conv = conv.forward_hidden(images), conv[6]
        x = self.relu(conv_norm(x, conv, self.bn1))
        features = {"c1": x} if "c1" in self._out_features else {}
        x = self.maxpool(x)
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self._out_features:
                features[name] = x
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Compute the paper's classifier on the mean of the deepest stage.

        Args:
            images: N x C x H x W float, preprocessed.

        Returns:
            N x num_classes.

        Raises:
            InputError: the backbone was built without `num_classes`, or RoI heads took its deepest stage.
        """
        if "fc" not in self._modules:
            raise InputError("logits need a classifier; build the backbone with num_classes=")
        if self.fc.in_features != self.stage_specs[-1].channels:
            raise InputError("logits need the deepest stage, but the RoI heads of a detector took it; use another copy")
        features = self.forward_features(self._check_input(images))
        return self.fc(features[self.stage_specs[-1].name].mean((-2, -1)))

    def pop_stage(self, name: str = "c5") -> Stage:
        """Remove the deepest stage and return it, for RoI heads that run it on every RoI (the C4 form).

        The caller owns the stage with its weights and its freezing; the backbone ends one level earlier.

        Raises:
            InputError: `name` is not the deepest stage.
        """
        deepest = self.stage_specs[-1].name
        if name != deepest or name not in STAGE_KEYS:
            raise InputError(f"the stage of RoI heads must be the backbone's deepest, {deepest}, got {name!r}")
        stage = self.stages[name]
        stage.frozen = stage in self._frozen_modules()
        self.frozen_count = min(self.frozen_count, len(self.stages))  # the stem and the stages that remain
        delattr(self, STAGE_KEYS[name])
        return stage
