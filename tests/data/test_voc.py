from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import input_error
from PIL import Image
from torchvision.datasets import VOCDetection

from detbackbones.data.annotations import read_annotations
from detbackbones.data.problems import REPAIRS
from detbackbones.data.voc import read_voc

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"
SPLITS = ["train", "val", "test"]


def voc_object(name="cat", box=BOX, extra=""):
    return f"<object><name>{name}</name>{extra}{box}</object>"


def corners(*values):
    keys = ("xmin", "ymin", "xmax", "ymax")
    return "<bndbox>" + "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, values)) + "</bndbox>"


@pytest.fixture
def dataset(tmp_path):
    """A dataset of the images a and b, and functions that overwrite an XML file or a list of images."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)

    def annotate(name, *objects, size=(60, 40), file_name=None):
        width, height = size
        head = f"<filename>{file_name or name + '.jpg'}</filename>"
        head += f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        file = tmp_path / "Annotations" / f"{name}.xml"
        file.write_text(f"<annotation>{head}{''.join(objects)}</annotation>", encoding="utf-8")

    def list_images(text, split="train"):
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_bytes(text.encode())

    for name in "ab":
        Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    annotate("a", voc_object("dog"), voc_object("cat"))
    annotate("b", voc_object("bird"))
    list_images("a\n")
    list_images("b\n", "val")
    return SimpleNamespace(root=tmp_path, annotate=annotate, list_images=list_images)


def names(content):
    return [image["file_name"] for image in content["images"]]


def boxes(path, split="train"):
    return [entry["bbox"] for entry in read_voc(path, None, split)[0]["annotations"]]


def test_a_root_gives_its_splits(dataset):
    for split, expected in (("train", "a.jpg"), ("val", "b.jpg")):
        content, folder = read_voc(dataset.root, None, split)
        assert names(content) == [expected]
        assert folder == dataset.root / "JPEGImages"


def test_classes_agree_between_splits(dataset):
    expected = [{"id": 1, "name": "bird"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    for split in ("train", "val"):
        assert read_voc(dataset.root, None, split)[0]["categories"] == expected


def test_a_folder_of_xml_files_is_read_whole(dataset):
    content, folder = read_voc(dataset.root / "Annotations", None, "val")
    assert names(content) == ["a.jpg", "b.jpg"]
    assert folder == dataset.root / "JPEGImages"


def test_images_beside_their_xml_files(tmp_path):
    (tmp_path / "a.xml").write_text(f"<annotation>{voc_object()}</annotation>")
    Image.new("RGB", (60, 40)).save(tmp_path / "a.PNG")
    annotations = read_annotations(tmp_path, None, masks=False)
    assert annotations.images == [{"id": 1, "file_name": "a.PNG", "width": 60, "height": 40}]


@pytest.mark.parametrize(
    "text,expected",
    [
        ("b\r\na\r\n\r\n", ["b.jpg", "a.jpg"]),
        ("a  1\nb -1\n", ["a.jpg"]),
        ("a  0\nb  1", ["a.jpg", "b.jpg"]),
        ("a.jpg\nJPEGImages/b.jpg\n", ["a.jpg", "b.jpg"]),
        ("\ufeffa\na\n", ["a.jpg"]),
    ],
)
def test_spellings_of_lists(dataset, text, expected):
    dataset.list_images(text)
    assert names(read_voc(dataset.root / "ImageSets" / "Main" / "train.txt", None, "val")[0]) == expected


def test_names_with_spaces_and_dots(dataset):
    dataset.annotate("my image 1", voc_object())
    dataset.annotate("v1.2", voc_object())
    dataset.list_images("my image 1\nv1.2\n")
    assert names(read_voc(dataset.root, None, "train")[0]) == ["my image 1.jpg", "v1.2.jpg"]


def test_pixels_count_from_one_and_the_last_is_included(dataset):
    dataset.annotate("a", voc_object(), voc_object(box=corners("1.5", 2, "4.5", 4)))
    assert boxes(dataset.root) == [[0, 1, 10, 19], [0.5, 1, 4, 3]]


@pytest.mark.parametrize(
    "box,problem",
    [
        (corners(5, 5, 5, 5), "bbox has no area"),
        (corners(9, 5, 5, 9), "bbox has no area"),
        (corners("nan", 1, 5, 5), "bbox is not finite"),
        (corners("", 1, 5, 5), "bbox must be"),
        ("", "bbox must be"),
    ],
)
def test_unusable_boxes_are_left_to_the_common_check(dataset, box, problem):
    dataset.annotate("a", voc_object(), voc_object(box=box))
    with input_error("Annotations/a.xml object 2", problem, "drop_bad_objects=true"):
        read_annotations(dataset.root, None, masks=False)
    assert len(read_annotations(dataset.root, None, masks=False, drop_bad_objects=True).objects[1]) == 1


def test_difficult_objects_are_crowd_regions(dataset):
    flags = ("<difficult>1</difficult>", "<difficult> 0 </difficult>", "")
    dataset.annotate("a", *(voc_object(extra=flag) for flag in flags))
    assert [entry["iscrowd"] for entry in read_voc(dataset.root, None, "train")[0]["annotations"]] == [1, 0, 0]


def test_parts_are_not_objects(dataset):
    part = f"<part><name>head</name>{corners(3, 3, 5, 5)}</part>"
    dataset.annotate("a", f"<object><name>cat</name>{part}{BOX}</object>")
    content = read_voc(dataset.root, None, "train")[0]
    assert [entry["bbox"] for entry in content["annotations"]] == [[0, 1, 10, 19]]
    assert "head" not in [category["name"] for category in content["categories"]]


@pytest.mark.parametrize("size", [(0, 0), ("", "")])
def test_a_size_of_zero_is_taken_from_the_image(dataset, size):
    dataset.annotate("a", voc_object(), size=size)
    image = read_annotations(dataset.root, None, masks=False).images[0]
    assert (image["width"], image["height"]) == (60, 40)


def test_a_file_name_that_does_not_exist_gives_way_to_that_of_the_xml_file(dataset):
    dataset.annotate("a", voc_object(), file_name="IMG_1.JPG")
    assert names(read_voc(dataset.root, None, "train")[0]) == ["a.jpg"]


def test_a_copied_xml_file_belongs_to_the_image_of_its_own_name(dataset):
    dataset.annotate("b", voc_object(), file_name="a.jpg")
    annotations = read_annotations(dataset.root / "Annotations", None, masks=False)
    assert names(annotations.content) == ["a.jpg", "b.jpg"]
    assert [count for text, count in annotations.report.repairs.items() if "another image" in text] == [1]


def test_images_of_one_name_in_several_folders(dataset):
    for folder in ("x", "y"):
        (dataset.root / "JPEGImages" / folder).mkdir()
        (dataset.root / "Annotations" / folder).mkdir()
        (dataset.root / "JPEGImages" / folder / "a.jpg").write_bytes((dataset.root / "JPEGImages/a.jpg").read_bytes())
        dataset.annotate(f"{folder}/a", voc_object(), file_name="a.jpg")
    dataset.list_images("x/a\ny/a\na\n")
    content, _ = read_voc(dataset.root, None, "train")
    assert names(content) == ["x/a.jpg", "y/a.jpg", "a.jpg"] and not content[REPAIRS]
    (dataset.root / "Annotations/a.xml").unlink()
    with input_error("train.txt:3", "a may be x/a or y/a"):
        read_voc(dataset.root, None, "train")


@pytest.mark.parametrize("twin,is_clear", [("a.png", False), ("a.npy", True)])
def test_a_name_without_suffix_fits_several_images(dataset, twin, is_clear):
    dataset.annotate("a", voc_object(), file_name="a")
    (dataset.root / "JPEGImages" / twin).touch()
    if is_clear:
        assert names(read_voc(dataset.root, None, "train")[0]) == ["a.jpg"]
    else:
        with input_error("a.xml may belong to a.jpg or a.png", "<filename>"):
            read_voc(dataset.root, None, "train")


def test_unicode_forms_of_names_are_the_same(dataset):
    composed, decomposed = "\u00fc", "u\u0308"
    Image.new("RGB", (60, 40)).save(dataset.root / "JPEGImages" / f"{decomposed}.jpg")
    dataset.annotate(decomposed, voc_object(composed), voc_object(decomposed), file_name=f"{composed}.jpg")
    dataset.list_images(composed)
    content, _ = read_voc(dataset.root, None, "train")
    assert names(content) == [f"{decomposed}.jpg"]
    assert {entry["category_id"] for entry in content["annotations"]} == {4}


def test_the_rotation_that_cvat_exports_is_applied(dataset):
    rotation = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    dataset.annotate("a", voc_object(box=corners(21, 16, 40, 25), extra=rotation))
    (entry,) = read_annotations(dataset.root, None, masks=False).content["annotations"]
    assert entry["bbox"] == pytest.approx([25, 10, 10, 20])


def test_a_missing_image_is_named(dataset):
    (dataset.root / "JPEGImages" / "a.jpg").unlink()
    with input_error("image a.jpg", "does not exist", "skip_unreadable=true"):
        read_annotations(dataset.root, None, masks=False)


@pytest.mark.parametrize(
    "text,words",
    [
        ("<annotation>", ["a.xml", "not XML", "line 1"]),
        ("", ["a.xml", "not XML"]),
        ("<annotations/>", ["a.xml", "<annotations>", "expected <annotation>"]),
        ("<annotation><object/></annotation>", ["a.xml object 1", "<name>"]),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', ["a.xml", "DOCTYPE", "remove it"]),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', ["a.xml", "not XML"]),
    ],
)
def test_errors_name_the_xml_file(dataset, text, words):
    (dataset.root / "Annotations" / "a.xml").write_text(text)
    with input_error(*words):
        read_voc(dataset.root, None, "train")


def test_errors_name_the_line_of_a_list(dataset):
    dataset.list_images("a\nbb\n")
    with input_error("train.txt:2", "bb.xml", "did you mean b?"):
        read_voc(dataset.root, None, "train")


@pytest.mark.parametrize("path", ["", "ImageSets/Main/trian.txt"])
def test_a_missing_list_is_named(dataset, path):
    (dataset.root / "ImageSets" / "Main" / "train.txt").rename(dataset.root / "ImageSets" / "Main" / "training.txt")
    with input_error("list of images", "does not exist", "did you mean training.txt"):
        read_voc(dataset.root / path, None, "train")


def test_a_folder_without_xml_files_is_an_error(tmp_path):
    with input_error("no XML file"):
        read_voc(tmp_path, None, "train")


def test_bccd(bccd):
    contents = {split: read_voc(bccd / "ImageSets" / "Main" / f"{split}.txt", None, "train")[0] for split in SPLITS}
    assert [len(content["images"]) for content in contents.values()] == [205, 87, 72]
    assert sum(len(content["annotations"]) for content in contents.values()) == 4888
    for content in contents.values():
        assert [category["name"] for category in content["categories"]] == ["Platelets", "RBC", "WBC"]


def test_equals_torchvision(bccd, tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(bccd.resolve())
    expected = VOCDetection(tmp_path, image_set="val")
    content, _ = read_voc(bccd, None, "val")
    classes = {category["id"]: category["name"] for category in content["categories"]}
    assert names(content) == [Path(file).name for file in expected.images]
    for index, image in enumerate(content["images"], 1):
        objects = expected[index - 1][1]["annotation"]["object"]
        entries = [entry for entry in content["annotations"] if entry["image_id"] == index]
        assert [classes[entry["category_id"]] for entry in entries] == [item["name"] for item in objects]
        for entry, item in zip(entries, objects, strict=True):
            left, top, right, bottom = (int(item["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            width, height = (last - first + (last > first) for first, last in ((left, right), (top, bottom)))
            assert entry["bbox"] == [left - 1, top - 1, width, height], image["file_name"]


def test_normalised_boxes_are_recognised(dataset):
    dataset.annotate("a", *[voc_object(box=corners(0.1, 0.1, 0.5, 0.5))] * 2)
    with input_error("2 of 2 boxes look normalised"):
        read_annotations(dataset.root, None, masks=False)


@pytest.mark.parametrize("listing,expected", [("a\t1\nb\t-1\n", ["a.jpg"]), ("a   1\nb  0\n", ["a.jpg", "b.jpg"])])
def test_flags_of_a_list_may_follow_any_blanks(dataset, listing, expected):
    dataset.list_images(listing)
    content, _ = read_voc(dataset.root, None, "train")
    assert [image["file_name"] for image in content["images"]] == expected


def test_files_that_macos_leaves_behind_are_not_read(dataset):
    (dataset.root / "Annotations" / "._a.xml").write_bytes(b"\0\5")
    assert len(read_voc(dataset.root, None, "train")[0]["images"]) == 1


def test_a_list_without_images_is_an_error(dataset):
    dataset.list_images("a -1\n")
    with input_error("no image of the split 'train'"):
        read_annotations(dataset.root, None, masks=False)
