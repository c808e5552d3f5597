"""Runs of ours as weights of a backbone."""

import pytest
import torch
from helpers import input_error, largest_error
from saved_runs import save_run

from detbackbones import build_backbone
from detbackbones.weights.sources import read_backbone_file, read_file, read_metadata


@pytest.mark.parametrize("name", ["run", "run/last.pt"])
@pytest.mark.parametrize("backbone", ["resnet18", "timm:resnet18"])
def test_a_backbone_computes_the_features_of_the_run(tmp_path, backbone, name):
    trained = save_run(tmp_path / "run", **{"type": backbone}).backbone
    built = build_backbone(backbone, weights=str(tmp_path / name)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert largest_error(built(images), trained(images)) <= 1e-5


@pytest.mark.parametrize("backbone", ["resnet18", "timm:resnet18"])
def test_deeper_stages_of_the_run_are_left_out(tmp_path, backbone):
    trained = save_run(tmp_path / "run", **{"type": backbone}).backbone
    built = build_backbone(backbone, weights=str(tmp_path / "run"), out_features=("c2",)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(built(images)["c2"], trained(images)["c2"])


def test_a_stage_that_runs_in_the_roi_heads_belongs_to_the_backbone(tmp_path):
    detector = save_run(tmp_path / "run", "c4")
    built = build_backbone("resnet18", weights=str(tmp_path / "run"), out_features=("c4", "c5")).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = built(images)
        c4 = detector.backbone(images)["c4"]
        torch.testing.assert_close(features["c4"], c4)
        torch.testing.assert_close(features["c5"], detector.roi_heads.stage(c4))


def test_another_architecture_is_an_error_that_lists_keys(tmp_path):
    save_run(tmp_path / "run")
    with input_error("run", "do not fit", "missing layer1.2.conv1.weight"):
        build_backbone("resnet34", weights=str(tmp_path / "run"))


def test_a_checkpoint_without_backbone(tmp_path):
    torch.save(
        {"model": {"head.weight": torch.zeros(1)}, "config": {"model": {}}, "metadata": {}}, tmp_path / "last.pt"
    )
    with input_error("does not have a backbone", "'backbone.'"):
        read_backbone_file(tmp_path)


def test_a_folder_without_checkpoint(tmp_path):
    torch.save({}, tmp_path / "other.pt")
    with input_error("last.pt does not exist", "other.pt"):
        build_backbone("resnet18", weights=str(tmp_path))


def test_the_whole_model_of_a_run_can_be_read(tmp_path):
    state = save_run(tmp_path / "run").state_dict()
    assert read_file(tmp_path / "run").keys() == state.keys()


@pytest.mark.parametrize("stage", ["layer4", 5, None])
def test_a_stage_of_another_kind_is_not_looked_for(tmp_path, stage):
    config = {"model": {"roi_heads": {"stage": stage}}}
    torch.save({"model": {"backbone.w": torch.ones(1)}, "config": config, "metadata": {}}, tmp_path / "last.pt")
    assert list(read_backbone_file(tmp_path)) == ["w"]


def test_metadata_of_runs_and_of_other_sources(tmp_path, resnet18_weights):
    save_run(tmp_path / "run", metadata={"image_mean": [0.5, 0.5, 0.5]})
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert read_metadata(str(tmp_path / "run")) == {"image_mean": [0.5, 0.5, 0.5]}
    for source in (resnet18_weights, "torchvision:IMAGENET1K_V1", str(tmp_path / "text.pt"), "nowhere"):
        assert read_metadata(source) == {}
