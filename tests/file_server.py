"""An HTTP server in a thread that serves one file, and misbehaves as told."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler"], None]


class FileServer(ThreadingHTTPServer):
    """Serves `content` at every path.

    Attributes:
        content: the file.
        headers: sent with the file, such as ETag.
        ranges: whether requests for a part are honoured.
        faults: what happens at the next requests, one by one; after the last one the file is served.
        requests: path and headers of the requests so far.
    """

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.headers = {"ETag": '"1"'}
        self.ranges = True
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.stopped = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Print nothing if a client has gone."""


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        if self.server.faults:
            self.server.faults.pop(0)(self)
        else:
            self.send_file()

    do_HEAD = do_GET

    def send_file(self, stop: int | None = None) -> None:
        """Send the part that was asked for; with `stop` only up to that byte of the file."""
        content, start, status = self.server.content, 0, 200
        asked = self.headers.get("Range")
        version = self.headers.get("If-Range")
        if asked and self.server.ranges and version in (None, *self.server.headers.values()):
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        if start > len(content):
            return self.send_error(416)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in {"Content-Length": str(len(content) - start), **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:stop])

    def log_message(self, *args):
        """Print nothing."""


def drop(stop: int) -> Fault:
    """Close the connection at a byte of the file."""
    return lambda handler: handler.send_file(stop)


def stall(stop: int) -> Fault:
    """Send up to a byte of the file, and then nothing, with an open connection."""

    def fault(handler: Handler) -> None:
        handler.send_file(stop)
        handler.wfile.flush()
        handler.server.stopped.wait()

    return fault


def status(code: int, **headers: str) -> Fault:
    """Answer with a status; in names of headers an underscore stands for a hyphen."""

    def fault(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return fault


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""


@contextlib.contextmanager
def serve(content: bytes) -> Iterator[FileServer]:
    """Run a server while the context lasts."""
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()
