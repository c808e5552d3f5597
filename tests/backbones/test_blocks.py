"""Stages that keep no activations in training and compute them again in the backward pass."""

import pytest
import torch

from detbackbones import build_backbone


def gradients_and_kept_elements(backbone, images):
    """Run a training step; return the gradients and the number of tensor elements that autograd kept for it."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(feature.square().mean() for feature in backbone(images).values())
    loss.backward()
    return {name: parameter.grad for name, parameter in backbone.named_parameters()}, sum(sizes.values())


@pytest.mark.parametrize("name,norm", [("resnet18", "batch"), ("resnet18d", "batch"), ("resnet18", "batch_eval")])
def test_checkpointed_stages_change_memory_but_not_results(name, norm):
    plain = build_backbone(name, norm=norm).train()
    checkpointed = build_backbone(name, norm=norm, checkpoint_stages=("c2", "c4")).train()
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    expected, kept_by_plain = gradients_and_kept_elements(plain, images)
    gradients, kept = gradients_and_kept_elements(checkpointed, images)
    assert kept < 0.8 * kept_by_plain
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], msg=key)
    # the repetition must not count the batch twice
    for (key, buffer), reference in zip(checkpointed.named_buffers(), plain.buffers()):
        assert torch.equal(buffer, reference), key


def test_checkpointed_and_frozen_stages_together(resnet18_weights):
    stages = ("c2", "c3", "c4", "c5")
    backbone = build_backbone("resnet18", weights=resnet18_weights, freeze=3, checkpoint_stages=stages).train()
    backbone(torch.randn(2, 3, 64, 64))["c5"].sum().backward()
    trained = {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert trained == {"layer3", "layer4"}


def test_in_evaluation_mode_nothing_is_computed_twice():
    backbone = build_backbone("resnet18", checkpoint_stages=("c2",), out_features=("c2",)).eval()
    calls = []
    backbone.layer1[0].register_forward_hook(lambda *_: calls.append(1))
    backbone(torch.randn(1, 3, 32, 32))["c2"].sum().backward()
    assert len(calls) == 1
