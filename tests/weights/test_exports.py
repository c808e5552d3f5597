"""Weights that another library would load without an error, and compute other features with, are refused."""

import pytest
from helpers import input_error

from detbackbones.weights.cards import WeightCard
from detbackbones.weights.exports import Weights, detectron2_settings, detectron2_state, torchvision_state

DC5, OS8 = (False, False, True), (False, True, True)


def resnet50(**facts) -> Weights:
    return Weights({}, {"type": "resnet50"}, False, WeightCard("mine", "detbackbones", **facts))


@pytest.mark.parametrize(
    "facts,words",
    [
        ({"norm_eps": 0.0}, ("norm_eps=0.0", "1e-05")),
        ({"dilated_stages": OS8, "dilation_convention": "detectron2"}, ("detectron2 dilates c5 alone",)),
        ({"dilated_stages": DC5, "dilation_convention": "exact"}, ("dilation_convention='exact'",)),
    ],
)
def test_what_detectron2_does_not_have(facts, words):
    with input_error("trained with", *words):
        detectron2_state(resnet50(**facts), is_bgr=False)


@pytest.mark.parametrize(
    "facts",
    [
        {"norm_eps": 1e-5, "dilated_stages": (False, False, False), "dilation_convention": "exact"},
        {"dilated_stages": DC5, "dilation_convention": "detectron2"},
        {"dilated_stages": DC5, "dilation_convention": "exact", "stride_in_1x1": True},  # the same convolutions
    ],
)
def test_what_detectron2_has(facts):
    assert detectron2_state(resnet50(**facts), is_bgr=False) == {}
    dilation = detectron2_settings(resnet50(**facts), None).get("MODEL.RESNETS.RES5_DILATION", 1)
    assert dilation == (2 if facts["dilated_stages"] == DC5 else 1)


def test_dilation_of_another_library_in_torchvision():
    with input_error("dilation_convention='mmdet'", "torchvision"):
        torchvision_state(resnet50(dilated_stages=DC5, dilation_convention="mmdet"))
    assert torchvision_state(resnet50(dilated_stages=DC5, dilation_convention="exact")) == {}
