"""A web server on this machine that serves one file in all the ways in which servers fail."""

import contextlib
import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Iterator

ETAG = '"one"'


@dataclasses.dataclass
class Answer:
    """How one request is answered; the defaults make a server as it should be."""

    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    data: bytes | None = None
    ranges: bool = True
    etag: str = ETAG
    cut: int | None = None  # Bytes after which the connection is closed, or,
    hold: threading.Event | None = None  # if there is one, kept silent until this is set.
    length: int | None = None  # What it says of the length of its answer.


class Server:
    """Answers its requests in turn by `answers`, all further ones by the last of them."""

    def __init__(self, data: bytes, *answers: Answer):
        self.data = data
        self.answers = list(answers) or [Answer()]
        self.requests: list[dict[str, str]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serves while the context lasts; gives the address of the server."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    server._answer(self)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
            thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{running.server_port}"
            finally:  # Else it would go round its closed socket for as long as the process lives.
                running.shutdown()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append({"path": handler.path} | dict(handler.headers))
        data = self.data if answer.data is None else answer.data
        start, status = 0, answer.status or 200
        asked = handler.headers.get("Range")
        if asked and answer.ranges and handler.headers.get("If-Range", ETAG) == answer.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = answer.status or (206 if start < len(data) else 416)
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if answer.etag:
            handler.send_header("ETag", answer.etag)
        data = data if status in (200, 206) else b""
        if answer.length != -1:
            length = max(len(data) - start, 0) if answer.length is None else answer.length
            handler.send_header("Content-Length", str(length))
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        cut = len(data) if answer.cut is None else start + answer.cut
        handler.wfile.write(data[start:cut])
        handler.wfile.flush()
        if answer.hold:
            answer.hold.wait(60)
            handler.wfile.write(data[cut:])


def published_name(data: bytes) -> str:
    """A name as OpenMMLab gives it: it ends with the first digits of the file's sha256."""
    return f"net_20220831-{hashlib.sha256(data).hexdigest()[:8]}.pth"
