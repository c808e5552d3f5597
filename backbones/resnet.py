"""ResNet and ResNeXt with every stage's stride and dilation decided, and declared, in one loop.

Deep Residual Learning, He et al. 2015 (arXiv:1512.03385); Aggregated Residual Transformations, Xie et al. 2016
(arXiv:1611.05431). State-dict keys are torchvision's.

Words: stage = the blocks that make one level (C2 = layer1 ... C5 = layer4); part = stem or stage; a removed stride is
one that dilation replaces. Exact dilation (the a-trous identity: dilated features sampled at the removed stride equal
the undilated ones) asks that convolutions up to and including the one that carried the removed stride keep the
previous dilation and only those after it get the new one. That holds for BasicBlock as well as for Bottleneck.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..features import FeatureSpec
from ..registry import InputError, nearest
from .norm import freeze_parts, keep_frozen, norm_layer, resolve_norm
from .preprocess import Preprocess
from .weights import load_state, read_weights

STAGES = {"c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
FEATURES = ("c1", *STAGES)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first carries the stride, so only the second gets the new dilation."""

    expansion = 1

    def __init__(self, cin: int, planes: int, stride: int, before: int, after: int, norm, groups: int = 1, base: int = 64):
        super().__init__()
        if groups != 1 or base != 64:
            raise InputError("BasicBlock (ResNet-18 and 34) has no groups and no width_per_group other than 64")
        self.conv1 = nn.Conv2d(cin, planes, 3, stride, padding=before, dilation=before, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=after, dilation=after, bias=False)
        self.bn2 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(cin, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1. The 3x3 is the last convolution at or before the stride: it keeps `before`.

    Without a stride to carry (a later block of the stage) `before` equals `after`.
    """

    expansion = 4

    def __init__(self, cin: int, planes: int, stride: int, before: int, after: int, norm, groups: int = 1, base: int = 64):
        super().__init__()
        width = int(planes * (base / 64)) * groups
        cout = planes * self.expansion
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=before, dilation=before, groups=groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = norm(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(cin, cout, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def shortcut(cin: int, cout: int, stride: int, norm) -> nn.Module | None:
    """1x1 convolution where the shape changes (option B of the paper), None for the identity.

    A stage's first block needs one even where dilation took its stride, because the channels change there.
    """
    if cin == cout and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), norm(cout))


def dilated_stages(output_stride: int | None, replace: Sequence[bool] | None) -> tuple[bool, bool, bool]:
    """Which of c3, c4, c5 trade their stride for dilation, from one of the two ways to say it."""
    if output_stride is not None and replace is not None:
        raise InputError("give output_stride or replace_stride_with_dilation, not both")
    if replace is not None:
        if len(replace) != 3:
            raise InputError(f"replace_stride_with_dilation has one entry for each of c3, c4, c5, not {len(replace)}")
        return tuple(bool(r) for r in replace)
    choices = {None: (False,) * 3, 32: (False,) * 3, 16: (False, False, True), 8: (False, True, True)}
    if output_stride not in choices:
        raise InputError(f"output_stride must be 8, 16 or 32, not {output_stride!r}")
    return choices[output_stride]


class ResNet(nn.Module):
    """Features C1-C5 of a residual network.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks in each of the four stages.
        weights: None, `torchvision:<name>` or the path of a state dict with torchvision's keys.
        out_features: which of c1..c5 to return; stages deeper than the deepest are not built.
        output_stride: 8, 16 or 32 (default). Replaces strides by dilation from the deepest stage upwards.
        replace_stride_with_dilation: the same for c3, c4, c5 one by one; not together with output_stride.
        norm: "frozen" or "batch"; not given: frozen with weights, batch without.
        norm_eps: epsilon of every norm layer.
        freeze: parts from the input that stay fixed: 0 none, 1 stem, 2 stem + c2, ... 5 all. Survives `.train()`.
        groups, width_per_group: cardinality and base width of ResNeXt.
        zero_init_residual: start every residual branch at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        architecture: torchvision's name of the network, to find named weights.
        load_weights: False builds for these weights (norm, preprocessing) but reads none: a checkpoint follows.

    Raises InputError for arguments that contradict each other or weights that do not fit.

    Attributes:
        feature_specs: FeatureSpec of every output, shallow to deep.
        size_divisor: input sides that are multiples of it give exactly the declared strides; others work too.
        preprocess: RGB images, uint8 or float in [0, 1], to what the weights expect.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        *,
        weights: str | None = None,
        out_features: Sequence[str] = ("c2", "c3", "c4", "c5"),
        output_stride: int | None = None,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm: str | None = None,
        norm_eps: float = 1e-5,
        freeze: int = 0,
        groups: int = 1,
        width_per_group: int = 64,
        zero_init_residual: bool = False,
        architecture: str = "",
        load_weights: bool = True,
    ):
        super().__init__()
        unknown = [name for name in out_features if name not in FEATURES]
        if unknown or not out_features:
            raise InputError(f"unknown feature {unknown[0]!r}; {nearest(unknown[0], FEATURES)}" if unknown
                             else "out_features is empty")  # fmt: skip
        if freeze not in range(6):
            raise InputError(f"freeze counts the fixed parts from the input, 0 to 5, not {freeze!r}")
        depth = max(FEATURES.index(name) for name in out_features)
        dilate = dilated_stages(output_stride, replace_stride_with_dilation)
        make_norm = norm_layer(resolve_norm(norm, weights, freeze), norm_eps)

        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = make_norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        parts = [[self.conv1, self.bn1]]
        specs = [FeatureSpec("c1", 1, 64, stride=2)]

        channels, net_stride, dilation = 64, 4, 1
        stages = zip(STAGES.items(), layers, (64, 128, 256, 512), (1, 2, 2, 2), (False, *dilate))
        for level, ((name, key), blocks, planes, stride, replaced) in enumerate(list(stages)[:depth], start=2):
            before = dilation
            if replaced:
                dilation, stride = dilation * stride, 1
            net_stride *= stride
            stage = []
            for index in range(blocks):
                stage.append(block(channels, planes, stride if index == 0 else 1, before if index == 0 else dilation,
                                   dilation, make_norm, groups, width_per_group))  # fmt: skip
                channels = planes * block.expansion
            self.add_module(key, nn.Sequential(*stage))
            parts.append(stage)
            specs.append(FeatureSpec(name, level, channels, net_stride, dilation))

        self.feature_specs = tuple(spec for spec in specs if spec.name in out_features)
        self.size_divisor = net_stride if depth else 2
        self.preprocess = Preprocess()
        self._frozen = parts[:freeze]
        self._initialise(zero_init_residual)
        if weights and load_weights:
            unbuilt = tuple(f"{key}." for key in list(STAGES.values())[depth:])
            load_state(self, read_weights(weights, architecture), ("fc.", *unbuilt), weights)
        freeze_parts(self._frozen)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015 (arXiv:1502.01852), fan out as torchvision
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                nn.init.zeros_(last.weight)

    def train(self, mode: bool = True):
        super().train(mode)
        keep_frozen(self._frozen)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """N x 3 x H x W float, preprocessed -> {"c2": N x C x ceil(H / 4) x ceil(W / 4), ...}, shallow to deep."""
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"expected preprocessed float images N x 3 x H x W, got {images.dtype} {tuple(images.shape)}")
        wanted = {spec.name for spec in self.feature_specs}
        x = self.relu(self.bn1(self.conv1(images)))
        features = {"c1": x}
        x = self.maxpool(x)
        for name, key in STAGES.items():
            if key in self._modules:
                x = self._modules[key](x)
                features[name] = x
        return {name: feature for name, feature in features.items() if name in wanted}
