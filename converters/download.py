"""Brings a published checkpoint to this machine: resumed where it broke off, checked, whole or not.

A file lies in the cache under its published name once all of it has come and its sum is right. Till
then it is `NAME.part`, and `NAME.part.json` holds what the server said of it, by which a later
request knows that the rest is the rest of the same file.
"""

import contextlib
import email.message
import errno
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from converters.mapped import sum_in
from jaxvid import paths
from jaxvid.errors import JaxvidError
from jaxvid.progress import Progress
from jaxvid.text import say

try:
    import fcntl
except ImportError:  # Windows, where two downloads of one file at once are not kept apart.
    fcntl = None

MIRROR = "JAXVID_MIRROR"
TIMEOUT = 30.0  # Seconds without a byte.
ATTEMPTS = 5  # In a row, none of which brought anything new.
DELAY = 1.0  # Seconds before the second attempt; each further one waits twice as long.
_MAX_DELAY = 60.0
_BLOCK = 1 << 20
_MEGABYTE = 1_000_000
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_NO_RANGE = 416
_EARLY = "the connection ended early"
_BY_HAND = "name a --mirror, or bring the file by hand and give it as --checkpoint"


def fetch(address: str, *, mirror: str | None = None) -> Path:
    """Returns the file at `address`, from the cache or else downloaded into it.

    `mirror` stands in for the address's scheme and host (default: the environment variable
    JAXVID_MIRROR, or the address as it is). Raises `JaxvidError` where the file cannot be had, is
    not what the sum in its name says, or cannot be written; what came of it is kept and resumed.
    """
    target = cache() / PurePosixPath(urllib.parse.urlsplit(address).path).name
    if target.is_file():
        say(f"{target} was downloaded before")
        return target
    address = _at_mirror(address, os.environ.get(MIRROR, "") if mirror is None else mirror)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target) as file:
        part = _Part(target, file)
        if target.is_file():  # Another process brought it meanwhile.
            part.remove()
        else:
            say(f"downloading {address} to {target}")
            try:
                _download(address, part)
            except BaseException as error:
                if not part.size:
                    part.remove()
                if isinstance(error, KeyboardInterrupt):
                    _warn(f"stopped at {part.size} bytes, from which the same command goes on")
                    raise SystemExit(130) from None
                raise
    return target


def cache() -> Path:
    """Returns the folder that downloads go to."""
    return paths.cache() / "checkpoints"


def _at_mirror(address: str, mirror: str) -> str:
    if not mirror:
        return address
    if not re.match(r"https?://[^/@\s]+[^@\s?#]*$", mirror):
        raise JaxvidError(
            f"{mirror!r} is no mirror: --mirror or {MIRROR} should be like https://HOST/FOLDER, "
            "which stands in for the https://HOST of published addresses, without a password"
        )
    parts = urllib.parse.urlsplit(address)
    return mirror.rstrip("/") + urllib.parse.urlunsplit(("", "", *parts[2:]))


class _Part:
    """What has come of a file so far, and what the server said of the whole."""

    def __init__(self, target: Path, file: BinaryIO):
        self.target = target
        self.path = Path(f"{target}.part")
        self._about = Path(f"{target}.part.json")
        self._file = file
        self.whole: int | None = None  # Bytes that there should be in the end, once it is said.
        self._proof = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(self._about.read_text("utf-8"))
            self.whole, self._proof = int(told["bytes"]), str(told["proof"])
        if self.size and not self._proof and not sum_in(target.name):
            self.clear()  # Nothing could tell whether the rest belongs to it.

    @property
    def size(self) -> int:
        """Bytes that came. Asked of the file: an interrupt may fall between a write and a count."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def complete(self) -> bool:
        return 0 < self.size == self.whole

    def headers(self) -> dict[str, str]:
        """Returns what asks the server for the rest, or for all where the file has changed."""
        if not self.size:
            return {}
        # The sum in a name proves more than a server's word, which differs between mirrors.
        proof = {} if sum_in(self.target.name) else {"If-Range": self._proof}
        return {"Range": f"bytes={self.size}-"} | proof

    def begin(self, response: http.client.HTTPResponse) -> None:
        """Takes what an answer says of the file; starts again unless it goes on from here."""
        proof = _proof(response.headers)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start, whole = _range(response.headers)
            same = bool(sum_in(self.target.name)) or proof == self._proof
            if not same or start != self.size or self.whole not in (None, whole):
                self.clear()
                raise ConnectionError("the server answered with part of another file")
        else:
            if self.size:
                self.clear()
            length = response.headers.get("Content-Length", "")
            whole = int(length) if length.isdecimal() else None
        self.whole, self._proof = whole, proof
        missing = (whole or 0) - self.size
        with _writing(self.target):
            if missing > shutil.disk_usage(self.path.parent).free:
                raise OSError(
                    errno.ENOSPC, f"{missing // _MEGABYTE} MB are still to come and do not fit"
                )
            self._about.write_text(json.dumps({"bytes": whole, "proof": proof}), "utf-8")

    def write(self, data: bytes) -> None:
        with _writing(self.target):
            while data:
                data = data[self._file.write(data) :]

    def clear(self) -> None:
        """Forgets all that came."""
        with _writing(self.target):
            self._file.truncate(0)
            self._about.unlink(missing_ok=True)
        self.whole, self._proof = None, ""

    def sum(self) -> str:
        with _writing(self.target):
            os.fsync(self._file.fileno())
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

    def move(self, to: Path) -> None:
        """Puts the file in place under another name."""
        with _writing(to):
            os.replace(self.path, to)
            self._about.unlink(missing_ok=True)

    def remove(self) -> None:
        for path in (self.path, self._about):
            path.unlink(missing_ok=True)


def _download(address: str, part: _Part) -> None:
    """Brings all of a file, in as many attempts as bring something new, and puts it in place."""
    expected = sum_in(part.target.name)
    furthest = failures = 0
    resumed = part.size > 0
    while True:
        if not part.complete:
            reason, delay = _attempt(address, part)
            if reason:
                failures = failures + 1 if part.size <= furthest else 1
                furthest = max(furthest, part.size)
                _wait(address, part, reason, delay, failures)
                resumed = part.size > 0
                continue
        found = part.sum()
        if expected is None:
            say(
                f"{part.target.name} carries no sum in its name: its {part.size} bytes are as many "
                "as the server said, and that is all that could be checked"
            )
        elif not found.startswith(expected):
            if resumed:  # The parts may be of two files: the whole in one piece cannot be.
                _warn(f"the sum of {part.target.name} is wrong: it is downloaded from its start")
                part.clear()
                resumed = False
                continue
            wrong = Path(f"{part.target}.wrong")
            part.move(wrong)
            raise JaxvidError(
                f"{address} is not the published file, as its sha256 begins with {found[:8]} and "
                f"not with {expected}: try another --mirror, or give {wrong}, where it is kept, as "
                "--checkpoint if you trust it"
            )
        part.move(part.target)
        return


def _attempt(address: str, part: _Part) -> tuple[str, float]:
    """Asks once for what is missing; returns ("", 0), or why it broke off and how long to wait."""
    request = urllib.request.Request(address, headers={"User-Agent": "jaxvid"} | part.headers())
    opener = urllib.request.build_opener(_Redirects)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise JaxvidError(f"{address} answers with a web page, not a file: {_BY_HAND}")
            part.begin(response)
            _receive(response, part)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _NO_RANGE and part.size:
            part.clear()
        elif error.code not in _PASSING:
            raise JaxvidError(
                f"{address} cannot be had ({error.code} {_reason(error.reason)}): {_BY_HAND}"
            ) from error
        delay = error.headers.get("Retry-After", "")
        return f"{error.code} {error.reason}", float(delay) if delay.isdecimal() else 0.0
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise JaxvidError(
                f"the certificate of {address} is not one that this machine trusts "
                f"({error.reason.verify_message}): set SSL_CERT_FILE, or {_BY_HAND}"
            ) from error
        return _reason(error.reason), 0.0
    except (OSError, http.client.HTTPException) as error:
        return _reason(error), 0.0
    if part.whole is not None and part.size < part.whole:
        return _EARLY, 0.0
    if not part.size:
        return "the answer was empty", 0.0
    part.whole = part.size
    return "", 0.0


def _receive(response: http.client.HTTPResponse, part: _Part) -> None:
    whole = None if part.whole is None else part.whole // _MEGABYTE
    progress = Progress(whole, "downloading", "MB", done=part.size // _MEGABYTE)
    try:
        while data := response.read1(_BLOCK):
            before = part.size
            part.write(data)
            progress.update(part.size // _MEGABYTE - before // _MEGABYTE)
    finally:
        progress.close()


def _wait(address: str, part: _Part, reason: str, delay: float, failures: int) -> None:
    """Waits for the next attempt, or raises what ends them."""
    if failures >= ATTEMPTS:
        kept = f"; its first {part.size} bytes are kept, and the same command goes on from there"
        raise JaxvidError(
            f"{address} cannot be downloaded ({reason}): check the network, or "
            f"{_BY_HAND}{kept if part.size else ''}"
        )
    # Many processes that one server sent away should not all come back at once.
    delay = min(max(delay, DELAY * 2 ** (failures - 1) * random.uniform(0.8, 1.2)), _MAX_DELAY)
    _warn(f"{reason}: trying again in {delay:.0f} s, at {part.size} bytes")
    time.sleep(delay)


def _proof(headers: email.message.Message) -> str:
    """Returns what only this version of a file has; a weak ETag is none (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _range(headers: email.message.Message) -> tuple[int, int | None]:
    """Returns where the part that the server sends begins, and how long the whole is."""
    said = headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said)
    if match is None:
        raise ConnectionError(f"it answers with the range {said!r}, which makes no sense")
    return int(match[1]), None if match[2] == "*" else int(match[2])


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to where others could read or change what comes."""

    def redirect_request(self, request, file, code, message, headers, url):
        schemes = [urllib.parse.urlsplit(address).scheme for address in (request.full_url, url)]
        if schemes[1] not in ("http", "https") or schemes == ["https", "http"]:
            raise JaxvidError(
                f"{request.full_url} redirects to {url}, which is not as safe: it is not followed; "
                f"{_BY_HAND}"
            )
        return super().redirect_request(request, file, code, message, headers, url)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[BinaryIO]:
    """Opens the unfinished part of a file, once no other process writes to it."""
    path = Path(f"{target}.part")
    while True:
        with _writing(target):
            file = path.open("ab", buffering=0)
        with file:
            _lock(file, target)
            # Another process may have put the part in place, and this is no part any more.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _lock(file: BinaryIO, target: Path) -> None:
    if fcntl is None:
        return
    # A file system without locks, as some clusters have, is worth a download all the same.
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that downloads {target.name}")
            fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says in one sentence that the system lets nothing be written."""
    try:
        yield
    except OSError as error:
        raise JaxvidError(
            f"cannot write {path} ({error.strerror or error}): make room, or set XDG_CACHE_HOME to "
            "another folder; what has come of it is kept"
        ) from error


def _reason(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT:.0f} s"
    if isinstance(error, http.client.IncompleteRead):
        return _EARLY
    if isinstance(error, http.client.InvalidURL):  # It quotes what may be a part of a password.
        return "the address of it, or of the proxy, is none"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def _warn(text: str) -> None:
    say(f"warning: {text}", error=True)
