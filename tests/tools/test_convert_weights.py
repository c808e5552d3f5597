"""tools/convert_weights.py: theirs -> ours -> theirs is bit-exact, and nothing is overwritten by accident."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from helpers import oracle_weights, randomise
from saved_runs import save_run
from shared_data import shared_folder

from detbackbones import Backbone, Detector, build_backbone
from detbackbones.engine.trained_detector import load_detector
from detbackbones.tools.convert_weights import main
from detbackbones.weights.key_maps import DETECTRON2
from detbackbones.weights.model_difference import first_difference

IMAGE = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
CAFFE_STYLE = ["stride_in_1x1=true", "channel_order=BGR"]


def features(backbone):
    with torch.no_grad():
        return backbone.eval()(backbone.preprocess(IMAGE))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in b)


def read_pickle(path: Path) -> dict:
    return pickle.loads(path.read_bytes())


@pytest.fixture(scope="module")
def msra(tmp_path_factory) -> Path:
    """A backbone in the form of detectron2's ImageNet weights: BGR, without counters of batches."""
    state = randomise(torchvision.models.resnet50()).state_dict()
    state = DETECTRON2.export({key: value for key, value in state.items() if not key.endswith("tracked")})
    content = {"model": {key: value.numpy() for key, value in state.items()}, "matching_heuristics": True}
    path = tmp_path_factory.mktemp("msra") / "R-50.pkl"
    path.write_bytes(pickle.dumps(content | {"__author__": "someone"}))
    return path


def test_a_backbone_of_torchvision_and_back(tmp_path, resnet18_weights, capsys):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.pth"
    assert main([resnet18_weights, f"out={ours}"]) == 0
    assert main([str(ours), f"out={theirs}", "to=torchvision"]) == 0
    assert same(torch.load(theirs), torch.load(resnet18_weights))
    torchvision.models.resnet18().load_state_dict(torch.load(theirs))
    expected = build_backbone("resnet18", weights=resnet18_weights)
    assert same(features(Backbone.from_pretrained(ours)), features(expected))
    assert same(features(build_backbone("resnet18", weights=str(ours))), features(expected))


def test_a_backbone_of_detectron2_and_back(tmp_path, msra, capsys):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.pkl"
    assert main([str(msra), f"out={ours}", *CAFFE_STYLE]) == 0
    assert main([str(ours), f"out={theirs}", "to=detectron2"]) == 0
    printed = capsys.readouterr().out
    assert "INPUT.FORMAT: BGR" in printed
    assert "MODEL.PIXEL_MEAN: [103.53, 116.28, 123.675]" in printed
    assert "MODEL.RESNETS.STRIDE_IN_1X1: True" in printed
    content = read_pickle(theirs)
    assert content["matching_heuristics"] is True  # or detectron2 would not find the keys below a detector's prefix
    assert "__author__" in content  # or detectron2 would take it for a file of Caffe2
    assert same(content["model"], read_pickle(msra)["model"])
    expected = build_backbone("resnet50", weights=str(msra), stride_in_1x1=True, channel_order="BGR")
    assert same(features(Backbone.from_pretrained(ours)), features(expected))
    rgb = tmp_path / "rgb.pkl"
    assert main([str(ours), f"out={rgb}", "to=detectron2", "input_format=RGB"]) == 0
    assert (read_pickle(rgb)["model"]["stem.conv1.weight"] == content["model"]["stem.conv1.weight"][:, ::-1]).all()


def test_dilation_and_epsilon_are_those_of_the_network(tmp_path, msra, capsys):
    path, words = tmp_path / "theirs.pth", ["stride_in_1x1=false", "channel_order=BGR", "backbone=resnet50_dc5"]
    assert main([str(msra), f"out={path}", "to=torchvision", *words]) == 0
    printed = capsys.readouterr().out
    assert "replace_stride_with_dilation: (False, False, True)" in printed
    assert "eps of the norms: 1e-05" in printed
    assert main([str(msra), f"out={tmp_path / 'theirs.pkl'}", "to=detectron2", *words]) == 2
    assert "dilation_convention='exact'" in capsys.readouterr().err


def test_half_precision_is_kept(tmp_path, resnet18_weights):
    state = {
        key: value.half() if value.is_floating_point() else value for key, value in torch.load(resnet18_weights).items()
    }
    torch.save(state, tmp_path / "half.pth")
    assert main([str(tmp_path / "half.pth"), f"out={tmp_path / 'ours.safetensors'}"]) == 0
    assert main([str(tmp_path / "ours.safetensors"), f"out={tmp_path / 'back.pth'}", "to=torchvision"]) == 0
    assert same(torch.load(tmp_path / "back.pth"), state)


@pytest.mark.parametrize(
    "model", [pytest.param("maskrcnn_resnet50_fpn_v2", marks=pytest.mark.slow), "retinanet_resnet50_fpn_v2"]
)
def test_a_detector_of_torchvision_and_back(tmp_path, model):
    network = randomise(getattr(torchvision.models.detection, model)(weights=None, weights_backbone=None))
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert main([str(tmp_path / "theirs.pth"), f"out={ours}"]) == 0
    assert main([str(ours), f"out={back}", "to=torchvision"]) == 0
    assert same(torch.load(back), network.state_dict())
    assert Detector.from_pretrained(ours).metadata["category_names"][0]


@pytest.mark.parametrize("form", [pytest.param("mask_rcnn_r50_c4", marks=pytest.mark.slow), "retinanet_r50_fpn"])
def test_a_detector_of_detectron2_and_back(tmp_path, form):
    folder = shared_folder("oracles", "ORACLES")
    keys = json.loads((folder / f"detectron2_end_to_end_{form}.json").read_text())["keys"]
    state = {key: value.numpy() for key, value in oracle_weights(keys).items()}
    theirs, ours, back = (tmp_path / name for name in ("model_final.pkl", "ours.safetensors", "back.pkl"))
    theirs.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}))
    shutil.copy(folder / f"detectron2_end_to_end_{form}.yaml", tmp_path / "config.yaml")
    assert main([str(theirs), f"out={ours}"]) == 0
    assert main([str(ours), f"out={back}", "to=detectron2"]) == 0
    assert same(read_pickle(back)["model"], state)
    found, expected = load_detector(str(ours)), load_detector(str(theirs))
    assert (found.short_side, found.long_side) == (expected.short_side, expected.long_side)
    assert found.metadata["category_names"] == expected.metadata["category_names"]
    assert first_difference(found.model, expected.model) is None
    assert same(found.model.state_dict(), expected.model.state_dict())
    assert same(vars(found.model.backbone.preprocess)["_buffers"], vars(expected.model.backbone.preprocess)["_buffers"])


def test_a_run_of_ours(tmp_path):
    detector = save_run(tmp_path / "run", metadata={"category_ids": [1, 2], "category_names": ["a", "b"]})
    assert main([str(tmp_path / "run"), f"out={tmp_path / 'run.safetensors'}"]) == 0
    assert same(Detector.from_pretrained(tmp_path / "run.safetensors").state_dict(), detector.state_dict())
    assert main([str(tmp_path / "run"), f"out={tmp_path / 'backbone.pth'}", "to=torchvision", "part=backbone"]) == 0
    torchvision.models.resnet18().load_state_dict(torch.load(tmp_path / "backbone.pth"), strict=False)


@pytest.mark.parametrize(
    "words,culprits",
    [
        (["{weights}"], ("out", "missing")),
        (["{weights}", "out={weights}", "to=torchvision", "overwrite=true"], ("source itself",)),
        (["{weights}", "out={folder}/taken.safetensors"], ("taken.safetensors exists", "overwrite=true")),
        (["{weights}", "out={folder}/a.pth"], ("a.pth", ".safetensors")),
        (["{weights}", "out={folder}/none/a.safetensors"], ("folder that exists",)),
        (["{weights}", "out={folder}/a.pkl", "to=detectron"], ("detectron2",)),
        (["{weights}", "out={folder}/a.pth", "to=torchvision", "input_format=BGR"], ("input_format",)),
        (["{weights}", "out={folder}/a.safetensors", "strid_in_1x1=true"], ("strid_in_1x1", "stride_in_1x1")),
        (["{folder}/taken.safetensors", "out={folder}/a.safetensors"], ("taken.safetensors", "text")),
        (["{msra}", "out={folder}/a.safetensors"], ("stride_in_1x1", "channel_order")),
        (["{msra}", "out={folder}/a.pth", "to=torchvision", *CAFFE_STYLE], ("stride_in_1x1=True", "other features")),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, resnet18_weights, msra, words, culprits, capsys):
    (tmp_path / "taken.safetensors").write_text("something else\n")
    before = sorted(tmp_path.iterdir())
    assert main([word.format(weights=resnet18_weights, folder=tmp_path, msra=msra) for word in words]) == 2
    error = capsys.readouterr().err
    assert all(culprit in error for culprit in culprits), error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken.safetensors").read_text() == "something else\n"
