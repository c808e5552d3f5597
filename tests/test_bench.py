"""tools/bench.py compares what it times; how fast anything is, is not a test's business."""

import json

import pytest
import torch

from detbackbones.benchmarks import data, growth, networks
from detbackbones.benchmarks.measure import difference
from detbackbones.tools.bench import main

SMALL = ["size=(64,64)", "rounds=2", "memory=false", "backbone=resnet18"]


@pytest.fixture
def bench(tmp_path):
    def run(*arguments):
        assert main([*arguments, f"out={tmp_path / 'out.json'}"]) == 0
        return json.loads((tmp_path / "out.json").read_text())

    return run


@pytest.mark.parametrize(
    "work", [["features"], ["features", "neck=fpn"], ["step"], ["train"], ["infer", "detector=faster_rcnn"]]
)
def test_ours_and_torchvision_do_the_same_work(work, bench):
    found = bench(*work, *SMALL)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows)[0] == "torchvision" and "detbackbones" in rows and found["gflop"] > 0
    assert all(row["milliseconds"] > 0 and 0 < row["of_peak"] for row in rows.values())
    assert all(
        row["difference"] <= (0.1 if work == ["train"] else 1e-3) for row in rows.values()
    )  # train samples proposals
    assert rows["torchvision"]["speed"] == 1 and rows["torchvision"]["difference"] == 0


@pytest.mark.parametrize("work", ["features", "train"])
def test_lower_precision_is_compared_with_float32(work, bench):
    rows = {row["name"]: row for row in bench(work, "dtype=bfloat16", *SMALL)["rows"]}
    reference = rows["torchvision"]["difference"]
    assert 1e-3 < reference and 0 < rows["detbackbones"]["difference"] <= max(
        2 * reference, 0.1 if work == "train" else 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("work", ["features", "train"])
def test_compile_adds_a_contender(work, bench):
    plain, compiled = (
        [row["name"] for row in bench(work, *options, *SMALL)["rows"]] for options in ([], ["compile=true"])
    )
    assert (
        set(compiled) > set(plain) and compiled[-1].startswith("detbackbones") and compiled[-1].endswith(", compiled")
    )


def test_memory_is_that_of_a_process_of_its_own(bench):
    rows = bench("features", "backbone=resnet18", "size=(64,64)", "rounds=1", "peers=false")["rows"]
    assert all(40 < row["memory"] < 2000 for row in rows)  # 11.2 M parameters are 43 MiB


def test_another_result_is_not_timed(bench, capsys, monkeypatch):
    true = networks.own_network

    def wrong(settings, freeze, fused=False):
        network = true(settings, freeze, fused)
        if fused:
            torch.nn.init.zeros_(network.layer4[0].conv1.weight)
        return network

    monkeypatch.setattr(networks, "own_network", wrong)
    rows = bench("features", *SMALL)["rows"]
    assert "fuse_for_inference says something else" in capsys.readouterr().out
    assert "detbackbones" in [row["name"] for row in rows] and not any("fuse" in row["name"] for row in rows)


def test_both_score_the_same(bench, monkeypatch):
    monkeypatch.setattr(data, "IMAGES", 30)
    rows = bench("evaluation", "rounds=1")["rows"]
    assert [row["name"] for row in rows] == ["pycocotools", "detbackbones"] and rows[1]["difference"] == 0


def test_growth_draws_what_it_measured(bench, monkeypatch, tmp_path):
    steps = {"batch": [dict(batch=1), dict(batch=2)], "network": [dict(backbone="resnet18"), dict(backbone="resnet34")]}
    monkeypatch.setattr(growth, "STEPS", steps)
    rows = bench("growth", *SMALL, f"figure={tmp_path / 'figure.png'}")["rows"]
    assert [row["step"] for row in rows] == ["1", "2", "resnet18", "resnet34"]
    assert (
        rows[1]["gflop"] == pytest.approx(2 * rows[0]["gflop"])
        and rows[0]["gflop"] == rows[2]["gflop"] < rows[3]["gflop"]
    )
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_difference():
    a = {"x": torch.tensor([1.0, 2.0]), "y": [torch.tensor([4.0])]}
    assert difference(a, a) == 0 and difference({"x": a["x"]}, a) == float("inf")
    assert difference({"x": torch.tensor([1.0, 2.2]), "y": [torch.tensor([4.0])]}, a) == pytest.approx(0.1)
    assert difference({"x": torch.ones(3), "y": a["y"]}, a) == float("inf")


@pytest.mark.parametrize("arguments,message", [
    (["feature"], "did you mean features"), ([], ""), (["features", "train"], "one work"),
    (["features", "bacth=2"], "did you mean batch"), (["features", "dtype=int8"], "known: float32"),
    (["features", "backbone=resnet5"], "unknown backbone"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(arguments, message, capsys):
    code = main(arguments)
    out, error = capsys.readouterr()
    assert (code, error) == (0, "") and "WORK is one of" in out if not arguments else code == 2
    assert message in error and error.count("\n") <= 1
