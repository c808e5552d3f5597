"""Record what detectron2 and mmdetection compute for weights and inputs that can be rebuilt from README.md.

    python tests/oracles/make_oracles.py OUT_FOLDER --detectron2-configs DIR

needs both libraries, and with `--only detectron2` or `--only mmdet` one of them. DIR is the folder `configs` of
detectron2's sources.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from helpers import oracle_tensor, thinned  # noqa: E402

BACKBONE_SIZE = (97, 130)  # not a multiple of any stride
DETECTOR_SIZE = (160, 224)
DETECTOR_BOXES = [[3.0, 5, 70, 90], [10, 20, 200, 150], [100.5, 30.25, 130.75, 60.5], [0, 0, 224, 160]]
NUM_ANCHORS = 64  # kept per level
NECK_CHANNELS, NECK_STRIDES = (256, 512, 1024, 2048), (4, 8, 16, 32)

DETECTRON2_LEVELS = ["res2", "res3", "res4", "res5"]
DETECTRON2_BACKBONES = {  # options below MODEL.RESNETS
    "r18": dict(DEPTH=18, RES2_OUT_CHANNELS=64),
    "r50_pytorch": dict(DEPTH=50, STRIDE_IN_1X1=False),
    "r50_caffe": dict(DEPTH=50, STRIDE_IN_1X1=True),
    "r101_dc5_caffe": dict(DEPTH=101, STRIDE_IN_1X1=True, RES5_DILATION=2),
    "x101_32x8d": dict(DEPTH=101, STRIDE_IN_1X1=False, NUM_GROUPS=32, WIDTH_PER_GROUP=8),
}
DETECTRON2_DETECTORS = {
    "mask_rcnn_r50_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn_r50_dc5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml",
    "mask_rcnn_r50_c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
}
MMDET_BACKBONES = {
    "r50_pytorch": dict(type="ResNet", depth=50, style="pytorch"),
    "r50_caffe": dict(type="ResNet", depth=50, style="caffe"),
    "r50_dc5_caffe": dict(type="ResNet", depth=50, style="caffe", strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    "r101_os8_pytorch": dict(type="ResNet", depth=101, style="pytorch", strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    "r50_v1d": dict(type="ResNetV1d", depth=50, style="pytorch"),
    "x101_32x8d": dict(type="ResNeXt", depth=101, groups=32, base_width=8, style="pytorch"),
}
MMDET_NECK = dict(in_channels=list(NECK_CHANNELS), out_channels=256, num_outs=5)
MMDET_NECKS = {
    "fpn": dict(type="FPN", **MMDET_NECK),
    "fpn_p6p7_on_input": dict(type="FPN", **MMDET_NECK, start_level=1, add_extra_convs="on_input"),
    "pafpn": dict(type="PAFPN", **MMDET_NECK),
}


def random_image(size: tuple[int, int]) -> Tensor:
    """Return the input of the backbones and detectors: 1 x 3 x H x W."""
    return torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, *size)).astype(np.float32))


def random_features() -> list[Tensor]:
    """Return the inputs of the necks, C2 to C5 of an image of BACKBONE_SIZE."""
    random, (height, width) = np.random.RandomState(11), BACKBONE_SIZE
    shapes = [(1, c, -(-height // stride), -(-width // stride)) for c, stride in zip(NECK_CHANNELS, NECK_STRIDES)]
    return [torch.from_numpy(random.standard_normal(shape).astype(np.float32)) for shape in shapes]


def fill(model: nn.Module) -> dict[str, list[int]]:
    """Give a model the weights of the oracles; return the shape of every key."""
    model.eval()  # in mmdetection it does not return the model
    state = model.state_dict()
    for key, tensor in state.items():
        value = oracle_tensor(key, tuple(tensor.shape))
        if value is not None:
            tensor.copy_(value)
    return {key: list(tensor.shape) for key, tensor in state.items()}


def write(folder: Path, name: str, settings: Mapping, keys: Mapping, outputs: Mapping[str, Tensor]) -> None:
    arrays = {key: (thinned(value) if value.dim() == 4 else value).numpy() for key, value in outputs.items()}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    shapes = {key: list(value.shape) for key, value in outputs.items()}
    facts = {"settings": settings, "keys": keys, "outputs": shapes}
    (folder / f"{name}.json").write_text(json.dumps(facts) + "\n")
    print(name, shapes)


def record_detectron2_backbones(folder: Path) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    for name, options in DETECTRON2_BACKBONES.items():
        options = {"OUT_FEATURES": DETECTRON2_LEVELS, **options}
        cfg = get_cfg()
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        for option, value in options.items():
            setattr(cfg.MODEL.RESNETS, option, value)
        model = build_backbone(cfg)
        keys = fill(model)
        settings = {f"MODEL.RESNETS.{option}": value for option, value in options.items()}
        write(folder, f"detectron2_{name}", settings, keys, model(random_image(BACKBONE_SIZE)))


def record_detectron2_detectors(folder: Path, configs: Path) -> None:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    for name, config in DETECTRON2_DETECTORS.items():
        cfg = get_cfg()
        cfg.merge_from_file(str(configs / config))
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
        keys = fill(model)
        note = "pixel mean/std not applied: the image goes to the backbone as it is"
        write(folder, f"detectron2_{name}", {"config": config, "note": note}, keys, detectron2_outputs(model))


def detectron2_outputs(model: nn.Module) -> dict[str, Tensor]:
    """Return the outputs of every part of a Mask R-CNN before thresholds and NMS."""
    from detectron2.structures import Boxes

    features = model.backbone(random_image(DETECTOR_SIZE))
    outputs = {f"feature_{level}": feature for level, feature in features.items()}
    rpn_features = [features[level] for level in model.proposal_generator.in_features]
    logits, deltas = model.proposal_generator.rpn_head(rpn_features)
    anchors = model.proposal_generator.anchor_generator(rpn_features)
    for index, values in enumerate(zip(logits, deltas)):
        outputs[f"rpn_logits_{index}"], outputs[f"rpn_deltas_{index}"] = values
    for index, boxes in enumerate(anchors):
        outputs[f"anchors_{index}"] = boxes.tensor[:NUM_ANCHORS]
    heads, boxes = model.roi_heads, Boxes(torch.tensor(DETECTOR_BOXES))
    if hasattr(heads, "res5"):  # C4
        box_features = mask_features = heads._shared_roi_transform([features[n] for n in heads.in_features], [boxes])
        box_features = box_features.mean(dim=(2, 3))
    else:
        roi_features = [features[level] for level in heads.box_in_features]
        box_features = heads.box_head(heads.box_pooler(roi_features, [boxes]))
        mask_features = heads.mask_pooler(roi_features, [boxes])
    scores, box_deltas = heads.box_predictor(box_features)
    mask_logits = heads.mask_head.layers(mask_features)
    return outputs | dict(boxes=boxes.tensor, box_scores=scores, box_deltas=box_deltas, mask_logits=mask_logits)


def record_mmdet(folder: Path) -> None:
    import mmdet.models  # noqa: F401  (registers the models)
    from mmdet.registry import MODELS

    for name, settings in MMDET_BACKBONES.items():
        model = MODELS.build(settings | dict(out_indices=(0, 1, 2, 3), frozen_stages=-1, norm_eval=True))
        keys = fill(model)
        features = model(random_image(BACKBONE_SIZE))
        write(
            folder, f"mmdet_{name}", settings, keys, {f"c{i}": feature for i, feature in enumerate(features, start=2)}
        )
    note = "RandomState(11).standard_normal in order c2..c5, sizes ceil(97/s) x ceil(130/s), s = 4 8 16 32"
    for name, settings in MMDET_NECKS.items():
        model = MODELS.build(settings)
        keys = fill(model)
        features = model(random_features())
        outputs = {f"p{i}": feature for i, feature in enumerate(features)}
        write(folder, f"mmdet_{name}", settings | {"inputs": note}, keys, outputs)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_folder", type=Path)
    parser.add_argument("--detectron2-configs", type=Path, help="folder `configs` of detectron2's sources")
    parser.add_argument("--only", choices=("detectron2", "mmdet"), help="record the outputs of one library")
    arguments = parser.parse_args()
    if arguments.only != "mmdet" and arguments.detectron2_configs is None:
        parser.error("detectron2's detectors need --detectron2-configs")
    arguments.out_folder.mkdir(parents=True, exist_ok=True)
    if arguments.only != "mmdet":
        record_detectron2_backbones(arguments.out_folder)
        record_detectron2_detectors(arguments.out_folder, arguments.detectron2_configs)
    if arguments.only != "detectron2":
        record_mmdet(arguments.out_folder)


if __name__ == "__main__":
    main()
