"""tools/evaluate_checkpoint.py: the evaluation of `train eval_only=true` under a name of its own."""

import json

import pytest
from tiny_runs import NARROW, words

from detbackbones.tools.evaluate_checkpoint import main
from detbackbones.tools.train_coco import main as train


@pytest.mark.usefixtures("without_pictures")
def test_it_repeats_the_evaluation_of_a_run(here, shapes):
    settings = words({**NARROW, "data_root": shapes, "max_iters": 1, "work_dir": "run"})
    assert train(settings) == 0
    assert main(["run", "work_dir=again"]) == 0
    assert json.loads((here / "again/metrics.json").read_text()) == json.loads((here / "run/metrics.json").read_text())


def test_one_checkpoint_is_needed(here, capsys):
    assert main(["a.pt", "b.pt"]) == 2
    assert "expected one checkpoint, got a.pt and b.pt" in capsys.readouterr().err
