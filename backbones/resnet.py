"""ResNet and ResNeXt with every stage's stride and dilation decided, and declared, in one loop.

State-dict keys are torchvision's. Words: stage = the blocks that make one level (C2 = layer1 ... C5 = layer4);
part = stem or stage; a removed stride is one that dilation replaces.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..specs import FeatureSpec
from ..errors import InputError, did_you_mean
from .base import Backbone
from .blocks import BasicBlock, Bottleneck, Conv2d, ConvShortcut, DeepStem, PadShortcut, PoolShortcut, Stage
from .stage_plan import Dilation, dilated_stages
from ..layers.norm import Norm, conv_norm, resolve_norm
from .preprocess import Preprocess
from ..weights.sources import adapt_channels, load_state, read_weights

STAGES = {"c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
STEMS = ("conv7", "deep", "cifar")


def check_names(argument: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"{argument}: unknown feature {name!r}; {did_you_mean(str(name), known)}")


class ResNet(Backbone):
    """Features C1-C5 of a residual network.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks in each stage.
        planes: width of each stage before the block's expansion.
        weights: None, `torchvision:<name>` or the path of a state dict with torchvision's keys.
        out_features: which of c1..c5 to return (default: every stage); stages deeper than the deepest are not built.
        output_stride: 8, 16 or 32 (default). Replaces strides by dilation from the deepest stage upwards.
        replace_stride_with_dilation: the same for c3, c4, c5 one by one; not together with output_stride.
        dilation_convention: "exact", or "torchvision", "detectron2", "mmdet" for weights that were trained so.
        norm: "frozen", "batch", "batch_eval", "sync", "group", or a callable channels -> layer; not given: frozen with
            weights, batch without.
        norm_layer: torchvision's name for a callable `norm`.
        norm_eps: epsilon of a norm that is given by name (torchvision's COCO_V1 detectors have 0).
        freeze: parts from the input that stay fixed: 0 none, 1 stem, 2 stem + c2, ... 5 all. Survives `.train()`.
        in_channels: image channels; pretrained weights for three are adapted.
        stem: "conv7" (7x7, stride 2), "deep" (three 3x3) or "cifar" (3x3 at stride 1, no pool).
        avg_down: average-pool before the shortcut's convolution (ResNet-D).
        stride_in_1x1: the first 1x1 of a Bottleneck carries the stride (the original paper, Caffe).
        pad_shortcut: shortcuts without parameters (option A of the paper).
        groups, width_per_group: cardinality and base width of ResNeXt.
        zero_init_residual: start every residual branch at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        deform_stages: stages in whose blocks the last 3x3 is a modulated deformable convolution, such as ("c4", "c5").
        multi_grid: factors on the dilations in the deepest stage's blocks (Chen et al. 2017, arXiv:1706.05587, 3.2).
        checkpoint_stages: stages that keep no activations in training and compute them again in the backward pass.
        num_classes: build the classifier of the paper too, for `logits`.
        architecture: torchvision's name of the network, to find named weights.
        load_weights: False builds for these weights (norm, preprocessing) but reads none: a checkpoint follows.

    Raises InputError for arguments that contradict each other or weights that do not fit.

    Attributes: see Backbone.
    """

    norms_follow = True

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
        dilation_convention: str = "exact",
        norm: str | Norm | None = None,
        norm_layer: Norm | None = None,
        norm_eps: float = 1e-5,
        freeze: int = 0,
        in_channels: int = 3,
        stem: str = "conv7",
        avg_down: bool = False,
        stride_in_1x1: bool = False,
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
        super().__init__()
        names = list(STAGES)[: len(layers)]
        known = ("c1", *names)
        out_features = names if out_features is None else out_features
        check_names("out_features", out_features, known)
        check_names("deform_stages", deform_stages, names)
        check_names("checkpoint_stages", checkpoint_stages, names)
        if not out_features:
            raise InputError("out_features is empty")
        if freeze not in range(len(known) + 1):
            raise InputError(f"freeze counts the fixed parts from the input, 0 to {len(known)}, not {freeze!r}")
        if norm is not None and norm_layer is not None:
            raise InputError("give norm or norm_layer (torchvision's name for a callable norm), not both")
        if stem not in STEMS:
            raise InputError(f"unknown stem {stem!r}; {did_you_mean(str(stem), STEMS)}")
        if block is BasicBlock and (groups != 1 or width_per_group != 64 or stride_in_1x1):
            raise InputError("BasicBlock (ResNet-18 and 34) has no groups, no width_per_group other than 64 and no 1x1")
        if multi_grid is not None and len(multi_grid) != layers[-1]:
            raise InputError(f"multi_grid has a factor for each of the {layers[-1]} blocks of {names[-1]}, not {len(multi_grid)}")
        depth = max(known.index(name) for name in out_features)
        if num_classes is not None and depth < len(layers):
            raise InputError(f"num_classes needs {names[-1]} in out_features")

        net_stride = 1 if stem == "cifar" else 4
        strides = [1] + [2] * (len(layers) - 1)
        replaced = dilated_stages(names[1:], output_stride, replace_stride_with_dilation, net_stride << (len(layers) - 1))
        rule = Dilation(dilation_convention, block is BasicBlock, stride_in_1x1, avg_down)
        if any(replaced):
            rule.check()
        exact = Dilation("exact", block is BasicBlock, stride_in_1x1, avg_down)
        make_norm = resolve_norm(norm if norm_layer is None else norm_layer, weights, freeze, norm_eps)
        shortcut = PadShortcut if pad_shortcut else PoolShortcut if avg_down else ConvShortcut

        channels = planes[0]
        if stem == "deep":
            self.conv1 = DeepStem(in_channels, channels, make_norm)
        else:
            self.conv1 = Conv2d(in_channels, channels, *((7, 2) if stem == "conv7" else (3, 1)))
        self.bn1 = make_norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        specs = [FeatureSpec("c1", 1, channels, 1 if stem == "cifar" else 2)]
        dilation, left = 1, set()
        for index, name in enumerate(names[:depth]):
            stride, removed, before = strides[index], 1, dilation
            if index and replaced[index - 1]:
                stride, removed, dilation = 1, stride, dilation * stride
            net_stride *= stride
            grid = multi_grid if multi_grid and name == names[-1] else [1] * layers[index]
            blocks = []
            for number in range(layers[index]):
                own, true = ((r.later(dilation, grid[number]) if number else r.first(stride, removed, before, dilation, grid[0]))
                             for r in (rule, exact))  # fmt: skip
                # a stage's first block needs a shortcut even where dilation took its stride, because the channels change
                adapt = own.stride > 1 or channels != planes[index] * block.expansion
                blocks.append(block(channels, planes[index], own, make_norm, shortcut if adapt else None,
                                    name in deform_stages, groups, width_per_group, stride_in_1x1))  # fmt: skip
                channels = planes[index] * block.expansion
                left |= {f"dilation_convention={dilation_convention}"} if own != true else set()
            left |= {"deformable stages"} if name in deform_stages else set()
            left |= {"multi_grid"} if set(grid) != {1} else set()
            specs.append(FeatureSpec(name, index + 2, channels, net_stride, dilation))
            self.add_module(STAGES[name], Stage(blocks, specs[-1], name in checkpoint_stages))
        if num_classes is not None:
            self.fc = nn.Linear(channels, num_classes)

        left |= {"group norm"} if any(isinstance(m, nn.GroupNorm) for m in self.modules()) else set()
        self.identity_left = tuple(sorted(left))
        self.undilated = {"output_stride": None, "replace_stride_with_dilation": (False,) * len(replaced), "multi_grid": None}
        self.built_specs = tuple(specs)
        self.outputs = frozenset(out_features)
        self.preprocess = Preprocess.for_channels(in_channels)
        self._initialise(zero_init_residual)
        self.to(memory_format=torch.channels_last)
        if weights and load_weights:
            self._load(read_weights(weights, architecture), in_channels, weights)
        self._freeze(freeze)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, Conv2d):  # He et al. 2015 (arXiv:1502.01852), fan out as torchvision
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_(module.last_norm().weight)

    def _load(self, state: dict[str, Tensor], in_channels: int, source: str) -> None:
        """Classifier keys are dropped where there is no classifier, or one for another number of classes."""
        unwanted = [f"{key}." for key in STAGES.values() if key not in self._modules]
        other_head = "fc" in self._modules and "fc.weight" in state and state["fc.weight"].shape != self.fc.weight.shape
        if other_head or "fc" not in self._modules:
            unwanted.append("fc.")
        first = "conv1.0.weight" if isinstance(self.conv1, DeepStem) else "conv1.weight"
        if first in state and state[first].dim() == 4:
            state = state | {first: adapt_channels(state[first], in_channels)}
        fresh = [".conv_offset."] + (["fc."] if other_head else [])
        load_state(self, state, tuple(unwanted), tuple(fresh), source)

    def _freeze(self, count: int) -> None:
        self.freeze = count
        if count:
            for module in (self.conv1, self.bn1):
                module.requires_grad_(False).eval()
        for key in list(STAGES.values())[: max(0, count - 1)]:
            if key in self._modules:
                self._modules[key].freeze()

    @property
    def parts(self) -> dict[str, tuple[nn.Module, ...]]:
        """What makes each built level, in the order in which it runs; `freeze` counts these."""
        parts = {name: (self._modules[key],) for name, key in STAGES.items() if key in self._modules}
        if "c2" in parts:
            parts["c2"] = (self.maxpool, *parts["c2"])
        return {"c1": (self.conv1, self.bn1, self.relu), **parts}

    @property
    def ends(self) -> dict[str, nn.Module]:
        """The module whose output is the level."""
        return {name: modules[-1] for name, modules in self.parts.items()}

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze:
            self.conv1.eval()
            self.bn1.eval()
        return self

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        x = self.relu(conv_norm(images, self.conv1, self.bn1))
        features = {"c1": x} if "c1" in self.outputs else {}
        x = self.maxpool(x)
        for name, key in STAGES.items():
            if key in self._modules:
                x = self._modules[key](x)
                if name in self.outputs:
                    features[name] = x
        return features

    def logits(self, images: Tensor) -> Tensor:
        """N x num_classes: the classifier of the paper on the mean of the deepest stage. Needs `num_classes`."""
        if "fc" not in self._modules:
            raise InputError("logits need a classifier: build the backbone with num_classes=")
        return self.fc(self.levels(self.checked(images))[self.built_specs[-1].name].mean((-2, -1)))

    def split_stage(self, name: str = "c5") -> Stage:
        """Take the deepest stage out, for a head that runs it on RoI features (the C4 form of Ren et al. 2015).

        The caller owns the returned module, with its weights and its freezing; the backbone ends one level earlier.
        Raises InputError where `name` is not the deepest stage built.
        """
        if name != self.built_specs[-1].name or name not in STAGES:
            raise InputError(f"split_stage takes the deepest stage, {self.built_specs[-1].name}, not {name!r}")
        self.built_specs = self.built_specs[:-1]
        stage = self._modules[STAGES[name]]
        del self._modules[STAGES[name]]
        return stage
