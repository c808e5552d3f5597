"""Against the installed torchvision: its detection and segmentation models on our backbones."""

import pytest
import torch
from helpers import input_error, objects, randomise, relative_error
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone as torchvision_fpn_backbone
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from detbackbones import build_backbone, build_neck
from detbackbones.backbones.preprocess import Preprocess
from detbackbones.integrations.torchvision import (
    SegmentationBackbone,
    rcnn_arguments,
    resnet_fpn_backbone,
    retinanet_arguments,
)

SIZES = dict(min_size=64, max_size=96)
P6P7 = dict(type="fpn", extra_levels="conv_on_input", out_channels=16)
NARROW = dict(type="fpn", out_channels=16)
FEW = dict(rpn_post_nms_top_n_train=8, rpn_post_nms_top_n_test=8, box_batch_size_per_image=8, box_detections_per_img=4)
HEADS = {"FasterRCNN": (), "MaskRCNN": ("mask",), "KeypointRCNN": ("keypoint",)}


def test_pyramid_equals_torchvisions(images):
    expected = randomise(
        torchvision_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
        )
    ).eval()
    ours = resnet_fpn_backbone("resnet18").eval()
    assert ours.load_state_dict(expected.state_dict())  # strict: the same keys
    assert ours.out_channels == expected.out_channels
    maps, expected_maps = ours(images), expected(images)
    assert list(maps) == list(expected_maps) == ["0", "1", "2", "3", "pool"]
    assert max(relative_error(maps[name], expected_maps[name]) for name in maps) < 1e-5


def test_features_are_ours(source, images):
    plug = resnet_fpn_backbone(source, returned_layers=(2, 4), neck=NARROW).eval()
    backbone = build_backbone(source, out_features=("c3", "c5")).eval()
    neck = build_neck(NARROW, backbone.feature_specs).eval()
    neck.load_state_dict(plug.fpn.state_dict())
    for feature, expected in zip(plug(images).values(), neck(backbone(images)).values(), strict=True):
        assert torch.equal(feature, expected)
    assert [(spec.name, spec.level, spec.stride) for spec in plug.feature_specs] == [
        ("0", 3, 8), ("1", 5, 8), ("pool", 6, 16),
    ]  # fmt: skip


def test_trainable_layers_freeze_the_rest(resnet18_weights):
    def trained(**arguments):
        body = resnet_fpn_backbone("resnet18", **arguments).body
        return {name.split(".")[0] for name, value in body.named_parameters() if value.requires_grad}

    assert trained(weights=resnet18_weights) == {"layer2", "layer3", "layer4"}  # torchvision's default
    assert trained(weights=resnet18_weights, trainable_layers=1) == {"layer4"}
    assert trained() == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    with input_error("trainable_layers", "0 to 5"):
        trained(trainable_layers=6)
    with input_error("without weights"):
        trained(trainable_layers=1)


def target(count=2):
    found = objects(count, 64, 96, classes=2)
    keypoints = torch.cat([found["boxes"][:, None, :2] + 1, torch.ones(count, 1, 1)], 2)
    return {**found, "labels": found["labels"] + 1, "masks": found["masks"].byte(), "keypoints": keypoints}


@pytest.mark.parametrize("name", [*HEADS, "RetinaNet"])
def test_detection_models_train_and_detect_on_a_dilated_backbone(name, source):
    if name == "RetinaNet":
        backbone = resnet_fpn_backbone(source, returned_layers=(2, 3, 4), neck=P6P7)
        arguments = retinanet_arguments(backbone) | dict(score_thresh=0.0)
    else:
        backbone = resnet_fpn_backbone(source, neck=NARROW)
        arguments = rcnn_arguments(backbone, *HEADS[name]) | FEW
    extra = {"num_keypoints": 1} if name == "KeypointRCNN" else {}
    model = getattr(detection, name)(backbone, 3, **SIZES, **arguments, **extra)
    pictures = [torch.rand(3, 64, 96)]
    losses = model(pictures, [target()])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert backbone.body.conv1.weight.grad.abs().max() > 0
    result = model.eval()(pictures)[0]
    assert len(result["boxes"]) and result["boxes"].isfinite().all()


def test_arguments_change_nothing_for_plain_networks(resnet18_weights):
    backbone = resnet_fpn_backbone("resnet18", weights=resnet18_weights, neck=NARROW)
    own = detection.FasterRCNN(backbone, 3, **SIZES).eval()
    ours = detection.FasterRCNN(backbone, 3, **SIZES, **rcnn_arguments(backbone)).eval()
    ours.load_state_dict(own.state_dict())
    picture = [torch.rand(3, 64, 64)]
    result, expected = ours(picture)[0], own(picture)[0]
    assert len(expected["boxes"]) > 5
    assert torch.equal(result["labels"], expected["labels"])
    assert (result["boxes"] - expected["boxes"]).abs().max() < 1e-3
    assert (result["scores"] - expected["scores"]).abs().max() < 1e-5


def test_images_are_normalised_once_with_the_statistics_of_the_run(run):
    folder, _ = run
    backbone = resnet_fpn_backbone(folder, neck=NARROW)
    model = detection.FasterRCNN(backbone, 3, **SIZES, **rcnn_arguments(backbone)).eval()
    seen = []
    backbone.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    picture = torch.rand(3, 64, 96)
    model([picture])
    assert relative_error(seen[0][0], Preprocess([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])(picture)) < 1e-6


def test_small_and_large_boxes_of_a_dilated_network_are_pooled_by_level():
    """Strides 4, 8, 8, 8: torchvision's own pooler sends every box to the first two maps."""
    backbone = resnet_fpn_backbone("resnet18_dilated", neck=NARROW)
    pooler = rcnn_arguments(backbone)["box_roi_pool"]
    sides = torch.tensor([30.0, 150.0, 300.0, 600.0])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], 1)
    assert pooler.level_index(boxes).tolist() == [0, 1, 2, 3]
    assert pooler.scales == [1 / 4, 1 / 8, 1 / 8, 1 / 8]


@pytest.mark.parametrize("name", ["DeepLabV3", "FCN"])
def test_segmentation_models(name, source, images):
    backbone = SegmentationBackbone(source, aux=True)
    channels = backbone.out_channels
    head = DeepLabHead(channels, 2) if name == "DeepLabV3" else FCNHead(channels, 2)
    model = getattr(segmentation, name)(backbone, head, FCNHead(backbone.aux_channels, 2))
    ours = build_backbone(source, out_features=("c4", "c5")).eval()
    features = backbone.eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(features.values(), ours(images).values(), strict=True))
    output = model.train()(images)
    assert {key: value.shape for key, value in output.items()} == dict.fromkeys(["out", "aux"], (2, 2, 64, 96))
    labels = torch.ones(2, 64, 96, dtype=torch.long)
    sum(torch.nn.functional.cross_entropy(value, labels) for value in output.values()).backward()
    assert backbone.body.conv1.weight.grad.abs().max() > 0
    assert model.eval()(backbone.preprocess(torch.rand(1, 3, 64, 64)))["out"].shape == (1, 2, 64, 64)


def test_deeplab_has_torchvisions_keys():
    expected = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2)
    model = segmentation.DeepLabV3(SegmentationBackbone("resnet50_dilated", norm="batch"), DeepLabHead(2048, 2))
    assert model.load_state_dict(randomise(expected).state_dict())
    picture = torch.randn(1, 3, 64, 64)
    ours = SegmentationBackbone(build_backbone("resnet50_dilated", dilation_convention="torchvision"))
    ours.load_state_dict(model.backbone.state_dict())
    assert relative_error(ours.eval()(picture)["out"], expected.eval().backbone(picture)["out"]) < 1e-5
    with input_error("c4"):
        SegmentationBackbone(build_backbone("resnet18", out_features=("c5",)), aux=True)
