"""Save models and build them again: every model computes the same afterwards, bit for bit."""

import json

import pytest
import torch
from detector_forms import keep_all_scores, narrow_detector
from helpers import input_error, randomise
from safetensors.torch import load_file
from saved_runs import save_run

from detbackbones import Backbone, Detector, build_backbone, build_detector, convert_norm
from detbackbones.backbones.preprocess import Preprocess
from detbackbones.weights.weight_files import read_weights_file, weights_file_content

IMAGE = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
BACKBONES = [
    dict(type="resnet18"),
    dict(type="resnet18", norm="group", in_channels=3, out_features=("c3", "c4"), output_stride=16),
    dict(type="resnet18d", multi_grid=(1, 2), norm="batch", norm_eps=1e-3, deform_stages=("c5",)),
    dict(type="resnet20_cifar", num_classes=10),
    dict(type="timm:resnet18", output_stride=16),
    dict(type="timm:mobilenetv3_small_050", out_features=("c3", "c4")),
]


def features(backbone, image=IMAGE):
    with torch.no_grad():
        return backbone(backbone.preprocess(image))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("config", BACKBONES, ids=lambda config: "-".join(map(str, config.values())))
def test_a_backbone_computes_the_same_features(tmp_path, config):
    backbone = randomise(build_backbone(config)).eval()
    backbone.preprocess = Preprocess((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    backbone.save_pretrained(tmp_path)
    loaded = Backbone.from_pretrained(tmp_path)
    assert type(loaded) is type(backbone)
    assert loaded.feature_specs == backbone.feature_specs
    assert same(features(loaded), features(backbone))


@pytest.mark.parametrize("kind,form", [("mask_rcnn", "fpn"), ("faster_rcnn", "c4"), ("retinanet", "pafpn")])
def test_a_detector_finds_the_same_objects(tmp_path, kind, form):
    threshold = {"score_thresh": 0.0} if kind == "retinanet" else {"roi_heads": {"score_thresh": 0.0}}
    detector = randomise(narrow_detector(kind, form, **threshold)).eval()
    detector.backbone.preprocess = Preprocess((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    detector.metadata = {"category_names": ["cell", "Zellkörper", "dot"], "category_ids": [1, 2, 7]}
    detector.save_pretrained(tmp_path)
    loaded = Detector.from_pretrained(tmp_path)
    with torch.no_grad():
        found, expected = loaded(list(IMAGE))[0], detector(list(IMAGE))[0]
    assert len(expected["boxes"]) > 0
    assert same(found, expected)
    assert loaded.metadata["category_names"] == ["cell", "Zellkörper", "dot"]
    assert loaded.metadata["category_ids"] == [1, 2, 7]


def test_norms_and_frozen_parts_of_a_backbone_that_started_from_weights(tmp_path, resnet18_weights):
    backbone = build_backbone("resnet18", weights=resnet18_weights).freeze(3).eval()
    backbone.save_pretrained(tmp_path / "saved")
    loaded = Backbone.from_pretrained(tmp_path / "saved")
    assert same(features(loaded), features(backbone))
    assert {name: type(module) for name, module in loaded.named_modules()} == {
        name: type(module) for name, module in backbone.named_modules()
    }
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert resnet18_weights not in (tmp_path / "saved" / "config.json").read_text()


def test_the_stage_of_the_c4_form_stays_frozen(tmp_path, resnet18_weights):
    backbone = dict(type="resnet18", weights=resnet18_weights, out_features=("c4", "c5"), freeze=5)
    detector = build_detector(
        dict(type="faster_rcnn", backbone=backbone, neck="identity", roi_heads=dict(type="stage", stage="c5"))
    )
    detector.save_pretrained(tmp_path / "saved")
    loaded = Detector.from_pretrained(tmp_path / "saved")
    trained = [name for name, parameter in detector.named_parameters() if parameter.requires_grad]
    assert trained == [name for name, parameter in loaded.named_parameters() if parameter.requires_grad]
    assert not any("stage" in name for name in trained)


def test_a_detector_on_a_backbone_that_was_built_before(tmp_path):
    detector = build_detector("retinanet", backbone=build_backbone("resnet18", output_stride=16), num_classes=2)
    detector.save_pretrained(tmp_path)
    loaded = Detector.from_pretrained(tmp_path)
    assert loaded.backbone.feature_specs == detector.backbone.feature_specs


def test_other_programs_read_the_files(tmp_path):
    backbone = build_backbone("resnet18", num_classes=1000)
    backbone.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert state.keys() == backbone.state_dict().keys()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"]["backbone"].items() >= {"type": "resnet18", "num_classes": 1000, "norm": "batch"}.items()
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: detbackbones\npipeline_tag: image-feature-extraction\n")
    assert "Backbone.from_pretrained(" in card


def test_a_saved_model_is_a_source_of_weights(tmp_path):
    detector = randomise(narrow_detector("faster_rcnn", "fpn")).eval()
    detector.save_pretrained(tmp_path / "detector")
    detector.backbone.save_pretrained(tmp_path / "backbone")
    for name in ("detector", "backbone", "backbone/model.safetensors"):
        backbone = build_backbone("resnet18", weights=str(tmp_path / name), norm="batch").eval()
        assert same(features(backbone), features(detector.backbone))


def test_arguments_replace_those_of_the_saved_config(tmp_path):
    build_backbone("resnet18").save_pretrained(tmp_path)
    assert Backbone.from_pretrained(tmp_path, freeze=2).frozen_count == 2
    with input_error("'frezee'", "did you mean freeze"):
        Backbone.from_pretrained(tmp_path, frezee=2)


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda d: convert_norm(d, "frozen"), ("bn1", "FrozenBatchNorm2d")),
        (lambda d: d.fuse_for_inference(), ("changed",)),
        (keep_all_scores, ("score_thresh", "0.05")),
    ],
    ids=["norm", "fused", "threshold"],
)
def test_a_model_that_was_changed_after_it_was_built_is_not_saved(tmp_path, change, words):
    detector = change(narrow_detector("faster_rcnn", "fpn"))
    with input_error("changed after it was built", *words):
        detector.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_model_without_a_config_is_not_saved(tmp_path):
    with input_error("norm"):
        build_backbone("resnet18", norm=torch.nn.BatchNorm2d).save_pretrained(tmp_path)
    neck = narrow_detector("faster_rcnn", "fpn").neck
    with input_error("FPN"):
        build_detector("faster_rcnn", backbone="resnet18", neck=neck).save_pretrained(tmp_path)


def rewrite(path, change):
    """Change the content of a weights file in place."""
    content = read_weights_file(path)
    change(content)
    path.write_bytes(weights_file_content(content["model"], content["config"], content["metadata"]))


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda content: content["model"].pop("bn1.weight"), ("missing", "bn1.weight")),
        (lambda content: content["model"].update(extra=torch.zeros(1)), ("unexpected", "extra")),
        (lambda content: content["config"]["backbone"].update(type="resnet50"), ("do not fit",)),
        (lambda content: content["config"]["backbone"].update(type="resnet17"), ("'resnet17'", "did you mean")),
        (lambda content: content["config"]["backbone"].update(out_feature=1), ("'out_feature'", "out_features")),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, words):
    build_backbone("resnet18").save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    rewrite(tmp_path / "model.safetensors", change)
    with input_error(*words):
        Backbone.from_pretrained(tmp_path)


def test_an_edited_config_file_is_not_ignored(tmp_path):
    build_backbone("resnet18").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("resnet18", "resnet34"))
    with input_error("config.json was changed"):
        Backbone.from_pretrained(tmp_path)


def test_models_of_another_kind(tmp_path, resnet18_weights):
    build_backbone("resnet18").save_pretrained(tmp_path / "backbone")
    narrow_detector("faster_rcnn", "fpn").save_pretrained(tmp_path / "detector")
    with input_error("a backbone", "Detector.from_pretrained"):
        Detector.from_pretrained(tmp_path / "backbone")
    with input_error("a detector", "Backbone.from_pretrained"):
        Backbone.from_pretrained(tmp_path / "detector")
    with input_error("FasterRCNN, not a MaskRCNN"):
        type(narrow_detector("mask_rcnn", "fpn")).from_pretrained(tmp_path / "detector")
    with input_error("not a model that detbackbones has saved", "weights="):
        Backbone.from_pretrained(resnet18_weights)


def test_a_run_of_ours(tmp_path):
    detector = save_run(tmp_path / "run", metadata={"category_ids": [3, 5], "category_names": ["a", "b"]})
    loaded = Detector.from_pretrained(tmp_path / "run")
    assert same(loaded.state_dict(), detector.state_dict())
    assert loaded.metadata["category_names"] == ["a", "b"]
