import hotcoco
import numpy as np
import pytest
from helpers import input_error
from PIL import Image

from detbackbones.data.annotations import read_annotations
from detbackbones.data.cvat import read_cvat
from detbackbones.data.objects import to_rle
from detbackbones.data.problems import SOURCE

LABELS = "<label><name>dog</name></label><label><name>cat</name></label>"
BOX = '<box label="cat" xtl="1.5" ytl="2.0" xbr="5.0" ybr="8.5" occluded="0" z_order="0"/>'
POLYGON = '<polygon label="dog" points="1.0,1.0;9.0,1.0;9.0,7.5"/>'
MASK = '<mask label="cat" rle="1, 2, 3" left="2" top="3" width="3" height="2"/>'  # of .XX/...
HEIGHT, WIDTH = 10, 20


def image(*shapes, name="a.png", subset="default", size=f'width="{WIDTH}" height="{HEIGHT}"'):
    return f'<image id="0" name="{name}" subset="{subset}" {size}>{"".join(shapes)}</image>'


@pytest.fixture
def write(tmp_path):
    """A function that writes annotations.xml and the images a.png and b.png."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"{name}.png")

    def write(*images, labels=LABELS):
        meta = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        (tmp_path / "annotations.xml").write_text(f"<annotations>{meta}{''.join(images)}</annotations>")
        return tmp_path / "annotations.xml"

    return write


def annotations(path, split="train"):
    return read_cvat(path, None, split)[0]["annotations"]


def test_equals_hotcoco(write):
    path = write(image(BOX, POLYGON), image(name="b.png"))
    content, expected = read_cvat(path, None, "train")[0], hotcoco.COCO.from_cvat(str(path)).dataset
    assert content["images"] == expected["images"]
    assert content["categories"] == expected["categories"]
    keys = ("id", "image_id", "category_id", "bbox", "iscrowd")
    for entry, other in zip(content["annotations"], expected["annotations"], strict=True):
        assert [entry[key] for key in keys] == [other[key] for key in keys]
        assert entry.get("segmentation") == other.get("segmentation")


def test_an_image_in_the_folder_of_its_subset_comes_first(write):
    path = write(image(BOX, subset="train"), image(name="b.png", subset="train"), image(name="b.png", subset=""))
    (path.parent / "images/train").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(path.parent / "images/train/a.png")
    found = [entry["file_name"] for entry in read_cvat(path, None, "train")[0]["images"]]
    assert found == ["train/a.png", "b.png"]


def test_names_and_folder(write):
    path = write(image(BOX))
    content, folder = read_cvat(path, None, "train")
    assert folder == path.parent / "images"
    assert content["annotations"][0][SOURCE] == "annotations.xml: a.png box 1"
    assert read_cvat(path.parent, None, "train")[0] == content


def test_a_mask_fills_its_image(write):
    (entry,) = annotations(write(image(MASK)))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[3, 3:5] = True
    np.testing.assert_array_equal(decode(entry), expected)
    assert entry["bbox"] == [3, 3, 2, 1]


@pytest.mark.parametrize("seed", range(5))
def test_random_masks(write, seed):
    crop = np.random.default_rng(seed).random((HEIGHT - seed, WIDTH - 2 * seed)) < 0.2 * (seed + 1)
    left, top = seed, seed // 2
    rows = crop.ravel().astype(int)
    edges = np.flatnonzero(np.diff(rows, prepend=0)).tolist() + [rows.size]
    runs = ", ".join(map(str, np.diff([0, *edges])))
    size = f'left="{left}" top="{top}" width="{crop.shape[1]}" height="{crop.shape[0]}"'
    path = write(image(f'<mask label="cat" rle="{runs}" {size}/>'))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    (entry,) = read_annotations(path, None).objects[1]
    np.testing.assert_array_equal(decode(entry), expected)
    assert entry["bbox"] == hotcoco.mask.toBbox(to_rle(entry["segmentation"], HEIGHT, WIDTH)).tolist()


def decode(entry):
    return hotcoco.mask.decode(to_rle(entry["segmentation"], HEIGHT, WIDTH)).astype(bool)


@pytest.mark.parametrize(
    "rotation,expected", [(90, [4, 2, 4, 8]), (180, [2, 4, 8, 4]), (45, [1.757, 1.757, 8.485, 8.485])]
)
def test_a_rotated_box_becomes_the_box_around_it(write, rotation, expected):
    box = f'<box label="cat" xtl="2" ytl="4" xbr="10" ybr="8" rotation="{rotation}"/>'
    assert annotations(write(image(box)))[0]["bbox"] == pytest.approx(expected, abs=1e-3)


def test_shapes_without_a_box_are_reported(write):
    path = write(image(BOX, '<polyline label="cat" points="1,1;2,2"/>', '<tag label="dog"/>'))
    with input_error("a.png polyline 2", "bbox must be", "a polyline has none", "drop_bad_objects=true"):
        read_annotations(path, None, masks=False)


def test_subsets_are_splits(write):
    images = image(subset="Train"), image(name="b.png", subset="Validation")
    for split, name in (("train", "a.png"), ("val", "b.png")):
        assert [entry["file_name"] for entry in read_cvat(write(*images), None, split)[0]["images"]] == [name]
    with input_error("split 'val'", "test, train"):
        read_cvat(write(image(subset="train"), image(subset="test")), None, "val")


def test_images_in_folders_of_subsets(write):
    path = write(image(BOX, subset="train"))
    (path.parent / "images" / "train").mkdir()
    (path.parent / "images" / "a.png").rename(path.parent / "images" / "train" / "a.png")
    assert read_annotations(path, None, masks=False).images[0]["file_name"] == "train/a.png"


def test_labels_of_skeletons_are_not_classes(write):
    labels = LABELS + "<label><name>nose</name><parent>cat</parent></label>"
    assert [entry["name"] for entry in read_cvat(write(image(), labels=labels), None, "train")[0]["categories"]] == [
        "dog",
        "cat",
    ]


@pytest.mark.parametrize(
    "shape,words",
    [
        (BOX.replace("cat", "cta"), ["a.png box 1", "'cta'", "did you mean cat?"]),
        (BOX.replace("xtl", "x"), ["a.png box 1", "'xtl' is missing"]),
        (BOX.replace("1.5", "left"), ["a.png box 1", "left"]),
        (POLYGON.replace("1.0,1.0", "1.0"), ["a.png polygon 1", "x,y;x,y"]),
        (POLYGON.replace("1.0,1.0;9.0,1.0;9.0,7.5", ""), ["a.png polygon 1"]),
        (MASK.replace("1, 2, 3", "1, 2"), ["a.png mask 1", "add up", "3 x 2"]),
        (MASK.replace("1, 2, 3", "9, -3"), ["a.png mask 1", "add up"]),
        (MASK.replace('left="2"', 'left="18"'), ["a.png mask 1", "leaves its image", "20x10"]),
        (MASK.replace('"3" height="2"', '"1e9" height="1e9"'), ["a.png mask 1", "leaves its image"]),
    ],
)
def test_errors_name_the_shape(write, shape, words):
    with input_error("annotations.xml", *words):
        read_cvat(write(image(shape)), None, "train")


def test_a_mask_needs_the_size_of_its_image(write):
    with input_error("a.png mask 1", "width and height"):
        read_cvat(write(image(MASK, size="")), None, "train")


@pytest.mark.parametrize(
    "text,words",
    [
        ("<annotation/>", ["<annotation>", "CVAT for images 1.1"]),
        ("<annotations><track/></annotations>", ["tracks of a video", "CVAT for images 1.1"]),
        ("<annotations><image/></annotations>", ["<label>"]),
        (f"<annotations><meta>{LABELS}</meta></annotations>", ["no image"]),
        ("<!DOCTYPE a><annotations/>", ["DOCTYPE"]),
        ("{}", ["not XML"]),
    ],
)
def test_errors_name_the_file(write, text, words):
    path = write()
    path.write_text(text)
    with input_error("annotations.xml", *words):
        read_cvat(path, None, "train")
