"""torchvision's detectors and ours with the same weights say the same, its published keys included."""

import re
from collections import OrderedDict

import pytest
import torch
import torchvision
from helpers import maps, objects, randomise, relative_error
from torchvision.models.detection.image_list import ImageList

from detbackbones import build_detector
from detbackbones.weights.torchvision_detectors import CLASSES, TORCHVISION_FORMS, is_torchvision_state, torchvision_state
from detbackbones.engine.checkpoint import fine_tune_from, read_start

RCNN = [name for name in TORCHVISION_FORMS if "rcnn" in name]
RETINANET = [name for name in TORCHVISION_FORMS if "retinanet" in name]
SIDE = (128, 256)  # multiples of the deepest stride, 128 of P7: torchvision's inferred strides are true


def pair(name, **arguments):
    """torchvision's detector with random weights as after training, and ours with its state dict."""
    torch.manual_seed(5)
    build = getattr(torchvision.models.detection, name)
    theirs = randomise(build(weights=None, weights_backbone=None, min_size=SIDE[0], max_size=SIDE[1],
                             image_mean=[0, 0, 0], image_std=[1, 1, 1], **arguments))  # fmt: skip
    ours = build_detector(TORCHVISION_FORMS[name])
    ours.load_state_dict(torchvision_state(theirs.state_dict()))
    ours.backbone.preprocess.mean.zero_()
    ours.backbone.preprocess.std.fill_(1)
    return theirs.eval(), ours.eval()


def features(ours, images=2):
    """The same maps under both libraries' names."""
    named = maps(ours.neck.feature_specs, *SIDE, images=images)
    their_names = ["0", "1", "2", "3", "pool"] if len(named) == 5 and "p2" in named else list(named)
    return named, OrderedDict(zip(their_names, named.values()))


def targets(ours, count=3):
    given = [objects(count, *SIDE, classes=90) for _ in range(2)]
    offset = ours.first_label
    return given, [dict(t, labels=t["labels"] + offset, masks=t["masks"].to(torch.uint8)) for t in given]


def same(a, b, tolerance=1e-6):
    """Equal detections, best first. Scores that differ by float noise only may come in either order."""
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert len(y["boxes"]) > 0 and x.keys() == y.keys() and (x["scores"].diff() <= 0).all()
        apart = torch.cdist(x["boxes"], y["boxes"]) + 1e6 * (x["labels"][:, None] != y["labels"])
        partner = apart.argmin(0)
        assert sorted(partner.tolist()) == list(range(len(x["boxes"])))
        for key in y:
            assert x[key].shape == y[key].shape and relative_error(x[key][partner], y[key]) <= tolerance, key


@pytest.mark.parametrize("name", RCNN)
def test_rcnn_heads_on_the_same_features(name):
    """Proposals, detections and masks, then the losses of the same samples. Proposals bit for bit, the rest but for the order of RoIAlign's sums."""
    theirs, ours = pair(name)
    theirs.roi_heads.score_thresh = ours.roi_heads.score_thresh = 0.0
    named, theirs_named = features(ours)
    images = ImageList(torch.zeros(2, 3, *SIDE), [SIDE, (SIDE[0] - 20, SIDE[1] - 30)])
    given, inner = targets(ours)
    with torch.no_grad():
        proposals, expected_proposals = ours.rpn(images, named)[0], theirs.rpn(images, theirs_named)[0]
        assert all(len(a) > 100 and torch.equal(a, b) for a, b in zip(proposals, expected_proposals, strict=True))
        few = [p[:40] for p in proposals]
        found = ours.roi_heads(named, few, images.image_sizes)[0]
        same(found, theirs.roi_heads(theirs_named, few, images.image_sizes)[0], 1e-5)
        for model in (theirs, ours):
            model.roi_heads.fg_bg_sampler.batch_size_per_image = 64
        for model in (theirs.rpn, theirs.roi_heads):
            model.training = True  # that module's own flag: norm layers stay in evaluation mode
        torch.manual_seed(3)
        theirs_proposals, expected = theirs.rpn(images, theirs_named, inner)
        expected |= theirs.roi_heads(theirs_named, theirs_proposals, images.image_sizes, inner)[1]
        torch.manual_seed(3)
        losses = ours.head_losses(named, images, ours.inner_targets(given, images))
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert value > 0 and abs(losses[key] - value) <= 1e-6 * value, key


@pytest.mark.parametrize("name", RETINANET)
def test_retinanet_heads_on_the_same_features(name):
    theirs, ours = pair(name)
    theirs.score_thresh = ours.score_thresh = 0.3
    named, _ = features(ours)
    images = ImageList(torch.zeros(2, 3, *SIDE), [SIDE, (SIDE[0] - 20, SIDE[1] - 30)])
    given, inner = targets(ours)
    with torch.no_grad():
        theirs.backbone.forward = lambda _: named  # its own forward, on these maps
        theirs.transform.forward = lambda images_, targets_=None: (images, targets_)
        theirs.transform.postprocess = lambda found, *_: found
        same(ours.head_detections(named, images), theirs([torch.zeros(3, *SIDE)] * 2))
        levels = list(named.values())
        expected = theirs.compute_loss(inner, theirs.head(levels), theirs.anchor_generator(images, levels))
        losses = ours.head_losses(named, images, ours.inner_targets(given, images))
    assert losses.keys() == expected.keys() and all(torch.equal(losses[k], expected[k]) and losses[k] > 0 for k in expected)


@pytest.mark.parametrize("name", TORCHVISION_FORMS)
def test_end_to_end(name):
    """From images to losses: 1e-5 before a proposal is chosen, 1e-3 after; given torchvision's proposals, 1e-5 again."""
    theirs, ours = pair(name)
    images = [torch.rand(3, *SIDE) for _ in range(2)]
    given, inner = targets(ours)
    rcnn = name in RCNN
    with torch.no_grad():
        batch = ours.batch(images)
        named, theirs_named = ours.neck(ours.backbone(batch.tensors)), theirs.backbone(batch.tensors)
        noise = max(relative_error(a, b) for a, b in zip(named.values(), theirs_named.values(), strict=True))
        if not rcnn:
            maps_ = list(theirs_named.values())
            expected = theirs.compute_loss(inner, theirs.head(maps_), theirs.anchor_generator(batch, maps_))
        else:
            theirs.rpn.training = theirs.roi_heads.training = True
            torch.manual_seed(3)
            proposals, expected = theirs.rpn(batch, theirs_named, inner)
            sampling = torch.get_rng_state()
            expected |= theirs.roi_heads(theirs_named, proposals, batch.image_sizes, inner)[1]
        torch.manual_seed(3)
        losses = ours.losses(images, given)
        errors = {k: (abs(losses[k] - v) / v).item() for k, v in expected.items()}
        print(name, f"features {noise:.1e}", {k: f"{e:.1e}" for k, e in errors.items()})
        assert noise <= 1e-5 and losses.keys() == expected.keys()
        for key, error in errors.items():
            early = not rcnn or key in ("loss_objectness", "loss_rpn_box_reg")
            assert error <= (1e-5 if early else 1e-3), key
        if rcnn:  # the proposals are the cause of the difference: without it there is none
            ours.roi_heads.training = True
            torch.set_rng_state(sampling)
            again = ours.roi_heads(named, proposals, batch.image_sizes, inner)[1]
            assert all(abs(again[k] - expected[k]) <= 1e-5 * expected[k] for k in again)


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_detections_from_images_to_pasted_masks(name):
    """Its whole forward on our features (float noise in them would swap near ties): its boxes, and its masks cut at 0.5."""
    theirs, ours = pair(name)
    if name in RCNN:
        for model in (theirs, ours):
            model.roi_heads.score_thresh, model.roi_heads.detections_per_img = 0.0, 20
    else:
        theirs.score_thresh = ours.score_thresh = 0.3
        theirs.detections_per_img = ours.detections_per_img = 20
    images = [torch.rand(3, *SIDE)]
    names = list(theirs.eval().backbone(torch.zeros(1, 3, *SIDE)))
    theirs.backbone.forward = lambda batch: OrderedDict(zip(names, ours.neck(ours.backbone(batch)).values()))
    with torch.no_grad():
        (a,), (b,) = ours(images), theirs(images)
    assert len(a["boxes"]) == len(b["boxes"]) == 20
    assert torch.equal(a["labels"] + ours.first_label, b["labels"])
    assert relative_error(a["scores"], b["scores"]) <= 1e-5 and relative_error(a["boxes"], b["boxes"]) <= 1e-5
    if "masks" in b:
        assert (a["masks"] != (b["masks"][:, 0] >= 0.5)).float().mean() <= 1e-5 and a["masks"].any()


@pytest.mark.parametrize("name", TORCHVISION_FORMS)
def test_published_keys_load(name, tmp_path):
    """The files on torchvision's server hold keys of before 0.12 for the first forms, and no counters of batches."""
    with torch.device("meta"):
        state = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).state_dict()
    state = {key: torch.randn(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if not name.endswith("_v2"):
        old = ((r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2."), (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
               (r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}."),
               (r"(classification_head|regression_head)\.conv\.(\d)\.0\.",
                lambda m: f"{m[1]}.conv.{2 * int(m[2])}."))  # fmt: skip
        for pattern, replacement in old:
            state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    assert is_torchvision_state(state)
    torch.save(state, tmp_path / "published.pth")
    ours = build_detector(TORCHVISION_FORMS[name])
    assert fine_tune_from(ours, read_start(tmp_path / "published.pth", ["own", "classes"]), "published.pth") == []
    weights = dict(ours.named_parameters())
    assert torch.equal(weights["backbone.layer4.2.conv3.weight"], state["backbone.body.layer4.2.conv3.weight"])
    fpn_key = "backbone.fpn.layer_blocks.3." + ("weight" if not name.endswith("_v2") else "0.weight")
    assert torch.equal(weights["neck.layer_blocks.3.0.weight" if "rcnn" in name else "neck.layer_blocks.2.0.weight"],
                       state[fpn_key if "rcnn" in name else fpn_key.replace("blocks.3", "blocks.2")])  # fmt: skip


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
@pytest.mark.parametrize("names", [["person", "dog", "toothbrush"], ["person", "unicorn"]])
def test_classes_are_taken_by_name(name, names, tmp_path):
    """Classes that COCO has keep their rows; otherwise the class layers start anew, and say so."""
    with torch.device("meta"):
        state = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).state_dict()
    state = {key: torch.randn(value.shape) for key, value in state.items()}
    torch.save(state, tmp_path / "published.pth")
    ours = build_detector(TORCHVISION_FORMS[name], num_classes=len(names))
    anew = fine_tune_from(ours, read_start(tmp_path / "published.pth", names), "published.pth")
    rcnn = name in RCNN
    layer = "roi_heads.box_predictor.bbox_pred" if rcnn else "head.classification_head.cls_logits"
    if "unicorn" in names:
        assert f"{layer}.weight" in anew and len(anew) == (6 if rcnn else 2)
        return
    assert anew == []
    rows = [CLASSES.index(n) for n in names]
    assert rows == [1, 18, 90]  # COCO's ids
    own, theirs = ours.state_dict()[f"{layer}.bias"], state[f"{layer}.bias"]
    if rcnn:
        assert torch.equal(own.view(-1, 4), theirs.view(-1, 4)[[0, *rows]])
        for key in ("roi_heads.box_predictor.cls_score.weight", "roi_heads.mask_predictor.mask_fcn_logits.weight"):
            assert torch.equal(ours.state_dict()[key], state[key][[0, *rows]])
    else:
        assert torch.equal(own.view(9, -1), theirs.view(9, 91)[:, rows])
