"""Table of the weights that detectron2 and OpenMMLab publish for the ResNet family, with what they mean.

torchvision and timm carry such a table themselves, see `named_sources.py`. The meanings are those of the configs that
these libraries train with: detectron2's `configs/` and mmdetection's `configs/`.
"""

from dataclasses import replace

from .cards import IMAGENET_MEAN, IMAGENET_STD, WeightCard

FACEBOOK = "https://dl.fbaipublicfiles.com"
OPENMMLAB = "https://download.openmmlab.com"
UNIT_STD = (1 / 255,) * 3
CAFFE_MEAN = tuple(value / 255 for value in (122.7717, 115.9465, 102.9801))  # of Detectron

# how images are fed
RGB = dict(channel_order="RGB", mean=IMAGENET_MEAN, std=IMAGENET_STD)
BGR = dict(channel_order="BGR", mean=IMAGENET_MEAN, std=UNIT_STD, input_range=255.0)
BGR_SCALED = BGR | dict(std=IMAGENET_STD)
BGR_DETECTRON = BGR | dict(mean=CAFFE_MEAN)
# place of the stride
CAFFE, PYTORCH = dict(stride_in_1x1=True), dict(stride_in_1x1=False)
MSRA = dict(licence="MIT", published_url="https://github.com/KaimingHe/deep-residual-networks")
APACHE = dict(licence="Apache-2.0")
ZOO = "https://github.com/facebookresearch/{}/blob/main/MODEL_ZOO.md"  # says the licence
FAIR = dict(licence="CC-BY-SA-3.0", published_url=ZOO.format("detectron2"))
FAIR_DETECTRON = FAIR | dict(published_url=ZOO.format("Detectron"))

# name -> path of the file, backbone, settings
DETECTRON2 = {
    "MSRA/R-50": ("detectron2/ImageNetPretrained/MSRA/R-50.pkl", "resnet50", BGR | CAFFE | MSRA),
    "MSRA/R-101": ("detectron2/ImageNetPretrained/MSRA/R-101.pkl", "resnet101", BGR | CAFFE | MSRA),
    "FAIR/X-101-32x8d": (
        "detectron2/ImageNetPretrained/FAIR/X-101-32x8d.pkl",
        "resnext101_32x8d",
        BGR_SCALED | PYTORCH | FAIR,
    ),
    "torchvision/R-50": ("detectron2/ImageNetPretrained/torchvision/R-50.pkl", "resnet50", RGB | PYTORCH),
    "torchvision/R-101": ("detectron2/ImageNetPretrained/torchvision/R-101.pkl", "resnet101", RGB | PYTORCH),
}
CAFFE2 = {  # Detectron's, whose norms are folded into an affine map
    "MSRA/R-50": ("detectron/ImageNetPretrained/MSRA/R-50.pkl", "resnet50", BGR_DETECTRON | CAFFE | MSRA),
    "MSRA/R-101": ("detectron/ImageNetPretrained/MSRA/R-101.pkl", "resnet101", BGR_DETECTRON | CAFFE | MSRA),
    "FAIR/R-50-GN": (
        "detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
        "resnet50",
        BGR_DETECTRON | PYTORCH | FAIR_DETECTRON,
    ),
    "FAIR/R-101-GN": (
        "detectron/ImageNetPretrained/47592356/R-101-GN.pkl",
        "resnet101",
        BGR_DETECTRON | PYTORCH | FAIR_DETECTRON,
    ),
    "FAIR/X-101-32x8d": (
        "detectron/ImageNetPretrained/20171220/X-101-32x8d.pkl",
        "resnext101_32x8d",
        BGR_DETECTRON | PYTORCH | FAIR_DETECTRON,
    ),
    "FAIR/X-101-64x4d": (
        "detectron/ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
        "resnext101_64x4d",
        BGR_DETECTRON | PYTORCH | FAIR_DETECTRON,
    ),
    "FAIR/X-152-32x8d-IN5k": (
        "detectron/ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl",
        "resnext152_32x8d",
        BGR_DETECTRON | PYTORCH | FAIR_DETECTRON,
    ),
}
OPEN_MMLAB = {
    "detectron/resnet50_caffe": ("resnet50_caffe-788b5fa3.pth", "resnet50", BGR_DETECTRON | CAFFE | MSRA),
    "detectron/resnet101_caffe": ("resnet101_caffe-3ad79236.pth", "resnet101", BGR_DETECTRON | CAFFE | MSRA),
    "detectron2/resnet50_caffe": ("resnet50_msra-5891d200.pth", "resnet50", BGR | CAFFE | MSRA),
    "detectron2/resnet101_caffe": ("resnet101_msra-6cc46731.pth", "resnet101", BGR | CAFFE | MSRA),
    "detectron2/resnext101_32x8d": (
        "resnext101_32x8d-1516f1aa.pth",
        "resnext101_32x8d",
        BGR_SCALED | PYTORCH | FAIR,
    ),
    "resnext50_32x4d": ("resnext50-32x4d-0ab1a123.pth", "resnext50_32x4d", RGB | PYTORCH | APACHE),
    "resnext101_32x4d": ("resnext101_32x4d-a5af3160.pth", "resnext101_32x4d", RGB | PYTORCH | APACHE),
    "resnext101_64x4d": ("resnext101_64x4d-ee2c6f71.pth", "resnext101_64x4d", RGB | PYTORCH | APACHE),
    "contrib/resnet50_gn": ("resnet50_gn_thangvubk-ad1730dd.pth", "resnet50", RGB | PYTORCH | APACHE),
    "detectron/resnet50_gn": ("resnet50_gn-9186a21c.pth", "resnet50", BGR | PYTORCH | FAIR_DETECTRON),
    "detectron/resnet101_gn": ("resnet101_gn-cac0ab98.pth", "resnet101", BGR | PYTORCH | FAIR_DETECTRON),
}
MMCLS = {
    "resnet18": ("resnet/resnet18_8xb32_in1k_20210831-fbbb1da6.pth", "resnet18"),
    "resnet34": ("resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth", "resnet34"),
    "resnet50": ("resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth", "resnet50"),
    "resnet101": ("resnet/resnet101_8xb32_in1k_20210831-539c63f8.pth", "resnet101"),
    "resnet152": ("resnet/resnet152_8xb32_in1k_20210901-4d7582fa.pth", "resnet152"),
    "resnet50_v1d": ("resnet/resnetv1d50_b32x8_imagenet_20210531-db14775a.pth", "resnet50d"),
    "resnet101_v1d": ("resnet/resnetv1d101_b32x8_imagenet_20210531-6e13bcd3.pth", "resnet101d"),
    "resnet152_v1d": ("resnet/resnetv1d152_b32x8_imagenet_20210531-278cf22a.pth", "resnet152d"),
    "resnext50_32x4d": ("resnext/resnext50_32x4d_b32x8_imagenet_20210429-56066e27.pth", "resnext50_32x4d"),
    "resnext101_32x4d": ("resnext/resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth", "resnext101_32x4d"),
    "resnext101_32x8d": ("resnext/resnext101_32x8d_b32x8_imagenet_20210506-23a247d5.pth", "resnext101_32x8d"),
}


def _cards(kind: str, library: str, table: dict, base: str) -> dict[str, WeightCard]:
    return {
        name: WeightCard(
            source=f"{kind}:{name}",
            library=library,
            architecture=architecture,
            url=f"{base}/{path}",
            norm_eps=1e-5,
            source_channel_order=settings["channel_order"],
            **settings,
        )
        for name, (path, architecture, settings) in table.items()
    }


_MMCLS_TABLE = {name: (path, architecture, RGB | PYTORCH | APACHE) for name, (path, architecture) in MMCLS.items()}
DETECTRON2_CARDS = _cards("detectron2", "detectron2", DETECTRON2, FACEBOOK)
CAFFE2_CARDS = _cards("caffe2", "caffe2", CAFFE2, FACEBOOK)
OPENMMLAB_CARDS = _cards("openmmlab", "mmdet", OPEN_MMLAB, f"{OPENMMLAB}/pretrain/third_party") | {
    f"mmcls/{name}": replace(card, source=f"openmmlab:mmcls/{name}")
    for name, card in _cards("mmcls", "mmdet", _MMCLS_TABLE, f"{OPENMMLAB}/mmclassification/v0").items()
}
