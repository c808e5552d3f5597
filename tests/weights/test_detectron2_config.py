"""detectron2's configs become configs of this package, and what is not supported is refused by the name of its key."""

import pytest
import yaml
from helpers import input_error

from detbackbones.weights.detectron2_config import Detectron2Config, merge, read_detectron2_config
from detbackbones.weights.detectron2_models import detector_settings
from detbackbones.weights.detectron2_zoo import FORMS, ZOO, zoo_config

ZOO_NAMES = {  # end-to-end oracle -> name in the model zoo
    "mask_rcnn_r50_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    "mask_rcnn_r50_dc5": "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x",
    "mask_rcnn_r50_c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x",
    "retinanet_r50_fpn": "COCO-Detection/retinanet_R_50_FPN_3x",
}


def settings(*changes: dict, form: str = "FPN"):
    values: dict = {"DATASETS": {"TEST": ["coco_2017_val"]}}
    for change in (FORMS[form], *changes):
        values = merge(values, change)
    return detector_settings(Detectron2Config(values, "cfg.yaml"))


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_the_zoo_has_the_configs_that_detectron2_writes(oracles, name):
    written = detector_settings(read_detectron2_config(oracles / f"detectron2_end_to_end_{name}.yaml"))
    model, *others = detector_settings(zoo_config(ZOO_NAMES[name]))
    heads = model if model["type"] == "retinanet" else model["roi_heads"]
    heads["detections_per_img"] = 30  # the only setting that the oracles change
    assert (model, *others) == written


@pytest.mark.parametrize("name", ZOO)
def test_every_detector_of_the_zoo_is_supported(name):
    model, metadata, short_side, long_side = detector_settings(zoo_config(name))
    assert len(metadata["category_ids"]) == model["num_classes"]
    assert (short_side, long_side) in {(800, 1333), (1024, 2048)}


def test_meaning_of_the_keys():
    model, metadata, *_ = settings(
        {
            "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TEST": 600, "MAX_SIZE_TEST": 1000},
            "MODEL": {
                "MASK_ON": True,
                "PIXEL_MEAN": [123.675, 116.28, 103.53],
                "PIXEL_STD": [58.395, 57.12, 57.375],
                "RESNETS": {"DEPTH": 101, "STRIDE_IN_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8, "NORM": "GN"},
                "FPN": {"NORM": "GN", "FUSE_TYPE": "avg", "OUT_CHANNELS": 64},
                "ANCHOR_GENERATOR": {"OFFSET": 0.5, "ASPECT_RATIOS": [[0.3, 1.0]]},
                "RPN": {"CONV_DIMS": [-1, -1], "PRE_NMS_TOPK_TEST": 123, "NMS_THRESH": 0.6},
                "ROI_HEADS": {"NUM_CLASSES": 3, "SCORE_THRESH_TEST": 0.2, "NMS_THRESH_TEST": 0.4},
                "ROI_BOX_HEAD": {
                    "NUM_CONV": 2,
                    "NUM_FC": 3,
                    "FC_DIM": 77,
                    "CONV_DIM": 55,
                    "NORM": "GN",
                    "CLS_AGNOSTIC_BBOX_REG": True,
                    "POOLER_TYPE": "ROIAlign",
                    "POOLER_SAMPLING_RATIO": 2,
                    "BBOX_REG_WEIGHTS": "(20.0, 20.0, 10.0, 10.0)",
                },
                "ROI_MASK_HEAD": {"NORM": "GN", "POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2},
            },
            "TEST": {"DETECTIONS_PER_IMAGE": 7, "EVAL_PERIOD": 5},
            "SOLVER": {"ANYTHING": 1},
        }
    )
    backbone, heads = model["backbone"], model["roi_heads"]
    assert (backbone["type"], backbone["groups"], backbone["width_per_group"]) == ("resnet101", 32, 8)
    assert (backbone["stride_in_1x1"], backbone["norm"]) == (False, "group")
    assert model["neck"] | {"norm": "group", "fuse_type": "avg", "out_channels": 64} == model["neck"]
    expected = dict(
        anchor_offset=0.5, aspect_ratios=[0.3, 1.0], conv_depth=2, nms_thresh=0.6, pre_nms_top_n=(2000, 123)
    )
    assert model["rpn"] | expected == model["rpn"]
    expected = dict(
        aligned=False,
        sampling_ratio=2,
        box_head_convs=(55, 55),
        box_head_fcs=3,
        box_head_dim=77,
        norm="group",
        class_agnostic_boxes=True,
        bbox_reg_weights=[20.0, 20.0, 10.0, 10.0],
        score_thresh=0.2,
        nms_thresh=0.4,
        detections_per_img=7,
    )
    assert heads | expected == heads
    assert metadata["image_mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert metadata["unnamed_classes"] and metadata["category_ids"] == [0, 1, 2]
    bgr = settings()[1]
    assert bgr["image_mean"] == pytest.approx([0.485, 0.456, 0.406])  # in the order R, G, B
    assert bgr["image_std"] == pytest.approx([1 / 255] * 3)
    assert bgr["category_ids"][-1] == 90 and bgr["category_names"][0] == "person"


REFUSED = {
    "MODEL.META_ARCHITECTURE": {"MODEL": {"META_ARCHITECTURE": "PanopticFPN"}},
    "MODEL.ROI_HEADS.NAME": {"MODEL": {"ROI_HEADS": {"NAME": "CascadeROIHeads"}}},
    "MODEL.KEYPOINT_ON": {"MODEL": {"KEYPOINT_ON": True}},
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": {"MODEL": {"RESNETS": {"DEFORM_ON_PER_STAGE": [False, True, True, True]}}},
    "MODEL.RESNETS.RES2_OUT_CHANNELS": {"MODEL": {"RESNETS": {"RES2_OUT_CHANNELS": 128}}},
    "MODEL.RESNETS.STEM_OUT_CHANNELS": {"MODEL": {"RESNETS": {"STEM_OUT_CHANNELS": 32}}},
    "MODEL.BACKBONE.NAME": {"MODEL": {"BACKBONE": {"NAME": "build_vovnet_fpn_backbone"}}},
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": {"MODEL": {"PROPOSAL_GENERATOR": {"MIN_SIZE": 4}}},
    "MODEL.PROPOSAL_GENERATOR.NAME": {"MODEL": {"PROPOSAL_GENERATOR": {"NAME": "RRPN"}}},
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": {"MODEL": {"ROI_BOX_HEAD": {"USE_SIGMOID_CE": True}}},
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": {"MODEL": {"ROI_BOX_HEAD": {"POOLER_TYPE": "ROIPool"}}},
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": {"MODEL": {"MASK_ON": True, "ROI_MASK_HEAD": {"POOLER_TYPE": "ROIAlign"}}},
    "MODEL.RPN.CONV_DIMS": {"MODEL": {"RPN": {"CONV_DIMS": [64]}}},
    "INPUT.FORMAT": {"INPUT": {"FORMAT": "L"}},
    "MODEL.PIXEL_MEAN": {"MODEL": {"PIXEL_MEAN": [1.0]}},
    "MODEL.ROI_HEADS.NUM_CLASSES must be int": {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": "many"}}},
    "MODEL.RESNETS.DEPHT": {"MODEL": {"RESNETS": {"DEPHT": 50}}},
    "MODEL.CENTERNET": {"MODEL": {"CENTERNET": {"NUM": 3}}},
    "MY_PROJECT": {"MY_PROJECT": {}},
    "VERSION": {"VERSION": 1},
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_supported_is_refused_by_name(key):
    with input_error("cfg.yaml", key):
        settings(REFUSED[key])


def test_keys_of_parts_that_are_not_built_may_have_any_value():
    changes = {"MODEL": {"RETINANET": {"NUM_CONVS": 7}, "ROI_KEYPOINT_HEAD": {"X": 1}, "RPN": {"SMOOTH_L1_BETA": 0.1}}}
    assert settings(changes) == settings()


def test_a_base_beside_the_file(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(FORMS["FPN"] | {"DATASETS": {"TEST": ["coco_2017_val"]}}))
    (tmp_path / "cfg.yaml").write_text("_BASE_: base.yaml\nMODEL: {RESNETS: {DEPTH: 101}}\n")
    assert detector_settings(read_detectron2_config(tmp_path / "cfg.yaml")) == settings(
        {"MODEL": {"RESNETS": {"DEPTH": 101}}}
    )


BOMB = "\n".join(["a: &a [x]"] + [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")])
BAD_FILES = {
    "tag": ("SIZES: !!python/object/apply:os.system ['touch PAYLOAD']\n", "not executed"),
    "bomb": (BOMB, "values"),
    "not yaml": ("a: [", "not YAML"),
    "a list": ("[1, 2]", "mapping"),
    "remote base": ("_BASE_: https://example.com/base.yaml", "_BASE_"),
    "base of itself": ("_BASE_: cfg.yaml", "_BASE_"),
    "missing base": ("_BASE_: nowhere.yaml", "nowhere.yaml"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_end_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text, message = BAD_FILES[name]
    (tmp_path / "cfg.yaml").write_text(text)
    with input_error(message):
        read_detectron2_config(tmp_path / "cfg.yaml")
    assert not (tmp_path / "PAYLOAD").exists()
