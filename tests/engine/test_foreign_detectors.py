"""The tool evaluates detectors of other libraries and starts from them."""

import json

import pytest
import torch
from foreign_detectors import write_narrow_detectron2
from helpers import input_error
from tiny_runs import words

from detbackbones import build_backbone, build_detector
from detbackbones.engine.config import find_config, load_config
from detbackbones.engine.detector_classes import label_map, match_classes, start_state
from detbackbones.engine.foreign_detectors import config_of_foreign
from detbackbones.engine.runs import run, saved_run
from detbackbones.engine.trained_detector import load_detector
from detbackbones.tools.train_coco import main
from detbackbones.weights.class_lists import COCO
from detbackbones.weights.detector_sources import read_detector

pytestmark = pytest.mark.usefixtures("without_pictures")
CPU_ONLY = {"workers": 0, "short_side": 64, "eval_backend": "pycocotools"}


def paths(shapes):
    splits = {f"{split}.ann_file": f"instances_{split}.json" for split in ("train", "val")}
    return {"data_root": str(shapes), "train.image_dir": "images", "val.image_dir": "images", **splits}


def test_evaluation_without_a_config(shapes, here):
    """The numbers are those of the same weights in a run of ours."""
    source = write_narrow_detectron2(here, "FPN", num_classes=5, ROI_HEADS={"SCORE_THRESH_TEST": 0.0})
    settings = paths(shapes) | CPU_ONLY | {"work_dir": "theirs"}
    assert main(words({"eval_only": "true", "checkpoint": source} | settings)) == 0
    found = load_detector(str(source))
    model = {key: value for key, value in found.config.items() if key != "num_classes"}
    content = json.loads((shapes / "instances_val.json").read_text())
    classes = sorted((category["id"], category["name"]) for category in content["categories"])
    metadata = {"category_ids": [key for key, _ in classes], "category_names": [name for _, name in classes]}
    torch.save({"model": found.model.state_dict(), "config": {"model": model}, "metadata": metadata}, here / "ours.pt")
    values = config_of_foreign(str(source))
    run(load_config(values, settings | {"eval_only": True, "checkpoint": "ours.pt", "work_dir": "ours"}))
    theirs, ours = (json.loads((here / name / "predictions.json").read_text()) for name in ("theirs", "ours"))
    assert len(theirs) > 0
    assert theirs == ours


def test_sizes_and_data_of_a_foreign_config(here):
    source = write_narrow_detectron2(here, "FPN")
    text = (here / "cfg.yaml").read_text()
    (here / "cfg.yaml").write_text(f"{text}INPUT: {{MIN_SIZE_TEST: 500, MAX_SIZE_TEST: 900}}\n")
    values, name = saved_run(str(source))
    assert (values["short_side"], values["long_side"], name) == (500, 900, "model_final_pkl")
    config = load_config(values, {"eval_only": True, "checkpoint": str(source)})
    assert config.val.ann_file.endswith("instances_val2017.json")
    assert config.model["backbone"]["mean"] == pytest.approx((0.3, 0.2, 0.1))


def test_names_of_sources_need_no_file():
    values, name = saved_run("torchvision:maskrcnn_resnet50_fpn_v2")
    assert name == "maskrcnn_resnet50_fpn_v2"
    assert load_config(values, {"eval_only": True, "checkpoint": "x"}).model["roi_heads"]["norm"] == "batch"
    values, name = saved_run("detectron2:COCO-Detection/retinanet_R_50_FPN_3x")
    assert name == "retinanet_R_50_FPN_3x"
    assert load_config(values, {"eval_only": True, "checkpoint": "x"}).model["type"] == "retinanet"


def test_the_weights_of_a_config_do_not_contradict_those_that_training_starts_from():
    """ImageNet weights of the config are not read: mean, std and strides are those of the detector."""
    source = "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
    config = load_config(find_config("mask_rcnn_resnet50_fpn_1x_coco"), {"init_from": source})
    expected = {"norm": "frozen", "freeze": 2, "stride_in_1x1": True, "weights": None}
    assert config.model["backbone"].items() >= expected.items()
    backbone = build_backbone(config.model["backbone"], load_weights=False)
    assert backbone.preprocess.std.flatten().tolist() == pytest.approx([1 / 255] * 3)
    assert backbone.preprocess.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406], abs=1e-4)


def fine_tuning(source, **overrides):
    narrow = {"type": "fpn", "out_channels": 8}
    heads = {"type": "standard", "box_head_dim": 8}
    backbone = {"type": "resnet18", "norm": "frozen", "freeze": 2}
    model = {"type": "faster_rcnn", "backbone": backbone, "neck": narrow, "roi_heads": heads}
    optimizer = {"type": "SGD", "lr": 0.0}
    base = {"model": model, "optimizer": optimizer, "max_iters": 1, "batch_size": 2, "init_from": str(source)}
    data = {split: {"ann_file": f"instances_{split}.json", "image_dir": "images"} for split in ("train", "val")}
    return load_config(base | data | overrides, {"workers": 0, "short_side": 64})


def test_fine_tuning(shapes, here):
    source = write_narrow_detectron2(here, "FPN", num_classes=5, ANCHOR_GENERATOR={"OFFSET": 0.5})
    config = fine_tuning(source, data_root=str(shapes), work_dir="run")
    assert config.model["backbone"]["mean"] == pytest.approx((0.3, 0.2, 0.1))
    assert config.model["rpn"]["anchor_offset"] == 0.5
    run(config)
    trained = torch.load(here / "run" / "last.pt", weights_only=True)
    state, expected = trained["model"], read_detector(str(source)).state
    assert all(torch.equal(state[key], value) for key, value in expected.items() if key.startswith("neck."))
    assert trained["config"]["model"]["backbone"]["std"] == pytest.approx((0.2, 0.2, 0.2))
    again = load_detector("run").model  # the run is built without the source
    assert again.backbone.preprocess.mean.flatten().tolist() == pytest.approx([0.3, 0.2, 0.1])


def test_contradictions(here):
    source = write_narrow_detectron2(here, "FPN")
    with input_error("mean", "contradicts", "model_final.pkl"):
        fine_tuning(source, image_mean=(0.5, 0.5, 0.5), image_std=(0.2, 0.2, 0.2))


def test_rows_of_known_classes():
    """COCO's classes keep their rows; another class starts all of them anew."""
    source = read_detector("torchvision:maskrcnn_resnet50_fpn")
    key = "roi_heads.box_predictor.cls_score.bias"
    source.__dict__["state"] = {key: torch.arange(91.0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detbackbones.engine.detector_classes.read_detector", lambda name: source)
        name = "torchvision:maskrcnn_resnet50_fpn"
        assert start_state(name, ["dog", "person"], 1)[key].tolist() == [0, 18, 1]
        assert len(start_state(name, ["dog", "unicorn"], 1)[key]) == 0


class Data:
    """A dataset's classes."""

    def __init__(self, classes):
        self.category_ids, self.names = list(classes), list(classes.values())
        self.annotations = type("Annotations", (), {"path": "instances.json"})

    def reorder_classes(self, names):
        ids = dict(zip(self.names, self.category_ids))
        self.names, self.category_ids = list(names), [ids[name] for name in names]


def test_rows_without_a_class_are_left_out():
    metadata = read_detector("torchvision:retinanet_resnet50_fpn").metadata
    data = Data(dict(reversed(COCO.items())))
    match_classes(data, metadata, "the validation data")
    assert data.names == list(COCO.values())
    labels = label_map(metadata)
    assert len(labels) == 91 and (labels >= 0).sum() == 80
    assert [data.category_ids[labels[number]] for number in (1, 13, 90)] == [1, 13, 90]
    assert labels[0] == labels[12] == -1
    with input_error("instances.json", "missing: ", "unknown: unicorn"):
        match_classes(Data({1: "person", 2: "unicorn"}), metadata, "the validation data")


def test_classes_without_names_are_taken_in_the_order_of_their_ids():
    metadata = {"category_ids": [0, 1], "category_names": ["class 0", "class 1"], "unnamed_classes": True}
    data = Data({9: "b", 3: "a"})
    match_classes(data, metadata, "the validation data")
    assert data.category_ids == [3, 9]
    with input_error("2 classes", "instances.json", "has 1"):
        match_classes(Data({1: "a"}), metadata, "the validation data")


def test_a_fresh_detector_is_not_a_source(here):
    for name in ("retinanet", "mask_rcnn"):
        torch.save(build_detector(name, backbone="resnet18").state_dict(), here / "ours.pth")
        assert config_of_foreign("ours.pth") is None


def test_a_saved_model_of_ours_settles_what_its_tensors_do_not_say(here, shapes):
    backbone = {"type": "resnet50", "stride_in_1x1": True, "norm_eps": 1e-3}
    saved = build_detector("retinanet", backbone=backbone, neck="fpn", num_classes=5, anchor_offset=0.5)
    saved.save_pretrained(here / "saved")
    model = {"type": "retinanet", "backbone": "resnet50", "neck": "fpn"}
    paths = {split: {"ann_file": f"instances_{split}.json", "image_dir": "images"} for split in ("train", "val")}
    values = {
        "model": model,
        "data_root": str(shapes),
        "max_iters": 1,
        "optimizer": {"type": "SGD", "lr": 0.01},
        **paths,
    }
    fitted = load_config(values | {"init_from": "saved"}, {}).model
    assert fitted["backbone"]["stride_in_1x1"] is True and fitted["backbone"]["norm_eps"] == 1e-3
    assert fitted["anchor_offset"] == 0.5
    with input_error("stride_in_1x1=False", "saved"):
        load_config(values | {"init_from": "saved"}, {"model.backbone.stride_in_1x1": False})


def test_a_converted_detector_is_evaluated_as_before(here, shapes, capsys):
    source = str(write_narrow_detectron2(here, "FPN", num_classes=5, ROI_HEADS={"SCORE_THRESH_TEST": 0.0}))
    load_detector(source).model.save_pretrained(here / "saved")
    arguments = [f"{key}={value}" for key, value in (paths(shapes) | CPU_ONLY).items()]
    for name in (source, "saved"):
        assert main(["eval_only=true", f"checkpoint={name}", f"work_dir=eval-{len(name)}", *arguments]) == 0
    found = [(here / f"eval-{len(name)}" / "metrics.json").read_text() for name in (source, "saved")]
    assert found[0] == found[1]
