"""Named sources: every name has a card and a file, and nothing is downloaded to know it."""

import json
import re
import shutil

import pytest
import timm
import torch
import torchvision
from helpers import input_error, randomise
from safetensors.torch import save_file

from detbackbones import build_backbone, list_backbones
from detbackbones.weights import named_sources
from detbackbones.weights.cards import IMAGENET_MEAN, IMAGENET_STD, WeightCard, settle
from detbackbones.weights.named_sources import KINDS, card_for_file_name, find_named
from detbackbones.weights.published_weights import CAFFE2_CARDS, DETECTRON2_CARDS, OPENMMLAB_CARDS

TABLES = {"detectron2": DETECTRON2_CARDS, "caffe2": CAFFE2_CARDS, "openmmlab": OPENMMLAB_CARDS}
OURS = [name for name in list_backbones("*resne*") if not re.search("_dc5|_dilated|_cifar", name)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(named_sources, "download", refuse)
    monkeypatch.setattr(named_sources, "download_from_hub", refuse)


@pytest.mark.parametrize("kind", TABLES)
def test_the_tables_of_detectron2_and_openmmlab(kind):
    for name, card in TABLES[kind].items():
        assert find_named(f"{kind}:{name}").card is card
        assert card.architecture in OURS
        assert card.url.startswith("https://")
        assert None not in (card.mean, card.std, card.channel_order, card.stride_in_1x1)
        assert card.channel_order == "RGB" or card.input_range == 255


def test_original_resnets_have_caffes_strides_and_later_networks_pytorchs():
    cards = [card for table in TABLES.values() for card in table.values()]
    for card in cards:
        is_msra = card.licence == "MIT"
        assert card.stride_in_1x1 == is_msra
        assert not is_msra or (card.channel_order == "BGR" and card.std == pytest.approx((1 / 255,) * 3))


@pytest.mark.parametrize("architecture", [name for name in OURS if hasattr(torchvision.models, name)])
def test_every_enum_of_torchvision(architecture):
    for weights in torchvision.models.get_model_weights(architecture):
        for source in (f"torchvision:{weights.name}", f"torchvision:{type(weights).__name__}.{weights.name}"):
            card = find_named(source, architecture).card
            assert card.url == weights.url
            assert card.architecture == architecture
            assert str(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]).rstrip("0").rstrip(".") in card.published
            assert len(card.class_names) == 1000
            assert card.mean == tuple(weights.transforms().mean)
    assert find_named("torchvision:DEFAULT", architecture).card == card  # the last one


@pytest.mark.parametrize(
    "name,architecture,eps",
    [
        ("maskrcnn_resnet50_fpn", "resnet50", 0.0),
        ("maskrcnn_resnet50_fpn_v2", "resnet50", 1e-5),
        ("FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "resnet50", 0.0),
        ("deeplabv3_resnet101", "resnet101", 1e-5),
        ("fcn_resnet50", "resnet50", 1e-5),
    ],
)
def test_backbones_of_torchvisions_detectors_and_segmentation_models(name, architecture, eps):
    card = find_named(f"torchvision:{name}", "resnet50").card
    assert (card.architecture, card.norm_eps) == (architecture, eps)
    assert card.dilation_convention == ("torchvision" if "fcn_" in name or "deeplab" in name else None)
    assert card.source_channel_order == "RGB"


@pytest.mark.parametrize("architecture", [name for name in OURS if timm.list_pretrained(f"{name}.*")])
def test_every_tag_of_timm(architecture):
    for name in timm.list_pretrained(f"{architecture}.*"):
        tag = name.partition(".")[2]
        config = timm.get_pretrained_cfg(name)
        for source in (f"timm:{tag}", f"timm:{name}"):
            card = find_named(source, architecture).card
            assert (card.architecture, card.mean, card.std) == (architecture, config.mean, config.std)


@pytest.mark.parametrize(
    "source,known_as",
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "detectron2:MSRA/R-50"),
        ("catalog://ImageNetPretrained/FAIR/X-101-32x8d", "caffe2:FAIR/X-101-32x8d"),
        ("open-mmlab://detectron2/resnet50_caffe", "openmmlab:detectron2/resnet50_caffe"),
        ("mmdet:resnext101_64x4d", "openmmlab:resnext101_64x4d"),
        ("mmcls://resnet50_v1d", "openmmlab:mmcls/resnet50_v1d"),
        ("torchvision://resnet50", "torchvision:ResNet50_Weights.IMAGENET1K_V1"),
    ],
)
def test_spellings_of_the_libraries(source, known_as):
    assert find_named(source).card == find_named(known_as).card


def test_a_published_file_is_recognised_by_its_name():
    assert card_for_file_name("resnet50_msra-5891d200.pth").source == "openmmlab:detectron2/resnet50_caffe"
    assert "IMAGENET1K_V2" in card_for_file_name("resnet50-11ad3fa6.pth").source
    assert card_for_file_name("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth").norm_eps == 0.0
    assert card_for_file_name("R-50.pkl") is None
    assert card_for_file_name("resnet50-00000000.pth") is None


@pytest.mark.parametrize(
    "source,words",
    [
        ("torchvision:IMAGENET1K_V3", ("IMAGENET1K_V3", "did you mean IMAGENET1K_V")),
        ("torchvision:resnet5O.DEFAULT", ("resnet5O",)),
        ("timm:a1_in2k", ("a1_in2k", "did you mean", "a1_in1k")),
        ("timm:resnet51.a1_in1k", ("resnet51", "resnet50")),
        ("detectron2:MSRA/R-500", ("MSRA/R-500", "MSRA/R-50")),
        ("mmdet:resnet50_cafe", ("resnet50_cafe", "detectron2/resnet50_caffe")),
    ],
)
def test_unknown_names(source, words):
    with input_error(*words):
        find_named(source, "resnet50")


@pytest.mark.parametrize("path", ["w.pth", "C:w.pth", "runs/resnet50-1", "x:y"])
def test_other_words_are_paths(path):
    assert find_named(path, "resnet50") is None


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_repositories_of_the_hugging_face_hub(library, tmp_path, monkeypatch):
    """A repository has the config beside the weights; the weights' own keys say whose they are."""
    if library == "timm":
        model = randomise(timm.create_model("resnet18"))
        stem = model.conv1.weight
        config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    else:
        from transformers import ResNetConfig, ResNetModel

        options = dict(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
        model = randomise(ResNetModel(ResNetConfig(**options)))
        stem = model.embedder.embedder.convolution.weight
        config = model.config.to_dict()
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
        )
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    asked = []

    def fetch(repo, filename, revision=None):
        asked.append((repo, revision))
        if not (tmp_path / filename).exists():
            raise named_sources.InputError(f"no {filename}")
        (tmp_path / "cache").mkdir(exist_ok=True)
        return shutil.copy(tmp_path / filename, tmp_path / "cache" / filename)

    monkeypatch.setattr(named_sources, "download_from_hub", lambda *names: named_sources.Path(fetch(*names)))
    backbone = build_backbone("resnet18", weights="hf:someone/resnet-18@v1")
    assert set(asked) == {("someone/resnet-18", "v1")}
    assert torch.equal(backbone.conv1.weight, stem)
    assert backbone.preprocess.mean.flatten().tolist() == [0.5] * 3
    assert backbone.weight_card.library == ("timm" if library == "timm" else "huggingface")


def test_every_kind_has_a_source_here():
    assert set(KINDS) == {
        *("torchvision", "timm", "detectron2", "caffe2", "catalog", "openmmlab", "open-mmlab", "mmdet", "mmcls", "hf")
    }


def test_a_card_goes_to_json_and_back():
    card = find_named("torchvision:IMAGENET1K_V2", "resnet50").card
    assert WeightCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    assert WeightCard.from_dict(card.to_dict() | {"of_a_later_version": 1}) == card
    with input_error("card"):
        WeightCard.from_dict({"library": "timm"})
    with input_error("channel_order", "'RBG'"):
        WeightCard("w.pth", channel_order="RBG")


def test_arguments_are_completed_by_the_card():
    card = WeightCard("w.pth", mean=IMAGENET_MEAN, std=IMAGENET_STD, stride_in_1x1=True)
    settled = settle(card, {"stride_in_1x1": None, "norm_eps": 1e-3, "mean": None}, "w.pth")
    assert settled == {"stride_in_1x1": True, "norm_eps": 1e-3, "mean": IMAGENET_MEAN}
    assert settle(None, {"norm_eps": None}, "w.pth") == {"norm_eps": None}
