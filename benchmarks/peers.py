"""Networks of other libraries, each in its own code, with the weights of torchvision's network, the reference.

A backbone peer is a function: reference -> module that maps images N x 3 x H x W to C2 to C5, in a dict or a sequence.
"""

import re
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from ..errors import InputError
from ..layers.norm import convert_norm
from ..registry import BACKBONES, lookup

STAGES = ("layer1", "layer2", "layer3", "layer4")
DILATED_STAGES = {
    "": (False, False, False),
    "_dc5": (False, False, True),
    "_dilated": (False, True, True),
}  # c3, c4, c5
STEM_AND_C2 = ("conv1.", "bn1.", "layer1.", "stem.", "res2.")  # prefixes of names; the last two are detectron2's
DETECTRON2_NAMES = (
    (r"^(conv1|bn1)", r"stem.\1"),
    (r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}"),
    (r"downsample\.0$", "shortcut"),
    (r"downsample\.1$", "shortcut.norm"),
    (r"\bbn(\d)", r"conv\1.norm"),
)


def reference_network(backbone: str) -> nn.Module:
    """Return torchvision's network without classifier, with frozen norms and random weights.

    The norms have the statistics of an image of noise, so that features are as large as after training. With fresh
    statistics they grow from block to block, the RPN's boxes collapse, and a detector has next to nothing to do.
    """
    lookup(BACKBONES, backbone)
    name, suffix = re.fullmatch(r"(.+?)(_dc5|_dilated|)", backbone).groups()
    torch.manual_seed(0)
    norm = partial(nn.BatchNorm2d, momentum=None)  # no running mean: the statistics of the noise alone
    try:
        network = getattr(torchvision.models, name)(
            replace_stride_with_dilation=DILATED_STAGES[suffix], norm_layer=norm
        )
    except (AttributeError, NotImplementedError) as error:
        raise InputError(f"backbone {backbone!r} cannot be compared with torchvision: {error}") from None
    network.fc, network.model_name = nn.Identity(), name
    with torch.no_grad():
        network(torch.randn(1, 3, 256, 256))
    return convert_norm(network, "frozen")


def freeze_stem_and_c2(network: nn.Module) -> nn.Module:
    """Fix the parts that a detector with pretrained weights fixes."""
    for name, parameter in network.named_parameters():
        if name.startswith(STEM_AND_C2):
            parameter.requires_grad_(False)
    return network


def copy_network(reference: nn.Module, network: nn.Module, names: tuple = ()) -> nn.Module:
    """Give a network the weights, strides and dilations of the reference.

    Args:
        names: (pattern, replacement) pairs that turn torchvision's names of modules into those of the network.
    """
    for name, module in reference.named_modules():
        if isinstance(module, (nn.Conv2d, FrozenBatchNorm2d)):
            for pattern, replacement in names:
                name = re.sub(pattern, replacement, name)
            copy = network.get_submodule(name)
            copy.load_state_dict(module.state_dict(), strict=False)  # torchvision's frozen norm does not count batches
            if isinstance(module, nn.Conv2d):
                copy.stride, copy.padding, copy.dilation = module.stride, module.padding, module.dilation
    return network


def timm_backbone(reference: nn.Module) -> nn.Module:
    import timm
    from timm.layers import freeze_batch_norm_2d

    network = timm.create_model(reference.model_name, features_only=True, out_indices=(1, 2, 3, 4))
    return freeze_batch_norm_2d(copy_network(reference, network))


def detectron2_backbone(reference: nn.Module) -> nn.Module:
    from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

    if not hasattr(reference.layer1[0], "conv3"):
        raise NotImplementedError("only networks of bottleneck blocks are compared")
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            len(layer),
            in_channels=layer[0].conv1.in_channels,
            out_channels=layer[0].conv3.out_channels,
            bottleneck_channels=layer[0].conv2.out_channels,
            num_groups=layer[0].conv2.groups,
            norm="FrozenBN",
        )
        for layer in map(reference.get_submodule, STAGES)
    ]
    network = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res2", "res3", "res4", "res5"])
    return copy_network(reference, network, DETECTRON2_NAMES)


def mmdet_backbone(reference: nn.Module) -> nn.Module:
    from mmdet.models.backbones import ResNet, ResNeXt

    depth, conv = int(re.search(r"\d+", reference.model_name)[0]), reference.layer1[0].conv2
    if conv.groups == 1 and conv.out_channels > 64:
        raise NotImplementedError("it has no wide ResNet")
    base_width = conv.out_channels // conv.groups
    build = ResNet if conv.groups == 1 else partial(ResNeXt, groups=conv.groups, base_width=base_width)
    return copy_network(reference, build(depth=depth, norm_cfg=dict(type="BN", requires_grad=False)))


BACKBONE_PEERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torchvision": lambda reference: IntermediateLayerGetter(reference, dict(zip(STAGES, STAGES))),
    "timm": timm_backbone,
    "detectron2": detectron2_backbone,
    "mmdet": mmdet_backbone,
}


def torchvision_detector(detector: str, backbone: str, size: tuple[int, int], num_classes: int) -> nn.Module:
    """Return torchvision's detector on its FPN, stem and C2 fixed."""
    network = reference_network(backbone)
    torch.manual_seed(1)
    pyramid = _resnet_fpn_extractor(network, trainable_layers=3)
    detector_class = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}[detector]
    return detector_class(pyramid, num_classes + 1, min_size=min(size), max_size=max(size))
