"""A simulated object store: enough of S3's interface for what asks it, slow and faulty on purpose.

    python -m tests.store --errors=0.01 --stalls=0.005

serves from memory, and prints its address. What becomes of a request follows from the seed, the
request and how often it was made, in whatever order requests come. `running` serves meanwhile.
"""

import argparse
import collections
import contextlib
import email.utils
import functools
import hashlib
import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from xml.sax.saxutils import escape

STALL = 15.0  # seconds in which a stalled request says nothing, before its connection is closed
_SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Store:
    """Objects by bucket and key, and what becomes of requests."""

    def __init__(self, latency: float, errors: float, stalls: float, seed: int):
        self.latency, self.errors, self.stalls, self.seed = latency, errors, stalls, seed
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        self.asked: collections.Counter[str] = collections.Counter()

    def fate(self, request: str) -> str:
        """What becomes of a request that was made before so many times: ok, error or stall."""
        with self.lock:
            self.asked[request] += 1
            times = self.asked[request]
        digest = hashlib.sha256(f"{self.seed} {times} {request}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        if draw < self.errors:
            return "error"
        return "stall" if draw < self.errors + self.stalls else "ok"


@functools.cache
def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; `store` is set by `serve`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, code: int, name: str) -> None:
        self._answer(code, f"<Error><Code>{name}</Code><Message>{name}</Message></Error>".encode())

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        plain, place = b"", 0
        while True:
            end = data.index(b"\r\n", place)
            size = int(data[place:end].split(b";")[0], 16)
            if not size:
                return plain
            plain += data[end + 2 : end + 2 + size]
            place = end + 2 + size + 2

    def _handle(self) -> None:
        store, body = self.store, self._body()
        address = urllib.parse.urlsplit(self.path)
        if address.path == "/-/counts":
            with store.lock:
                self._answer(200, json.dumps(store.counts).encode())
            return
        query = dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True))
        name = urllib.parse.unquote(address.path).lstrip("/")
        span = self.headers.get("Range", "")
        time.sleep(store.latency)
        fate = store.fate(f"{self.command} {self.path} {span}")
        with store.lock:
            store.counts[self.command] += 1
            store.counts[fate] += 1
        if fate == "stall":
            # Headers and then nothing, or nothing at all: what a client has to notice by itself.
            if self.command == "GET":
                self.send_response(206 if span else 200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
            time.sleep(STALL)
            self.close_connection = True
        elif fate == "error":
            self._fail(*((500, "InternalError"), (503, "SlowDown"))[len(name) % 2])
        else:
            getattr(self, f"_{self.command.lower()}")(name, query, body, span)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _get(self, name: str, query: dict[str, str], body: bytes, span: str) -> None:
        if "list-type" in query:
            self._list(name.partition("/")[0], query)
            return
        with self.store.lock:
            found = self.store.objects.get(name)
        if "/" not in name.rstrip("/") and self.command == "HEAD":
            self._answer(200)
            return
        if found is None:
            self._fail(404, "NoSuchKey")
            return
        data, modified = found
        about = {"ETag": etag(data), "Last_Modified": email.utils.formatdate(modified, usegmt=True)}
        if span:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", span).groups()
            if int(first) >= len(data):
                self._fail(416, "InvalidRange")
                return
            end = min(int(last) if last else len(data), len(data) - 1)
            about["Content_Range"] = f"bytes {first}-{end}/{len(data)}"
            self._answer(206, data[int(first) : end + 1], **about)
        else:
            self._answer(200, data, Content_Length=str(len(data)), **about)

    _head = _get

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, separator = query.get("prefix", ""), query.get("delimiter", "")
        after, most = query.get("continuation-token", ""), int(query.get("max-keys", 1000))
        with self.store.lock:
            known = sorted(n for n in self.store.objects if n.startswith(f"{bucket}/{prefix}"))
            sizes = {n: self.store.objects[n] for n in known}
        entries: dict[str, str] = {}
        for full, (data, modified) in sizes.items():
            key = full.partition("/")[2]
            inner = key[len(prefix) :]
            if separator and separator in inner:
                folder = prefix + inner.partition(separator)[0] + separator
                entries[folder] = (
                    f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
                )
                continue
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(modified))
            entries[key] = (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified>"
                f"<ETag>{escape(etag(data))}</ETag><Size>{len(data)}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        left = [key for key in sorted(entries) if key > after]
        page = left[:most]
        more = len(left) > len(page)
        text = (
            f'<ListBucketResult xmlns="{_SPACE}"><Name>{bucket}</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{most}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else "")
            + "".join(entries[key] for key in page)
            + "</ListBucketResult>"
        )
        self._answer(200, text.encode(), Content_Type="application/xml")

    def _put(self, name: str, query: dict[str, str], body: bytes, span: str) -> None:
        store = self.store
        if "uploadId" in query:
            with store.lock:
                store.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self._answer(200, ETag=etag(body))
            return
        source = urllib.parse.unquote(self.headers.get("x-amz-copy-source", "")).lstrip("/")
        with store.lock:
            if self.headers.get("If-None-Match") == "*" and name in store.objects:
                code = 412
            elif source and source not in store.objects:
                code = 404
            else:
                code, body = 200, store.objects[source][0] if source else body
                store.objects[name] = body, time.time()
        if code != 200:
            self._fail(code, "PreconditionFailed" if code == 412 else "NoSuchKey")
        elif source:
            text = f"<CopyObjectResult><ETag>{escape(etag(body))}</ETag></CopyObjectResult>"
            self._answer(200, text.encode())
        else:
            self._answer(200, ETag=etag(body))

    def _post(self, name: str, query: dict[str, str], body: bytes, span: str) -> None:
        store = self.store
        if "uploads" in query:
            with store.lock:
                number = f"upload{len(store.uploads)}"
                store.uploads[number] = {}
            text = f"<R><UploadId>{number}</UploadId></R>"
        else:
            with store.lock:
                parts = store.uploads[query["uploadId"]]
                data = b"".join(parts[number] for number in sorted(parts))
                store.objects[name] = data, time.time()
            text = f"<R><ETag>{escape(etag(data))}</ETag></R>"
        self._answer(200, text.encode())

    def _delete(self, name: str, query: dict[str, str], body: bytes, span: str) -> None:
        with self.store.lock:
            self.store.objects.pop(name, None)
        self._answer(204)


@contextlib.contextmanager
def running(
    latency: float = 0.0, errors: float = 0.0, stalls: float = 0.0, seed: int = 0
) -> Iterator[str]:
    """A store in a process of its own, as long as the block lasts; gives its address."""
    words = [f"--latency={latency}", f"--errors={errors}", f"--stalls={stalls}", f"--seed={seed}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def environment(address: str) -> dict[str, str]:
    """The variables by which S3's clients go to the store at `address`."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def counts(address: str) -> dict[str, int]:
    """How many requests the store has had, by method and by what became of them."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc)
    connection.request("GET", "/-/counts")
    found = json.loads(connection.getresponse().read())
    connection.close()
    return collections.Counter(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.03)
    parser.add_argument("--errors", type=float, default=0.0)
    parser.add_argument("--stalls", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    Handler.store = Store(args.latency, args.errors, args.stalls, args.seed)
    # A client that has what it wanted, or waits no longer, goes.
    http.server.ThreadingHTTPServer.handle_error = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
