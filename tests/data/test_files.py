import os

import pytest
from helpers import input_error

from detbackbones.data.files import read_file, walk_files
from detbackbones.data.formats import recognise_format
from detbackbones.data.xml_files import read_xml
from detbackbones.data.yolo import read_yolo


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def walk(folder, **options):
    return [file.relative_to(folder).as_posix() for file in walk_files(folder, **options)]


def test_hidden_folders_and_those_of_network_drives_are_left_out(tmp_path):
    write(tmp_path, "b", "a", "sub/c", "sub/.d", "sub/._c", ".ipynb_checkpoints/a", "@eaDir/a/x", "__MACOSX/a")
    assert walk(tmp_path) == ["a", "b", "sub/.d", "sub/c"]
    assert walk(tmp_path / ".ipynb_checkpoints") == ["a"]


def test_linked_folders_are_followed_and_visited_once(tmp_path):
    write(tmp_path, "data/b/c", "more/d", "more/e/f")
    os.symlink(tmp_path / "more", tmp_path / "data/a")
    os.symlink(tmp_path / "data", tmp_path / "data/loop")
    os.symlink(tmp_path / "data/b", tmp_path / "data/again")
    assert walk(tmp_path / "data") == ["b/c", "a/d", "a/e/f"]
    assert walk(tmp_path / "data", skipped=tmp_path / "more/e") == ["b/c", "a/d"]


@pytest.mark.parametrize("name,read", [("a.xml", read_xml), ("a.yaml", lambda path: read_yolo(path, None, "train"))])
def test_a_pipe_is_not_waited_for(tmp_path, name, read):
    os.mkfifo(tmp_path / name)
    with input_error(name, "is not a file"):
        read(tmp_path / name)
    with pytest.raises(OSError, match="not a file"):
        read_file(tmp_path / name)


def test_what_macos_leaves_behind_does_not_decide_on_the_format(tmp_path):
    (tmp_path / "._a.xml").write_bytes(b"\0\5\x16\7")
    (tmp_path / "a.xml").write_text("<annotation/>")
    assert recognise_format(tmp_path) == "voc"
