"""Servers that lie, and what a download may find of an earlier one: the file, or one sentence."""

import itertools
import json

import pytest

from converters import download
from jaxvid.base.errors import JaxvidError
from tests.converters.liar import answering

OK = b"HTTP/1.1 200 OK\r\n"
NAME = "x3d_m.pyth"
DIGITS = b"9" * 5000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(download.MIRROR, raising=False)
    monkeypatch.setattr(download, "DELAY", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    return download.cache()


def refused(match, *answers, pause=0.0, name=NAME):
    with (
        answering(*answers, pause=pause) as address,
        pytest.raises(JaxvidError, match=match) as error,
    ):
        download.fetch(f"{address}/files/{name}")
    message = str(error.value)
    assert "\n" not in message and message.isprintable() and len(message) < 1000
    return message


def part_of(whole, start, last, body=None):
    size = last - start + 1
    said = b'HTTP/1.1 206 Partial\r\nETag: "a"\r\nContent-Range: bytes %d-%d/%s\r\n'
    body = bytes(size) if body is None else body
    return said % (start, last, whole) + b"Content-Length: %d\r\n\r\n" % len(body) + body


CUT = OK + b'ETag: "a"\r\nContent-Length: 10\r\n\r\nabcde'


@pytest.mark.parametrize(
    "match, answers",
    [
        ("it says that '999", [OK + b"Content-Length: " + DIGITS + b"\r\n\r\nabc"]),
        ("it says that 'xyz'", [OK + b"Content-Length: xyz\r\n\r\nabc"]),
        ("the range 'bytes 5-9/999", [CUT, part_of(DIGITS, 5, 9)]),
        ("but sends another", [CUT, part_of(b"10", 5, 9, bytes(5000))]),
        ("but sends another", [CUT, part_of(b"7", 5, 9)]),
        ("part of another file", [CUT, part_of(b"10", 4, 9)]),
        ("makes no sense", [b"HTTP/1.1 302 x\r\nLocation: http://[::1\r\n\r\n"]),
        (
            "which is no address",
            [b"HTTP/1.1 302 x\r\nLocation: http://" + b"a" * 70 + b".com/x\r\n\r\n"],
        ),
        ("which is no address", [b"HTTP/1.1 302 x\r\nLocation: http://a:99999/x\r\n\r\n"]),
        ("is not allowed", [b"HTTP/1.1 302 x\r\nLocation: file:///etc/passwd\r\n\r\n"]),
        ("infinite loop", [b"HTTP/1.1 302 x\r\nLocation: /files/x3d_m.pyth\r\n\r\n"]),
        ("cannot be had", [b"HTTP/1.1 404 \x1b]0;PWN\x07\x1b[2Jgone\r\nContent-Length: 0\r\n\r\n"]),
        ("cannot be downloaded", [b"HTTP/1.1 503 \x1b[2J\r\nRetry-After: " + DIGITS + b"\r\n\r\n"]),
        ("was not asked for", [OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"]),
        ("a web page", [OK + b"Content-Type: text/html\r\n\r\n<html>"]),
        ("cannot be downloaded", [b"\x00\xff garbage \r\n\r\n"]),
        ("cannot be downloaded", [OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc"]),
        ("cannot be downloaded", [b""]),
        ("cannot be downloaded", [OK + b"a: b\r\n" * 200 + b"\r\n"]),
    ],
)
def test_a_lie_is_one_sentence(cache, match, answers, monkeypatch, capsys):
    monkeypatch.setattr(download, "_MAX_DELAY", 0.01)
    refused(match, *answers)
    assert not (cache / NAME).exists()
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err


def test_an_answer_without_end_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 3 << 20)
    refused(
        "answers with over 0 GiB", itertools.chain([OK + b"\r\n"], itertools.repeat(bytes(1 << 20)))
    )
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize("start", [OK + b"\r\n", OK, b"HTTP/1.1 "])
def test_a_server_that_trickles_is_given_up(cache, monkeypatch, start):
    monkeypatch.setattr(download, "WINDOW", 0.3)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    refused("cannot be downloaded", itertools.chain([start], itertools.repeat(b"1")), pause=0.05)


@pytest.mark.parametrize(
    "said",
    [
        "[[" * 50000,
        '{"bytes": ' + "9" * 5000 + ', "proof": "x"}',
        '{"bytes": -3, "proof": "x"}',
        json.dumps({"bytes": 10, "proof": "a\r\nHost: b"}),
        '{"bytes": NaN, "proof": null}',
        "\x00",
        None,
    ],
)
def test_what_is_told_of_an_unfinished_part_is_not_believed(cache, said):
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(b"abc")
    about = cache / f"{NAME}.part.json"
    about.mkdir() if said is None else about.write_text(said)
    with answering(OK + b"Content-Length: 4\r\n\r\nwxyz") as address:
        assert download.fetch(f"{address}/files/{NAME}").read_bytes() == b"wxyz"
    assert [path.name for path in cache.iterdir()] == [NAME]


@pytest.mark.parametrize(
    "mirror", ["http://[::1", "http://" + "a" * 70 + ".com", "http://a:99999", "http://a\x1b[2J/"]
)
def test_a_mirror_that_is_no_address_is_refused(mirror):
    with pytest.raises(JaxvidError, match="is no mirror") as error:
        download.fetch(f"https://example.org/{NAME}", mirror=mirror)
    assert str(error.value).isprintable()


def test_passwords_are_not_printed(cache, capsys, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(JaxvidError) as error:
        download.fetch(f"https://example.org/{NAME}", mirror="http://me:secret@127.0.0.1:1/x")
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err + str(error.value)
