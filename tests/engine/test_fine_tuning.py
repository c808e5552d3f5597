"""Fine-tuning on other classes, by the names of the classes."""

import json

import pytest
import torch
from tiny_runs import NARROW
from torch import nn

from detbackbones import InputError
from detbackbones.engine.checkpoint import load_weights
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.runs import run
from detbackbones.weights.loading import fine_tune

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_layers_of_classes_may_differ_and_no_others():
    source, target = nn.ModuleDict({"body": nn.Linear(2, 2), "classes": nn.Linear(2, 3)}), None
    target = nn.ModuleDict({"body": nn.Linear(2, 2), "classes": nn.Linear(2, 5)})
    with pytest.raises(InputError, match=r"other\.pt does not fit.*classes\.weight"):
        load_weights(target, source.state_dict(), "other.pt")
    before = target["classes"].weight.clone()
    assert fine_tune(target, source.state_dict(), "other.pt", ["classes."]) == ["classes.weight", "classes.bias"]
    assert torch.equal(target["body"].weight, source["body"].weight)
    assert torch.equal(target["classes"].weight, before)
    with pytest.raises(InputError, match="classes"):
        fine_tune(target, source.state_dict(), "other.pt", ["body."])


def test_fine_tuning_a_detector_from_another_number_of_classes(shapes, here, capsys):
    settings = {"data_root": str(shapes), "max_iters": 1, **NARROW}
    run(load_config(DEFAULT_CONFIG, {**settings, "work_dir": "five"}))
    content = json.loads((shapes / "instances_train.json").read_text())
    content["categories"] = content["categories"][:2]
    ids = [category["id"] for category in content["categories"]]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in ids]
    (here / "two.json").write_text(json.dumps(content))
    two = {"train.ann_file": "two.json", "val.ann_file": "two.json", "optimizer.lr": 0.0}
    run(load_config(DEFAULT_CONFIG, {**settings, **two, "work_dir": "two", "init_from": "five/last.pt"}))
    assert "classes differ" not in capsys.readouterr().out
    five, two = (torch.load(here / name / "last.pt", weights_only=True)["model"] for name in ("five", "two"))
    rows = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(two[rows], five[rows][:3])  # background and the first two classes
    assert torch.equal(two["backbone.conv1.weight"], five["backbone.conv1.weight"])
    evaluation = {"eval_only": True, "checkpoint": "five", "val.ann_file": "two.json"}
    with pytest.raises(InputError, match="two.json.*missing: cross, star, triangle"):
        run(load_config(DEFAULT_CONFIG, {**settings, **evaluation}))


def renamed_classes(shapes, here, names):
    """Write the training annotations with other names of the five classes; return settings that use them."""
    content = json.loads((shapes / "instances_train.json").read_text())
    for category, name in zip(content["categories"], names):
        category["name"] = name
    (here / "renamed.json").write_text(json.dumps(content))
    return {"train.ann_file": "renamed.json", "val.ann_file": "renamed.json", "optimizer.lr": 0.0}


@pytest.mark.parametrize("model", ["mask_rcnn", "retinanet"])
def test_fine_tuning_keeps_class_layers_by_name(shapes, here, model):
    config = {"model": {"type": model, "backbone": "resnet18", "neck": {"type": "fpn", "out_channels": 8}}}
    narrow = NARROW if model == "mask_rcnn" else {}
    paths = {split: {"ann_file": f"instances_{split}.json", "image_dir": "images"} for split in ("train", "val")}
    small = {"batch_size": 2, "workers": 0, "short_side": None, "max_iters": 1, "data_root": str(shapes)}
    config |= small | paths | {"optimizer": {"type": "SGD", "lr": 0.01}}
    run(load_config(config, narrow | {"work_dir": "first"}))
    first = torch.load(here / "first" / "last.pt", weights_only=True)
    names = first["metadata"]["category_names"][::-1]
    settings = narrow | renamed_classes(shapes, here, names) | {"init_from": "first"}
    run(load_config(config, settings | {"work_dir": "second"}))
    second = torch.load(here / "second" / "last.pt", weights_only=True)["model"]
    if model == "mask_rcnn":
        key, order = "roi_heads.box_predictor.cls_score.weight", [0, 5, 4, 3, 2, 1]
        assert torch.equal(second[key], first["model"][key][order])
    else:
        key = "head.classification_head.cls_logits.bias"
        assert torch.equal(second[key].view(-1, 5), first["model"][key].view(-1, 5).flip(1))


def test_fine_tuning_on_as_many_other_classes_starts_class_layers_anew(shapes, here, capsys):
    settings = {"data_root": str(shapes), "max_iters": 1, **NARROW}
    run(load_config(DEFAULT_CONFIG, {**settings, "work_dir": "first"}))
    other = renamed_classes(shapes, here, ["a", "b", "c", "d", "e"]) | {"init_from": "first"}
    run(load_config(DEFAULT_CONFIG, {**settings, **other, "work_dir": "second"}))
    printed = "".join(capsys.readouterr().out.split())
    assert "classesdiffer:" in printed and "cls_score.weight" in printed
