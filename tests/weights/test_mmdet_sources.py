"""mmdetection's detectors, from files as it writes them.

Its heads cannot be run here, so their keys and shapes are compared with those that mmdetection has; backbone and neck
give the outputs that were recorded from it (tests/oracles/README.md).
"""

import numpy as np
import pytest
import torch
from helpers import input_error, oracle, oracle_weights, relative_error, thinned

from detbackbones import build_detector
from detbackbones.weights.detector_sources import is_foreign, read_detector
from detbackbones.weights.mmdet_keys import mmdet_keys

PREPROCESSOR = {  # style -> config
    "pytorch": "dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], "
    "bgr_to_rgb=True, pad_mask=True, pad_size_divisor=32)",
    "caffe": "dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False, "
    "pad_size_divisor=32)",
}
ANCHORS = "dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])"
EXTRACTOR = (
    "dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size={}, sampling_ratio=0), "
    "out_channels=256, featmap_strides=[4, 8, 16, 32])"
)
BOX_HEAD = (
    "dict(type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=8, roi_feat_size=7, num_classes=3, "
    "bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]), "
    "reg_class_agnostic=False, loss_cls=dict(type='CrossEntropyLoss'))"
)
RPN_HEAD = (
    f"dict(type='RPNHead', in_channels=256, feat_channels=256, anchor_generator={ANCHORS}, bbox_coder=dict("
    "type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]))"
)
RCNN_TESTS = (
    "dict(rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0), "
    "rcnn=dict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.5), max_per_img=50, mask_thr_binary=0.5))"
)
MASK_HEAD = (
    f"mask_roi_extractor={EXTRACTOR.format(14)}, mask_head=dict(type='FCNMaskHead', num_convs=2, in_channels=256, "
    "conv_out_channels=8, num_classes=3, loss_mask=dict(type='CrossEntropyLoss'))"
)
RETINA_HEAD = (
    "dict(type='RetinaHead', num_classes=3, in_channels=256, stacked_convs=4, feat_channels=256, anchor_generator="
    "dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], "
    "strides=[8, 16, 32, 64, 128]), loss_cls=dict(type='FocalLoss'))"
)
RETINA_TESTS = (
    "dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)"
)
KEYS = {  # of each detector's heads in mmdetection, with shapes
    "faster_rcnn": {
        "rpn_head.rpn_conv.weight": (256, 256, 3, 3),
        "rpn_head.rpn_cls.weight": (3, 256, 1, 1),
        "rpn_head.rpn_reg.bias": (12,),
        "roi_head.bbox_head.shared_fcs.0.weight": (8, 12544),
        "roi_head.bbox_head.shared_fcs.1.bias": (8,),
        "roi_head.bbox_head.fc_cls.weight": (4, 8),
        "roi_head.bbox_head.fc_reg.weight": (12, 8),
    },
    "mask_rcnn": {
        "roi_head.mask_head.convs.1.conv.weight": (8, 8, 3, 3),
        "roi_head.mask_head.upsample.weight": (8, 8, 2, 2),
        "roi_head.mask_head.conv_logits.weight": (3, 8, 1, 1),
    },
    "retinanet": {
        "bbox_head.cls_convs.3.conv.weight": (256, 256, 3, 3),
        "bbox_head.reg_convs.0.conv.bias": (256,),
        "bbox_head.retina_cls.weight": (27, 256, 3, 3),
        "bbox_head.retina_reg.weight": (36, 256, 3, 3),
    },
}


def config_text(kind: str, style: str, **changes: str) -> str:
    """Return the text of a config as mmdetection 3 writes it; `changes` replace parts of it."""
    parts = {
        "backbone": f"dict(type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1, norm_cfg="
        f"dict(type='BN', requires_grad={style == 'pytorch'}), norm_eval=True, style='{style}', init_cfg=dict(a=1))",
        "neck": "dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5)",
        "data_preprocessor": PREPROCESSOR[style],
    }
    if kind == "retinanet":
        neck = parts["neck"][:-1] + ", start_level=1, add_extra_convs='on_input')"
        parts |= {"type": "'RetinaNet'", "neck": neck, "bbox_head": RETINA_HEAD, "test_cfg": RETINA_TESTS}
    else:
        masks = f", {MASK_HEAD}" if kind == "mask_rcnn" else ""
        heads = f"dict(type='StandardRoIHead', bbox_roi_extractor={EXTRACTOR.format(7)}, bbox_head={BOX_HEAD}{masks})"
        name = "'MaskRCNN'" if masks else "'FasterRCNN'"
        parts |= {"type": name, "rpn_head": RPN_HEAD, "roi_head": heads, "test_cfg": RCNN_TESTS}
    parts |= changes
    pipeline = "[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1000, 600), keep_ratio=True)]"
    model = ", ".join(f"{name}={value}" for name, value in parts.items())
    return f"dataset_type = 'CocoDataset'\nmodel = dict({model}, train_cfg=dict(a=1))\ntest_pipeline = {pipeline}\n"


def write(path, text, state, **meta):
    torch.save({"meta": {"cfg": text, "epoch": 12} | meta, "state_dict": state, "message_hub": None}, path)
    return str(path)


def random_state(tmp_path, kind, style):
    """Return random weights under mmdetection's keys."""
    source = read_detector(write(tmp_path / "empty.pth", config_text(kind, style), {k: torch.zeros(1) for k in ANY}))
    with torch.device("meta"):
        shapes = build_detector(source.model, load_weights=False).state_dict()
    keys = mmdet_keys(source.model, is_bgr=style == "caffe")
    return keys, keys.export({key: torch.rand(value.shape) for key, value in shapes.items()})


def test_only_the_first_convolution_of_a_deep_stem_is_reversed():
    model = {"type": "retinanet", "neck": {"type": "identity"}}
    state = {"backbone.stem.0.weight": torch.rand(4, 3, 3, 3), "backbone.stem.1.weight": torch.rand(4)}
    found = mmdet_keys(model, is_bgr=True).convert(state)
    assert torch.equal(found["backbone.conv1.0.weight"], state["backbone.stem.0.weight"].flip(1))
    assert any(torch.equal(value, state["backbone.stem.1.weight"]) for value in found.values() if value.ndim == 1)


ANY = ("neck.lateral_convs.0.conv.weight",)  # tells that a file is mmdetection's


@pytest.mark.parametrize("kind,style", [("mask_rcnn", "caffe"), ("retinanet", "pytorch"), ("faster_rcnn", "pytorch")])
def test_keys_shapes_and_order(tmp_path, kind, style):
    keys, state = random_state(tmp_path, kind, style)
    expected = KEYS["faster_rcnn"] | KEYS["mask_rcnn"] if kind == "mask_rcnn" else KEYS[kind]
    for key, shape in expected.items():
        assert state[key].shape == shape, key
    assert all(key.startswith(("backbone.", "neck.", "rpn_head.", "roi_head.", "bbox_head.")) for key in state)
    path = write(tmp_path / "epoch_12.pth", config_text(kind, style), state, dataset_meta={"classes": ("a", "b", "c")})
    assert is_foreign(path)
    source = read_detector(path)
    detector = build_detector(weights=path)
    ours = detector.state_dict()
    assert torch.equal(ours["backbone.conv1.weight"], state["backbone.conv1.weight"].flip(1) if style == "caffe" else
                       state["backbone.conv1.weight"])  # fmt: skip
    if kind != "retinanet":
        rows = state["roi_head.bbox_head.fc_cls.weight"]  # the background is their last row, and our first
        assert torch.equal(ours["roi_heads.box_predictor.cls_score.weight"], rows[[3, 0, 1, 2]])
        deltas = ours["roi_heads.box_predictor.bbox_pred.weight"].unflatten(0, (4, 4))
        assert torch.equal(deltas[1:].flatten(0, 1), state["roi_head.bbox_head.fc_reg.weight"])
        assert detector.roi_heads.score_thresh == 0.1 and detector.roi_heads.detections_per_img == 50
    back = keys.export(ours)
    assert all(torch.equal(back[key], value) for key, value in state.items() if "num_batches_tracked" not in key)
    assert (source.short_side, source.long_side) == (600, 1000)
    assert source.metadata["category_names"] == ["a", "b", "c"]
    assert source.card.stride_in_1x1 == (style == "caffe")
    assert detector.backbone.preprocess.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("style", ["caffe", "pytorch"])
@torch.inference_mode()
def test_backbone_and_neck_give_the_recorded_outputs(oracles, tmp_path, style):
    facts, expected = oracle(oracles, f"mmdet_r50_{style}")
    neck_facts, neck_expected = oracle(oracles, "mmdet_fpn")
    _, state = random_state(tmp_path, "faster_rcnn", style)
    state |= {f"backbone.{key}": value for key, value in oracle_weights(facts["keys"]).items()}
    state |= {f"neck.{key}": value for key, value in oracle_weights(neck_facts["keys"]).items()}
    detector = build_detector(weights=write(tmp_path / "a.pth", config_text("faster_rcnn", style), state)).eval()
    image = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, 97, 130)).astype(np.float32))
    features = detector.backbone(image.flip(1) if style == "caffe" else image)
    errors = [relative_error(thinned(features[name]), value) for name, value in expected.items()]
    assert max(errors) <= 1e-5 and len(errors) == 4
    random = np.random.RandomState(11)
    maps = {
        spec.name: torch.from_numpy(
            random.standard_normal((1, spec.channels, -(-97 // spec.stride), -(-130 // spec.stride))).astype(np.float32)
        )
        for spec in detector.backbone.feature_specs
    }
    outputs = detector.neck(maps)
    errors = [relative_error(thinned(a), b) for a, b in zip(outputs.values(), neck_expected.values(), strict=True)]
    assert max(errors) <= 1e-5


REFUSED = {
    "model.type='CascadeRCNN'": {"type": "'CascadeRCNN'"},
    "model.backbone.type='SwinTransformer'": {"backbone": "dict(type='SwinTransformer')"},
    "model.backbone.dcn": {"backbone": "dict(type='ResNet', depth=50, dcn=dict(type='DCN'))"},
    "model.neck.type='PAFPN'": {"neck": "dict(type='PAFPN', in_channels=[1], out_channels=256, num_outs=5)"},
    "model.rpn_head.anchor_generator.type": {"rpn_head": RPN_HEAD.replace("'Anchor", "'LegacyAnchor")},
    "model.test_cfg.rcnn.nms.type='soft_nms'": {
        "test_cfg": RCNN_TESTS.replace("type='nms', iou_threshold=0.5", "type='soft_nms', iou_threshold=0.5")
    },
    "model.semantic_head": {"semantic_head": "dict(type='FusedSemanticHead')"},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_supported_is_refused_by_name(tmp_path, words):
    text = config_text("faster_rcnn", "pytorch", **REFUSED[words])
    with input_error("a.pth", words):
        read_detector(write(tmp_path / "a.pth", text, {k: torch.zeros(1) for k in ANY}))


def test_the_config_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "import os\nos.system('touch PAYLOAD')\nmodel = dict(type=open('PAYLOAD', 'w'))\n"
    text += f"data_preprocessor = {PREPROCESSOR['pytorch']}\n"
    with input_error("a.pth", "model.type"):
        read_detector(write(tmp_path / "a.pth", text, {k: torch.zeros(1) for k in ANY}))
    assert not (tmp_path / "PAYLOAD").exists()
    with input_error("a.pth", "without the text of its config"):
        read_detector(write(tmp_path / "a.pth", None, {k: torch.zeros(1) for k in ANY}))
