"""tools/bench.py compares what it times. How fast anything is, is not tested."""

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from detbackbones.benchmarks import data, measure, networks
from detbackbones.benchmarks.networks import Settings
from detbackbones.errors import RunError
from detbackbones.tools.bench import main

SMALL = ["backbone=resnet18", "size=(64,64)", "rounds=1", "memory=false"]
OURS, FUSED = "detbackbones", "detbackbones, fuse_for_inference"


@pytest.fixture
def bench(tmp_path):
    """Function that runs the tool and returns the figures it writes, rows by name."""

    def run(*words):
        assert main([*words, f"out={tmp_path / 'out.json'}"]) == 0
        figures = json.loads((tmp_path / "out.json").read_text())
        return figures | {"rows": {row["name"]: row for row in figures["rows"]}}

    return run


@pytest.mark.parametrize(
    "benchmark,options,names,tolerance",
    [
        ("features", [], {"torchvision", "timm", OURS, FUSED}, 1e-4),
        pytest.param("step", [], {"torchvision", "timm", OURS}, 1e-3, marks=pytest.mark.slow),
        # float noise changes which proposals are sampled
        pytest.param("train", [], {"torchvision", OURS}, 0.05, marks=pytest.mark.slow),
        pytest.param("infer", ["detector=faster_rcnn"], {"torchvision", OURS, FUSED}, 1e-3, marks=pytest.mark.slow),
        pytest.param("infer", [], {"torchvision", OURS, FUSED}, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_contenders_compute_the_same(benchmark, options, names, tolerance, bench):
    figures = bench(benchmark, *options, *SMALL)
    rows = figures["rows"]
    assert names <= rows.keys()
    assert figures["gflop"] > 0
    assert list(rows)[0] == "torchvision"
    assert rows["torchvision"]["speed"] == 1
    assert rows["torchvision"]["error"] == 0
    for row in rows.values():
        assert row["milliseconds"] > 0
        assert row["of_peak"] > 0
        assert row["memory"] is None
        assert row["error"] <= tolerance


@pytest.mark.slow
def test_lower_precision_is_compared_with_float32(bench):
    rows = bench("features", "dtype=bfloat16", *SMALL)["rows"]
    assert rows["torchvision"]["error"] > 1e-3
    assert 0 < rows[OURS]["error"] <= 2 * rows["torchvision"]["error"]


@pytest.mark.slow  # an export and a compilation each
@pytest.mark.parametrize("benchmark", ["runtimes", "runtimes-detector"])
def test_runtimes_compute_the_same(benchmark, bench):
    rows = bench(benchmark, "backbone=resnet18", "size=(64,96)", "rounds=1", "memory=false")["rows"]
    assert list(rows) == [OURS, FUSED, f"{OURS}, fused and compiled", "ONNX Runtime", "OpenVINO"]


def test_a_contender_that_differs_is_not_timed(bench, capsys, monkeypatch):
    make_network = networks.make_network

    def without_a_convolution(name, *arguments):
        network = make_network(name, *arguments)
        if name == FUSED:
            torch.nn.init.zeros_(network.layer4[0].conv1.weight)
        return network

    monkeypatch.setattr(networks, "make_network", without_a_convolution)
    rows = bench("features", *SMALL)["rows"]
    assert f"{FUSED}: output differs from the reference" in capsys.readouterr().out
    assert OURS in rows
    assert FUSED not in rows


def test_a_missing_library_is_left_out(bench, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    rows = bench("features", *SMALL)["rows"]
    assert "without timm" in capsys.readouterr().out
    assert "timm" not in rows


def test_memory_is_that_of_a_process_of_its_own():
    memory = measure.peak_memory("features", OURS, Settings(backbone="resnet18", size=(64, 64)))
    assert 40 < memory < 1000  # 11.2 M parameters are 43 MiB


def test_a_crash_while_memory_is_measured(monkeypatch):
    def crash(*_):
        raise MemoryError

    monkeypatch.setattr(measure, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(measure, "peak_of_this_process", crash)
    with pytest.raises(RunError, match="memory of timm .*MemoryError"):
        measure.peak_memory("features", "timm", Settings())


def test_metrics_equal_pycocotools(bench, monkeypatch):
    monkeypatch.setattr(data, "NUM_IMAGES", 30)
    rows = bench("evaluation", "rounds=1")["rows"]
    assert list(rows) == ["pycocotools", OURS]
    assert rows[OURS]["error"] <= 1e-12
    assert rows[OURS]["of_peak"] is None


def test_loaded_images_equal_torchvisions(bench, coco_tiny, tmp_path):
    content = json.loads((coco_tiny / "annotations/instances_train2017.json").read_text())
    content["annotations"] = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    ids = sorted({entry["image_id"] for entry in content["annotations"]})[:3]
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    (tmp_path / "train2017").mkdir()
    for image in content["images"]:
        shutil.copy(coco_tiny / "train2017" / image["file_name"], tmp_path / "train2017")
    threads = torch.get_num_threads()
    try:
        rows = bench("loader", f"data_root={tmp_path}", "rounds=1")["rows"]
    finally:
        torch.set_num_threads(threads)
    assert list(rows) == ["torchvision", OURS]
    assert 0 < rows[OURS]["error"] <= 0.05


def test_imports(bench, monkeypatch):
    monkeypatch.setattr(data, "IMPORTS", dict.fromkeys(data.IMPORTS, "pass"))
    assert list(bench("import", "rounds=2")["rows"]) == ["torch and torchvision", OURS]


@pytest.mark.parametrize("first_seconds,num_sizes", [(1.0, 1), (0.02, 1), (0.01, 2), (1e-3, 4)])
def test_the_matrix_product_is_bounded_by_time(first_seconds, num_sizes, monkeypatch):
    """One product may take 0.05 s; a side of 1.5 times takes 3.4 times as long, here exactly."""
    times = []

    def time_run(run):
        times.append(first_seconds * 1.5 ** (3 * (len(times) // 3)))
        return times[-1]

    monkeypatch.setattr(measure, "time_run", time_run)
    assert measure.matmul_rate(Settings(), 0.05) == pytest.approx(2 * 128**3 / first_seconds)
    assert len(times) == 3 * num_sizes


def test_relative_error():
    expected = {"x": torch.tensor([1.0, 2.0]), "y": 4.0}
    assert measure.relative_error(expected, expected) == 0
    assert measure.relative_error(expected | {"x": torch.tensor([1.0, 2.2])}, expected) == pytest.approx(0.1)
    assert measure.relative_error(expected | {"y": 3.0}, expected) == pytest.approx(0.25)
    assert measure.relative_error({"x": expected["x"]}, expected) == float("inf")
    assert measure.relative_error(expected | {"x": torch.ones(3)}, expected) == float("inf")


@pytest.mark.parametrize(
    "words,message",
    [
        (["feature"], "feature'.*did you mean features"),
        (["features", "train"], "features and train"),
        (["features", "bacth=2"], "bacth'.*did you mean batch"),
        (["features", "dtype=int8"], "dtype .*float32.*'int8'"),
        (["features", "rounds=0"], "rounds .*0"),
        (["features", "backbone=resnet5"], "resnet5'.*did you mean resnet50"),
        (["features", "backbone=resnet50d"], "resnet50d' cannot be compared"),
        (["features", "backbone=resnet18_dilated"], "resnet18_dilated' cannot be compared"),
        (["loader"], "data_root"),
    ],
)
def test_bad_input_ends_in_one_line(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_without_the_benchmarks_folder(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "detbackbones.benchmarks.measure", None)
    assert main(["features"]) == 2
    error = capsys.readouterr().err
    assert "come with the repository only" in error
    assert error.count("\n") == 1


def test_help_names_every_benchmark(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in measure.BENCHMARKS)


def test_annotations_are_all_read(bench, coco_tiny):
    rows = bench("annotations", f"data_root={coco_tiny}", "rounds=1")["rows"]
    assert list(rows) == ["pycocotools", OURS]
    assert rows[OURS]["error"] == 0
