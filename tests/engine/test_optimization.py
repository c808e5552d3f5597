"""Parameter groups, learning rates, the moving average of the weights, and the choice of the best model."""

import copy
import io
import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from detector_forms import narrow_detector
from timm.utils import ModelEmaV3
from torch import nn
from torchvision.ops._utils import split_normalization_params

from detbackbones import InputError
from detbackbones.engine.config import DEFAULT_CONFIG, Schedule, load_config
from detbackbones.engine.optimization import (
    BestMetric,
    ModelAverage,
    check_best_metric,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
)
from detbackbones.layers.fuse import fuse_for_inference


def config(**overrides):
    return load_config(DEFAULT_CONFIG, overrides)


@pytest.fixture(scope="module")
def model():
    return narrow_detector("faster_rcnn", "fpn")


def ids(parameters):
    return {id(parameter) for parameter in parameters}


def groups(model, **overrides):
    return make_optimizer(config(**overrides), model, 1.0).param_groups


# --- groups


def test_by_default_one_group_has_the_trainable_parameters_in_their_order(model):
    (group,) = groups(model)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.SyncBatchNorm])
def test_norms_are_those_of_torchvision(norm):
    layer = {nn.GroupNorm: lambda: norm(2, 4), nn.InstanceNorm2d: lambda: norm(4, affine=True)}.get(
        norm, lambda: norm(4)
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer(), nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), layer()))
    norms, others = split_normalization_params(network)
    other, group = groups(network, norm_decay=0.0, **{"optimizer.weight_decay": 0.1})
    assert (ids(other["params"]), ids(group["params"])) == (ids(others), ids(norms))
    assert (other["weight_decay"], group["weight_decay"]) == (0.1, 0.0)


def test_norms_of_a_detector_are_those_of_torchvision(model):
    norms, others = split_normalization_params(model)
    assert norms
    other, group = groups(model, norm_decay=0.0)
    assert {frozenset(ids(g["params"])) for g in (other, group)} == {frozenset(ids(norms)), frozenset(ids(others))}


def test_all_groups_together_are_the_trainable_parameters(model):
    made = groups(model, norm_decay=0.0, bias_decay=0.5, backbone_lr_factor=0.1, **{"optimizer.lr": 0.2})
    assert sorted(id(p) for g in made for p in g["params"]) == sorted(id(p) for p in model.parameters())
    backbone = ids(model.backbone.parameters())
    for group in made:
        assert ids(group["params"]) <= backbone or not ids(group["params"]) & backbone
        assert group["base_lr"] == pytest.approx(0.02 if ids(group["params"]) <= backbone else 0.2)


def test_biases_outside_norms_have_their_own_decay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    rest, biases = groups(network, bias_decay=0.0)
    assert ids(biases["params"]) == {id(network[0].bias)}
    assert id(network[1].bias) in ids(rest["params"])


def test_frozen_and_shared_parameters_come_never_and_once():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].requires_grad_(False)
    network[2].weight = network[0].weight
    (group,) = groups(network)
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters() if p.requires_grad]


def test_the_groups_of_a_state_fit_those_of_another_process(model):
    settings = dict(norm_decay=0.0, bias_decay=0.0, backbone_lr_factor=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    twin = copy.deepcopy(model)
    twin_names = {id(p): name for name, p in twin.named_parameters()}
    assert [[names[id(p)] for p in g["params"]] for g in groups(model, **settings)] == [
        [twin_names[id(p)] for p in g["params"]] for g in groups(twin, **settings)
    ]


def test_a_model_without_a_backbone_refuses_a_factor_for_it():
    with pytest.raises(InputError, match="backbone_lr_factor=0.1 needs .* Linear has none"):
        groups(nn.Linear(2, 2), backbone_lr_factor=0.1)


# --- learning rate


def test_the_learning_rate_of_the_1x_schedule():
    schedule = Schedule(warmup_iters=1000, warmup_factor=0.001, steps=(60_000, 80_000), gamma=0.1)
    factors = [learning_rate_factor(schedule, i, 90_000) for i in (0, 500, 1000, 59_999, 60_000, 80_000)]
    assert factors == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.01])
    cosine = Schedule(warmup_iters=10, cosine=True)
    assert [learning_rate_factor(cosine, i, 110) for i in (10, 60, 110)] == pytest.approx([1, 0.5, 0])


def test_every_group_follows_the_schedule_from_its_own_rate(model):
    schedule = {"schedule.warmup_iters": 0, "schedule.cosine": False, "schedule.steps": (5,), "schedule.gamma": 0.5}
    settings = config(backbone_lr_factor=0.1, max_iters=10, **{"optimizer.lr": 0.2}, **schedule)
    optimizer = make_optimizer(settings, model, 2.0)
    for iteration, factor in ((4, 1), (5, 0.5)):
        assert set_learning_rate(optimizer, settings, iteration) == pytest.approx(0.4 * factor)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.4 * factor, 0.04 * factor])


# --- moving average


def network_and_batch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    network[2].requires_grad_(False)
    return network, torch.randn(2, 3, 8, 8)


def train_step(network, x):
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(x).square().mean().backward()
    optimizer.step()
    network.zero_grad()


def test_the_average_of_five_steps_is_that_by_hand():
    network, x = network_and_batch()
    average, expected = ModelAverage(network, 0.9), None
    for _ in range(5):
        train_step(network, x)
        average.update(network)
        state = {name: value.double() for name, value in network.state_dict().items()}
        expected = state if expected is None else {k: 0.9 * expected[k] + 0.1 * state[k] for k in state}
    averaged = average.module.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(averaged[name].double(), expected[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(averaged[name], network.state_dict()[name])
    assert averaged["1.num_batches_tracked"] == 5
    assert torch.equal(averaged["2.weight"], network[2].weight)  # frozen: to the last bit


def test_the_average_is_that_of_timm():
    network, x = network_and_batch()
    average, peer = ModelAverage(network, 0.8), None
    for _ in range(5):
        train_step(network, x)
        average.update(network)
        if peer is None:
            peer = ModelEmaV3(network, decay=0.8)
        else:
            peer.update(network)
    for name, value in peer.module.state_dict().items():
        torch.testing.assert_close(average.module.state_dict()[name], value)


def test_a_resumed_average_equals_one_that_was_never_stopped():
    network, x = network_and_batch()
    average = ModelAverage(network, 0.9)
    for _ in range(3):
        train_step(network, x)
        average.update(network)
    file = io.BytesIO()
    torch.save({"model": network.state_dict(), "average": average.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed, _ = network_and_batch()
    resumed.load_state_dict(state["model"])
    resumed_average = ModelAverage(resumed, 0.9)
    resumed_average.load_state_dict(state["average"])
    for _ in range(2):
        for each, its_average in ((network, average), (resumed, resumed_average)):
            train_step(each, x)
            its_average.update(each)
    for name, value in average.state_dict().items():
        assert torch.equal(resumed_average.state_dict()[name], value), name


def test_a_compiled_part_can_be_averaged_and_fused(model):
    trained = copy.deepcopy(model)
    trained.backbone.compile(backend="eager")
    average = ModelAverage(trained, 0.5)
    for _ in range(2):
        with torch.no_grad():
            next(trained.parameters()).mul_(2)
        average.update(trained)
    first, last = next(model.parameters()), next(average.module.parameters())
    torch.testing.assert_close(last, first * 3)  # half of 2 and of 4
    images = [torch.rand(3, 64, 64)]
    with torch.inference_mode():
        plain, fused = average.module.eval()(images)[0], fuse_for_inference(average.module)(images)[0]
    torch.testing.assert_close(fused["boxes"], plain["boxes"], rtol=1e-3, atol=1e-2)


def test_the_average_of_a_model_in_mixed_precision_runs_on_its_own_weights():
    network, x = network_and_batch()
    AcceleratorState._reset_state()  # another test may have chosen another precision
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    prepared = accelerator.prepare(network)
    average = ModelAverage(accelerator.unwrap_model(prepared), 0.9)
    average.update(accelerator.unwrap_model(prepared))
    with torch.no_grad():
        before = average.module.eval()(x)
        prepared[2].weight.zero_()
        prepared[2].bias.zero_()
        assert torch.equal(average.module(x), before)
        exact = copy.deepcopy(average.module)
        del exact.__dict__["forward"]
    assert not torch.equal(exact(x), before)  # before was computed in bf16
    AcceleratorState._reset_state()


# --- best metric


def test_the_best_value_and_the_evaluations_since():
    best = BestMetric("AP", patience=2)
    values = [0.1, 0.3, 0.3, math.nan, 0.4]
    assert [best.update({"AP": value, "AR": 9}) for value in values[:3]] == [True, True, False]
    assert not best.is_exhausted
    assert not best.update({"AP": values[3]})
    assert best.is_exhausted
    assert best.update({"AP": values[4]})
    assert (best.value, best.stale, best.is_exhausted) == (0.4, 0, False)


def test_a_smaller_validation_loss_is_better():
    best = BestMetric("val_loss")
    assert [best.update({"val_loss": value}) for value in (2.0, 1.0, 1.5, math.nan, 0.5)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert not best.is_exhausted


def test_a_resumed_choice_goes_on():
    best = BestMetric("AP", patience=2)
    best.update({"AP": 0.5})
    best.update({"AP": 0.4})
    resumed = BestMetric("AP", patience=2)
    resumed.load_state_dict(best.state_dict())
    assert not resumed.update({"AP": 0.45})
    assert resumed.is_exhausted
    other = BestMetric("AP50")
    other.load_state_dict(best.state_dict())
    assert other.update({"AP50": 0.1})


def test_an_unknown_metric_is_refused_at_the_latest_by_the_first_evaluation():
    with pytest.raises(InputError, match="unknown best_metric 'segm/AP5'; did you mean segm/AP50"):
        BestMetric("segm/AP5").update({"segm/AP": 0.1, "segm/AP50": 0.2})


@pytest.mark.parametrize(
    "overrides, names, message",
    [
        ({"best_metric": "bbox/AP5"}, ["bbox/AP"], "unknown best_metric"),
        ({"best_metric": "val_loss"}, ["bbox/AP"], "needs val_loss=true"),
        ({"best_metric": "val_loss", "val_loss": True}, ["bbox/AP"], None),
        ({"best_metric": "bbox/AP"}, ["bbox/AP"], None),
        ({"best_metric": "anything"}, [], None),
        ({}, ["bbox/AP"], None),
    ],
)
def test_the_metric_is_checked_before_training_if_the_task_knows_its_metrics(overrides, names, message):
    if message is None:
        check_best_metric(config(**overrides), names)
    else:
        with pytest.raises(InputError, match=message):
            check_best_metric(config(**overrides), names)
