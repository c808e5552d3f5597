"""Small datasets as people have them: each trains and is scored, or ends in one line before anything is written."""

import json
import os
from pathlib import Path

import pytest
from coco_problems import fill, true_detections
from tiny_runs import NARROW, words

from detbackbones.data.annotations import read_annotations
from detbackbones.evaluation.coco import BACKENDS, KINDS, CocoEvaluator
from detbackbones.tools.train_coco import main

ERRORS = {  # case -> words of the error message
    "100_swapped_val": ["val_", "120x90", "90x120"],
    "131_huge_15000x13000": ["megapixels"],
    "136_html_as_jpg": ["train_0.jpg", "unreadable"],
    "17_bbox_strings": ["annotation", "bbox", "numbers"],
    "206_all_dropped": ["[x1, y1, x2, y2]"],
    "23_bbox_normalised": ["normalised", "pixels"],
    "39_polygon_nan": ["segmentation", "not finite"],
    "44_rle_truncated": ["RLE", "add up"],
    "45_rle_bytes_repr": ["RLE", "bytes"],
    "58_panoptic": ["panoptic"],
    "79_name_too_long": ["does not exist", "..."],
}
REPORTS = {  # case -> words of the output
    "02_no_area": ["area", "derived"],
    "22_bbox_negative": ["leave their image", "clips"],
    "64_val_without_annotations": ["val.json", "no annotations"],
    "68_name_backslash": ["backslash"],
    "83_categories_same_name": ["'red'"],
    "90_val_swapped_names": ["matched by name"],
}
OPTIONS = {"206_all_dropped": {"drop_bad_objects": True}}
FOLDER = Path(os.environ.get("CASES", Path(__file__).resolve().parents[3] / "shared" / "cases"))
CASES = sorted(path.name for path in FOLDER.glob("*") if (path / "train.json").exists())
needs_cases = pytest.mark.skipif(
    not CASES, reason=f"no cases: {FOLDER} does not exist and CASES does not name a folder"
)


def settings(folder: Path, **options) -> list[str]:
    values = NARROW | {
        "data_root": None,
        "train.ann_file": folder / "train.json",
        "train.image_dir": folder / "images",
        "val.ann_file": folder / "val.json",
        "val.image_dir": folder / "images",
        "max_iters": 2,
        "short_side": 100,
        "work_dir": "run",
    }
    return words(values | options)


@needs_cases
@pytest.mark.parametrize("case", CASES or ["none"])
def test_a_case(case, here, capsys):
    status = main(settings(FOLDER / case, **OPTIONS.get(case, {})))
    output, errors = capsys.readouterr()
    if case in ERRORS:
        assert status == 2
        assert len(errors.splitlines()) == 1
        assert [word for word in ERRORS[case] if word not in errors] == []
        assert not (here / "run").exists()
    else:
        assert (status, errors) == (0, "")
        assert [word for word in REPORTS.get(case, []) if word not in " ".join(output.split())] == []
        assert "bbox/AP" in json.loads((here / "run" / "metrics.json").read_text())


@needs_cases
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in CASES if case not in ERRORS] or ["none"])
def test_the_ground_truth_of_a_case_scores_one(case, backend):
    folder = FOLDER / case
    content = read_annotations(folder / "val.json", folder / "images").content
    metrics = fill(CocoEvaluator(content, backend=backend), true_detections(content)).compute()
    expected = 1.0 if content["annotations"] else -1.0
    assert {metrics[f"{kind}/{name}"] for kind in KINDS for name in ("AP", "AP50", "AP75")} == {expected}
