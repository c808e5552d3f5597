"""Whole detectors of other libraries: names, files, cards, and round trips of their tensors."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
from helpers import input_error, oracle, oracle_weights

from detbackbones import build_detector
from detbackbones.weights import torchvision_sources
from detbackbones.weights.detector_sources import is_foreign, read_detector
from detbackbones.weights.detectron2_config import Detectron2Config, merge
from detbackbones.weights.detectron2_keys import detectron2_keys
from detbackbones.weights.detectron2_models import detector_settings
from detbackbones.weights.detectron2_zoo import FORMS
from detbackbones.weights.torchvision_detectors import TORCHVISION_CONFIGS, export_torchvision_detector

PUBLISHED = "retinanet_resnet50_fpn_coco-eeacb38b.pth"


def save_torchvision(path, name, **arguments):
    """Write a state dict of torchvision's detector with random values; return it."""
    with torch.device("meta"):
        network = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **arguments)
    state = {key: torch.rand(value.shape).to(value.dtype) for key, value in network.state_dict().items()}
    torch.save(state, path)
    return state


@pytest.mark.parametrize("name", TORCHVISION_CONFIGS)
def test_names_of_torchvision(name):
    sources = [read_detector(f"torchvision:{form}") for form in (name, f"{name}.COCO_V1", f"{name}.DEFAULT")]
    weights = torchvision.models.get_model_weights(name)["COCO_V1"]
    sources.append(read_detector(f"torchvision:{type(weights).__name__}.COCO_V1"))
    assert len({source.name for source in sources}) == 1
    source, is_retinanet = sources[0], name.startswith("retinanet")
    assert source.card.url == weights.url
    assert source.card.norm_eps == (1e-5 if name.endswith("_v2") else 0.0)
    assert source.card.norm_eps == source.model["backbone"]["norm_eps"]
    assert source.model["num_classes"] == (91 if is_retinanet else 90)
    names = dict(zip(source.metadata["category_ids"], source.metadata["category_names"]))
    assert [names[number] for number in (1, 44, 90)] == ["person", "bottle", "toothbrush"]  # COCO's ids
    assert len(source.metadata["unused_labels"]) == source.model["num_classes"] - 80
    assert (source.short_side, source.long_side) == (800, 1333)
    assert f"{weights.meta['_metrics']['COCO-val2017']['box_map']:g}" in source.card.published


def test_unknown_names():
    with input_error("torchvision", "maskrcnn_resnet50_fpn"):
        read_detector("torchvision:maskrcnn_resnet50")
    with input_error("COCO_V2", "COCO_V1"):
        read_detector("torchvision:maskrcnn_resnet50_fpn.COCO_V2")
    with input_error("model zoo", "faster_rcnn_R_50_FPN_3x"):
        read_detector("detectron2:COCO-Detection/faster_rcnn_R_50_FPN_2x")


def test_names_of_the_model_zoo():
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
    file = f"{name}/137849600/model_final_f10217.pkl"
    for spelling in (name, f"{name}.yaml", f"//{file}"):
        source = read_detector(f"detectron2:{spelling}")
        assert source.card.url == f"https://dl.fbaipublicfiles.com/detectron2/{file}"
        assert (source.card.stride_in_1x1, source.card.source_channel_order) == (True, "BGR")
        assert "box AP 41, mask AP 37.2" in source.card.published


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn"])
def test_round_trip_of_torchvision(tmp_path, name):
    state = save_torchvision(tmp_path / "weights.pth", name)
    detector = build_detector(weights=str(tmp_path / "weights.pth"), backbone=dict(norm_eps=1e-5))
    exported = export_torchvision_detector(detector.state_dict())
    exported = {key: value for key, value in exported.items() if key in state or "num_batches" not in key}
    assert exported.keys() == {key for key in state if not (name == "retinanet_resnet50_fpn" and "num_batches" in key)}
    assert all(torch.equal(value, state[key]) for key, value in exported.items())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_detectors_in_wrappers(tmp_path, prefix):
    state = save_torchvision(tmp_path / "plain.pth", "fasterrcnn_resnet50_fpn_v2", num_classes=3)
    wrapped = {prefix + key: value for key, value in state.items()} | {"n_averaged": torch.tensor(7)}
    torch.save({"state_dict": wrapped}, tmp_path / "wrapped.ckpt")
    assert is_foreign(str(tmp_path / "wrapped.ckpt"))
    found, plain = (read_detector(str(tmp_path / name)) for name in ("wrapped.ckpt", "plain.pth"))
    assert found.model == plain.model
    assert found.state.keys() == plain.state.keys()


def test_a_torchvision_file_of_another_name_does_not_tell_its_epsilon(tmp_path):
    path = tmp_path / "mine.pth"
    save_torchvision(path, "retinanet_resnet50_fpn", num_classes=4)
    with input_error("mine.pth", "retinanet_resnet50_fpn", "0.0", "norm_eps"):
        build_detector(weights=str(path))
    detector = build_detector(weights=str(path), backbone=dict(norm_eps=0.0))
    assert detector.num_classes == 4
    assert detector.backbone.bn1.eps == 0.0
    path.rename(tmp_path / PUBLISHED)
    assert torchvision_sources.get_model_weights("retinanet_resnet50_fpn")["COCO_V1"].url.endswith(PUBLISHED)
    assert build_detector(weights=str(tmp_path / PUBLISHED)).backbone.bn1.eps == 0.0


@pytest.mark.parametrize("form", ["fpn", "c4"])
def test_round_trip_of_detectron2(oracles, form):
    facts, _ = oracle(oracles, f"detectron2_mask_rcnn_r50_{form}")
    model, *_ = detector_settings(
        Detectron2Config(merge(FORMS[form.upper()], {"MODEL": {"MASK_ON": True}}), "cfg.yaml")
    )
    state = oracle_weights(facts["keys"])
    keys = detectron2_keys(model, is_bgr=True)
    converted = keys.convert(state | {"pixel_mean": torch.zeros(3, 1, 1)})
    with torch.device("meta"):
        expected = build_detector(model, load_weights=False).state_dict()
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape for key, value in expected.items() if not key.endswith("num_batches_tracked")
    }
    exported = keys.export(converted)
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[key], value) for key, value in state.items())


MASKS = {"MASK_ON": True, "ROI_MASK_HEAD": {"NORM": "GN", "NUM_CONV": 1}}
NORM = {"RESNETS": {"NORM": "GN"}, "FPN": {"NORM": "GN", "OUT_CHANNELS": 32}}
VARIANTS = {
    "GN and convolutions in the box head": (
        "FPN",
        NORM | {"ROI_BOX_HEAD": {"NUM_CONV": 2, "NUM_FC": 1, "CONV_DIM": 32, "NORM": "GN"}} | MASKS,
        {"backbone.bottom_up.stem.conv1.norm.weight", "backbone.fpn_lateral2.norm.bias"}
        | {"roi_heads.box_head.conv2.norm.weight", "roi_heads.box_head.fc1.weight"},
    ),
    "class-agnostic, two convolutions in the RPN": (
        "FPN",
        {"ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True, "NUM_FC": 3}, "RPN": {"CONV_DIMS": [-1, -1]}},
        {"proposal_generator.rpn_head.conv.conv1.weight", "roi_heads.box_head.fc3.bias"},
    ),
    "RetinaNet with GN": (
        "RetinaNet",
        {"RETINANET": {"NORM": "GN"}, "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}},
        {"head.cls_subnet.9.weight", "head.bbox_subnet.10.bias", "backbone.top_block.p7.weight"},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_detectron2(name):
    form, changes, some_keys = VARIANTS[name]
    values = merge(merge(FORMS[form], {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 3}}}), {"MODEL": changes})
    model, *_ = detector_settings(Detectron2Config(values, "cfg.yaml"))
    state = build_detector(model, load_weights=False).state_dict()
    keys = detectron2_keys(model, is_bgr=True)
    exported = keys.export(state)
    assert some_keys <= exported.keys()
    ours = ("rpn.", "neck.", "head.classification_head.", "roi_heads.mask_predictor.", "backbone.layer")
    assert not [key for key in exported if key.startswith(ours)]
    converted = keys.convert(exported)
    assert converted.keys() == state.keys()
    no_rows = ("bbox_pred", "mask_fcn_logits")  # their rows of the background come back as zeros
    assert all(torch.equal(value, state[key]) for key, value in converted.items() if not any(n in key for n in no_rows))


def test_other_sources(tmp_path):
    assert is_foreign("torchvision:maskrcnn_resnet50_fpn")
    assert not is_foreign(str(tmp_path / "nowhere.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    assert not is_foreign(str(tmp_path / "other.pth"))
    with input_error("other.pth", "keys: a"):
        read_detector(str(tmp_path / "other.pth"))
    path = tmp_path / "model_final_5bd44e.pkl"
    path.write_bytes(pickle.dumps({"model": {"head.cls_score.bias": np.zeros(720, np.float32)}}))
    assert is_foreign(str(path))
    assert "38.7" in read_detector(str(path)).card.published  # the zoo's file is known by its name
