import subprocess
import sys

import pytest
from helpers import input_error

from detbackbones.data.annotations import read_annotations


def set_box(*box):
    return lambda content: content["annotations"][0].update(bbox=list(box))


def set_crowd(**values):
    return lambda content: content["annotations"][1]["segmentation"].update(values)


def test_labels_follow_the_category_ids(write_coco):
    annotations = read_annotations(*write_coco())
    assert annotations.category_ids == [4, 30]
    assert annotations.names == ["cat", "dog"]


def test_objects_of_an_image(write_coco):
    annotations = read_annotations(*write_coco())
    assert [entry["id"] for entry in annotations.objects[9]] == [1, 2]
    assert 5 not in annotations.objects
    assert annotations.report.lines() == []


def rename(section, key, value):
    return lambda content: [entry.update({key: value(entry[key])}) for entry in content[section]]


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda c: c.pop("categories"), ["instances.json", "'categories'"]),
        (lambda c: c.update(images=[], annotations=[]), ["'images'", "empty"]),
        (lambda c: c["images"][0].update(file_name="aa.jpg"), ["aa.jpg", "did you mean a.jpg"]),
        (lambda c: c["images"][0].update(file_name=3), ["images[0]", "file_name"]),
        (lambda c: c["images"][0].update(width="wide"), ["a.jpg", "width", "wide"]),
        (lambda c: c["images"][0].update(width=40, height=60), ["a.jpg", "60x40", "40x60", "skip_unreadable"]),
        (lambda c: c["annotations"].append(3), ["annotations[2]", "3"]),
        (lambda c: c["annotations"][0].update(caption="a dog"), ["captions file"]),
        (lambda c: c["annotations"][0].update(segments_info=[]), ["panoptic"]),
        (lambda c: c["annotations"][1].update(id=1), ["2 entries", "'annotations'", "id: 1"]),
        (lambda c: c["images"][0].update(id=[5]), ["images[0]", "id"]),
        (lambda c: c["annotations"][0].update(category_id=31), ["annotation 1", "category_id", "31", "30, 4"]),
        (lambda c: c["annotations"][0].update(image_id=7), ["annotation 1", "image_id", "7"]),
        (set_box(10, 5, 0, 10), ["annotation 1", "area", "drop_bad_objects=true"]),
        (lambda c: c["annotations"][0].pop("segmentation"), ["annotation 1", "segmentation"]),
        (set_crowd(size=[60, 40]), ["annotation 2", "[60, 40]", "[40, 60]"]),
        (lambda c: c["annotations"][0].update(iscrowd="maybe"), ["annotation 1", "iscrowd", "maybe"]),
    ],
)
def test_errors_name_the_entry(write_coco, change, words):
    with input_error(*words):
        read_annotations(*write_coco(change))


def test_all_problems_are_in_one_message(write_coco):
    def change(content):
        content["images"][0].update(file_name="c.jpg")
        content["annotations"][0].update(bbox=[1, 2, 0, 3])
        content["annotations"][1].update(segmentation=None)

    with input_error("3 problems", "c.jpg", "annotation 1", "annotation 2", "drop_bad_objects", "skip_unreadable"):
        read_annotations(*write_coco(change))


@pytest.mark.parametrize("boxes", ["0.1 0.2 0.3 0.4", "30 20 55 38"])
def test_boxes_of_another_form_are_recognised(write_coco, boxes):
    box = [float(value) for value in boxes.split()]

    def change(content):
        for entry in content["annotations"]:
            entry["bbox"] = box

    with input_error("2 of 2 boxes look", "pixels"):
        read_annotations(*write_coco(change), drop_bad_objects=True)


def test_boxes_ordered_as_corners_are_recognised_if_some_leave_their_image(write_coco):
    def change(content):
        boxes = [[x, x, x + 5, x + 5] for x in range(12)] + [[40, 10, 55, 30], [30, 20, 50, 40]] * 5
        first = content["annotations"][0]
        content["annotations"] = [first | {"id": i, "bbox": box} for i, box in enumerate(boxes)]

    with input_error("10 of 22 boxes look [x1, y1, x2, y2]"):
        read_annotations(*write_coco(change))


def test_a_coco_file_is_not_read_as_lvis(write_coco):
    with input_error("not an LVIS file"):
        read_annotations(*write_coco(), format="lvis")


@pytest.mark.parametrize("value", [float, str, lambda value: value - 20, lambda value: value + 2**70])
def test_ids_may_be_of_any_kind(write_coco, value):
    def change(content):
        for section in ("images", "annotations", "categories"):
            rename(section, "id", value)(content)
        rename("annotations", "image_id", value)(content)
        rename("annotations", "category_id", value)(content)

    annotations = read_annotations(*write_coco(change))
    assert [len(objects) for objects in annotations.objects.values()] == [2]
    assert set(annotations.objects) <= {image["id"] for image in annotations.images}
    assert sorted(annotations.names) == ["cat", "dog"]


def test_an_id_may_be_a_number_here_and_text_there(write_coco):
    annotations = read_annotations(*write_coco(rename("annotations", "image_id", str)))
    assert list(annotations.objects) == [9]


@pytest.mark.parametrize("key", ["area", "iscrowd", "id"])
def test_missing_fields_of_an_annotation_are_derived(write_coco, key):
    annotations = read_annotations(*write_coco(lambda content: content["annotations"][0].pop(key)))
    assert annotations.content["annotations"][0][key] == {"area": 200, "iscrowd": 0, "id": 3}[key]
    assert sum(annotations.report.repairs.values()) == 1


def test_a_missing_size_is_that_of_the_file(write_coco):
    annotations = read_annotations(*write_coco(lambda content: content["images"][1].pop("width")))
    assert annotations.images[1]["width"] == 60


def test_without_a_file_name_it_is_the_end_of_the_url(write_coco):
    def change(content):
        content["images"][0].pop("file_name")
        content["images"][0]["coco_url"] = "http://images.cocodataset.org/images/a.jpg"

    path, folder = write_coco(change)
    assert read_annotations(path, folder.parent, check_images=False).images[0]["file_name"] == "images/a.jpg"


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"  \n"])
def test_a_byte_order_mark_is_skipped(write_coco, mark):
    path, folder = write_coco()
    path.write_bytes(mark + path.read_bytes())
    assert len(read_annotations(path, folder).images) == 2


def test_unusable_objects_can_be_dropped(write_coco):
    annotations = read_annotations(*write_coco(set_box(10, 5, 0, 10)), drop_bad_objects=True)
    assert annotations.report.count("drop_bad_objects") == 1
    assert annotations.incomplete == {9}
    assert [entry["id"] for entry in annotations.objects[9]] == [2]
    assert [entry["id"] for entry in annotations.content["annotations"]] == [2]


def test_boxes_alone_need_no_segmentation(write_coco):
    files = write_coco(lambda content: content["annotations"][0].pop("segmentation"))
    assert len(read_annotations(*files, masks=False).objects[9]) == 2


def test_missing_files_are_named(write_coco, tmp_path):
    path, folder = write_coco()
    with input_error("instance.json", "did you mean instances.json"):
        read_annotations(tmp_path / "instance.json", folder)
    with input_error("image ", "did you mean images"):
        read_annotations(path, tmp_path / "image")
    with input_error(f"{tmp_path.name}/data"):
        read_annotations(tmp_path / "data" / "instances.json", folder)


def test_broken_json_is_named(write_coco):
    path, folder = write_coco()
    path.write_text('{"images": [')
    with input_error("instances.json", "line 1"):
        read_annotations(path, folder)


def test_a_truncated_image_is_named(write_coco):
    path, folder = write_coco()
    content = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(content[: len(content) // 2])
    with input_error("b.jpg", "truncated", "skip_unreadable=true"):
        read_annotations(path, folder)
    assert len(read_annotations(path, folder, check_images=False).images) == 2


def test_annotations_load_neither_torch_nor_mmengine():
    check = "import sys, detbackbones.data.annotations; sys.exit(bool({'torch', 'mmengine'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_names_are_composed_and_without_blanks_around_them(write_coco):
    annotations = read_annotations(*write_coco(lambda content: content["categories"][0].update(name=" ka\u0308se ")))
    assert annotations.names == ["cat", "k\u00e4se"]


def test_somebody_elses_keys_do_not_name_an_annotation(write_coco):
    def change(content):
        content["annotations"][0].update(source="manual", _source="manual", bbox=[1, 2, 0, 3])

    with input_error("annotation 1 (image 9)"):
        read_annotations(*write_coco(change))
