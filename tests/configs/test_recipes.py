"""Configs of published trainings: numbers, settings, and the models that the sources trained."""

import ast

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from detbackbones import build_detector
from detbackbones.data.augmentation import apply_transforms, build_transforms
from detbackbones.engine.config import CONFIG_DIR, load_config
from detbackbones.engine.optimization import learning_rate_factor, make_optimizer
from detbackbones.weights.torchvision_detectors import convert_torchvision_detector

TORCHVISION = {
    "faster_rcnn_resnet50_fpn_v2_400ep_coco": ("fasterrcnn_resnet50_fpn_v2", 90),
    "mask_rcnn_resnet50_fpn_v2_400ep_coco": ("maskrcnn_resnet50_fpn_v2", 90),
    "retinanet_resnet50_fpn_v2_26ep_coco": ("retinanet_resnet50_fpn_v2", 91),
}
# name: box AP, mask AP, learning rate, images per step, steps, weight decay, that of norms
RECIPES = {
    "faster_rcnn_resnet50_fpn_v2_400ep_coco": (46.7, None, 0.1, 64, 732_800, 4e-5, None),
    "mask_rcnn_resnet50_fpn_v2_400ep_coco": (47.4, 41.8, 0.1, 64, 732_800, 4e-5, None),
    "retinanet_resnet50_fpn_v2_26ep_coco": (41.5, None, 1e-4, 16, 190_554, 0.05, 0.0),
    "faster_rcnn_resnet50_rsb_fpn_1x_coco": (40.8, None, 2e-4, 16, 87_960, 0.05, 0.0),
    "mask_rcnn_resnet50_rsb_fpn_1x_coco": (41.2, 38.2, 2e-4, 16, 87_960, 0.05, 0.0),
    "mask_rcnn_resnet50_fpn_lsj_100ep_coco": (44.6, 40.3, 0.1, 64, 184_375, 4e-5, 0.0),
    "mask_rcnn_resnet50_fpn_lsj_200ep_coco": (46.3, 41.7, 0.1, 64, 368_750, 4e-5, 0.0),
    "mask_rcnn_resnet50_fpn_lsj_400ep_coco": (47.4, 42.5, 0.1, 64, 737_500, 4e-5, 0.0),
    "mask_rcnn_resnet50_fpn_lsj_copy_paste_270k_coco": (48.3, 42.4, 0.32, 256, 270_000, 4e-5, 0.0),
    "mask_rcnn_resnet50_fpn_gn_scratch_3x_coco": (39.9, 36.6, 0.02, 16, 270_000, 1e-4, 0.0),
    "mask_rcnn_resnet50_fpn_gn_scratch_9x_coco": (43.7, 39.6, 0.08, 64, 202_500, 1e-4, 0.0),
}
SCRATCH = [name for name in RECIPES if "rsb" not in name and "retinanet" not in name]
LSJ = [name for name in RECIPES if "lsj" in name or "400ep" in name]


def build(config, **overrides):
    with torch.device("meta"):
        return build_detector(config.model, load_weights=False, **overrides)


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_are_those_of_the_source(name):
    config = load_config(name)
    box_ap, mask_ap, lr, images, steps, decay, norm_decay = RECIPES[name]
    assert (config.published["box_ap"], config.published["mask_ap"]) == (box_ap, mask_ap)
    assert config.published["source"].startswith("https://github.com/")
    assert (config.optimizer["lr"], config.optimizer["weight_decay"]) == (lr, decay)
    assert config.batch_size == config.reference_batch_size == images
    assert (config.max_iters, config.norm_decay) == (steps, norm_decay)
    assert not config.keep_empty


@pytest.mark.parametrize("name", RECIPES)
def test_the_docstring_says_that_nothing_was_trained(name):
    text = (CONFIG_DIR / f"{name}.py").read_text()
    assert "Not trained here." in ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", RECIPES)
def test_the_learning_rate_falls_to_its_last_step_before_the_end(name):
    config = load_config(name)
    steps, last = config.schedule.steps, config.max_iters - 1
    assert list(steps) == sorted(steps) and steps[-1] < last
    assert config.schedule.warmup_iters < steps[0]
    factor = learning_rate_factor(config.schedule, last, config.max_iters)
    assert factor == pytest.approx(0.1 ** len(steps))
    assert learning_rate_factor(config.schedule, 0, config.max_iters) == config.schedule.warmup_factor


@pytest.mark.parametrize("name", ["100ep", "200ep", "400ep"])
def test_longer_jitter_schedules_scale_with_the_first(name):
    """detectron2 multiplies the steps; its warm-up is a share of the training, so it is multiplied too."""
    first = load_config("mask_rcnn_resnet50_fpn_lsj_100ep_coco")
    config = load_config(f"mask_rcnn_resnet50_fpn_lsj_{name}_coco")
    factor = int(name.removesuffix("ep")) // 100
    assert config.max_iters == factor * first.max_iters
    assert list(config.schedule.steps) == [factor * step for step in first.schedule.steps]
    assert config.schedule.warmup_iters == factor * first.schedule.warmup_iters
    assert config.model == first.model


@pytest.mark.parametrize("name", TORCHVISION)
def test_it_trains_torchvisions_model(name):
    """Parameters and buffers have the names and shapes of the published weights."""
    builder, classes = TORCHVISION[name]
    with torch.device("meta"):
        network = getattr(torchvision.models.detection, builder)(weights=None, weights_backbone=None)
    expected = convert_torchvision_detector(network.state_dict())
    state = build(load_config(name), num_classes=classes).state_dict()
    # what is frozen does not count batches
    expected = {key: value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_it_has_torchvisions_settings(name):
    builder, classes = TORCHVISION[name]
    with torch.device("meta"):
        network = getattr(torchvision.models.detection, builder)(weights=None, weights_backbone=None)
    detector = build(load_config(name), num_classes=classes)
    names = ("score_thresh", "nms_thresh", "detections_per_img")
    if "retinanet" in name:
        pairs = [(detector, network, (*names, "topk_candidates"))]
        pairs.append((detector.head.regression_head, network.head.regression_head, ("_loss_type",)))
    else:
        rpn = ("_pre_nms_top_n", "_post_nms_top_n", "nms_thresh", "score_thresh", "min_size")
        pairs = [(detector.roi_heads, network.roi_heads, names), (detector.rpn, network.rpn, rpn)]
        pooler = detector.roi_heads.box_roi_pool
        assert (pooler.aligned, pooler.sampling_ratio) == (False, network.roi_heads.box_roi_pool.sampling_ratio)
    for ours, theirs, attributes in pairs:
        assert [getattr(ours, a) for a in attributes] == [getattr(theirs, a) for a in attributes]


@pytest.mark.parametrize("name", SCRATCH)
def test_training_from_random_weights_fixes_nothing(name):
    config = load_config(name)
    detector = build(config)
    assert (config.model["backbone"]["weights"], config.model["backbone"]["freeze"]) == (None, 0)
    assert all(parameter.requires_grad for parameter in detector.parameters())
    norm = nn.GroupNorm if "gn" in name else nn.SyncBatchNorm
    heads = [head for head in (detector.roi_heads.box_head, detector.roi_heads.mask_head) if head is not None]
    for part in (detector.backbone, detector.neck, *heads):
        assert any(isinstance(module, norm) for module in part.modules())
        assert not any(isinstance(m, nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d) for m in part.modules())
    box_layers = list(detector.roi_heads.box_head.modules())
    counts = [sum(isinstance(layer, kind) for layer in box_layers) for kind in (nn.Conv2d, nn.Linear)]
    assert counts == [4, 1]
    assert len(detector.rpn.head.conv) == (1 if "gn" in name else 2)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn_v2_26ep_coco", "mask_rcnn_resnet50_fpn_lsj_100ep_coco"])
def test_norms_do_not_decay(name):
    config = load_config(name, {"optimizer.fused": False})
    detector = build(config)
    groups = make_optimizer(config, detector, 1.0).param_groups
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    norms = [m for m in detector.modules() if isinstance(m, nn.SyncBatchNorm | nn.GroupNorm)]
    trained = [p for module in norms for p in module.parameters() if p.requires_grad]
    assert trained and {decay_of[id(parameter)] for parameter in trained} == {0.0}
    assert decay_of[id(detector.backbone.layer4[0].conv1.weight)] == config.optimizer["weight_decay"]


@pytest.mark.parametrize("name", LSJ)
def test_large_scale_jitter_makes_images_of_one_size(name):
    transforms = build_transforms(load_config(name).transforms)
    masks = torch.zeros(2, 60, 80, dtype=torch.uint8)
    masks[0, 10:40, 10:50] = masks[1, 30:60, 40:80] = 1
    target = {"boxes": torch.tensor([[10.0, 10, 50, 40], [40, 30, 80, 60]]), "labels": torch.tensor([1, 2])}
    target |= {"masks": masks} if name.startswith("mask_rcnn") else {}
    scales = set()
    for seed in range(4):
        image, changed = apply_transforms(transforms, torch.full((3, 60, 80), 255, dtype=torch.uint8), target, seed)
        assert image.shape == (3, 1024, 1024)
        assert len(changed["boxes"]) == len(changed["labels"])
        scales.add(float(np.mean(image.numpy() == 255)))
    assert len(scales) == 4


def test_boxes_follow_the_masks_where_the_source_recomputes_them():
    has_step = {name: {"type": "BoxesFromMasks"} in load_config(name).transforms for name in LSJ}
    assert has_step == {name: "lsj" in name for name in LSJ}


def test_only_copy_paste_pastes():
    assert {name for name in RECIPES if load_config(name).copy_paste} == {
        "mask_rcnn_resnet50_fpn_lsj_copy_paste_270k_coco"
    }


def test_resnet_strikes_back_starts_from_its_weights():
    backbone = load_config("mask_rcnn_resnet50_rsb_fpn_1x_coco").model["backbone"]
    assert (backbone["type"], backbone["weights"]) == ("timm:resnet50", "timm:a1_in1k")
    assert (backbone["norm"], backbone["freeze"]) == ("frozen", 2)


def test_every_config_is_tested():
    """A config whose docstring says that it was not trained is one of these."""
    texts = {path.stem: path.read_text() for path in CONFIG_DIR.glob("[!_]*.py")}
    assert {name for name, text in texts.items() if "ot trained here" in text} == set(RECIPES)
