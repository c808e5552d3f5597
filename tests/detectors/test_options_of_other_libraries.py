"""Arguments that reproduce detectron2 and mmdetection: anchors, box weights, predictors, padding, clipping."""

import pytest
import torch
from detector_forms import detector_config, keep_all_scores, narrow_detector
from helpers import input_error, maps, objects, pyramid
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_area

from detbackbones import build_detector
from detbackbones.detectors.anchors import AnchorGenerator
from detbackbones.detectors.boxes import box_coder
from detbackbones.detectors.predictors import Float32BoxPredictor, Float32MaskPredictor

SIZE = (64, 96)


@pytest.mark.parametrize("kind,place", [("faster_rcnn", "rpn"), ("retinanet", None)])
def test_anchors_are_shifted_by_a_share_of_the_stride(kind, place):
    offset = {"anchor_offset": 0.5}
    detector = narrow_detector(kind, "fpn", **({place: offset} if place else offset))
    plain = narrow_detector(kind, "fpn")
    generators = [d.rpn.anchor_generator if place else d.anchor_generator for d in (detector, plain)]
    features = list(maps(detector.neck.feature_specs, *SIZE).values())
    shifted, expected = (generator(ImageList(torch.zeros(1), [SIZE]), features)[0] for generator in generators)
    counts = generators[0].anchors_per_level(features)
    for level, (a, b) in enumerate(zip(shifted.split(counts), expected.split(counts))):
        assert torch.allclose(a - b, torch.full_like(a, detector.neck.feature_specs[level].stride / 2), atol=1e-3)


def test_the_middle_of_a_cell():
    generator = AnchorGenerator(pyramid([8]), [[4.0]], (1.0,), offset=0.5)
    anchors = generator(ImageList(torch.zeros(1), [(16, 16)]), [torch.zeros(1, 8, 2, 2)])[0]
    assert anchors.tolist() == [[2, 2, 6, 6], [10, 2, 14, 6], [2, 10, 6, 14], [10, 10, 14, 14]]


def test_box_weights_divide_the_deltas():
    box, deltas = torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[2.0, 4.0, 0.0, 0.0]])
    decoded = box_coder((4.0, 8.0, 1.0, 1.0)).decode(deltas, [box])[:, 0]
    assert decoded.tolist() == [[20, 40, 40, 80]]  # half of the width and of the height
    with input_error("bbox_reg_weights", "four numbers"):
        box_coder((1.0, 1.0, 1.0))
    weights = dict(bbox_reg_weights=(2.0, 2.0, 1.0, 1.0))
    detector = narrow_detector("faster_rcnn", "fpn", rpn=weights, roi_heads=weights)
    assert detector.rpn.box_coder.weights == detector.roi_heads.box_coder.weights == (2.0, 2.0, 1.0, 1.0)
    assert narrow_detector("retinanet", "fpn", **weights).box_coder.weights == (2.0, 2.0, 1.0, 1.0)


def test_class_agnostic_predictors_repeat_one_prediction():
    boxes, masks = Float32BoxPredictor(8, 5, class_agnostic=True), Float32MaskPredictor(8, 4, 5, class_agnostic=True)
    logits, deltas = boxes(torch.randn(3, 8))
    assert logits.shape == (3, 5) and deltas.shape == (3, 20)
    assert boxes.bbox_pred.weight.shape == (4, 8)
    deltas = deltas.view(3, 5, 4)
    assert torch.equal(deltas, deltas[:, :1].expand(3, 5, 4))
    mask = masks(torch.randn(3, 8, 7, 7))
    assert mask.shape == (3, 5, 14, 14)
    assert masks.mask_fcn_logits.weight.shape[0] == 1


@pytest.mark.parametrize("form", ["fpn", "c4"])
def test_class_agnostic_detectors_train_and_detect(form):
    agnostic = dict(class_agnostic_boxes=True, class_agnostic_masks=True)
    detector = keep_all_scores(narrow_detector("mask_rcnn", form, roi_heads=agnostic))
    losses = detector([torch.rand(3, *SIZE)], [objects(2, *SIZE)])
    sum(losses.values()).backward()
    assert detector.roi_heads.box_predictor.bbox_pred.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        (output,) = detector.eval()([torch.rand(3, *SIZE)])
    assert len(output["boxes"]) == len(output["masks"]) > 0


@pytest.mark.parametrize("convs,fcs,layers", [((), None, 2), ((), 3, 3), ((8, 8), None, 1), ((8,), 2, 2)])
def test_layers_of_the_box_head(convs, fcs, layers):
    detector = narrow_detector("faster_rcnn", "fpn", roi_heads=dict(box_head_convs=convs, box_head_fcs=fcs))
    linear = [m for m in detector.roi_heads.box_head.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == layers
    with input_error("box_head_fcs", "0"):
        narrow_detector("faster_rcnn", "fpn", roi_heads=dict(box_head_fcs=0))


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_padding(kind):
    images = [torch.rand(3, 65, 97)]
    assert narrow_detector(kind, "fpn").preprocess(images).tensors.shape[-2:] == (96, 128)
    assert narrow_detector(kind, "fpn", size_divisor=1).preprocess(images).tensors.shape[-2:] == (65, 97)
    with input_error("size_divisor", "0"):
        narrow_detector(kind, "fpn", size_divisor=0)


def test_boxes_are_compared_before_or_after_they_are_cut():
    """Two boxes that are one inside of the image: cut first, NMS drops one; cut after it, both stay."""
    detectors = [narrow_detector("retinanet", "fpn", clip_before_nms=flag) for flag in (True, False)]
    boxes = torch.tensor([[-300.0, 0.0, 40.0, 40.0], [-2.0, 0.0, 40.0, 40.0], [-90.0, 0.0, -50.0, 40.0]])
    counts = []
    for detector in detectors:
        outputs = {"cls_logits": [torch.full((1, 3, 3), -20.0)], "bbox_regression": [torch.zeros(1, 3, 4)]}
        outputs["cls_logits"][0][0, :, 0] = torch.tensor([3.0, 2.0, 1.0])
        detector.anchor_generator.anchors_per_level = lambda maps: [3]
        detector.anchor_generator.forward = lambda images, maps: [boxes]
        detector.head.forward = lambda maps, outputs=outputs: {name: value[0] for name, value in outputs.items()}
        (output,) = detector.head_detections({"p3": torch.zeros(1)}, ImageList(torch.zeros(1), [(100, 100)]))
        counts.append(int((box_area(output["boxes"]) > 0).sum()))
        assert (output["boxes"] >= 0).all()
    assert counts == [1, 2]  # boxes with an area, so not the one outside of the image


def test_unknown_way_to_paste_masks():
    with input_error("mask_paste", "detectron2"):
        build_detector(detector_config("mask_rcnn", "fpn"), mask_paste="detectron")
