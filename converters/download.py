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
import os
import random
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from converters.mapped import sum_in
from jaxvid.base import jsons, locks, paths, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.base.text import quoted, say, shown

MIRROR = "JAXVID_MIRROR"
TIMEOUT = 30.0  # Seconds without a byte.
ATTEMPTS = 5  # In a row, none of which brought anything new.
DELAY = 1.0  # Seconds before the second attempt; each further one waits twice as long.
# A server that sends less than so many bytes a second for so many seconds is as good as silent.
SLOWEST, WINDOW = 1000, 60.0
_STEP = 1 << 16  # Bytes, without which an attempt has brought nothing new.
# The largest published file has 1.4 GB; no answer is taken that is longer than this.
MAX_BYTES = 4 << 30
_MAX_DELAY = 60.0
_ASKING = {"User-Agent": "jaxvid", "Accept-Encoding": "identity"}
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
    with _part_of(target) as file:
        part = _Part(target, file, address)
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
    if not re.match(r"https?://[^/@\s]+[^@\s?#]*$", mirror) or not _is_address(mirror):
        raise JaxvidError(
            f"{quoted(mirror)} is no mirror: --mirror or {MIRROR} should be like "
            "https://HOST/FOLDER, which stands in for the https://HOST of published addresses, "
            "without a password"
        )
    parts = urllib.parse.urlsplit(address)
    return mirror.rstrip("/") + urllib.parse.urlunsplit(("", "", *parts[2:]))


def _is_address(address: str) -> bool:
    """Says whether the host and port of an address are such that there can be any."""
    try:
        parts = urllib.parse.urlsplit(address)
        # Labels of over 63 letters and signs that no name has; a port is checked as it is read.
        (parts.hostname or "").encode("idna")
        return bool(parts.hostname) and parts.port != 0 and address.isprintable()
    except ValueError:
        return False


class _Part:
    """What has come of a file so far, and what the server said of the whole."""

    def __init__(self, target: Path, file: BinaryIO, address: str):
        self.target = target
        self.address = address
        self.path = Path(f"{target}.part")
        self._about = Path(f"{target}.part.json")
        self._file = file
        self.whole: int | None = None  # Bytes that there should be in the end, once it is said.
        self._proof = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = jsons.read(self._about)
            whole, proof = told["bytes"], told["proof"]
            if type(whole) is int and 0 < whole <= MAX_BYTES and _is_proof(proof):
                self.whole, self._proof = whole, proof
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
            start, size = _range(response.headers)
            same = bool(sum_in(self.target.name)) or proof == self._proof
            if not same or start != self.size or self.whole not in (None, size):
                self.clear()
                raise ConnectionError("the server answered with part of another file")
        else:
            if self.size:
                self.clear()
            length = response.headers.get("Content-Length", "")
            size = _count(length)
            if length and size is None:
                raise ConnectionError(f"it says that {quoted(length, 20)} bytes come")
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise JaxvidError(
                f"{shown(self.address)} sends the file packed ({quoted(coding, 20)}), which was "
                f"not asked for: {_BY_HAND}"
            )
        self.whole, self._proof = size, proof
        missing = (size or 0) - self.size
        with _writing(self.target):
            if missing > shutil.disk_usage(self.path.parent).free:
                raise OSError(
                    errno.ENOSPC, f"{missing // _MEGABYTE} MB are still to come and do not fit"
                )
            if (size or 0) > MAX_BYTES:
                raise self.too_long()
            whole.text(self._about, jsons.dump({"bytes": size, "proof": proof}))

    def too_long(self) -> JaxvidError:
        """Forgets all that came, and returns the error for a file that no network has."""
        self.clear()
        return JaxvidError(
            f"{shown(self.address)} answers with over {MAX_BYTES >> 30} GiB, which no checkpoint "
            f"takes: {_BY_HAND}"
        )

    def write(self, data: bytes) -> None:
        most = MAX_BYTES if self.whole is None else self.whole
        if self.size + len(data) > most:
            if self.whole is None:
                raise self.too_long()
            self.clear()
            raise ConnectionError("the server sent more than it said")
        with _writing(self.target):
            while data:
                data = data[self._file.write(data) :]

    def clear(self) -> None:
        """Forgets all that came."""
        with _writing(self.target):
            self._file.truncate(0)
            _discard(self._about)
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
            _discard(self._about)

    def remove(self) -> None:
        for path in (self.path, self._about):
            with contextlib.suppress(OSError):
                _discard(path)


def _discard(path: Path) -> None:
    """Deletes what stands in the place of a file of ours, even a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
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
                failures = 1 if part.size > furthest + _STEP else failures + 1
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
                f"{shown(address)} is not the published file, as its sha256 begins with "
                f"{found[:8]} and not with {expected}: try another --mirror, or give {wrong}, "
                "where it is kept, as --checkpoint if you trust it"
            )
        part.move(part.target)
        return


def _attempt(address: str, part: _Part) -> tuple[str, float]:
    """Asks once for what is missing; returns ("", 0), or why it broke off and how long to wait."""
    opener = urllib.request.build_opener(_Redirects, _Http, _Https)
    try:
        request = urllib.request.Request(address, headers=_ASKING | part.headers())
        with opener.open(request, timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise JaxvidError(
                    f"{shown(address)} answers with a web page, not a file: {_BY_HAND}"
                )
            part.begin(response)
            _receive(response, part)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _NO_RANGE and part.size:
            part.clear()
        elif error.code not in _PASSING:
            raise JaxvidError(
                f"{shown(address)} cannot be had ({error.code} {_reason(error.reason)}): {_BY_HAND}"
            ) from error
        delay = _count(error.headers.get("Retry-After", "")) or 0
        return f"{error.code} {_reason(error.reason)}", float(min(delay, _MAX_DELAY))
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise JaxvidError(
                f"the certificate of {shown(address)} is not one that this machine trusts "
                f"({error.reason.verify_message}): set SSL_CERT_FILE, or {_BY_HAND}"
            ) from error
        return _reason(error.reason), 0.0
    except (OSError, http.client.HTTPException) as error:
        return _reason(error), 0.0
    except JaxvidError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        # What the standard library makes of an answer that breaks the protocol's rules.
        return f"the answer makes no sense: {_reason(error)}", 0.0
    if part.whole is not None and part.size < part.whole:
        return _EARLY, 0.0
    if not part.size:
        return "the answer was empty", 0.0
    part.whole = part.size
    return "", 0.0


def _receive(response: http.client.HTTPResponse, part: _Part) -> None:
    megabytes = None if part.whole is None else part.whole // _MEGABYTE
    progress = Progress(megabytes, "downloading", "MB", done=part.size // _MEGABYTE)
    try:
        begun, came = time.monotonic(), 0
        while data := response.read1(_BLOCK):
            before = part.size
            part.write(data)
            progress.update(part.size // _MEGABYTE - before // _MEGABYTE)
            came += len(data)
            if (waited := time.monotonic() - begun) > WINDOW:
                if came < SLOWEST * waited:
                    raise ConnectionError(f"only {came} bytes came in {waited:.0f} s")
                begun, came = time.monotonic(), 0
    finally:
        progress.close()


def _wait(address: str, part: _Part, reason: str, delay: float, failures: int) -> None:
    """Waits for the next attempt, or raises what ends them."""
    if failures >= ATTEMPTS:
        kept = f"; its first {part.size} bytes are kept, and the same command goes on from there"
        raise JaxvidError(
            f"{shown(address)} cannot be downloaded ({reason}): check the network, or "
            f"{_BY_HAND}{kept if part.size else ''}"
        )
    # Many processes that one server sent away should not all come back at once.
    delay = min(max(delay, DELAY * 2 ** (failures - 1) * random.uniform(0.8, 1.2)), _MAX_DELAY)
    _warn(f"{reason}: trying again in {delay:.0f} s, at {part.size} bytes")
    time.sleep(delay)


def _proof(headers: email.message.Message) -> str:
    """Returns what only this version of a file has; a weak ETag is none (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag", "")
    proof = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    return proof if _is_proof(proof) else ""


def _is_proof(proof: Any) -> bool:
    """Says whether a text can be sent back as what a server said of a file."""
    return isinstance(proof, str) and len(proof) <= 1000 and proof.isascii() and proof.isprintable()


def _count(digits: str) -> int | None:
    """Reads a count of bytes or seconds, or None where the text is none that there can be."""
    return int(digits) if re.fullmatch(r"[0-9]{1,20}", digits.strip()) else None


def _range(headers: email.message.Message) -> tuple[int, int | None]:
    """Returns where the part that the server sends begins, and how long the whole is."""
    said = headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]{1,20})-([0-9]{1,20})/([0-9]{1,20}|\*)", said)
    if match is None:
        raise ConnectionError(f"it answers with the range {quoted(said, 40)}, which makes no sense")
    start, last, whole = int(match[1]), int(match[2]), _count(match[3])
    length = _count(headers.get("Content-Length", "")) or last - start + 1
    if not start <= last or length != last - start + 1 or last >= (whole or last + 1):
        raise ConnectionError(f"it answers with the range {quoted(said, 40)}, but sends another")
    return start, whole


class _Deadline(http.client.HTTPConnection):
    """A connection that ends where its answer has not begun after `WINDOW` seconds."""

    def getresponse(self) -> http.client.HTTPResponse:
        timer = threading.Timer(WINDOW, self._end)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()

    def _end(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Connection(_Deadline, http.client.HTTPConnection):
    """See `_Deadline`."""


class _SecureConnection(_Deadline, http.client.HTTPSConnection):
    """See `_Deadline`."""


class _Http(urllib.request.HTTPHandler):
    """Opens connections that have a deadline."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    """Opens connections that have a deadline."""

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never to where others could read or change what comes."""

    def redirect_request(
        self,
        request: urllib.request.Request,
        file: IO[bytes],
        code: int,
        message: str,
        headers: http.client.HTTPMessage,
        url: str,
    ) -> urllib.request.Request | None:
        if not _is_address(url):
            raise JaxvidError(
                f"{shown(request.full_url)} redirects to {quoted(url)}, which is no address: "
                f"{_BY_HAND}"
            )
        schemes = [urllib.parse.urlsplit(address).scheme for address in (request.full_url, url)]
        if schemes[1] not in ("http", "https") or schemes == ["https", "http"]:
            raise JaxvidError(
                f"{shown(request.full_url)} redirects to {quoted(url)}, which is not as safe: it "
                f"is not followed; {_BY_HAND}"
            )
        return super().redirect_request(request, file, code, message, headers, url)


@contextlib.contextmanager
def _part_of(target: Path) -> Iterator[BinaryIO]:
    """Opens the unfinished part of a file, once no other process writes to it."""
    with contextlib.ExitStack() as stack:
        with _writing(target):
            stack.enter_context(locks.hold(target, "", beside=True, wait=True))
            file = stack.enter_context(Path(f"{target}.part").open("ab", buffering=0))
        yield file


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
    return quoted(text.strip().partition("\n")[0], 200)[1:-1] or type(error).__name__


def _warn(text: str) -> None:
    say(f"warning: {text}", error=True)
