"""Loading configs: merging, defaults written out, and errors that name the culprit and the nearest valid choice."""

import pytest

from detbackbones import InputError, build_detector
from detbackbones.engine.config import DEFAULT_CONFIG, TrainConfig, load_config, save_config
from detbackbones.engine.detection import DetectionConfig

FASTER = "faster_rcnn_resnet50_fpn_1x_coco"
RETINANET = "retinanet_resnet50_fpn_1x_coco"


def test_defaults_of_the_model_are_written_out():
    config = load_config(DEFAULT_CONFIG)
    assert isinstance(config, DetectionConfig)
    assert config.model["backbone"] == {
        "type": "resnet18",
        "weights": None,
        "out_features": ("c2", "c3", "c4"),
        "norm": "batch",
        "freeze": 0,
    }
    assert config.model["rpn"]["type"] == "rpn"
    assert config.model["roi_heads"]["type"] == "standard"


def test_aliases_are_dotted_keys():
    short = load_config(FASTER, {"backbone": "resnet101_dilated", "neck": "pafpn", "weights": None})
    dotted = {"model.backbone.type": "resnet101_dilated", "model.neck.type": "pafpn", "model.backbone.weights": None}
    assert short == load_config(FASTER, dotted)
    assert short.model["backbone"]["type"] == "resnet101_dilated"


def test_arguments_of_parts_that_the_file_does_not_mention():
    config = load_config(FASTER, {"model.rpn.nms_thresh": 0.6})
    assert config.model["rpn"] == {"type": "rpn", "nms_thresh": 0.6}
    config = load_config(RETINANET, {"model.type": "faster_rcnn", "model.roi_heads.box_head_dim": 64, "neck": "fpn"})
    assert config.model["roi_heads"] == {"type": "standard", "box_head_dim": 64}


def test_parts_by_name_and_without_a_type():
    model = {"type": "faster_rcnn", "backbone": "resnet18", "rpn": {"nms_thresh": 0.5}, "roi_heads": "standard"}
    data = {"ann_file": "a.json", "image_dir": "images"}
    values = {"model": model, "train": data, "val": data, "optimizer": {"type": "SGD", "lr": 0.1}, "max_iters": 1}
    config = load_config(values)
    assert config.model["backbone"] == {"type": "resnet18", "norm": "batch", "freeze": 0}
    assert config.model["neck"] == {"type": "fpn"}
    assert config.model["rpn"] == {"type": "rpn", "nms_thresh": 0.5}
    assert values["model"] == model and model["backbone"] == "resnet18"  # the values given are not changed


def test_without_weights_norm_and_freeze_of_the_file_go():
    values = load_config(FASTER).model_dump()
    assert (values["model"]["backbone"]["norm"], values["model"]["backbone"]["freeze"]) == ("frozen", 2)
    backbone = load_config(values, {"weights": None}).model["backbone"]
    assert (backbone["norm"], backbone["freeze"]) == ("batch", 0)
    backbone = load_config(values, {"weights": None, "model.backbone.norm": "group"}).model["backbone"]
    assert (backbone["norm"], backbone["freeze"]) == ("group", 0)


def test_delete_replaces_a_dict():
    replaced = load_config(FASTER, {"optimizer": {"_delete_": True, "type": "AdamW", "lr": 5e-4}})
    assert replaced.optimizer == {"type": "AdamW", "lr": 5e-4}
    assert load_config(FASTER, {"optimizer.lr": 0.1}).optimizer["momentum"] == 0.9


def test_a_saved_config_means_the_same(tmp_path):
    invocation = {"work_dir": "x", "resume": True, "eval_only": True, "checkpoint": "c.pt"}
    config = load_config(FASTER, {"schedule.cosine": True, "short_side": [64, 96], **invocation})
    save_config(config, tmp_path / "config.py")
    again = load_config(tmp_path / "config.py")
    assert again == load_config(FASTER, {"schedule.cosine": True, "short_side": [64, 96]})
    assert not invocation.keys() & config.model_dump().keys()


def test_every_key_says_what_it_means():
    for field in (*TrainConfig.model_fields.values(), *DetectionConfig.model_fields.values()):
        assert field.description


@pytest.mark.parametrize(
    "config, overrides, culprit, suggestion",
    [
        ("mask_rcnn_resnet50_fpn_2x_coco", {}, "mask_rcnn_resnet50_fpn_2x_coco", "mask_rcnn_resnet50_fpn_"),
        (FASTER, {"task": "detecton"}, "'detecton'", "detection"),
        (FASTER, {"imports": "no_such_module"}, "'no_such_module'", "No module"),
        (FASTER, {"imports": 3}, "imports", "str | Sequence[str]"),
        (FASTER, {"backbone": "resnet101_dilatd"}, "'resnet101_dilatd'", "resnet101_dilated"),
        (FASTER, {"neck": "fpm"}, "'fpm'", "did you mean fpn"),
        (FASTER, {"neck": None}, "neck", "pafpn"),
        (FASTER, {"model.type": "mask_rcn"}, "'mask_rcn'", "did you mean mask_rcnn"),
        (FASTER, {"model.rpn.type": "rpm"}, "'rpm'", "rpn"),
        (FASTER, {"model": 3}, "model", "dict"),
        (FASTER, {"max_iter": 3}, "'max_iter'", "did you mean max_iters"),
        (FASTER, {"bakcbone": "resnet18"}, "'bakcbone'", "did you mean backbone"),
        (FASTER, {"schedule.warmup": 3}, "'schedule.warmup'", "warmup_iters"),
        (FASTER, {"batch_size.x": 3}, "'batch_size.x'", "batch_size"),
        (FASTER, {"model.bakbone.freeze": 3}, "'model.bakbone.freeze'", "did you mean backbone"),
        (FASTER, {"model.backbone.depht": 3}, "model.backbone (resnet50)", "'depht'"),
        (FASTER, {"model.rpn.nms_tresh": 0.5}, "'nms_tresh'", "did you mean nms_thresh"),
        (RETINANET, {"model.rpn.nms_thresh": 0.5}, "'model.rpn.nms_thresh'", "neck"),
        (FASTER, {"model.neck.out_channels": "many"}, "model.neck.out_channels must be int", "got 'many'"),
        (FASTER, {"model.num_classes": 3}, "model.num_classes cannot be set", "annotation file"),
        (FASTER, {"model.backbone.load_weights": False}, "model.backbone.load_weights cannot be set", "engine"),
        (FASTER, {"batch_size": "many"}, "batch_size must be int", "got 'many'"),
        (FASTER, {"max_iters": 0}, "max_iters", "at least 1, got 0"),
        (FASTER, {"workers": -1}, "workers", "at least 0, got -1"),
        (FASTER, {"flip": 2}, "flip", "at most 1, got 2"),
        (FASTER, {"schedule.warmup_iters": -1}, "schedule.warmup_iters", "at least 0, got -1"),
        (FASTER, {"short_side": []}, "short_side", "at least 1 value"),
        (FASTER, {"short_side": [64, 0]}, "short_side", "at least 1, got [64, 0]"),
        (FASTER, {"precision": "fp8"}, "precision", "one of 'no', 'bf16', 'fp16', got 'fp8'"),
        (FASTER, {"eval_backend": "coco"}, "eval_backend", "'hotcoco', 'pycocotools'"),
        (FASTER, {"train.ann_file": 3}, "train.ann_file must be str", "got 3"),
        (FASTER, {"optimizer.type": "SDG"}, "optimizer.type", "SGD"),
        (FASTER, {"optimizer.lr": "fast"}, "optimizer.lr must be float", "got 'fast'"),
        (FASTER, {"optimizer.lr": None}, "optimizer.lr", "missing"),
        (FASTER, {"optimizer.lr": -1.0}, "optimizer", "Invalid learning rate"),
        (FASTER, {"optimizer.momentun": 0.5}, "'momentun'", "did you mean momentum"),
        (FASTER, {"eval_only": True}, "eval_only", "checkpoint="),
        (FASTER, {"resume": True, "overwrite": True}, "resume=true", "overwrite=true"),
    ],
)
def test_errors_are_one_line(config, overrides, culprit, suggestion):
    with pytest.raises(InputError) as error:
        load_config(config, overrides)
    message = str(error.value)
    assert culprit in message
    assert suggestion in message
    assert "\n" not in message


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "own.py").write_text("model = dict(type='faster_rcnn', backbone='resnet18')\nmax_iters = 1\n")
    with pytest.raises(InputError, match="config key optimizer is missing"):
        load_config(tmp_path / "own.py")
    (tmp_path / "own.py").write_text("_base_ = ['nowhere.py']\n")
    with pytest.raises(InputError, match=r"own\.py cannot be read"):
        load_config(tmp_path / "own.py")


def test_parts_from_a_module_in_the_working_directory(here):
    (here / "own_parts.py").write_text(
        "from detbackbones.registry import BACKBONES\n"
        "from detbackbones.backbones.resnet import ResNet\n"
        "from detbackbones.backbones.blocks import BasicBlock\n"
        "@BACKBONES.register_module()\n"
        "def own_resnet10(freeze: int = 0, norm: str = 'batch'):\n"
        "    return ResNet(BasicBlock, (1, 1, 1, 1), norm=norm, freeze=freeze)\n"
    )
    config = load_config(
        DEFAULT_CONFIG, {"model.backbone": {"_delete_": True, "type": "own_resnet10"}, "imports": "own_parts"}
    )
    save_config(config, here / "config.py")
    again = load_config(here / "config.py")
    assert again.imports == "own_parts"
    assert build_detector(again.model, num_classes=2).backbone.feature_specs[0].channels == 64
