import pytest
from helpers import input_error

from detbackbones.engine.config import load_config, save_config
from detbackbones.registry import TRANSFORMS

CONFIG = "mask_rcnn_resnet18_fpn_short_shapes"


def darken(image, target, factor=0.5):
    return (image * factor).to(image.dtype), target


def test_a_list_stands_for_a_tuple_and_transforms_can_hold_transforms():
    transforms = [
        dict(type="LargeScaleJitter", size=[64, 64]),
        dict(type="RandomApply", transforms=[dict(type="ColorJitter", hue=0.1)], p=0.3),
        dict(type="RandomIoUCrop", sampler_options=[0.1, 0.5]),
    ]
    assert load_config(CONFIG, {"transforms": transforms}).transforms == transforms


@pytest.mark.parametrize(
    "entry,words",
    [
        (dict(type="GaussianBlr"), ["GaussianBlr", "did you mean GaussianBlur"]),
        (dict(type="LargeScaleJitter", siz=3), ["transforms[1] (LargeScaleJitter)", "did you mean size"]),
        (dict(type="LargeScaleJitter", size="big"), ["transforms[1].size must be tuple[int, int], got 'big'"]),
        (dict(type="RandomPhotometricDistort", p="x"), ["transforms[1].p must be float"]),
        (dict(type="LargeScaleJitter", scale=(2.0, 1.0)), ["transforms[1] (LargeScaleJitter)", "(2.0, 1.0)"]),
        (dict(p=1), ["transforms[1]", "'type'"]),
        (3, ["transforms must be Sequence[dict[str, Any]]"]),
        (lambda image, target: (image, target), ["transforms[1] cannot be saved with the run", "<lambda>"]),
    ],
)
def test_transforms_are_checked_with_the_config(entry, words):
    with input_error(*words):
        load_config(CONFIG, {"transforms": [dict(type="RandomHorizontalFlip"), entry]})


def test_a_function_is_saved_by_its_name(tmp_path):
    config = load_config(CONFIG, {"transforms": [darken]})
    assert config.transforms == [{"type": f"{__name__}:darken"}]
    save_config(config, tmp_path / "config.py")
    assert load_config(tmp_path / "config.py").transforms == config.transforms


def test_registered_transforms_can_be_named():
    TRANSFORMS.register_module(name="darken_by_name", module=darken, force=True)
    load_config(CONFIG, {"transforms": [dict(type="darken_by_name", factor=0.5)]})
    with input_error("transforms[0] (darken_by_name)", "did you mean factor"):
        load_config(CONFIG, {"transforms": [dict(type="darken_by_name", factr=0.5)]})


def test_copy_paste_needs_masks():
    assert load_config(CONFIG, {"copy_paste": 0.5}).copy_paste == 0.5
    with input_error("copy_paste=0.5 needs a model with masks"):
        load_config(CONFIG, {"copy_paste": 0.5, "model.type": "faster_rcnn", "model.roi_heads": {}})


@pytest.mark.parametrize("key,value", [("copy_paste", 1.5), ("repeat_factor_threshold", 0.0)])
def test_bounds(key, value):
    with input_error(key):
        load_config(CONFIG, {key: value})
