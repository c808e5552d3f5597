"""build_extractor: parts by name, and the parts of a run with their trained weights."""

import pytest
import torch
from helpers import input_error, largest_error
from saved_runs import save_run

from detbackbones.engine.extractor import build_extractor

IMAGES = torch.randint(0, 255, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def features_of(extractor, images=IMAGES):
    with torch.no_grad():
        return extractor(images)


@pytest.mark.parametrize(
    "form,neck,backbone",
    [
        ("fpn", True, {}),
        ("fpn", "fpn", {}),
        ("fpn", True, {"norm": "group"}),
        ("fpn", True, {"type": "resnet18_dc5"}),
        ("fpn", True, {"type": "timm:resnet18"}),
        ("retinanet", True, {}),
        ("c4", True, {}),
    ],
)
def test_the_features_of_a_run_are_those_of_its_detector(tmp_path, form, neck, backbone):
    detector = save_run(tmp_path / "run", form, **backbone)
    extractor = build_extractor(weights=str(tmp_path / "run"), neck=neck)
    assert not extractor.random_parts
    with torch.no_grad():
        maps = detector.backbone(detector.backbone.preprocess(IMAGES))
        expected = maps | detector.neck(maps)
    features = features_of(extractor)
    assert [spec.name for spec in extractor.specs] == list(features)
    assert largest_error({name: features[name] for name in expected}, expected) <= 1e-5


def test_without_neck_only_the_backbones_levels_are_computed(tmp_path):
    save_run(tmp_path / "run")
    assert list(features_of(build_extractor(weights=str(tmp_path / "run"), features=["c3"]))) == ["c3"]


def test_the_stage_of_roi_heads_is_a_level_again(tmp_path):
    detector = save_run(tmp_path / "run", "c4")
    features = features_of(build_extractor(weights=str(tmp_path / "run")))
    assert list(features) == ["c4", "c5"]
    with torch.no_grad():
        torch.testing.assert_close(features["c5"], detector.roi_heads.stage(features["c4"]))


def test_the_number_of_channels_comes_from_the_run(tmp_path):
    save_run(tmp_path / "run", in_channels=4)
    extractor = build_extractor(weights=str(tmp_path / "run"))
    assert extractor.backbone.preprocess.channels == 4


@pytest.mark.parametrize("backbone", [None, "resnet18", "timm:resnet18"])
def test_images_are_read_and_normalised_as_in_the_run(tmp_path, backbone):
    metadata = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "image_range": [0.0, 4095.0]}
    save_run(tmp_path / "run", metadata=metadata, type=backbone or "resnet18")
    extractor = build_extractor(backbone, str(tmp_path / "run"))
    assert extractor.image_range == (0, 4095)
    preprocess = extractor.backbone.preprocess
    torch.testing.assert_close(preprocess.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(preprocess.std.flatten(), torch.tensor([0.5, 0.6, 0.7]))


def test_arguments_change_the_backbone_of_the_run(tmp_path):
    save_run(tmp_path / "run")
    extractor = build_extractor(weights=str(tmp_path / "run"), arguments={"output_stride": 8})
    assert extractor.specs[-1].stride == 8
    assert not extractor.random_parts


def test_another_neck_than_the_runs_has_random_weights(tmp_path):
    save_run(tmp_path / "run")
    assert build_extractor(weights=str(tmp_path / "run"), neck="pafpn").random_parts == ["neck"]


def test_weights_of_a_run_for_a_named_backbone(tmp_path):
    detector = save_run(tmp_path / "run")
    extractor = build_extractor("resnet18", str(tmp_path / "run"), "fpn")
    assert extractor.random_parts == ["neck"]
    assert torch.equal(extractor.backbone.conv1.weight, detector.backbone.conv1.weight)


def test_parts_by_name_have_the_same_random_weights_every_time():
    first, second = (build_extractor("resnet18", neck="fpn") for _ in range(2))
    assert first.random_parts == ["backbone", "neck"]
    assert largest_error(features_of(first), features_of(second)) == 0


def test_a_level_that_the_neck_passes_on_stands_once():
    extractor = build_extractor("resnet18", neck="identity")
    assert [spec.name for spec in extractor.specs] == ["c2", "c3", "c4", "c5"]
    assert extractor.random_parts == ["backbone"]


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"backbone": "resnet18", "neck": True}, ("neck=true", "weights=")),
        ({"weights": "run", "neck": True, "features": ["c4"]}, ("was trained on", "got features=(c4)")),
        ({"weights": "run", "arguments": {"type": "resnet34"}}, ("model.type", "backbone=")),
        ({"weights": "run", "arguments": {"weights": "x"}}, ("model.weights", "weights=")),
        ({"weights": "run", "arguments": {"output_stride": "eight"}}, ("model.output_stride", "'eight'")),
        ({"weights": "run", "arguments": {"in_channels": 4}}, ("wrong shape conv1.weight",)),
        ({"weights": "run", "arguments": {"depth": 3}}, ("'depth'",)),
        ({"weights": "run", "neck": "fpm"}, ("'fpm'", "did you mean fpn")),
        ({"backbone": "resnet34", "weights": "run"}, ("ResNet-18", "ResNet-34")),
        ({"weights": "empty"}, ("does not have a backbone", "backbone=")),
        ({"weights": "nowhere"}, ("nowhere does not exist",)),
    ],
)
def test_errors(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "run", out_features=("c2", "c3", "c4", "c5"))
    (tmp_path / "empty").mkdir()
    torch.save({"model": {}, "config": {"model": {}}, "metadata": {}}, tmp_path / "empty" / "last.pt")
    with input_error(*words):
        build_extractor(**arguments)
