"""Fetch one file over HTTP into a partial file: resume, retry, and notice a file that changed or was cut off."""

import contextlib
import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

STALL_SECONDS = 30.0  # an attempt ends when no byte comes for this long
ATTEMPTS = 5  # in a row that get no further than those before
FIRST_PAUSE = 1.0  # seconds before the second attempt, doubled before every further one
LONGEST_PAUSE = 30.0
REPORT_SECONDS = 10.0  # between lines on the progress without a terminal
PIECE = 1 << 20
USER_AGENT = "detbackbones"
Report = Callable[[int, int | None], None]  # gets the bytes so far and the total, if known
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class TransferError(Exception):
    """A file cannot be fetched. The message is one line without the URL."""


class _Interrupted(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


class _Redirects(HTTPRedirectHandler):
    """Follow redirects, but not from an encrypted connection to one that is not."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if req.type == "https" and not newurl.startswith("https://"):
            raise TransferError(f"the server redirects to {newurl.split('?')[0]}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, partial: Path, *, has_checksum: bool) -> bool:
    """Fetch `url` into `partial`, from where an earlier attempt or an earlier process stopped.

    Another file beside it, `<partial>.json`, holds what identifies the version of the file on the server (ETag or
    Last-Modified). A server that has another version by now, or that does not know ranges, sends the whole file.

    Args:
        url: an http or https address.
        partial: the unfinished file. It stays if the transfer fails, for the next attempt.
        has_checksum: whether the caller compares a checksum, so that resuming is safe if the server does not identify
            the version of the file.

    Returns:
        Whether the file consists of parts that came at different times.

    Raises:
        TransferError: The server cannot be reached, refuses, or stops again and again.
        OSError: The partial file cannot be written.
    """
    failures, has_answered, longest = 0, False, _size(partial)
    with _progress(partial) as report:
        while True:
            try:
                return _attempt(url, partial, has_checksum, report)
            except URLError as error:  # no connection; HTTPError is handled by _attempt
                reason, pause = str(getattr(error.reason, "strerror", None) or error.reason), 0.0
                if not has_answered:
                    raise TransferError(reason) from None
            except _Interrupted as error:
                reason, pause = str(error), error.pause
            has_answered = True
            failures = 1 if _size(partial) > longest else failures + 1
            longest = max(longest, _size(partial))
            if failures >= ATTEMPTS:
                raise TransferError(f"{reason}, {failures} times in a row")
            time.sleep(min(max(pause, FIRST_PAUSE * 2 ** (failures - 1)), LONGEST_PAUSE))


def forget(partial: Path) -> None:
    """Remove a partial file and what was recorded on it."""
    for path in (partial, _notes_path(partial)):
        path.unlink(missing_ok=True)


def _attempt(url: str, partial: Path, has_checksum: bool, report: Report) -> bool:
    """Fetch what is missing. Returns whether there was a part before. Raises _Interrupted, URLError or as `fetch`."""
    start, headers = _resume_point(url, partial, has_checksum)
    with _open(Request(url, headers={"User-Agent": USER_AGENT, **headers}), partial) as response:
        if response.status != 206:
            start = 0
        total = _total_length(response, start)
        _check_space(partial, total, start)
        with open(partial, "ab" if start else "wb") as file:
            _notes_path(partial).write_text(json.dumps({"url": url, "version": _version(response)}))
            report(start, total)
            for piece in _pieces(response):
                file.write(piece)
                report(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
    size = _size(partial)
    if total is not None and size != total:
        raise _Interrupted(f"the connection ended after {size} of {total} bytes")
    return start > 0


def _open(request: Request, partial: Path) -> Any:
    try:
        return build_opener(_Redirects).open(request, timeout=STALL_SECONDS)
    except HTTPError as error:
        with error:
            raise _http_failure(error, partial) from None
    except URLError:
        raise
    except (OSError, http.client.HTTPException) as error:  # it was connected
        raise _Interrupted(_one_line(error)) from None


def _pieces(response: Any) -> Iterator[bytes]:
    """Yield what arrives as it arrives, so that nothing is lost if the connection ends."""
    try:
        while piece := response.read1(PIECE):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_one_line(error)) from None


def _resume_point(url: str, partial: Path, has_checksum: bool) -> tuple[int, dict[str, str]]:
    """Return from which byte to go on, and the headers that ask for the rest."""
    size = _size(partial)
    try:
        notes = json.loads(_notes_path(partial).read_text())
        version = notes["version"] if notes["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if not size or not (version or has_checksum):
        return 0, {}
    return size, {"Range": f"bytes={size}-"} | ({"If-Range": version} if version else {})


def _version(response: Any) -> str | None:
    """Return what If-Range may compare: a strong ETag, or else the time of the last change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _total_length(response: Any, start: int) -> int | None:
    """Return the length of the whole file, if the server tells."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != start:
            raise TransferError("the server sent another part of the file than it was asked for")
        return None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _check_space(partial: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if total is not None and total - start > free:
        raise TransferError(f"it needs {total - start} bytes, and {partial.parent} has {free} free")


def _http_failure(error: HTTPError, partial: Path) -> Exception:
    """Return the exception that an answer other than success becomes."""
    text = f"HTTP {error.code} {error.reason}"
    if error.code == 416:  # the partial file is longer than the file on the server
        forget(partial)
        return _Interrupted(text)
    if error.code not in TEMPORARY_STATUS:
        return TransferError(text)
    pause = error.headers.get("Retry-After", "")
    return _Interrupted(text, float(pause) if pause.isdecimal() else 0.0)


@contextlib.contextmanager
def _progress(partial: Path) -> Iterator[Report]:
    """Show a progress bar, or a line from time to time if the output is not a terminal; in the main process only."""
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0", soft_wrap=True)
    if not console.is_terminal:
        yield _reporter(console, partial.stem)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(partial.stem, total=None)
        yield lambda size, total: progress.update(task, completed=size, total=total)


def _reporter(console: Console, name: str) -> Report:
    last = time.monotonic()

    def report(size: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            of_total = f" of {total / 1e6:.1f}" if total else ""
            console.print(f"downloading {name}: {size / 1e6:.1f}{of_total} MB", markup=False, highlight=False)

    return report


def _notes_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _one_line(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no data for {STALL_SECONDS:g} s"
    return (str(error).splitlines() or [type(error).__name__])[0]
