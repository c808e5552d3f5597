"""The contract of a detector, for every detector and form: losses, detections, dtypes, and inputs that do not fit."""

import copy

import pytest
import torch
from detector_forms import KINDS_AND_FORMS, detector_config, keep_all_scores, narrow_detector
from helpers import objects, randomise, relative_error

from detbackbones import InputError, build_detector
from detbackbones.detectors.base import resolve_backbone

all_forms = pytest.mark.parametrize("kind,form", KINDS_AND_FORMS)
EACH_STRUCTURE = [("mask_rcnn", "fpn"), ("mask_rcnn", "dc5"), ("mask_rcnn", "c4"), ("retinanet", "fpn")]


def random_images():
    """One uint8 and one float image of different sizes."""
    return [torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8), torch.rand(3, 64, 50)]


@all_forms
def test_losses_train_every_parameter(kind, form):
    detector = narrow_detector(kind, form).train()
    losses = detector(random_images(), [objects(3, 70, 90), objects(0, 64, 50)])
    assert ("loss_mask" in losses) == (kind == "mask_rcnn")
    assert all(loss.dtype == torch.float32 and loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert detector.backbone.conv1.weight.grad.abs().sum() > 0


@all_forms
def test_detections_are_mapped_to_the_output_sizes(kind, form):
    detector = keep_all_scores(narrow_detector(kind, form)).eval()
    sizes = [(140, 180), (64, 50)]
    with torch.no_grad():
        results = detector(random_images(), output_sizes=sizes)
    for result, (height, width) in zip(results, sizes, strict=True):
        count = len(result["boxes"])
        assert count > 0
        assert result["boxes"].dtype == result["scores"].dtype == torch.float32
        assert (result["boxes"] >= -1e-3).all()
        assert (result["boxes"] <= torch.tensor([width, height] * 2) + 1e-3).all()
        assert (result["scores"].diff() <= 0).all()
        assert result["labels"].dtype == torch.int64
        assert set(result["labels"].tolist()) <= {0, 1, 2}
        assert ("masks" in result) == (kind == "mask_rcnn")
        if "masks" in result:
            assert result["masks"].shape == (count, height, width)
            assert result["masks"].dtype == torch.bool


def test_a_wider_output_stretches_the_boxes():
    detector = keep_all_scores(narrow_detector("faster_rcnn", "fpn")).eval()
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (original,), (stretched,) = detector.predict([image]), detector.predict([image], [(64, 192)])
    torch.testing.assert_close(stretched["boxes"], original["boxes"] * torch.tensor([2.0, 1.0, 2.0, 1.0]))


def in_both_modes(detector, function):
    """Return `function(detector)` in evaluation and in training mode, with norm statistics fixed in both."""
    outputs = []
    for training in (False, True):
        detector.train(training)
        for module in detector.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        modes = [module.training for module in detector.modules()]
        torch.manual_seed(1)
        outputs.append(function(detector))
        assert [module.training for module in detector.modules()] == modes
    return outputs


some_forms = pytest.mark.parametrize("kind,form", [("mask_rcnn", "fpn"), ("mask_rcnn", "c4"), ("retinanet", "fpn")])


@some_forms
def test_losses_are_equal_in_both_modes(kind, form):
    images, targets = [torch.rand(3, 64, 96)], [objects(3, 64, 96)]
    detector = randomise(narrow_detector(kind, form))
    evaluation, training = in_both_modes(detector, lambda detector: detector.losses(images, targets))
    assert all(loss > 0 for loss in evaluation.values())
    torch.testing.assert_close(evaluation, training)


@some_forms
@torch.no_grad()
def test_detections_are_equal_in_both_modes(kind, form):
    images = [torch.rand(3, 64, 96)]
    detector = randomise(narrow_detector(kind, form))
    (evaluation,), (training,) = in_both_modes(detector, lambda detector: detector.predict(images))
    torch.testing.assert_close(evaluation["boxes"], training["boxes"])


@some_forms
def test_a_validation_loss_changes_nothing(kind, form):
    detector = narrow_detector(kind, form).eval()
    before = copy.deepcopy(detector.state_dict())
    detector.losses([torch.rand(3, 64, 96)], [objects(3, 64, 96)])
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())


HARD_SHAPES = {"black": (3, 64, 64), "1x1": (3, 1, 1), "tall": (3, 5000, 40), "wide": (3, 40, 5000)}


@pytest.mark.parametrize("shape", HARD_SHAPES.values(), ids=HARD_SHAPES)
@pytest.mark.parametrize("kind,form", EACH_STRUCTURE)
@torch.no_grad()
def test_hard_inputs(kind, form, shape):
    """With one object as large as the image and with none, and classes that never occur."""
    detector = narrow_detector(kind, form, num_classes=7)
    image, (height, width) = torch.zeros(shape, dtype=torch.uint8), shape[1:]
    as_large = dict(objects(1, height, width), boxes=torch.tensor([[0.0, 0.0, width, height]]))
    count = 2 if height == 1 else 1  # live statistics need more than one value
    for training, target in ((True, as_large), (False, objects(0, height, width))):
        losses = detector.train(training).losses([image] * count, [target] * count)
        assert all(loss.isfinite() for loss in losses.values()), losses
    assert all(value.isfinite().all() for value in detector.state_dict().values())
    (result,) = detector.predict([image])
    assert result["boxes"].isfinite().all()
    assert (result["boxes"] <= torch.tensor([width, height] * 2) + 1e-2).all()


@pytest.mark.parametrize("kind,form", EACH_STRUCTURE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_geometry_is_float32_under_autocast(kind, form, dtype, monkeypatch):
    """Heads return float32, and the same head outputs give the same boxes, bit for bit, with and without autocast."""
    few = {} if kind == "retinanet" else dict(rpn=dict(post_nms_top_n=(10, 10)))
    detector = keep_all_scores(randomise(narrow_detector(kind, form, **few)).eval())
    image = torch.rand(3, 64, 64)
    if kind == "retinanet":
        heads = [detector.head]
    else:
        heads = [detector.rpn.head, detector.roi_heads.box_predictor, detector.roi_heads.mask_predictor]
    outputs = {}
    for head in heads:
        head.register_forward_hook(lambda module, _, output: outputs.setdefault(module, output))
    with torch.no_grad(), torch.autocast("cpu", dtype):
        inside = detector.predict([image])[0]
    assert outputs.keys() == set(heads)
    assert all(leaf.dtype == torch.float32 for leaf in torch.utils._pytree.tree_leaves(list(outputs.values())))
    for head in heads:
        monkeypatch.setattr(head, "forward", lambda *_, output=outputs[head]: output)
    with torch.no_grad():
        outside = detector.predict([image])[0]
    assert len(inside["boxes"]) > 0
    assert all(torch.equal(inside[key], outside[key]) for key in outside)


@all_forms
@torch.no_grad()
def test_detections_do_not_depend_on_earlier_images(kind, form):
    """torchvision infers the RoI scales from the first image, for good."""
    detector = keep_all_scores(randomise(narrow_detector(kind, form)).eval())
    fresh = copy.deepcopy(detector)
    image = torch.rand(3, 64, 96)
    detector.predict([torch.rand(3, 100, 3000)])
    actual, expected = detector.predict([image])[0], fresh.predict([image])[0]
    assert len(actual["boxes"]) > 0
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


@all_forms
@torch.no_grad()
def test_detections_do_not_depend_on_the_batch(kind, form):
    detector = keep_all_scores(randomise(narrow_detector(kind, form)).eval())
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    together, alone = detector.predict(images), [detector.predict([image])[0] for image in images]
    for a, b in zip(together, alone):
        assert len(a["boxes"]) == len(b["boxes"]) > 0
        assert torch.equal(a["labels"], b["labels"])
        assert relative_error(a["boxes"], b["boxes"]) <= 1e-4
        assert relative_error(a["scores"], b["scores"]) <= 1e-4
        if kind == "mask_rcnn":
            assert (a["masks"] != b["masks"]).float().mean() <= 1e-3


def test_gradients_reach_the_images():
    detector = narrow_detector("faster_rcnn", "fpn").eval()
    images = [torch.rand(3, 64, 96, requires_grad=True), torch.rand(3, 50, 64, requires_grad=True)]
    sum(detector.losses(images, [objects(2, 50, 64)] * 2).values()).backward()
    assert all(image.grad.abs().sum() > 0 for image in images)


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(labels=torch.tensor([3])), "label outside 0 to 2"),
        (dict(labels=torch.tensor([-1])), "label outside 0 to 2"),
        (dict(boxes=torch.tensor([[5.0, 5, 5, 9]])), "box without area"),
        (dict(boxes=torch.zeros(1, 5)), r"N x 4 boxes .* \(1, 5\)"),
        (dict(labels=torch.zeros(2, dtype=torch.int64)), r"N labels, got \(1, 4\) and \(2,\)"),
    ],
)
@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_targets_that_do_not_fit(kind, change, message):
    detector = narrow_detector(kind, "fpn")
    with pytest.raises(ValueError, match=message):
        detector.losses([torch.rand(3, 64, 64)], [objects(1, 64, 64) | change])


def test_masks_that_do_not_fit():
    target = objects(2, 64, 64)
    with pytest.raises(ValueError, match="2 boxes and 1 masks"):
        narrow_detector("mask_rcnn", "fpn").losses([torch.rand(3, 64, 64)], [target | dict(masks=target["masks"][:1])])


def test_images_and_targets_that_do_not_fit():
    detector = narrow_detector("faster_rcnn", "fpn")
    image, target = torch.rand(3, 64, 64), objects(1, 64, 64)
    with pytest.raises(ValueError, match=r"got 2 for 1 image\(s\)"):
        detector.losses([image], [target, target])
    with pytest.raises(ValueError, match="targets are required"):
        detector.train()([image])
    with pytest.raises(ValueError, match=r"C x H x W, .* \(1, 3, 64, 64\)"):
        detector.predict([image[None]])
    with pytest.raises(ValueError, match=r"\(3, 0, 64\)"):
        detector.predict([image[:, :0]])
    with pytest.raises(ValueError, match="at least one image"):
        detector.losses([], [])
    assert detector.predict([]) == []


def test_norm_and_freeze_default_to_those_of_the_weights():
    assert resolve_backbone("resnet50") == dict(type="resnet50", norm="batch", freeze=0)
    pretrained = resolve_backbone(dict(type="resnet50", weights="torchvision:IMAGENET1K_V1"))
    assert (pretrained["norm"], pretrained["freeze"]) == ("frozen", 2)
    explicit = resolve_backbone(dict(pretrained, norm="batch", freeze=0))
    assert (explicit["norm"], explicit["freeze"]) == ("batch", 0)


def test_rebuilding_reads_no_weights():
    """A config with weights is rebuilt offline for a checkpoint, with the same norm and freezing."""
    cfg = detector_config("faster_rcnn", "fpn")
    cfg["backbone"]["weights"] = "nowhere.pth"
    detector = build_detector(cfg, load_weights=False)
    assert list(detector.backbone.bn1.parameters()) == []
    assert not detector.backbone.conv1.weight.requires_grad
    with pytest.raises(InputError, match="nowhere.pth"):
        build_detector(cfg)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_num_classes_must_be_positive(num_classes):
    with pytest.raises(InputError, match=f"num_classes .* got {num_classes}"):
        narrow_detector("faster_rcnn", "fpn", num_classes=num_classes)
