import functools
from operator import itemgetter
from pathlib import Path

import hotcoco
import pytest
from helpers import input_error
from PIL import Image

from detbackbones.data.annotations import read_annotations
from detbackbones.data.problems import SOURCE
from detbackbones.data.yolo import read_yolo

NAMES = "names: [cat, dog]\n"
BOX = "1 0.5 0.5 0.2 0.4\n"
SIZE = (60, 40)


@pytest.fixture
def write(tmp_path):
    """A function that writes files below a temporary folder, by name: text, or a picture for image names."""

    def write(**files):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix in (".jpg", ".png"):
                Image.new("RGB", SIZE).save(file)
            else:
                file.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def dataset(write):
    """A function that writes data.yaml over one image per split, and the label file of the training image."""

    def dataset(settings="train: images/train\nval: images/val\n" + NAMES, labels=BOX):
        images = {f"images/{split}/{split}.jpg": None for split in ("train", "val")}
        return write(**images, **{"data.yaml": settings, "labels/train/train.txt": labels, "labels/val/val.txt": BOX})

    return dataset


def names(content):
    return [image["file_name"] for image in content["images"]]


def test_boxes_become_pixels(dataset):
    content, folder = read_yolo(dataset() / "data.yaml", None, "train")
    (entry,) = content["annotations"]
    assert entry["bbox"] == pytest.approx([24, 12, 12, 16])
    assert content["images"] == [{"id": 1, "file_name": "train.jpg", "width": 60, "height": 40}]
    assert content["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert (entry["category_id"], entry[SOURCE]) == (1, "train/train.txt:1")


def test_polygons_and_boxes_in_one_file(dataset):
    root = dataset(labels=BOX + "\n0.0 0.1 0.5 0.3 0.25 0.2 1\n")
    box, polygon = read_yolo(root, None, "train")[0]["annotations"]
    assert "segmentation" not in box
    assert polygon["segmentation"] == [pytest.approx([6, 20, 18, 10, 12, 40])]
    assert polygon["bbox"] == pytest.approx([6, 10, 12, 30])
    assert (polygon["category_id"], polygon[SOURCE]) == (0, "train/train.txt:3")


def test_a_line_that_repeats_another_one_is_left_out(dataset):
    entries = read_yolo(dataset(labels=BOX + "0 0.5 0.5 0.2 0.4\n" + BOX.replace("1 ", "1.0  ")), None, "train")[0]
    assert [entry["category_id"] for entry in entries["annotations"]] == [1, 0]


def test_sizes_are_those_of_the_displayed_image(dataset):
    root = dataset()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(root / "images/train/train.jpg", exif=exif)
    annotations = read_annotations(root / "data.yaml", None, masks=False)
    assert (annotations.images[0]["width"], annotations.images[0]["height"]) == (40, 60)
    assert annotations.images[0]["exif_orientation"] == 6
    assert annotations.objects[1][0]["bbox"] == pytest.approx([16, 18, 8, 24])


@pytest.mark.parametrize(
    "settings",
    [
        "path: {root}\ntrain: images/train\n",
        "path: .\ntrain: images/train\n",
        "path: ../{name}\ntrain: images/train\n",
        "path: {name}\ntrain: images/train\n",  # relative to the working directory
        "path: /content/elsewhere\ntrain: images/train\n",
        "train: {root}/images/train\n",
        "train: ./images/train/\n",
        "train: ../images/train\n",  # Roboflow
        "train: images\\train\n",
        "train: [images/train]\n",
        "train:\n- images/train\n",
        "train: images\n",  # searched with its subfolders
        "train: list.txt\n",
        "path: images\ntrain: ../list.txt\n",
    ],
)
def test_paths_that_people_write(dataset, monkeypatch, settings):
    root = dataset(settings.format(root="ROOT", name="NAME") + NAMES)
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("ROOT", str(root)).replace("NAME", root.name))
    (root / "list.txt").write_text("./images/train/train.jpg\r\n\n")
    monkeypatch.chdir(root.parent)
    content, folder = read_yolo(root / "data.yaml", None, "train")
    assert (folder / content["images"][0]["file_name"]).resolve() == (root / "images/train/train.jpg").resolve()
    assert len(content["annotations"]) == len(content["images"])


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_names_of_the_validation_split(dataset, key):
    content, _ = read_yolo(dataset(f"{key}: images/val\n{NAMES}"), None, "val")
    assert names(content) == ["val.jpg"]


def test_several_folders_have_one_parent(dataset):
    content, folder = read_yolo(dataset("train: [images/train, images/val]\n" + NAMES), None, "train")
    assert names(content) == ["train/train.jpg", "val/val.jpg"]
    assert folder.name == "images"


@pytest.mark.parametrize(
    "text,expected",
    [
        ("names: [cat, dog]", ["cat", "dog"]),
        ("names:\n- cat\n- dog\nnc: 2", ["cat", "dog"]),
        ("names:\n  1: dog\n  0: cat", ["cat", "dog"]),
        ("names: {'0': cat, '1': dog}", ["cat", "dog"]),
        ("names: [cat, 7]", ["cat", "7"]),
        ("names: [no, 1e3]", ["no", "1e3"]),
        ("names: {0: on, 1: 007}", ["on", "007"]),
    ],
)
def test_spellings_of_names(dataset, text, expected):
    annotations = read_annotations(dataset(f"train: images/train\n{text}\n"), None, masks=False)
    assert annotations.names == expected


def test_labels_beside_the_images(write):
    root = write(**{"a/x.jpg": None, "a/x.txt": BOX, "a/y.png": None, "data.yaml": "train: a\n" + NAMES})
    content, _ = read_yolo(root, None, "train")
    assert names(content) == ["x.jpg", "y.png"]
    assert [entry["image_id"] for entry in content["annotations"]] == [1]


def test_the_last_folder_named_images_becomes_labels(write):
    files = {"images/b/images/x.1.jpg": None, "images/b/labels/x.1.txt": BOX, "data.yaml": "train: images/b\n" + NAMES}
    assert len(read_yolo(write(**files), None, "train")[0]["annotations"]) == 1


def test_a_folder_without_yaml(write):
    images = {"images/train/a.jpg": None, "images/valid/b.jpg": None}
    root = write(**images, **{"labels/train/a.txt": BOX, "labels/valid/b.txt": "", "classes.txt": "cat\r\ndog\n\n"})
    assert [category["name"] for category in read_yolo(root, None, "train")[0]["categories"]] == ["cat", "dog"]
    assert names(read_yolo(root, None, "val")[0]) == ["b.jpg"]


@pytest.mark.parametrize("text,line", [("cat\n\ndog\n", 2), ("\ncat\ndog", 1)])
def test_a_blank_line_among_classes_is_an_error(write, text, line):
    root = write(**{"images/train/a.jpg": None, "labels/train/a.txt": BOX, "classes.txt": text})
    with input_error(f"classes.txt:{line} is blank", f"class {line - 1}"):
        read_yolo(root, None, "train")


LABELS = {"a": "a.txt", "b": "b.TXT", "\u00fc": "u\u0308.txt", "c": "C.txt"}


def test_label_files_are_found_in_other_spellings(write):
    images = {f"images/train/{name}.jpg": None for name in LABELS}
    labels = {f"labels/train/{name}": BOX for name in LABELS.values()}
    root = write(**images, **labels, **{"data.yaml": "train: images/train\n" + NAMES})
    content, _ = read_yolo(root, None, "train")
    assert len({entry["image_id"] for entry in content["annotations"]}) == len(LABELS)
    write(**{"images/train/A.jpg": None})
    assert len(read_yolo(root, None, "train")[0]["annotations"]) == len(LABELS)  # A does not take a.txt


@pytest.mark.parametrize(
    "files,count",
    [
        ({"labels/train/b.txt": BOX, "labels/train/sub/train.jpg.txt": BOX, "images/train/c.txt": BOX}, 3),
        (
            {"labels/train/classes.txt": "cat\ndog", "labels/train/list.txt": "images/a.jpg", "labels/train/b.txt": ""},
            0,
        ),
        ({"labels/b.txt": BOX, "labels/val/b.txt": BOX}, 0),
    ],
)
def test_label_files_without_an_image_are_counted(dataset, write, files, count):
    root = dataset()
    write(**files)
    assert sum(read_annotations(root, None, masks=False).report.repairs.values()) == count


def test_a_list_may_leave_out_images(dataset, write):
    root = dataset("train: list.txt\n" + NAMES)
    write(**{"list.txt": "images/train/train.jpg\n", "images/train/b.jpg": None, "labels/train/b.txt": BOX})
    assert not read_annotations(root, None, masks=False).report.repairs


def test_images_of_one_name(dataset, write):
    root = dataset()
    (root / "images/train/train.npy").touch()  # the cache of Ultralytics
    annotations = read_annotations(root, None, masks=False)
    assert names(annotations.content) == ["train.jpg"]
    assert list(annotations.report.repairs.values()) == [1]
    write(**{"images/train/train.png": None})
    annotations = read_annotations(root, None, masks=False)
    assert names(annotations.content) == ["train.jpg", "train.png"]
    assert sorted(annotations.report.repairs.values()) == [1, 2]


def test_linked_folders_of_images_and_labels(dataset, write):
    root = dataset()
    write(**{"more/images/b.jpg": None, "more/labels/b.txt": BOX})
    for kind in ("images", "labels"):
        (root / kind / "train/more").symlink_to(root / "more" / kind)
    annotations = read_annotations(root, None, masks=False)
    assert names(annotations.content) == ["more/b.jpg", "train.jpg"]
    assert len(annotations.objects) == 2 and not annotations.report.repairs


def test_images_of_another_folder(write, dataset):
    root = dataset()
    write(**{"test/images/t.jpg": None, "test/labels/t.txt": BOX})
    content, folder = read_yolo(root, root / "test", "val")
    assert (names(content), folder) == (["images/t.jpg"], root / "test")


def test_images_without_objects(dataset, write):
    root = dataset(labels="")
    write(**{"images/train/x.jpg": None, "labels/train/y.txt": BOX})
    annotations = read_annotations(root, None, masks=False)
    assert len(annotations.images) == 2
    assert annotations.objects == {}


def test_key_points_are_not_read(dataset):
    root = dataset(f"train: images/train\nkpt_shape: [3, 2]\n{NAMES}", BOX.strip() + " 0.1 0.1 0.2 0.2 0.3 0.3")
    (entry,) = read_yolo(root, None, "train")[0]["annotations"]
    assert entry["bbox"] == pytest.approx([24, 12, 12, 16])


def test_an_unreadable_image_is_left_to_the_common_check(dataset, write):
    root = dataset("train: images\n" + NAMES)
    (root / "images" / "val" / "val.jpg").write_bytes(b"<html>")
    with input_error("val.jpg", "unreadable", "skip_unreadable=true"):
        read_annotations(root, None, masks=False)
    annotations = read_annotations(root, None, masks=False, skip_unreadable=True)
    assert [image["file_name"] for image in annotations.images] == ["train/train.jpg"]


@pytest.mark.parametrize(
    "labels,words",
    [
        ("1 0.5 0.5 0.2\n", ["train.txt:1", "4 numbers", "5 (class cx cy w h)"]),
        (BOX + "0 0.1 0.1 0.2 0.2 0.9\n", ["train.txt:2", "6 numbers"]),
        ("cat 0.5 0.5 0.2 0.2\n", ["train.txt:1", "expected numbers", "cat 0.5"]),
        ("2 0.5 0.5 0.2 0.2\n", ["train.txt:1", "class 2", "0 to 1"]),
        ("-1 0.5 0.5 0.2 0.2\n", ["train.txt:1", "class -1"]),
        ("0.5 0.5 0.5 0.2 0.2\n", ["train.txt:1", "class 0.5"]),
        ("nan 0.5 0.5 0.2 0.2\n", ["train.txt:1", "class nan"]),
    ],
)
def test_errors_name_the_line(dataset, labels, words):
    with input_error(*words):
        read_yolo(dataset(labels=labels), None, "train")


@pytest.mark.parametrize(
    "labels,words",
    [
        ("0 0.5 0.5 nan 0.2\n", ["train/train.txt:1", "not finite"]),
        ("0 30 20 12 16\n", ["train/train.txt:1", "too far"]),
        ("0 0.5 0.5 0 0.2\n", ["train/train.txt:1", "no area"]),
    ],
)
def test_values_are_left_to_the_common_check(dataset, labels, words):
    with input_error(*words, "drop_bad_objects=true"):
        read_annotations(dataset(labels=labels), None, masks=False)


@pytest.mark.parametrize(
    "settings,words",
    [
        ("train: [", ["data.yaml", "not YAML"]),
        ("- a", ["data.yaml", "list", "train, val and names"]),
        ("train: images/train", ["data.yaml", "names"]),
        ("names: cat", ["names must be a list"]),
        ("names: [[cat]]", ["names must be a list"]),
        ("names: {1: cat, 2: dog}", ["0 to 1", "[1, 2]"]),
        ("names: [cat]\nnc: 3", ["nc is 3", "1 names"]),
        (NAMES, ["'train'", "image_dir"]),
        (NAMES + "train: 3", ["path and train must be text"]),
        (NAMES + "train: images/trian", ["data.yaml: train", "does not exist", "did you mean train"]),
        (NAMES + "train: " + "x" * 300, ["does not exist"]),
        (NAMES + "train: data.yaml", ["must be a folder of images"]),
        (NAMES + "train: labels", ["has no image"]),
    ],
)
def test_errors_in_the_yaml_file(dataset, settings, words):
    with input_error(*words):
        read_yolo(dataset(settings) / "data.yaml", None, "train")


def test_no_label_file_at_all_is_an_error(write):
    root = write(**{"images/train/a.jpg": None, "data.yaml": "train: images/train\n" + NAMES})
    with input_error("not one of 1 images", "labels/train/a.txt"):
        read_yolo(root, None, "train")


def test_a_list_without_an_existing_image_is_an_error(dataset, write):
    root = dataset("train: list.txt\n" + NAMES)
    write(**{"list.txt": "C:\\x\\images\\train.jpg\r\n"})
    with input_error("not one of 1 listed images exists", "images/train.jpg"):
        read_yolo(root, None, "train")


@pytest.mark.parametrize("name", ["images/train/gone.jpg", "/"])
def test_a_missing_image_of_a_list_is_named(dataset, write, name):
    root = dataset("train: list.txt\n" + NAMES)
    write(**{"list.txt": f"images/train/train.jpg\n{name}\n"})
    with input_error(Path(name).name, "does not exist", "skip_unreadable=true"):
        read_annotations(root, None, masks=False)


@pytest.mark.parametrize(
    "files,words",
    [
        ({"a.yaml": NAMES, "b.yml": NAMES}, ["2 YAML files", "a.yaml"]),
        ({}, ["neither a .yaml file nor a classes.txt"]),
        ({"classes.txt": "\n"}, ["neither a .yaml file nor a classes.txt"]),
    ],
)
def test_a_folder_that_is_not_clear(write, files, words):
    with input_error(*words):
        read_yolo(write(**{"images/train/a.jpg": None}, **files), None, "train")


def test_equals_what_hotcoco_writes(coco_tiny, tmp_path):
    file = next((coco_tiny / "annotations").glob("instances_val*.json"))
    source = hotcoco.COCO(str(file))
    source.to_yolo(str(tmp_path / "labels"))
    (tmp_path / "images").symlink_to((coco_tiny / file.stem.removeprefix("instances_")).resolve())
    content, _ = read_yolo(tmp_path / "labels" / "data.yaml", tmp_path / "images", "train")
    files = {image["id"]: Path(image["file_name"]).name for image in source.dataset["images"]}
    classes = {category["id"]: category["name"] for category in source.dataset["categories"]}
    expected = [
        (files[entry["image_id"]], classes[entry["category_id"]], entry["bbox"])
        for entry in source.dataset["annotations"]
        if not entry["iscrowd"]
    ]
    images = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = [(images[e["image_id"]], names[e["category_id"]], e["bbox"]) for e in content["annotations"]]
    assert len(found) == len(expected)
    by_image = functools.partial(sorted, key=itemgetter(0))
    for (name, label, box), (other_name, other_label, other) in zip(by_image(found), by_image(expected)):
        assert (name, label) == (other_name, other_label)
        assert box == pytest.approx(other, abs=1e-3)
