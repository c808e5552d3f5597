"""Downloads from servers and onto disks that misbehave: the right file comes in the end, or one line says why not."""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from file_server import drop, hang_up, stall, status
from helpers import input_error

from detbackbones.weights import transfers
from detbackbones.weights.downloads import download


def asked_from(server) -> list[str | None]:
    """Return the Range header of every request."""
    return [headers.get("Range") for _, headers in server.requests]


def names(folder: Path) -> set[str]:
    """Return the names of the files below a folder, without locks."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture
def url(server, hashed_name) -> str:
    return f"{server.base}/{hashed_name}"


@pytest.fixture
def target(hub_cache, hashed_name) -> Path:
    return hub_cache / hashed_name


@pytest.mark.parametrize("name", ["hashed", "model_final.pth"])
@pytest.mark.parametrize("fault", [drop, stall])
def test_a_connection_that_ends_is_resumed(server, hub_cache, hashed_name, fault, name):
    server.faults = [fault(100_000), hang_up, fault(250_000)]
    start = time.monotonic()
    path = download(f"{server.base}/{hashed_name if name == 'hashed' else name}")
    assert time.monotonic() - start < 8  # two stalls of 0.25 s, and a slow machine
    assert path.read_bytes() == server.content
    assert asked_from(server) == [None, "bytes=100000-", "bytes=100000-", "bytes=250000-"]
    assert server.requests[1][1]["If-Range"] == '"1"'
    assert not {each for each in names(hub_cache) if ".part" in each}


def test_a_later_call_resumes(server, url, target):
    server.faults = [drop(100_000), *[hang_up] * 10]
    with input_error(url, "closed connection", "5 times in a row", str(target.parent), target.name):
        download(url)
    assert not target.exists()
    server.faults, server.requests = [], []
    assert download(url).read_bytes() == server.content
    assert asked_from(server) == ["bytes=100000-"]


def test_a_server_without_ranges_sends_everything(server, url):
    server.ranges, server.faults = False, [drop(100_000)]
    assert download(url).read_bytes() == server.content
    assert len(server.requests) == 2


DATE, LATER = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {"ETag": 'W/"1"', "Last-Modified": DATE}])
def test_a_file_that_changes_between_two_attempts(server, headers):
    server.headers = headers

    def change(handler):
        server.content = random.Random(1).randbytes(200_000)
        server.headers = {"ETag": '"2"', "Last-Modified": LATER}
        handler.send_file()

    server.faults = [drop(100_000), change]
    assert download(f"{server.base}/model.pth").read_bytes() == server.content
    assert server.requests[1][1]["If-Range"] == headers.get("Last-Modified", '"1"')


def test_a_file_without_version_starts_again(server):
    server.headers, server.faults = {}, [drop(100_000)]
    assert download(f"{server.base}/model.pth").read_bytes() == server.content
    assert asked_from(server) == [None, None]


def test_parts_of_two_versions_are_noticed_by_the_hash(server, url, target):
    """The server does not say which version it sends: the hash in the name decides."""
    server.headers, whole = {}, server.content

    def other_version(handler):
        server.content = random.Random(1).randbytes(len(whole))
        handler.send_file(100_000)
        server.content = whole

    server.faults = [other_version]
    assert download(url).read_bytes() == whole
    assert asked_from(server) == [None, "bytes=100000-", None]


def test_a_part_that_is_longer_than_the_file(server, url, target):
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(bytes(400_000))
    assert download(url).read_bytes() == server.content
    assert asked_from(server) == ["bytes=400000-", None]


def test_the_server_sends_another_range(server, url, target):
    server.faults = [drop(1000), status(206, Content_Range="bytes 0-299999/300000", Content_Length="300000")]
    with input_error(url, "another part"):
        download(url)
    assert not target.exists()


def test_a_wrong_hash_leaves_nothing(server, hub_cache):
    with input_error("net-00000000.pth", "SHA-256 begins with", "00000000 was expected"):
        download(f"{server.base}/net-00000000.pth")
    assert names(hub_cache) == set()


@pytest.mark.parametrize(
    "content,problem",
    [
        (b"<!DOCTYPE html>\n<title>Log in</title>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"", "an empty file"),
        (b"PK\x03\x04" + bytes(1000), "cut off"),
    ],
)
def test_what_is_not_weights_leaves_nothing(server, hub_cache, content, problem):
    server.content = content
    with input_error("model.pth", problem):
        download(f"{server.base}/model.pth")
    assert names(hub_cache) == set()


def test_a_login_page_in_place_of_a_config(server, hub_cache):
    server.content = b"<html>"
    with input_error("cfg.yaml", "an HTML page"):
        download(f"{server.base}/cfg.yaml")
    server.content = b"MODEL: {}"
    assert download(f"{server.base}/cfg.yaml").read_bytes() == b"MODEL: {}"


@pytest.mark.parametrize("code,reason", [(404, "Not Found"), (403, "Forbidden"), (401, "Unauthorized"), (410, "Gone")])
def test_a_refusal_ends_at_once(server, url, target, code, reason):
    server.faults = [status(code)] * 10
    with input_error(url, f"HTTP {code} {reason}", str(target.parent), target.name):
        download(url)
    assert len(server.requests) == 1
    assert names(target.parent) == set()


@pytest.mark.parametrize("code", [500, 502, 503, 429])
def test_a_server_that_is_overloaded_is_asked_again(server, url, code):
    server.faults = [status(code, Retry_After="0")] * 3
    assert download(url).read_bytes() == server.content
    server.faults = [status(code)] * 10
    with input_error(f"HTTP {code}", "5 times in a row"):
        download(url.replace("net-", "other-"))


def test_the_server_says_when_to_come_back(server, url, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    server.faults = [status(503, Retry_After="7"), status(503, Retry_After="86400"), status(503)]
    download(url)
    assert pauses == [7, transfers.LONGEST_PAUSE, 4 * transfers.FIRST_PAUSE]


def test_progress_resets_the_count_of_failures(server, url):
    server.faults = [drop(10_000 * (number + 1)) for number in range(2 * transfers.ATTEMPTS)]
    assert download(url).read_bytes() == server.content


def test_a_long_download_without_a_terminal_prints_lines(server, url, hashed_name, monkeypatch, capsys):
    monkeypatch.setattr(transfers, "REPORT_SECONDS", 0)
    download(url)
    lines = capsys.readouterr().err.splitlines()
    assert f"downloading {hashed_name}: 0.3 of 0.3 MB" in lines
    monkeypatch.setenv("RANK", "1")  # not the main process
    download(url.replace("net-", "other-"))
    assert capsys.readouterr().err == ""


def test_a_server_that_always_ends_early_is_given_up(server, url, target):
    """Without ranges every attempt begins anew; attempts that get no further count, whatever was before them."""
    server.ranges, server.faults = False, [drop(100_000), drop(50_000)] * 20
    with input_error(url, "ended after", "of 300000 bytes", "5 times in a row"):
        download(url)
    assert len(server.requests) == transfers.ATTEMPTS
    assert not target.exists()


def test_a_length_that_is_wrong(server, url, target):
    server.ranges = False
    server.headers["Content-Length"] = "300100"
    with input_error(url, "ended after 300000 of 300100 bytes", "5 times in a row"):
        download(url)
    assert not target.exists()


def test_redirects_are_followed(server, url, hashed_name):
    server.faults = [status(302, Location="/elsewhere/file"), status(307, Location=f"{server.base}/third")]
    assert download(url).name == hashed_name
    assert [path for path, _ in server.requests] == [f"/{hashed_name}", "/elsewhere/file", "/third"]


def test_a_redirected_download_resumes(server, url):
    server.faults = [status(302, Location="/file"), drop(5000), status(302, Location="/file")]
    assert download(url).read_bytes() == server.content
    assert asked_from(server) == [None, None, "bytes=5000-", "bytes=5000-"]


def test_redirects_without_end(server, url):
    server.faults = [status(302, Location="/again")] * 30
    with input_error(url, "HTTP 302"):
        download(url)


def test_no_redirect_leaves_encryption():
    request = transfers.Request("https://a.example/file")
    with pytest.raises(transfers.TransferError, match="not encrypted"):
        transfers._Redirects().redirect_request(request, None, 302, "Found", {}, "http://a.example/file?key=secret")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://nowhere.invalid"])
def test_offline(hub_cache, address):
    start = time.monotonic()
    with input_error(f"{address}/models/net-01234567.pth", str(hub_cache), "under the name net-01234567.pth"):
        download(f"{address}/models/net-01234567.pth")
    assert time.monotonic() - start < 5
    assert names(hub_cache) == set()


def test_offline_with_the_file(server, url, hashed_name):
    path = download(url)
    assert download(f"http://nowhere.invalid/{hashed_name}") == path


fork = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds


def test_two_processes_make_one_download(server, url, target, capfd, monkeypatch):
    monkeypatch.setattr(transfers, "STALL_SECONDS", 30)
    server.faults = [lambda handler: (time.sleep(0.2), handler.send_file())]
    processes = [fork.Process(target=download, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert target.read_bytes() == server.content
    assert len(server.requests) == 1
    assert capfd.readouterr().err.count("waiting for another process") == 2


def test_a_killed_process_leaves_a_part_that_the_next_one_resumes(server, url, target, monkeypatch):
    monkeypatch.setattr(transfers, "STALL_SECONDS", 30)
    server.faults = [stall(100_000)]
    process = fork.Process(target=download, args=(url,))
    process.start()
    partial, deadline = target.with_name(f"{target.name}.part"), time.monotonic() + 20
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    assert not target.exists()
    assert download(url).read_bytes() == server.content
    assert asked_from(server)[1] is not None


def test_a_read_only_cache(server, url, hashed_name, monkeypatch):
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    monkeypatch.setenv("TORCH_HOME", str(folder))
    try:
        path = download(url)
        os.chmod(folder, 0o755)
        os.chmod(path.parent, 0o555)
        is_root = os.geteuid() == 0
        if is_root:  # whom permissions do not stop
            os.seteuid(65534)
        try:
            assert download(url) == path
            with input_error("cannot write", "other-01234567.pth", "Permission denied", "TORCH_HOME"):
                download(f"{server.base}/other-01234567.pth")
        finally:
            if is_root:
                os.seteuid(0)
        os.chmod(path.parent, 0o755)
    finally:
        shutil.rmtree(folder)


def test_a_cache_that_cannot_be_made(server, url, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file" / "torch"))
    with input_error("cannot write", "Not a directory", "TORCH_HOME"):
        download(url)


def test_a_disk_that_is_too_small(server, url, target, monkeypatch):
    usage = shutil.disk_usage(target.parents[3])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with input_error(url, "needs 300000 bytes", "1000 free"):
        download(url)
    assert names(target.parent) == set()


def limited_download(url: str, size: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with input_error("cannot write", "File too large"):
        download(url)


def test_a_disk_that_fills_up(server, url, target):
    """A limit on the size of files makes the system refuse a write in the middle."""
    process = fork.Process(target=limited_download, args=(url, 50_000))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert not target.exists()
    assert download(url).read_bytes() == server.content
    assert asked_from(server)[1] == "bytes=50000-"
