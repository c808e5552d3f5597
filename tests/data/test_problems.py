from pathlib import Path

import pytest
from helpers import input_error

from detbackbones.data.problems import Report
from detbackbones.errors import InputError


def make_report(*problems):
    report = Report(Path("a.json"))
    for number, (problem, remedy) in enumerate(problems):
        report.add(f"annotation {number}", problem, remedy)
    return report


def test_a_single_problem_is_named():
    with input_error("a.json: annotation 0: bbox has no area: [1, 2]; drop_bad_objects=true leaves it out"):
        make_report(("bbox has no area: [1, 2]", "drop_bad_objects")).raise_problems(set())


def test_many_problems_are_counted_by_kind_and_the_first_named():
    report = make_report(*[("bbox has no area: [1, 2]", "drop_bad_objects")] * 30, ("unreadable: x", "skip_unreadable"))
    words = ["31 problems", "30 x bbox has no area", "1 x unreadable", "annotation 0", "drop_bad_objects=true"]
    with input_error(*words, "leaves out 30 annotation(s)", "skip_unreadable=true leaves out 1 image(s)"):
        report.raise_problems(set())


def test_allowed_problems_raise_nothing_and_are_reported():
    report = make_report(("bbox has no area: [1, 2]", "drop_bad_objects"))
    report.raise_problems({"drop_bad_objects"})
    assert report.count("drop_bad_objects") == 1
    assert "annotation 0" in report.lines()[0]


def test_problems_without_a_remedy_are_never_allowed():
    with input_error("annotation 0"):
        make_report(("id is missing", None)).raise_problems({"drop_bad_objects", "skip_unreadable"})


def test_a_hostile_name_stays_on_one_line():
    report = Report(Path("a.json"))
    report.add("x\n" * 500, "unreadable: \x1b[31m")
    with pytest.raises(InputError) as caught:
        report.raise_problems(set())
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
