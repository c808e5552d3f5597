"""What weights settle in a backbone: arguments, preprocessing, and the errors where arguments contradict them."""

import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from helpers import input_error, largest_error, randomise
from torch import Tensor

from detbackbones import build_backbone, describe, verify_dilation
from detbackbones.backbones.weight_settings import settle_config
from detbackbones.detectors.base import resolve_backbone
from detbackbones.weights.key_maps import DETECTRON2

MSRA = "detectron2:MSRA/R-50"
MSRA_MEAN = (103.53, 116.28, 123.675)  # of BGR images in [0, 255]


def bottlenecks(backbone) -> tuple[int, int]:
    """Strides of the 1x1 and of the 3x3 convolution that begin c3."""
    block = backbone.layer2[0]
    return block.conv1.stride[0], block.conv2.stride[0]


@pytest.fixture(scope="module")
def resnet50_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = randomise(torchvision.models.resnet50()).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.") and "num_batches" not in key}


@pytest.fixture(scope="module")
def mirror_folder(tmp_path_factory, resnet50_state) -> Path:
    """A mirror with a file in place of detectron2's ResNet-50."""
    folder = tmp_path_factory.mktemp("mirror")
    file = folder / "detectron2" / "ImageNetPretrained" / "MSRA" / "R-50.pkl"
    file.parent.mkdir(parents=True)
    arrays = {key: value.numpy() for key, value in DETECTRON2.export(resnet50_state).items()}
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "MSRA", "matching_heuristics": True}))
    return folder


@pytest.fixture
def mirror(mirror_folder, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_MIRROR", str(mirror_folder))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A mirror that is empty."""
    monkeypatch.setenv("DETBACKBONES_MIRROR", str(tmp_path / "nothing"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def ambiguous(tmp_path, mirror_folder) -> str:
    """A checkpoint of detectron2 that does not say how it was trained."""
    path = tmp_path / "model_final.pkl"
    path.write_bytes(next(mirror_folder.rglob("R-50.pkl")).read_bytes())
    return str(path)


def test_a_uint8_rgb_image_gives_the_features_of_caffes_network(mirror, resnet50_state):
    """The reference is torchvision's network with Caffe's strides, fed as detectron2 feeds it."""
    reference = torchvision.models.resnet50().eval()
    reference.load_state_dict(resnet50_state, strict=False)
    for stage in (reference.layer2, reference.layer3, reference.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    pixels = torch.randint(0, 256, (1, 3, 65, 98), dtype=torch.uint8)
    bgr = pixels.flip(1).float() - torch.tensor(MSRA_MEAN).view(3, 1, 1)
    backbone = build_backbone("resnet50", weights=MSRA).eval()
    layers = {f"layer{number}": f"c{number + 1}" for number in (1, 2, 3, 4)}
    with torch.no_grad():
        expected = dict(torchvision.models._utils.IntermediateLayerGetter(reference, layers)(bgr))
        assert largest_error(backbone(backbone.preprocess(pixels)), expected) <= 1e-5
    card = backbone.weight_card
    assert (card.source, card.source_channel_order, card.stride_in_1x1) == (MSRA, "BGR", True)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"stride_in_1x1": False}, ("stride_in_1x1=False", "stride_in_1x1=True", "other convolutions")),
        ({"channel_order": "RGB"}, ("channel_order='RGB'", "'BGR'", "colours")),
        ({"norm_eps": 1e-3}, ("norm_eps=0.001", "norm_eps=1e-05")),
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, ("mean=(0.5, 0.5, 0.5)", "(0.485, 0.456, 0.406)")),
    ],
)
def test_arguments_that_contradict_the_weights(mirror, arguments, words):
    with input_error(MSRA, "contradicts", "leave", *words):
        build_backbone("resnet50", weights=MSRA, **arguments)
    with input_error(MSRA, "contradicts") if "norm_eps" in arguments else input_error(MSRA):
        settle_config({"type": "resnet50", "weights": MSRA, **arguments})


def test_arguments_that_agree_with_the_weights(mirror):
    build_backbone("resnet50", weights=MSRA, stride_in_1x1=True, channel_order="BGR", norm_eps=1e-5)


def test_an_ambiguous_file_asks_for_arguments(ambiguous):
    with input_error(ambiguous, "ResNet-50", "detectron2", "config.yaml", "stride_in_1x1=True", "channel_order='BGR'"):
        build_backbone("resnet50", weights=ambiguous)
    with input_error(ambiguous, "channel_order='BGR'"):
        build_backbone("resnet50", weights=ambiguous, stride_in_1x1=True)
    backbone = build_backbone("resnet50", weights=ambiguous, stride_in_1x1=False, channel_order="RGB")
    assert bottlenecks(backbone) == (1, 2)
    torch.testing.assert_close(backbone.preprocess.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    backbone = build_backbone("resnet50", weights=ambiguous, stride_in_1x1=True, channel_order="BGR")
    assert bottlenecks(backbone) == (2, 1)
    torch.testing.assert_close(backbone.preprocess.std.flatten(), torch.full((3,), 1 / 255))


def test_detectron2s_conversion_of_torchvision_is_known_by_its_author(ambiguous):
    content = pickle.loads(Path(ambiguous).read_bytes()) | {"__author__": "torchvision"}
    Path(ambiguous).write_bytes(pickle.dumps(content))
    assert bottlenecks(build_backbone("resnet50", weights=ambiguous)) == (1, 2)


def test_a_bare_state_dict_has_torchvisions_convention_unless_arguments_say_otherwise(tmp_path, resnet50_state):
    torch.save(resnet50_state, tmp_path / "w.pth")
    weights = str(tmp_path / "w.pth")
    assert bottlenecks(build_backbone("resnet50", weights=weights)) == (1, 2)
    plain = build_backbone("resnet50", weights=weights, stride_in_1x1=True)
    assert bottlenecks(plain) == (2, 1)
    reversed_ = build_backbone("resnet50", weights=weights, channel_order="BGR", stride_in_1x1=True)
    assert torch.equal(reversed_.conv1.weight, plain.conv1.weight.flip(1))


@pytest.mark.parametrize(
    "meta,strides",
    [
        ({"mmdet_version": "2.28", "config": "model = dict(backbone=dict(type='ResNet', style='caffe'))"}, (2, 1)),
        ({"mmengine_version": "0.10", "cfg": "model = dict(backbone=dict(type='ResNet', depth=50))"}, (1, 2)),
    ],
)
def test_openmmlab_says_the_style_in_its_config_and_not_the_channels(meta, strides, tmp_path, resnet50_state):
    torch.save({"meta": meta, "state_dict": resnet50_state}, tmp_path / "w.pth")
    with input_error("OpenMMLab", "channel_order"):
        build_backbone("resnet50", weights=str(tmp_path / "w.pth"))
    assert bottlenecks(build_backbone("resnet50", weights=str(tmp_path / "w.pth"), channel_order="BGR")) == strides
    with input_error("contradicts"):
        build_backbone(
            "resnet50", weights=str(tmp_path / "w.pth"), channel_order="BGR", stride_in_1x1=strides == (1, 2)
        )


def test_a_published_file_is_known_by_its_name(tmp_path, resnet50_state):
    torch.save({"state_dict": resnet50_state}, tmp_path / "resnet50_msra-5891d200.pth")
    backbone = build_backbone("resnet50", weights=str(tmp_path / "resnet50_msra-5891d200.pth"))
    assert bottlenecks(backbone) == (2, 1)
    assert backbone.weight_card.licence == "MIT"
    torch.save(resnet50_state, tmp_path / "resnet50-0676ba61.pth")
    card = build_backbone("resnet50", weights=str(tmp_path / "resnet50-0676ba61.pth")).weight_card
    assert "76.13" in card.published


def test_without_reading_the_weights(offline):
    """A run is built again from its config when network and files are gone."""
    assert bottlenecks(build_backbone("resnet50", weights=MSRA, load_weights=False)) == (2, 1)
    backbone = build_backbone("resnet50", weights=MSRA, load_weights=False, stride_in_1x1=False)
    assert bottlenecks(backbone) == (1, 2)
    gone = build_backbone("resnet50", weights="gone.pth", load_weights=False, stride_in_1x1=True, norm_eps=1e-3)
    assert bottlenecks(gone) == (2, 1)
    assert gone.bn1.eps == 1e-3
    assert gone.weight_card is None
    with input_error("gone.pth", "does not exist"):
        build_backbone("resnet50", weights="gone.pth")


def test_a_resolved_config_says_what_the_weights_settle(offline, ambiguous):
    settled = {"stride_in_1x1": True, "norm_eps": 1e-5}
    assert settled.items() <= resolve_backbone({"type": "resnet50_dc5", "weights": MSRA}).items()
    settled = {"stride_in_1x1": False, "norm_eps": 1e-5, "dilation_convention": "torchvision"}
    config = {"type": "resnet101_dilated", "weights": "torchvision:deeplabv3_resnet101"}
    assert settled.items() <= resolve_backbone(config).items()
    with input_error("channel_order"):
        resolve_backbone({"type": "resnet50", "weights": ambiguous})
    config = {"type": "resnet50", "weights": "gone.pth", "norm": "frozen", "freeze": 2}
    assert resolve_backbone(config) == config


def test_the_dilation_of_other_libraries(tmp_path, ambiguous):
    Path(ambiguous).with_name("config.yaml").write_text(
        "INPUT: {FORMAT: RGB}\nMODEL: {RESNETS: {STRIDE_IN_1X1: false, RES5_DILATION: 2}}\n"
    )
    backbone = build_backbone("resnet50_dc5", weights=ambiguous)
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [2, 2, 2]
    with input_error("dilation_convention='exact'", "contradicts", "'detectron2'"):
        build_backbone("resnet50_dc5", weights=ambiguous, dilation_convention="exact")
    with input_error("replace_stride_with_dilation=(False, False, True)", "not exact"):
        build_backbone("resnet50", weights=ambiguous)
    build_backbone("resnet50", weights=ambiguous, out_features=("c3", "c4"))  # nothing of this is dilated
    config = Path(ambiguous).with_name("config.yaml")
    config.write_text(config.read_text().replace("false", "true"))  # with these strides detectron2's rule is exact
    build_backbone("resnet50", weights=ambiguous, dilation_convention="exact")


def test_describe_and_verify_know_the_card(mirror):
    text = str(describe("resnet50", weights=MSRA))
    assert all(word in text for word in (MSRA, "BGR", "1x1", "MIT"))
    assert max(verify_dilation("resnet50_dc5", size=(65, 66), weights=MSRA).values()) <= 1e-4


def test_mean_and_std_as_arguments():
    backbone = build_backbone("resnet18", mean=(0.1, 0.2, 0.3), std=(1, 2, 4), in_channels=4)
    torch.testing.assert_close(backbone.preprocess.mean.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.1]))
    with input_error("mean and std", "none"):
        build_backbone("resnet18", mean=(0.1, 0.2, 0.3))
    with input_error("channel_order", "weights="):
        build_backbone("resnet18", channel_order="BGR")
