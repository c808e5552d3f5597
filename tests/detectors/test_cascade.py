"""Cascade R-CNN (Cai and Vasconcelos 2018, arXiv:1712.00726) as custom RoI heads in an unchanged FasterRCNN."""

import pytest
import torch
import torch.nn.functional as F
from detector_forms import detector_config, keep_all_scores
from helpers import objects, randomise
from torch import nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from detbackbones import build_backbone, build_detector, build_neck
from detbackbones.detectors.rcnn import FasterRCNN
from detbackbones.detectors.roi_pooler import RoIPooler
from detbackbones.registry import ROI_HEADS

IOU_THRESHOLDS = (0.5, 0.6, 0.7)
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


class CascadeHead(nn.Module):
    """One head: class logits and class-agnostic box deltas of pooled RoI features, and the rule for its labels."""

    def __init__(self, channels, num_classes, pool_size, dim, iou_threshold, box_weights):
        super().__init__()
        self.box_head = TwoMLPHead(channels * pool_size**2, dim)
        self.cls_score = nn.Linear(dim, num_classes + 1)
        self.bbox_pred = nn.Linear(dim, 4)
        self.box_coder = BoxCoder(box_weights)
        self.matcher = Matcher(iou_threshold, iou_threshold, allow_low_quality_matches=False)

    def forward(self, roi_features):
        x = self.box_head(roi_features)
        return self.cls_score(x).float(), self.bbox_pred(x).float()

    def match(self, boxes, target):
        """Return for each box of an image the box of its object and its label, 0 for the background."""
        if not len(target["boxes"]):
            return torch.zeros_like(boxes), target["labels"].new_zeros(len(boxes))
        matches = self.matcher(box_iou(target["boxes"], boxes))
        indices = matches.clamp(min=0)
        return target["boxes"][indices], target["labels"][indices] * (matches >= 0)

    def loss(self, logits, deltas, boxes, objects_of_boxes, labels):
        regression_targets = self.box_coder.encode(objects_of_boxes, boxes)
        deltas_per_class = deltas.repeat(1, logits.shape[1])
        return fastrcnn_loss(logits, deltas_per_class, labels, regression_targets)

    @torch.no_grad()
    def refine(self, deltas, boxes, image_sizes):
        """Return the boxes of each image, moved by the deltas and clipped to the image."""
        moved = self.box_coder.decode_single(deltas, torch.cat(boxes)).split([len(b) for b in boxes])
        return [clip_boxes_to_image(image_boxes, size) for image_boxes, size in zip(moved, image_sizes)]


class CascadeRoIHeads(nn.Module):
    """Three box heads of rising quality; each refines the boxes of the one before it."""

    def __init__(
        self,
        feature_specs,
        num_classes,
        iou_thresholds=IOU_THRESHOLDS,
        pool_size=7,
        box_head_dim=32,
        batch_size_per_image=16,
        positive_fraction=0.25,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    ):
        super().__init__()
        self.box_roi_pool = RoIPooler(feature_specs, pool_size)
        self.heads = nn.ModuleList(
            CascadeHead(feature_specs[0].channels, num_classes, pool_size, box_head_dim, iou_threshold, box_weights)
            for iou_threshold, box_weights in zip(iou_thresholds, BOX_WEIGHTS)
        )
        self.sampler = BalancedPositiveNegativeSampler(batch_size_per_image, positive_fraction)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img = detections_per_img

    def forward(self, features, proposals, image_sizes, targets=None):
        if self.training:
            return [], self.losses(features, proposals, image_sizes, targets)
        return self.detections(features, proposals, image_sizes), {}

    def sample(self, proposals, targets):
        """Sample proposals and objects by the labels of the first head."""
        candidates = [torch.cat([boxes, target["boxes"]]) for boxes, target in zip(proposals, targets)]
        labels = [self.heads[0].match(boxes, target)[1] for boxes, target in zip(candidates, targets)]
        sampled = [torch.where(positive | negative)[0] for positive, negative in zip(*self.sampler(labels))]
        return [boxes[indices] for boxes, indices in zip(candidates, sampled)]

    def losses(self, features, proposals, image_sizes, targets):
        boxes = self.sample(proposals, targets)
        losses = {}
        for index, head in enumerate(self.heads):
            matches = [head.match(image_boxes, target) for image_boxes, target in zip(boxes, targets)]
            objects_of_boxes, labels = zip(*matches)
            logits, deltas = head(self.box_roi_pool(features, boxes, image_sizes))
            classification, regression = head.loss(logits, deltas, boxes, objects_of_boxes, labels)
            losses |= {f"loss_classifier_{index}": classification, f"loss_box_reg_{index}": regression}
            refined = head.refine(deltas, boxes, image_sizes)
            boxes = [image_boxes[remove_small_boxes(image_boxes, 1e-2)] for image_boxes in refined]
        return losses

    def detections(self, features, boxes, image_sizes):
        counts = [len(image_boxes) for image_boxes in boxes]
        scores = []
        for head in self.heads:
            logits, deltas = head(self.box_roi_pool(features, boxes, image_sizes))
            scores.append(F.softmax(logits, dim=1))
            boxes = head.refine(deltas, boxes, image_sizes)
        mean_scores = torch.stack(scores).mean(dim=0)
        return [self.select(b, s) for b, s in zip(boxes, mean_scores.split(counts))]

    def select(self, boxes, scores):
        """Return the best boxes of one image; every box is a candidate for every class."""
        candidates, labels = torch.where(scores[:, 1:] > self.score_thresh)
        labels = labels + 1
        scores, boxes = scores[candidates, labels], boxes[candidates]
        large = remove_small_boxes(boxes, 1e-2)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        best = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return dict(boxes=boxes[best], scores=scores[best], labels=labels[best])


@pytest.fixture(autouse=True)
def registered():
    ROI_HEADS.register_module(name="cascade", module=CascadeRoIHeads)
    yield
    del ROI_HEADS.module_dict["cascade"]


def from_config():
    cfg = detector_config("faster_rcnn", "fpn")
    return build_detector(cfg | dict(roi_heads=dict(type="cascade", score_thresh=0.0)))


def from_built_module():
    backbone = build_backbone("resnet18")
    neck = build_neck(dict(type="fpn", out_channels=32), backbone.feature_specs)
    roi_heads = CascadeRoIHeads(neck.feature_specs[:4], num_classes=3, score_thresh=0.0)
    return FasterRCNN(backbone, neck, 3, rpn=detector_config("faster_rcnn", "fpn")["rpn"], roi_heads=roi_heads)


both_ways = pytest.mark.parametrize("make_detector", [from_config, from_built_module])


@both_ways
def test_every_head_has_losses_and_gradients(make_detector):
    detector = make_detector().train()
    losses = detector([torch.rand(3, 64, 96), torch.rand(3, 70, 50)], [objects(3, 64, 96), objects(2, 70, 50)])
    assert sorted(name for name in losses if name[-1].isdigit()) == [
        *(f"loss_box_reg_{index}" for index in range(3)),
        *(f"loss_classifier_{index}" for index in range(3)),
    ]
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for head in detector.roi_heads.heads:
        assert all(p.grad.isfinite().all() for p in head.parameters())
        assert all(p.grad.any() for p in (head.box_head.fc6.weight, head.cls_score.weight, head.bbox_pred.weight))
    assert detector.backbone.conv1.weight.grad.any()


@both_ways
@torch.no_grad()
def test_detections(make_detector):
    detector = make_detector().eval()
    for result, (height, width) in zip(detector([torch.rand(3, 64, 96), torch.rand(3, 70, 50)]), [(64, 96), (70, 50)]):
        assert result.keys() == {"boxes", "scores", "labels"}
        assert len(result["boxes"]) == len(result["scores"]) == len(result["labels"]) > 0
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height] * 2)).all()
        assert (result["scores"].diff() <= 0).all()
        assert set(result["labels"].tolist()) <= {0, 1, 2}


@torch.no_grad()
def test_images_without_objects_and_without_proposals():
    cfg = detector_config("faster_rcnn", "fpn", rpn=dict(post_nms_top_n=(0, 0)))
    detector = build_detector(cfg | dict(roi_heads="cascade"))
    losses = detector.train().losses([torch.rand(3, 64, 96)] * 2, [objects(0, 64, 96), objects(2, 64, 96)])
    assert all(loss.isfinite() for loss in losses.values())
    assert [len(result["boxes"]) for result in detector.eval().predict([torch.rand(3, 64, 96)])] == [0]


def test_heads_refine_boxes():
    """The second head pools from the boxes that the first one moved."""
    detector = from_config().eval()
    pooled = []
    detector.roi_heads.box_roi_pool.register_forward_hook(lambda _, inputs, __: pooled.append(inputs[1][0]))
    with torch.no_grad():
        detector.predict([torch.rand(3, 64, 96)])
    first, second, third = pooled
    assert first.shape == second.shape == third.shape
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_loss_falls():
    """Two objects in an image and its mirror image."""
    image = torch.full((3, 64, 96), 0.2)
    image[0, 10:40, 8:48] = 0.9
    image[2, 30:60, 60:90] = 0.9
    labels = torch.tensor([0, 2])
    target = dict(boxes=torch.tensor([[8.0, 10, 48, 40], [60, 30, 90, 60]]), labels=labels)
    mirrored = dict(boxes=torch.tensor([[48.0, 10, 88, 40], [6, 30, 36, 60]]), labels=labels)
    cfg = detector_config("faster_rcnn", "fpn") | dict(roi_heads=dict(type="cascade", batch_size_per_image=64))
    cfg["backbone"] |= dict(norm="group")
    detector = build_detector(cfg).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    totals = []
    for _ in range(15):
        total = sum(detector([image, image.flip(2)], [target, mirrored]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3]), totals


@pytest.fixture
def one_head_and_standard():
    """A cascade of one head, and the standard RoI heads with the same weights; deltas repeated for every class."""
    cfg = detector_config("faster_rcnn", "fpn")
    cascade = randomise(build_detector(cfg | dict(roi_heads=dict(type="cascade", iou_thresholds=(0.5,))))).eval()
    standard = build_detector(cfg | dict(roi_heads=cfg["roi_heads"] | dict(detections_per_img=100))).eval()
    (head,) = cascade.roi_heads.heads
    state = {key: value for key, value in cascade.state_dict().items() if not key.startswith("roi_heads.")}
    state |= {f"roi_heads.box_head.{key}": value for key, value in head.box_head.state_dict().items()}
    state |= {f"roi_heads.box_predictor.cls_score.{key}": value for key, value in head.cls_score.state_dict().items()}
    for key, value in head.bbox_pred.state_dict().items():
        state[f"roi_heads.box_predictor.bbox_pred.{key}"] = torch.cat([value] * 4)
    standard.load_state_dict(state)
    return keep_all_scores(cascade), keep_all_scores(standard)


def test_one_head_gives_the_losses_of_the_standard_heads(one_head_and_standard):
    images = [torch.rand(3, 64, 96), torch.rand(3, 70, 50)]
    targets = [objects(3, 64, 96), objects(0, 70, 50)]
    losses = []
    for detector in one_head_and_standard:
        torch.manual_seed(1)
        losses.append(detector.losses(images, targets))
    cascade, standard = losses
    torch.testing.assert_close({name.removesuffix("_0"): loss for name, loss in cascade.items()}, standard)
    assert standard["loss_box_reg"] > 0


@torch.no_grad()
def test_one_head_gives_the_detections_of_the_standard_heads(one_head_and_standard):
    image = torch.rand(3, 64, 96)
    (cascade,), (standard,) = (detector.predict([image]) for detector in one_head_and_standard)
    assert len(standard["boxes"]) > 10
    torch.testing.assert_close(cascade, standard)
