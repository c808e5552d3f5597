import json
import os
from pathlib import Path

import pytest

from detbackbones.data.cache import FileFacts, cache_folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, which does not exist yet."""
    monkeypatch.setenv("DETBACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("content")
    return tmp_path / "files/a"


def remember(file: Path, *values: int) -> None:
    FileFacts("test", [file]).save({0: list(values)})


def recall(file: Path) -> list | None:
    return FileFacts("test", [file]).get(0)


def test_the_folder_follows_the_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("DETBACKBONES_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "detbackbones"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/detbackbones"


def test_facts_are_kept_until_the_file_changes(own_cache, file, monkeypatch):
    assert recall(file) is None
    remember(file, 1, 2)
    assert recall(file) == [1, 2]
    monkeypatch.chdir(file.parent)
    assert recall(Path("a")) == [1, 2]
    os.utime(file, ns=(0, 0))
    assert recall(file) is None


def test_facts_on_other_files_of_the_folder_stay_while_these_exist(own_cache, file):
    other = file.with_name("b")
    other.write_text("other")
    remember(file, 1)
    remember(other, 2)
    assert (recall(file), recall(other)) == ([1], [2])
    file.unlink()
    remember(other, 3)
    (content,) = (json.loads(path.read_text()) for path in own_cache.rglob("*.json"))
    assert list(content) == ["b"]


def test_nothing_is_written_beside_the_files(own_cache, file):
    remember(file, 1)
    assert os.listdir(file.parent) == ["a"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 3}', b'{"a": [1]}', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_cache_is_ignored_and_replaced(own_cache, file, content):
    remember(file, 1)
    (path,) = own_cache.rglob("*.json")
    path.write_bytes(content)
    assert recall(file) is None
    remember(file, 2)
    assert recall(file) == [2]


def test_a_cache_that_cannot_be_written_is_ignored(own_cache, file):
    own_cache.write_text("a file where the folder should be")
    remember(file, 1)
    assert recall(file) is None


def test_what_does_not_exist_has_no_facts(own_cache, tmp_path):
    for path in (tmp_path / "missing", tmp_path, tmp_path / ("x" * 300), tmp_path / "a\0b"):
        remember(path, 1)
        assert recall(path) is None
