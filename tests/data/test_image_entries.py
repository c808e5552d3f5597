import pytest
from PIL import Image

from detbackbones.data.image_entries import ImageUse, clean_images
from detbackbones.data.problems import Report


@pytest.fixture
def check(tmp_path):
    """A function that writes images of 60 x 40 stored pixels and cleans entries; returns entries, problems, report."""

    def run(*images, **options):
        entries = []
        for number, (orientation, size) in enumerate(images):
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.new("RGB", (60, 40)).save(tmp_path / f"{number}.jpg", exif=exif)
            entry = {"id": number, "file_name": f"{number}.jpg", "width": size[0], "height": size[1]}
            entries.append({key: value for key, value in entry.items() if value is not None})
        report = Report(tmp_path)
        problems = clean_images(entries, tmp_path, report, **options)
        return entries, problems, report

    return run


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_turned_image_is_rotated_if_its_annotated_size_is(check, orientation):
    entries, problems, report = check((orientation, (40, 60)), (orientation, (60, 40)))
    assert [entry.get("exif_orientation", 1) for entry in entries] == [orientation, 1]
    assert problems == {}
    assert not report.repairs


def test_a_missing_size_is_that_of_the_displayed_image(check):
    entries, _, _ = check((6, (None, None)))
    assert (entries[0]["width"], entries[0]["height"], entries[0]["exif_orientation"]) == (40, 60, 6)


@pytest.mark.parametrize("other,applied", [((40, 60), 3), ((60, 40), 1)])
def test_an_image_on_its_head_follows_the_other_images_and_is_reported(check, other, applied):
    entries, _, report = check((3, (60, 40)), (6, other))
    assert entries[0].get("exif_orientation", 1) == applied
    assert list(report.repairs.values()) == [1]


@pytest.mark.parametrize("size", [(61, 40), (60, -1), ("wide", 40), (60.5, 40), (True, 40), (60, 10**10)])
def test_a_wrong_size_is_a_problem(check, size):
    _, problems, report = check((1, size))
    assert list(problems) == [0]
    assert report.count("skip_unreadable") == 1


def test_a_whole_size_may_be_a_float(check):
    entries, problems, _ = check((1, (60.0, 40)))
    assert (entries[0]["width"], type(entries[0]["width"]), problems) == (60, int, {})


def test_too_many_pixels_are_a_problem(check):
    assert "smaller short_side" in check((1, (60, 40)), use=ImageUse(short_side=20_000))[1][0]
    assert check((1, (60, 40)), use=ImageUse(short_side=100))[1] == {}


@pytest.mark.parametrize("size,count", [((None, 40), 1), ((60, 0), 1), (("", 40), 1), (("60", "40.0"), 0)])
def test_a_derived_size_is_counted(check, size, count):
    entries, problems, report = check((1, size))
    assert ((entries[0]["width"], entries[0]["height"]), problems) == ((60, 40), {})
    assert sum(report.repairs.values()) == count


def test_one_file_of_several_images_is_counted(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    entries = [{"id": number, "file_name": "a.png", "width": 60, "height": 40} for number in (1, 2)]
    report = Report(tmp_path)
    clean_images(entries, tmp_path, report)
    assert [(count, "a.png" in text) for text, count in report.repairs.items()] == [(2, True)]


def test_a_key_of_somebody_else_does_not_turn_an_image(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    entry = {"id": 1, "file_name": "a.png", "width": 60, "height": 40, "exif_orientation": 6}
    assert clean_images([entry], tmp_path, Report(tmp_path)) == {}
    assert "exif_orientation" not in entry
