"""Forms and hard inputs of the detectors. Geometry, and equality with torchvision and detectron2, have files of their own."""

import copy

import pytest
import torch
from helpers import objects, randomise, relative_error
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads

from detbackbones import InputError, build_backbone, build_detector, list_backbones
from detbackbones.layers.norm import convert_norm
from detbackbones.detectors.base import resolve_backbone

COUNTS = dict(rpn_pre_nms_top_n=(200, 100), rpn_post_nms_top_n=(50, 30), box_batch_size_per_image=16)
HEADS = {"faster_rcnn": dict(box_head_dim=32, **COUNTS), "retinanet": {},
         "mask_rcnn": dict(box_head_dim=32, mask_channels=(16, 16), mask_dim=16, **COUNTS)}  # fmt: skip
NARROW = dict(type="fpn", out_channels=32)
FORMS = {
    "fpn": dict(neck=NARROW),
    "pafpn": dict(neck=dict(NARROW, type="pafpn")),
    "dc5": dict(neck="none", out_features=("c5",)),
    "c4": dict(neck="none", out_features=("c4", "c5"), roi_stage="c5"),
    "projected": dict(neck=dict(NARROW, extra_levels="none"), out_features=("c5",)),
}


def form(kind, backbone, name, **arguments):
    """The config of a narrow detector of that form."""
    options = dict(FORMS[name])
    backbone = dict(type=backbone, **({"out_features": options.pop("out_features")} if "out_features" in options else {}))
    return dict(type=kind, backbone=backbone, **{"num_classes": 3, **HEADS[kind], **options, **arguments})


KINDS_AND_FORMS = [(kind, name) for kind in HEADS for name in FORMS
                   if name not in (("dc5", "c4") if kind == "retinanet" else ("projected",))]  # fmt: skip


@pytest.mark.parametrize("kind,name", KINDS_AND_FORMS)
@pytest.mark.parametrize("backbone", ["resnet18"])
def test_trains_and_detects(kind, name, backbone):
    detector = build_detector(form(kind, backbone, name))
    images = [torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8), torch.rand(3, 64, 50)]
    targets = [objects(3, 70, 90), objects(0, 64, 50)]
    losses = detector.train()(images, targets)
    assert all(torch.isfinite(v) for v in losses.values()) and ("loss_mask" in losses) == (kind == "mask_rcnn")
    sum(losses.values()).backward()
    unused = [n for n, p in detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not unused and detector.backbone.conv1.weight.grad.abs().sum() > 0
    detector.eval()
    if kind == "retinanet":
        detector.score_thresh = 0.0
    with torch.no_grad():
        results = detector(images, output_sizes=[(140, 180), (64, 50)])
    for result, (h, w) in zip(results, [(140, 180), (64, 50)]):
        assert len(result["boxes"]) and result["boxes"].dtype == result["scores"].dtype == torch.float32
        assert (result["boxes"] <= torch.tensor([w, h, w, h]) + 1e-3).all() and result["labels"].max() < 3
        assert (result["scores"].diff() <= 0).all()
        if kind == "mask_rcnn":
            assert result["masks"].shape == (len(result["boxes"]), h, w) and result["masks"].dtype == torch.bool


@pytest.mark.parametrize("kind,name", [("mask_rcnn", "fpn"), ("mask_rcnn", "c4"), ("retinanet", "fpn")])
def test_losses_in_evaluation_mode_and_detections_in_training_mode(kind, name):
    """Without dropout or live statistics both modes say the same; the modes themselves and live statistics stay put."""
    detector = randomise(build_detector(form(kind, "resnet18", name)))
    detector.backbone.requires_grad_(False)
    images, targets = [torch.rand(3, 64, 96)], [objects(3, 64, 96)]
    outcomes = []
    for training in (False, True):
        detector.train(training)
        if training:
            for module in detector.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        modes = [m.training for m in detector.modules()]
        torch.manual_seed(1)
        losses, found = detector.losses(images, targets), detector.detect(images)
        assert [m.training for m in detector.modules()] == modes
        outcomes.append((losses, found))
    (a, found_a), (b, found_b) = outcomes
    assert a.keys() == b.keys() and all(torch.isfinite(v) and v > 0 for v in a.values())
    if kind == "retinanet":  # nothing is sampled
        for key in a:
            torch.testing.assert_close(a[key], b[key])
    torch.testing.assert_close(found_a[0]["boxes"], found_b[0]["boxes"])
    before = copy.deepcopy(detector.eval().state_dict())
    detector.losses(images, targets)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())  # a validation loss changes nothing
    with pytest.raises(ValueError, match="training needs targets"):
        detector.train()(images)


HARD = {"black": (3, 64, 64), "1x1": (3, 1, 1), "tall": (3, 5000, 40), "wide": (3, 40, 5000)}


@pytest.mark.parametrize("shape", HARD.values(), ids=HARD)
@pytest.mark.parametrize("kind,name", [("mask_rcnn", "fpn"), ("mask_rcnn", "dc5"), ("mask_rcnn", "c4"), ("retinanet", "fpn")])
def test_hard_inputs(kind, name, shape):
    """Black, 1x1, 5000x40: with one object as large as the image and with none, classes that never occur."""
    detector = build_detector(form(kind, "resnet18", name, num_classes=7))
    image, (h, w) = torch.zeros(shape, dtype=torch.uint8), shape[1:]
    whole = dict(objects(1, h, w), boxes=torch.tensor([[0.0, 0.0, w, h]]))
    with torch.no_grad():
        for training, target in ((True, whole), (False, objects(0, h, w))):
            losses = detector.train(training).losses([image] * (2 if h == 1 else 1), [target] * (2 if h == 1 else 1))
            assert all(torch.isfinite(v) for v in losses.values()), losses
        assert all(torch.isfinite(v).all() for v in detector.state_dict().values())
        (result,) = detector.detect([image])
    assert torch.isfinite(result["boxes"]).all() and (result["boxes"] <= torch.tensor([w, h, w, h]) + 1e-2).all()
    assert detector.detect([]) == []


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("name", ["fpn", "c4"])
def test_zero_proposals(kind, name):
    detector = build_detector(form(kind, "resnet18", name, rpn_post_nms_top_n=(0, 0)))
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 64)]
    for training in (True, False):
        detector.train(training)
        for targets in ([objects(0, 32, 32), objects(0, 32, 64)], [objects(0, 32, 32), objects(2, 32, 64)]):
            assert all(torch.isfinite(v) for v in detector.losses(images, targets).values())
    assert all(torch.isfinite(v).all() for v in detector.state_dict().values())
    with torch.no_grad():
        results = detector.eval().detect(images)
    assert [len(r["boxes"]) for r in results] == [0, 0] and results[0]["boxes"].shape == (0, 4)
    assert kind == "faster_rcnn" or results[1]["masks"].shape == (0, 32, 64)


@pytest.mark.parametrize("kind,name", [("mask_rcnn", "fpn"), ("retinanet", "fpn")])
def test_targets_that_do_not_fit_are_named(kind, name):
    detector = build_detector(form(kind, "resnet18", name))
    image = torch.rand(3, 64, 64)
    good = objects(1, 64, 64)
    for target, message in ((dict(good, labels=torch.tensor([3])), r"outside 0 \.\. 2"),
                            (dict(good, boxes=torch.tensor([[5.0, 5, 5, 9]])), "box without area"),
                            (dict(good, boxes=torch.zeros(1, 5)), "N x 4 boxes")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            detector.losses([image], [target])
    with pytest.raises(ValueError, match=r"1 image\(s\) but 2"):
        detector.losses([image], [good, good])
    with pytest.raises(ValueError, match="C x H x W"):
        detector.detect([torch.rand(1, 3, 64, 64)])
    with pytest.raises(ValueError, match=r"\(3, 0, 64\)"):
        detector.detect([torch.rand(3, 0, 64)])


@pytest.mark.parametrize("kind,name", [("mask_rcnn", "fpn"), ("mask_rcnn", "dc5"), ("mask_rcnn", "c4"), ("retinanet", "fpn")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_geometry_is_float32_under_autocast(kind, name, dtype):
    """The same head outputs give bit for bit the same boxes with and without autocast, and everything is float32."""
    few = {} if kind == "retinanet" else dict(rpn_post_nms_top_n=(10, 10), box_detections_per_img=10)
    detector = randomise(build_detector(form(kind, "resnet18", name, **few))).eval()
    image = torch.rand(3, 64, 64)
    if kind == "retinanet":
        detector.score_thresh = 0.0
        head, anchors = detector.head, detector.anchor_generator
    else:
        head, anchors = detector.rpn.head, detector.rpn.anchor_generator
    seen = []
    head.register_forward_hook(lambda _, __, out: seen.append(out))
    anchors.register_forward_hook(lambda _, __, out: seen.append(out))
    proposals = []
    if kind != "retinanet":
        detector.rpn.register_forward_hook(lambda _, __, out: proposals.append(out[0][0]))
        detector.roi_heads.box_predictor.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), torch.autocast("cpu", dtype):
        inside = detector.detect([image])[0]
    tensors = [t for out in seen for t in (out.values() if isinstance(out, dict) else torch.utils._pytree.tree_leaves(out))]
    assert tensors and all(t.dtype == torch.float32 for t in tensors)
    assert all(p.dtype == torch.float32 for p in proposals) and inside["boxes"].dtype == inside["scores"].dtype == torch.float32
    head_out, anchors_out = seen[0], seen[1]
    with torch.no_grad():  # replay the recorded outputs without autocast
        replay = iter([head_out])
        head.forward = lambda *_: next(replay)
        if kind != "retinanet":
            box_out = seen[2]
            detector.roi_heads.box_predictor.forward = lambda *_: box_out
        features = detector.neck(detector.backbone(detector.batch([image]).tensors))
        outside = detector.head_detections(features, detector.batch([image]))[0]
    assert len(inside["boxes"]) and all(torch.equal(inside[key], outside[key]) for key in ("boxes", "scores"))
    assert torch.equal(inside["labels"] + detector.first_label, outside["labels"])
    assert torch.equal(seen[-1][0] if kind == "retinanet" else anchors_out[0], anchors_out[0])
    if proposals:
        assert torch.equal(proposals[0], proposals[1])


def test_half_precision_decoding_would_move_boxes():
    """What the float32 heads prevent: torchvision's coder follows the dtype of the deltas."""
    boxes = torch.tensor([[600.0, 300, 1100, 700]])
    deltas = torch.tensor([[0.31, 0.17, 0.2, -0.1]])
    exact, half = (BoxCoder((1.0,) * 4).decode(d, [boxes]).float() for d in (deltas, deltas.bfloat16()))
    assert (exact - half).abs().max() > 1


@pytest.mark.parametrize("kind,name", KINDS_AND_FORMS)
def test_the_first_image_decides_nothing(kind, name):
    detector = randomise(build_detector(form(kind, "resnet18", name))).eval()
    if kind == "retinanet":
        detector.score_thresh = 0.0
    fresh = copy.deepcopy(detector)
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        detector.detect([torch.rand(3, 100, 3000)])  # from which torchvision infers wrong RoI scales for good
        after, expected = detector.detect([image])[0], fresh.detect([image])[0]
    assert len(after["boxes"]) and all(torch.equal(after[key], expected[key]) for key in expected)


@pytest.mark.parametrize("kind,name", KINDS_AND_FORMS)
def test_detections_do_not_depend_on_the_batch(kind, name):
    detector = randomise(build_detector(form(kind, "resnet18", name))).eval()
    if kind == "retinanet":
        detector.score_thresh = 0.0
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    with torch.no_grad():
        together, alone = detector.detect(images), [detector.detect([image])[0] for image in images]
    for a, b in zip(together, alone):
        assert len(a["boxes"]) == len(b["boxes"]) > 0 and torch.equal(a["labels"], b["labels"])
        assert relative_error(a["boxes"], b["boxes"]) <= 1e-4 and relative_error(a["scores"], b["scores"]) <= 1e-4
        if kind == "mask_rcnn":
            assert (a["masks"] != b["masks"]).float().mean() <= 1e-3


def test_the_stage_has_one_owner():
    detector = build_detector(form("mask_rcnn", "resnet50", "c4"))
    keys = list(detector.state_dict())
    assert not [k for k in keys if "layer4" in k] and len([k for k in keys if ".stage." in k]) == 60
    twin = copy.deepcopy(detector)
    assert twin.roi_heads.mask_roi_pool.__self__ is twin.roi_heads is not detector.roi_heads
    assert detector.backbone.size_divisor == 16 and [s.name for s in detector.backbone.feature_specs] == ["c4"]


@pytest.mark.parametrize("mode", [True, False])
def test_masks_train_on_what_the_stage_made_for_boxes(mode):
    """Losses and gradients are those of torchvision's heads, which run the stage on the objects' RoIs again."""
    detector = convert_norm(build_detector(form("mask_rcnn", "resnet18", "c4")), "frozen").train(mode)
    heads, calls, found = detector.roi_heads, [], []
    heads.box_head.stage.register_forward_hook(lambda *_: calls.append(1))
    images, targets = [torch.rand(3, 70, 90), torch.rand(3, 64, 50)], [objects(3, 70, 90), objects(2, 64, 50)]

    def run():
        torch.manual_seed(0)
        losses = detector.losses(images, targets)
        parameters = [p for p in detector.parameters() if p.requires_grad]
        found.append((losses, torch.autograd.grad(sum(losses.values()), parameters)))

    run()
    assert len(calls) == 1 and heads.box_head.made is None
    heads.__class__, heads.mask_roi_pool, heads.mask_head = RoIHeads, heads.mask_pooler, heads.box_head.stage
    run()
    assert len(calls) == 3
    (losses, gradients), (theirs, their_gradients) = found
    assert all(relative_error(losses[name], theirs[name]) <= 1e-5 for name in theirs) and losses["loss_mask"] > 0
    assert all(relative_error(a, b) <= 1e-4 for a, b in zip(gradients, their_gradients))


def test_masks_of_another_pool_size_run_the_stage_themselves():
    detector = build_detector(form("mask_rcnn", "resnet18", "c4", mask_pool_size=8)).train()
    calls = []
    detector.roi_heads.box_head.stage.register_forward_hook(lambda _, pooled, __: calls.append(pooled[0].shape[-1]))
    detector.losses([torch.rand(3, 64, 64)], [objects(2, 64, 64)])
    assert calls == [14, 8]


def test_freeze_and_norm_follow_from_weights():
    assert resolve_backbone("resnet50") == dict(type="resnet50", norm="batch", freeze=0)
    started = resolve_backbone(dict(type="resnet50", weights="torchvision:IMAGENET1K_V1"))
    assert (started["norm"], started["freeze"]) == ("frozen", 2)
    assert resolve_backbone(dict(started, freeze=0, norm="batch"))["freeze"] == 0


def test_a_frozen_stage_stays_frozen_with_its_new_owner(tmp_path):
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "weights.pth")
    cfg = form("faster_rcnn", "resnet18", "c4")
    cfg["backbone"].update(weights=str(tmp_path / "weights.pth"), norm="batch", freeze=5)
    stage = build_detector(cfg).train().roi_heads.box_head.stage
    assert not any(p.requires_grad for p in stage.parameters()) and not any(m.training for m in stage.modules())


def test_rebuilding_reads_no_weights():
    """A config with weights rebuilds offline for a checkpoint: same norm, same freezing, nothing read."""
    cfg = form("faster_rcnn", "resnet18", "fpn")
    cfg["backbone"]["weights"] = "nowhere.pth"
    detector = build_detector(cfg, load_weights=False)
    assert not list(detector.backbone.bn1.parameters()) and not detector.backbone.conv1.weight.requires_grad
    with pytest.raises(InputError, match="nowhere.pth"):
        build_detector(cfg)


@pytest.mark.parametrize("name", [n for n in list_backbones() if n != "timm" and not n.endswith("_cifar")])
def test_every_backbone_makes_a_detector(name):
    with torch.device("meta"):
        detector = build_detector(dict(type="mask_rcnn", backbone=name))
        specs = build_backbone(name).feature_specs
    assert [s.stride for s in detector.roi_specs] == [s.stride for s in specs]
    assert detector.rpn.anchor_generator.strides == [s.stride for s in detector.neck.feature_specs]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("suffix", ["", "_dc5", "_dilated"])
@pytest.mark.parametrize("kind,name", KINDS_AND_FORMS)
def test_every_structure_builds(kind, name, backbone, suffix):
    """Full widths, on the meta device; the anchors step by what the backbone declares."""
    cfg = form(kind, backbone + suffix, name)
    full = {k: v for k, v in cfg.items() if k not in HEADS[kind]}
    if isinstance(full["neck"], dict):
        full["neck"] = {k: v for k, v in full["neck"].items() if k != "out_channels"}
    with torch.device("meta"):
        detector = build_detector(full)
    anchors = detector.anchor_generator if kind == "retinanet" else detector.rpn.anchor_generator
    deepest = {"": 32, "_dc5": 16, "_dilated": 8}[suffix]
    own = [s.stride for s in detector.backbone.feature_specs]
    assert own[-1] == (min(16, deepest) if name == "c4" else deepest)
    assert anchors.strides[: len(own)] == own
    if name in ("dc5", "c4", "projected"):
        assert anchors.num_anchors_per_location() == [45 if kind == "retinanet" else 15]


@pytest.mark.parametrize("cfg,message", [
    (dict(type="mask_rcn", backbone="resnet18"), "did you mean mask_rcnn"),
    (dict(type="mask_rcnn", backbone="resnet18", neck="fpm"), "did you mean fpn"),
    (dict(type="mask_rcnn", backbone="resnet18", box_scor_thresh=0.1), "did you mean box_score_thresh"),
    (dict(type="faster_rcnn", backbone="resnet18", mask_dim=3), "no argument 'mask_dim'"),
    (dict(type="faster_rcnn", backbone="resnet18", num_classes=0), "num_classes counts the foreground classes"),
    (dict(type="faster_rcnn", backbone="resnet18", neck="none"), r"neck 'none' hands on different widths \(c2 64, c3 128"),
    (dict(type="retinanet", backbone="resnet18", neck=dict(type="none")), "neck 'none' hands on different widths"),
    (dict(type="faster_rcnn", backbone="resnet18", anchor_sizes=[[32], [64]]), r"2 entries, but anchors sit on 5 levels \(p2"),
    (dict(type="retinanet", backbone="resnet18", anchor_sizes=[[3]] * 4 + [[1, 2]]), r"not \[1, 1, 1, 1, 2\]"),
    (dict(type="faster_rcnn", backbone="resnet18", roi_features=("p2", "p7")), "roi_features names 'p7', which the neck"),
    (dict(type="faster_rcnn", backbone="resnet18", roi_stage="c5"), "goes on from c4 with 256 channels, but RoIs come from p2"),
    (dict(type="faster_rcnn", backbone=dict(type="resnet18", out_features=("c4",)), neck="none", roi_stage="c5"),
     "deepest stage, c4"),
    (dict(type="retinanet", backbone="resnet18", box_loss="gioo"), "did you mean giou"),
    (dict(type="mask_rcnn", backbone="resnet18", head_norm="bach"), "did you mean batch"),
])  # fmt: skip
def test_parts_that_disagree_are_named(cfg, message):
    with pytest.raises(InputError, match=message):
        build_detector(cfg)


def test_an_image_may_want_a_gradient():
    detector = build_detector(form("faster_rcnn", "resnet18", "fpn")).eval()
    images = [torch.rand(3, 64, 96, requires_grad=True), torch.rand(3, 50, 64, requires_grad=True)]
    sum(detector.losses(images, [objects(2, 50, 64)] * 2).values()).backward()
    assert all(image.grad.abs().sum() > 0 for image in images)
