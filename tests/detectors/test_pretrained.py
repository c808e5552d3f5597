"""`build_detector(weights=SOURCE)`: which config holds, what the weights settle, and layers of other classes."""

import os
import pickle

import pytest
import torch
from foreign_detectors import write_narrow_detectron2
from helpers import input_error
from saved_runs import save_run

from detbackbones import build_detector

SAME = "backbone.layer1.0.conv1.weight"
SCORES = "roi_heads.box_predictor.cls_score.weight"


@pytest.fixture
def source(tmp_path):
    """Path of a small checkpoint of detectron2 with three classes, BGR images and a Bottleneck network."""
    return str(write_narrow_detectron2(tmp_path))


def test_the_detector_that_the_weights_were_trained_as(source):
    detectors = [build_detector(weights=source), build_detector(None, weights=source)]
    detectors.append(build_detector({"type": "faster_rcnn", **CONFIG, "weights": source}))
    for detector in detectors:
        assert detector.num_classes == 3
        assert detector.backbone.layer2[0].conv1.stride == (2, 2)  # STRIDE_IN_1X1
        assert detector.backbone.preprocess.mean.flatten().tolist() == pytest.approx([0.3, 0.2, 0.1])
        state, expected = detector.state_dict(), detectors[0].state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.items() if "num_batches" not in key)


CONFIG = dict(
    backbone=dict(type="resnet50", out_features=("c4", "c5")),
    neck="identity",
    roi_heads=dict(type="stage", stage="c5"),
    num_classes=3,
)


def test_layers_of_another_number_of_classes_start_anew(source):
    trained = build_detector(weights=source).state_dict()
    others = {**CONFIG, "num_classes": 5}
    for config, arguments in ((None, {"num_classes": 5}), ("faster_rcnn", others)):
        with pytest.warns(UserWarning, match=r"model_final\.pkl has other classes.*cls_score\.weight"):
            detector = build_detector(config, weights=source, **arguments)
        state = detector.state_dict()
        assert state[SCORES].shape[0] == 6
        assert torch.equal(state[SAME], trained[SAME])
        assert 0 < state[SCORES].abs().max() < 1  # random, not zero


@pytest.mark.parametrize(
    "arguments,words",
    [
        (dict(stride_in_1x1=False), ("stride_in_1x1=False", "model_final.pkl", "leave stride_in_1x1 out")),
        (dict(norm_eps=0.0), ("norm_eps=0.0",)),
        (dict(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)), ("mean=",)),
    ],
)
def test_contradictions(source, arguments, words):
    with input_error(*words):
        build_detector(weights=source, backbone=arguments)
    config = CONFIG | {"backbone": CONFIG["backbone"] | arguments}
    with input_error(*words):
        build_detector("faster_rcnn", weights=source, **config)


def test_an_architecture_that_does_not_fit(source):
    with input_error("model_final.pkl", "do not fit"):
        deeper = CONFIG | {"backbone": dict(type="resnet101", out_features=("c4", "c5"))}
        build_detector("faster_rcnn", weights=source, **deeper)
    with input_error("unknown detector", "faster_rcnn"):
        build_detector("fast_rcnn", weights=source)


def test_arguments_of_parts_can_be_changed(source):
    detector = build_detector(weights=source, roi_heads=dict(score_thresh=0.5), backbone=dict(freeze=4))
    assert detector.roi_heads.score_thresh == 0.5
    assert detector.roi_heads.box_roi_pool.sampling_ratio == 0  # detectron2's
    assert detector.backbone.frozen_count == 4


def test_arguments_of_parts_that_the_config_does_not_name(tmp_path):
    built = build_detector("faster_rcnn", backbone="resnet18", num_classes=3, neck={"type": "fpn", "out_channels": 8})
    built.save_pretrained(tmp_path)
    detector = build_detector(weights=str(tmp_path), rpn={"nms_thresh": 0.6})
    assert detector.rpn.nms_thresh == 0.6 and detector.num_classes == 3


def test_a_run_of_ours(tmp_path):
    metadata = {"category_ids": [1, 2], "category_names": ["a", "b"], "image_mean": [0.1] * 3, "image_std": [0.9] * 3}
    expected = save_run(tmp_path / "run", metadata=metadata)
    detector = build_detector(weights=str(tmp_path / "run"))
    assert all(torch.equal(detector.state_dict()[key], value) for key, value in expected.state_dict().items())
    assert detector.backbone.preprocess.std.flatten().tolist() == pytest.approx([0.9] * 3)


class Payload:
    """Would run a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch PAYLOAD",)


@pytest.mark.parametrize("name", ["model_final.pkl", "model_final.pth"])
def test_a_malicious_checkpoint_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = {"model": {"proposal_generator.rpn_head.conv.weight": Payload()}}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, name)
    with input_error(name):
        build_detector(weights=name)
    assert not (tmp_path / "PAYLOAD").exists()
