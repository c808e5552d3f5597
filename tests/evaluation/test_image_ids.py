import pytest
from helpers import input_error

from detbackbones.evaluation.coco import CocoEvaluator
from detbackbones.evaluation.image_ids import match_images

CATEGORIES = [{"id": 0, "name": "cat"}]


def content(*names):
    return {"images": [{"id": i, "file_name": name} for i, name in enumerate(names, 1)], "categories": CATEGORIES}


def match(entries, *names, has_ids=False):
    line = match_images(entries, content(*names), has_ids, "results.json")
    return line, [entry["image_id"] for entry in entries]


def ids(*values):
    return [{"image_id": value} for value in values]


@pytest.mark.parametrize("name", ["sub/b.jpg", "b.jpg", "sub\\b.jpg", "/val/b.jpg"])
def test_file_names_decide_without_ids(name):
    line, matched = match([{"image_id": 1, "file_name": name}], "a.jpg", "sub/b.jpg")
    assert matched == [2] and line.startswith("image_id of 1 entries")
    assert match([{"image_id": 2, "file_name": name}], "a.jpg", "sub/b.jpg") == (None, [2])


@pytest.mark.parametrize("name,problem", [("c.jpg", "not in the annotations"), ("a.jpg", "several images")])
def test_a_file_name_that_fits_no_image_or_several(name, problem):
    with input_error("results.json: entry 0", name, problem):
        match([{"image_id": 1, "file_name": name}], "x/a.jpg", "y/a.jpg")


@pytest.mark.parametrize(
    "found,expected", [("b.jpg", None), ("val/b.png", None), ("a.jpg", "image_id 2 is b.jpg"), (5, None)]
)
def test_file_names_are_compared_with_the_images_of_ids(found, expected):
    entries = [{"image_id": 2, "file_name": found}, {"image_id": [2], "file_name": "a.jpg"}, {"image_id": 1}]
    for has_ids in (True, False):
        if expected is None:
            match(entries, "a.jpg", "b.jpg", has_ids=has_ids)
        else:
            with input_error("entry 0", expected, "file_name is a.jpg"):
                match(entries, "a.jpg", "b.jpg", has_ids=has_ids)


def test_names_that_stand_for_missing_ones_are_not_compared():
    assert match([{"image_id": 1, "file_name": "a.jpg"}], "1", has_ids=True) == (None, [1])


@pytest.mark.parametrize(
    "names,values,expected,words",
    [
        (("1.jpg", "10.jpg", "2.jpg"), (1, 2), None, ["position", "number in its file name"]),
        (("10.jpg", "20.jpg"), (10, 20), [1, 2], ["number in the name"]),
        (("010.jpg", "b.jpg"), (10, "b"), [1, 2], ["number in the name"]),
        (("1.jpg", "2.jpg"), (1, 2), [1, 2], ["1 is 1.jpg, 2 is 2.jpg", "0 is cat"]),
        (("a.jpg", "b.jpg"), (1, 2), [1, 2], ["1 is a.jpg, 2 is b.jpg", "0 is cat"]),
        (("10.jpg", "20.jpg"), (10, 21), [10, 21], ["counts the images"]),
    ],
)
def test_numbers_are_positions_or_those_of_the_files(names, values, expected, words):
    if expected is None:
        with input_error("results.json", *words):
            match(ids(*values), *names)
    else:
        line, matched = match(ids(*values), *names)
        assert matched == expected and all(word in line for word in words)


def test_ids_of_an_annotation_file_and_no_entries_need_no_line():
    assert match(ids(1, 2), "10.jpg", "20.jpg", has_ids=True)[0] is match([], "a.jpg")[0] is None


def test_own_results_have_the_file_name():
    image = {"id": 3, "height": 20, "width": 30, "file_name": "a.jpg"}
    evaluator = CocoEvaluator({"images": [image], "categories": CATEGORIES, "annotations": []}, ["bbox"])
    evaluator.add(3, {"boxes": [[1, 2, 4, 6]], "scores": [0.5], "labels": [0]})
    entry = {"image_id": 3, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5, "file_name": "a.jpg"}
    assert evaluator.results() == [entry]
