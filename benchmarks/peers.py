"""The field's own backbones and detectors, each under its own library's code, with torchvision's random weights.

A peer is a function that returns a module: images N x 3 x H x W -> dict of c2..c5. A library that is not importable, or
has no such network, raises Absent with the reason.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from ..weights.torchvision_detectors import torchvision_state

LAYERS = {"layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
DILATIONS = {"": (False, False, False), "_dc5": (False, False, True), "_dilated": (False, True, True)}


class Absent(Exception):
    """Why a peer cannot run here."""


def network_and_dilation(backbone: str) -> tuple[str, tuple[bool, bool, bool]]:
    """"resnet101_dilated" -> ("resnet101", (False, True, True)): which of c3, c4, c5 are dilated."""
    name, suffix = re.fullmatch(r"(.+?)(_dc5|_dilated)?", backbone).groups()
    return name, DILATIONS[suffix or ""]


def source(backbone: str) -> nn.Module:
    """torchvision's whole network with frozen norm: the seeded random weights of every contender.

    The norms hold the statistics of an image of noise, so that features are as large as after training; with untrained
    statistics they grow without bound, an RPN's boxes collapse, and a detector has next to nothing to do.
    """
    name, dilated = network_and_dilation(backbone)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise Absent(f"torchvision has no {name}")
    build = getattr(torchvision.models, name)
    torch.manual_seed(0)
    network = build(norm_layer=partial(nn.BatchNorm2d, momentum=None))
    with torch.no_grad():
        network(torch.randn(1, 3, 256, 256))
    try:
        frozen = build(replace_stride_with_dilation=dilated, norm_layer=FrozenBatchNorm2d)
    except NotImplementedError as error:
        raise Absent(f"torchvision: {error}") from None
    frozen.load_state_dict({key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")})
    return frozen


def frozen_parts(stem: Sequence[nn.Module], freeze: bool) -> None:
    for module in stem if freeze else ():
        module.requires_grad_(False)


class Renamed(nn.Module):
    """A network whose outputs get the names c2..c5."""

    def __init__(self, network: nn.Module, names: Sequence[str]):
        super().__init__()
        self.network, self.names = network, names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        out = self.network(images)
        return dict(zip(self.names, out.values() if isinstance(out, dict) else out))


def torchvision_backbone(backbone: str, freeze: bool) -> nn.Module:
    network = source(backbone)
    frozen_parts([network.conv1, network.layer1], freeze)
    return Renamed(IntermediateLayerGetter(network, LAYERS), list(LAYERS.values()))


def timm_backbone(backbone: str, freeze: bool) -> nn.Module:
    import timm
    from timm.layers import freeze_batch_norm_2d

    state = {key: value for key, value in source(backbone).state_dict().items() if not key.startswith("fc.")}
    name, dilated = network_and_dilation(backbone)
    network = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4), output_stride=32 >> sum(dilated))
    # its norm layers may be fused with the activation; frozen ones keep that
    network.load_state_dict(state, strict=False)
    network = freeze_batch_norm_2d(network)
    frozen_parts([network.conv1, network.layer1], freeze)
    return Renamed(network, list(LAYERS.values()))


def detectron2_backbone(backbone: str, freeze: bool) -> nn.Module:
    try:
        from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
    except ImportError as error:
        raise Absent(f"detectron2 is not importable ({error})") from None
    theirs = source(backbone)
    if not hasattr(theirs.layer1[0], "conv3"):
        raise Absent("detectron2 here: bottleneck networks only")
    name, dilated = network_and_dilation(backbone)
    stages, channels, dilation = [], 64, 1
    for index, layer in enumerate((theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
        removed = bool(index) and dilated[index - 1]
        before, dilation = dilation, dilation * (2 if removed else 1)
        count, out = len(layer), 256 << index
        stages.append(ResNet.make_stage(
            BottleneckBlock, count, stride_per_block=[1 if removed or not index else 2] + [1] * (count - 1),
            dilation_per_block=[before] + [dilation] * (count - 1), in_channels=channels, out_channels=out,
            bottleneck_channels=layer[0].conv2.out_channels, num_groups=layer[0].conv2.groups, norm="FrozenBN", stride_in_1x1=False,
        ))  # fmt: skip
        channels = out
    network = ResNet(BasicStem(3, 64, norm="FrozenBN"), stages, out_features=["res2", "res3", "res4", "res5"],
                     freeze_at=2 if freeze else 0)  # fmt: skip
    renamed = {}
    for key, value in theirs.state_dict().items():
        key = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", key)
        key = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", key)
        key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        renamed[re.sub(r"\bbn(\d)\.", r"conv\1.norm.", key)] = value
    network.load_state_dict({key: value for key, value in renamed.items() if not key.startswith("fc.")}, strict=False)
    return Renamed(network, list(LAYERS.values()))


def mmdet_backbone(backbone: str, freeze: bool) -> nn.Module:
    try:
        from mmdet.models.backbones import ResNet, ResNeXt
    except ImportError as error:
        raise Absent(f"mmdet is not importable ({error})") from None
    theirs = source(backbone)
    name, dilated = network_and_dilation(backbone)
    depth = int(re.search(r"(?:resnet|resnext)(\d+)", name)[1])
    strides, dilations = [1], [1]
    for removed in dilated:
        strides.append(1 if removed else 2)
        dilations.append(dilations[-1] * (2 if removed else 1))
    arguments = dict(depth=depth, strides=strides, dilations=dilations, out_indices=(0, 1, 2, 3), style="pytorch",
                     frozen_stages=1 if freeze else -1, norm_cfg=dict(type="BN", requires_grad=False), norm_eval=True)  # fmt: skip
    if theirs.layer1[0].conv2.groups > 1:
        first = theirs.layer1[0].conv2
        network = ResNeXt(groups=first.groups, base_width=first.out_channels // first.groups, **arguments)
    else:
        network = ResNet(**arguments)
    for name in network.res_layers:  # mmdet dilates a stage's first block like the others; the work here is the reference's
        conv, own = (layers.get_submodule(name)[0].conv2 for layers in (network, theirs))
        conv.dilation, conv.padding = own.dilation, own.padding
    network.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, strict=False)
    return Renamed(network, list(LAYERS.values()))


BACKBONE_PEERS: dict[str, Callable[[str, bool], nn.Module]] = {
    "torchvision": torchvision_backbone,
    "timm": timm_backbone,
    "detectron2": detectron2_backbone,
    "mmdet": mmdet_backbone,
}


DETECTOR_PEERS = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}


def torchvision_detector(kind: str, backbone: str, min_size: int, max_size: int, num_classes: int) -> nn.Module:
    """torchvision's detector on its FPN, frozen norm, stem and C2 fixed, as from pretrained weights."""
    network = source(backbone)
    frozen_parts([network.conv1, network.layer1], True)
    widths = [layer[-1].conv2.out_channels if not hasattr(layer[-1], "conv3") else layer[-1].conv3.out_channels
              for layer in (network.layer1, network.layer2, network.layer3, network.layer4)]  # fmt: skip
    pyramid = BackboneWithFPN(network, {key: str(i) for i, key in enumerate(LAYERS)}, widths, 256)
    torch.manual_seed(1)
    return DETECTOR_PEERS[kind](pyramid, num_classes, min_size=min_size, max_size=max_size)


def detector_state(theirs: nn.Module) -> dict[str, Tensor]:
    """Its weights under the keys of this package's detectors."""
    return {k: v for k, v in torchvision_state(theirs.state_dict()).items() if not k.startswith("backbone.fc.")}
