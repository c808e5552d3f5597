"""Learning curves are drawn from any log: long, short, empty, with hostile names and values that are not finite."""

import numpy as np
import pytest
from PIL import Image

from detbackbones.visualization.learning_curves import save_learning_curves

HOSTILE = ["$_^$", "_hidden", "a\nb\x00", "[red]x[/red]", "猫" * 200, "\ud800", ""]


def step(iteration, **losses):
    values = {"loss": 1 + 1 / iteration, "loss_cls": 0.5 + 1 / iteration} | losses
    measured = {"seconds": 0.1, "images_per_second": 20.0, "data_seconds": 0.01, "memory_mb": 900}
    return {"iteration": iteration, "lr": 0.01, **measured, **values}


def evaluation(iteration, **metrics):
    return {"iteration": iteration, "bbox/AP": 1 - 1 / iteration, "bbox/AP50": 0.9} | metrics


STEPS = [step(iteration) for iteration in range(1, 100)]


def drawn(tmp_path, entries):
    """Return the bytes of the picture, which are the same for the same curves."""
    path = tmp_path / "curves.png"
    save_learning_curves(path, entries)
    with Image.open(path) as image:
        assert max(image.size) < 5000
        assert len(np.unique(np.array(image.convert("L")))) > 20
    return path.read_bytes()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "entries",
    [[], STEPS[:1], STEPS, [evaluation(5)], [*STEPS, evaluation(99, val_loss=2.0)], [{"iteration": 1, "lr": 0.1}]],
    ids=["empty", "one step", "steps", "evaluation alone", "both", "without losses"],
)
def test_logs_of_any_length(tmp_path, entries):
    drawn(tmp_path, entries)


@pytest.mark.filterwarnings("error")
def test_names_are_plain_text(tmp_path):
    entries = [
        *(step(iteration, **dict.fromkeys(HOSTILE, 0.3)) for iteration in (1, 2)),
        {"iteration": 2, **{f"{name}/{name}": 0.5 for name in HOSTILE}},
    ]
    drawn(tmp_path, entries)


def test_a_thousand_names_are_cut(tmp_path):
    losses = {f"loss_{i}": 1.0 for i in range(1000)}
    metrics = {f"group{i}/m{j}": 0.5 for i in range(100) for j in range(10)}
    drawn(tmp_path, [step(1, **losses), {"iteration": 1, **metrics}])


@pytest.mark.filterwarnings("error")
def test_values_that_cannot_be_drawn_are_left_out(tmp_path):
    """-1 is what COCO's metrics are without objects."""
    values = [float("nan"), float("inf"), None, "text", -1.0]
    undrawable = {f"bbox/m{index}": value for index, value in enumerate(values)}
    broken_steps = [step(iteration, loss=value) for iteration, value in enumerate(values[:-1], start=200)]
    log = [*STEPS, evaluation(203)]
    assert drawn(tmp_path, [*STEPS, *broken_steps, evaluation(203, **undrawable)]) == drawn(
        tmp_path, [*STEPS, *(step(entry["iteration"], loss=None) for entry in broken_steps), log[-1]]
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [0.0, -3.0, 1e-9, 1e9])
def test_losses_of_any_size(tmp_path, loss):
    drawn(tmp_path, [*STEPS, step(100, loss=loss)])


def test_everything_that_is_logged_changes_the_picture(tmp_path):
    log = [*STEPS, evaluation(99, val_loss=1.5, val_cls=0.6)]
    picture = drawn(tmp_path, log)
    for other in (
        [*log[:-1], evaluation(99, val_loss=1.9, val_cls=0.6)],
        [*log[:-1], evaluation(99, val_loss=1.5, val_cls=0.9)],
        [*log[:-1], log[-1] | {"bbox/AP50": 0.7}],
        [*log, {"iteration": 99, "segm/AP": 0.3}],
        [entry | {"lr": 0.02} if entry["iteration"] > 50 and "lr" in entry else entry for entry in log],
        [entry | {"loss_cls": 0.2} if "lr" in entry else entry for entry in log],
        [entry | {"loss": 4.0} if entry["iteration"] == 50 else entry for entry in log],
    ):
        assert drawn(tmp_path, other) != picture


def test_speed_and_memory_are_not_losses(tmp_path):
    others = [
        entry | {"seconds": 9.0, "images_per_second": 1.0, "data_seconds": 8.0, "memory_mb": 1} for entry in STEPS
    ]
    assert drawn(tmp_path, others) == drawn(tmp_path, STEPS)


def test_repeated_iterations_and_their_order_do_not_matter(tmp_path):
    assert drawn(tmp_path, [step(7, loss=5.0), *STEPS[::-1]]) == drawn(tmp_path, STEPS)
