"""Against the installed transformers: AutoBackbone, and the models that load a backbone through it."""

import pytest
import torch
import transformers
from helpers import input_error
from safetensors.torch import load_file, save_file
from transformers import AutoBackbone, AutoConfig

from detbackbones import build_backbone
from detbackbones.integrations.transformers import DetBackbonesBackbone, DetBackbonesConfig

DETR = dict(
    d_model=16, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
    decoder_attention_heads=2, num_queries=4, num_labels=2, dropout=0.0,
)  # fmt: skip
ALL_LEVELS = ["c2", "c3", "c4", "c5"]
MODELS = {  # model -> levels of the backbone, arguments of the config
    "DeformableDetr": (["c3", "c4", "c5"], DETR | dict(d_model=32)),
    "ConditionalDetr": (["c5"], DETR),
    "UperNet": (ALL_LEVELS, dict(hidden_size=8, auxiliary_in_channels=256, auxiliary_channels=8, num_labels=2)),
    "MaskFormer": (
        ALL_LEVELS,
        dict(fpn_feature_size=32, mask_feature_size=32, decoder_config={"model_type": "detr", **DETR}, num_labels=2),
    ),
    "Mask2Former": (
        ALL_LEVELS,
        dict(
            feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1,
            decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=4, num_labels=2,
        ),
    ),
}  # fmt: skip
TASKS = {"UperNet": "SemanticSegmentation", "MaskFormer": "InstanceSegmentation"}
TASKS |= {"Mask2Former": "UniversalSegmentation"}


def build_model(name, config, **arguments):
    config = getattr(transformers, f"{name}Config")(backbone_config=config, **arguments)
    return getattr(transformers, f"{name}For{TASKS.get(name, 'ObjectDetection')}")(config)


def loss_arguments(name, images):
    """One object per image, in the form that the model takes."""
    count, _, height, width = images.shape
    if name == "UperNet":
        return {"labels": torch.ones(count, height, width, dtype=torch.long)}
    if name in ("MaskFormer", "Mask2Former"):
        masks = torch.zeros(1, height, width)
        masks[:, 8:40, 8:40] = 1
        return {"mask_labels": [masks] * count, "class_labels": [torch.tensor([1])] * count}
    label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}
    return {"labels": [label] * count}


def test_features_are_ours(source, images):
    config = DetBackbonesConfig(backbone=source, out_features=["c3", "c5"])
    assert (config.out_indices, config.strides) == ([2, 4], [2, 4, 8, 8, 8])
    model = AutoBackbone.from_config(config).eval()
    ours = build_backbone(source, out_features=("c3", "c5")).eval()
    assert type(model) is DetBackbonesBackbone and model.channels == [128, 512]
    output = model(images, output_hidden_states=True)
    assert all(torch.equal(a, b) for a, b in zip(output.feature_maps, ours(images).values(), strict=True))
    assert len(output.hidden_states) == 2
    assert torch.equal(model(images, return_dict=False)[0][1], output.feature_maps[1])
    assert {key.removeprefix("backbone.") for key in model.state_dict()} == set(ours.state_dict())


def test_out_features_come_from_the_config_the_backbone_or_the_deepest_level():
    named = dict(type="resnet18", out_features=("c5", "c3"))
    assert DetBackbonesConfig(backbone=named).out_features == ["c3", "c5"]
    assert DetBackbonesConfig(backbone=named, out_indices=[1]).out_features == ["c2"]
    assert DetBackbonesConfig(backbone="resnet18").out_features == ["c5"]
    assert DetBackbonesConfig(backbone="resnet20_cifar").stage_names == ["c1", "c2", "c3", "c4"]
    with input_error("resnet19"):
        DetBackbonesConfig(backbone="resnet19")


def test_a_saved_backbone_comes_back_without_its_initial_weights(run, images, tmp_path):
    folder, detector = run
    model = AutoBackbone.from_config(DetBackbonesConfig(backbone=folder, out_features=ALL_LEVELS)).eval()
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "run" / "last.pt").unlink()
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert isinstance(config, DetBackbonesConfig) and config.image_mean == pytest.approx([0.1, 0.2, 0.3])
    again = DetBackbonesBackbone.from_pretrained(tmp_path / "saved").eval()
    assert again.backbone.preprocess.std.flatten().tolist() == pytest.approx([0.5, 0.6, 0.7])
    for feature, expected in zip(again(images).feature_maps, detector.backbone(images).values(), strict=True):
        assert torch.equal(feature, expected)


def test_what_a_checkpoint_lacks_is_initialised(images, tmp_path):
    AutoBackbone.from_config(DetBackbonesConfig(backbone="resnet18")).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in state.items() if "layer2" not in key}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = DetBackbonesBackbone.from_pretrained(tmp_path).eval()
    layer = model.backbone.layer2[0]
    assert layer.bn1.weight.unique().tolist() == layer.bn1.running_var.unique().tolist() == [1]
    assert layer.conv1.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    assert torch.equal(model.backbone.conv1.weight, state["backbone.conv1.weight"])


def test_half_precision_does_not_round_the_statistics_of_images(images, tmp_path):
    config = DetBackbonesConfig(backbone="resnet18")
    model = AutoBackbone.from_config(config, dtype=torch.bfloat16)
    assert model.dtype == model(images.bfloat16()).feature_maps[0].dtype == torch.bfloat16
    assert config.image_mean == pytest.approx([0.485, 0.456, 0.406])
    model.save_pretrained(tmp_path)
    again = DetBackbonesBackbone.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert torch.equal(again(images.bfloat16()).feature_maps[0], model.eval()(images.bfloat16()).feature_maps[0])


def test_detr_trains_and_is_saved(source, images, tmp_path):
    """Dilated backbone with frozen norms and stem: only the rest gets gradients."""
    config = DetBackbonesConfig(backbone=source | dict(norm="frozen", freeze=1))
    model = build_model("Detr", config, **DETR)
    backbone = model.model.backbone.model.backbone
    expected = build_backbone(source | dict(norm="frozen"), out_features=("c5",))(images)["c5"]
    assert torch.equal(backbone(images)["c5"], expected)  # DETR replaces batch norms, but there are none
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    losses = []
    for _ in range(2):
        loss = model(images, **loss_arguments("Detr", images)).loss
        loss.backward()
        losses.append(loss.item())
        assert backbone.conv1.weight.grad is None
        assert backbone.layer1[0].conv1.weight.grad.abs().max() > 0
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, model(images).logits)
    again_backbone = again.model.backbone.model.backbone
    trained = [
        parameter.requires_grad for parameter in (again_backbone.conv1.weight, *again_backbone.layer1.parameters())
    ]
    assert not trained[0] and all(trained[1:])


@pytest.mark.parametrize("name", MODELS)
def test_models_train_on_a_dilated_backbone(name, images):
    levels, arguments = MODELS[name]
    model = build_model(name, DetBackbonesConfig(backbone="resnet18_dilated", out_features=levels), **arguments)
    loss = model(images, **loss_arguments(name, images)).loss
    loss.backward()
    weight = next(value for key, value in model.named_parameters() if key.endswith("backbone.layer1.0.conv1.weight"))
    assert loss.isfinite() and weight.grad.abs().max() > 0
