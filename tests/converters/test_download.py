"""Downloads from a server that stalls, breaks off, lies and fails: the file, or one sentence."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import converters
from converters import __main__ as cli
from converters import commands, download, torch_write
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from tests.converters.server import Answer, Server, published_name
from tests.zoo.test_zoo import published

ROOT = Path(converters.__file__).parents[1]
DATA = random.Random(0).randbytes(3_000_000)
NAME = published_name(DATA)
PLAIN = "x3d_m.pyth"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(download.MIRROR, raising=False)
    monkeypatch.setattr(download, "DELAY", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 20.0)
    return download.cache()


def fetch(server, name=NAME):
    with server.running() as address:
        return download.fetch(f"{address}/files/{name}")


def refused(server, match, name=NAME):
    with pytest.raises(JaxvidError, match=match) as error:
        fetch(server, name)
    assert "\n" not in str(error.value)
    return str(error.value)


def left(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def ranges(server):
    return [request.get("Range") for request in server.requests]


def test_a_file_comes_once_and_only_itself_is_left(cache, capsys):
    server = Server(DATA)
    path = fetch(server)
    assert path == cache / NAME
    assert path.read_bytes() == DATA
    assert left(cache) == [NAME]
    assert "downloading: 100% 3/3 [" in capsys.readouterr().err
    assert fetch(server) == path
    assert len(server.requests) == 1


def test_what_breaks_off_goes_on_from_there(cache, capsys):
    server = Server(DATA, Answer(cut=1_000_000), Answer(cut=500_000), Answer())
    assert fetch(server).read_bytes() == DATA
    assert ranges(server) == [None, "bytes=1000000-", "bytes=1500000-"]
    said = capsys.readouterr().err
    assert said.count("the connection ended early: trying again") == 2


def test_silence_breaks_off_and_is_resumed(cache, monkeypatch, capsys):
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    server = Server(DATA, Answer(cut=1_000_000, hold=threading.Event()), Answer())
    assert fetch(server).read_bytes() == DATA
    server.answers[0].hold.set()
    assert "nothing came for 1 s" in capsys.readouterr().err
    assert ranges(server) == [None, "bytes=1000000-"]


def test_a_server_without_ranges_starts_again(cache):
    server = Server(DATA, Answer(cut=1_000_000), Answer(ranges=False))
    assert fetch(server).read_bytes() == DATA
    assert ranges(server) == [None, "bytes=1000000-"]


def test_a_server_that_always_breaks_off_at_one_place_is_given_up(cache):
    server = Server(DATA, Answer(cut=1_000_000, ranges=False))
    said = refused(server, r"cannot be downloaded \(the connection ended early\)")
    assert "its first 1000000 bytes are kept" in said
    assert len(server.requests) == download.ATTEMPTS
    assert f"{NAME}.part" in left(cache)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(cache, monkeypatch, status):
    waited = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    busy = Answer(status, {"Retry-After": "7"})
    server = Server(DATA, busy, Answer(status), Answer(cut=0), Answer())
    assert fetch(server).read_bytes() == DATA
    assert waited[0] == 7
    assert waited[1] < waited[2] < 0.1


@pytest.mark.parametrize("status, reason", [(404, "Not Found"), (403, "Forbidden"), (410, "Gone")])
def test_what_is_not_there_is_said_at_once(cache, status, reason):
    server = Server(DATA, Answer(status))
    refused(server, rf"cannot be had \({status} {reason}\): name a --mirror, or bring the file")
    assert len(server.requests) == 1
    assert left(cache) == []


def test_no_network_is_said(cache):
    with pytest.raises(JaxvidError, match="cannot be downloaded .*check the network") as error:
        download.fetch(f"http://127.0.0.1:1/{NAME}")
    assert "refused" in str(error.value)
    with pytest.raises(JaxvidError, match="cannot be downloaded"):
        download.fetch(f"http://no.such.host.invalid/{NAME}")
    assert left(cache) == []


def test_a_redirect_is_followed_with_its_range(cache):
    server = Server(DATA, Answer(302, {"Location": "/there/x.bin"}), Answer(cut=9), Answer())
    server.answers.insert(2, server.answers[0])
    assert fetch(server).name == NAME
    assert [request["path"] for request in server.requests[1::2]] == ["/there/x.bin"] * 2
    assert ranges(server)[3] == "bytes=9-"


def test_redirects_in_a_circle_end(cache):
    server = Server(DATA, Answer(302, {"Location": f"/files/{NAME}"}))
    refused(server, r"cannot be had \(302 ")
    assert len(server.requests) < 12


@pytest.mark.parametrize("start, end", [("https", "http"), ("http", "file"), ("https", "ftp")])
def test_a_redirect_to_what_is_less_safe_is_refused(start, end):
    request = download.urllib.request.Request(f"{start}://a/b")
    with pytest.raises(JaxvidError, match="redirects to .* is not followed"):
        download._Redirects().redirect_request(request, None, 302, "", {}, f"{end}://a/c")
    followed = download._Redirects().redirect_request(request, None, 302, "", {}, "https://a/c")
    assert followed.full_url == "https://a/c"


def test_a_file_with_another_sum_is_kept_apart(cache):
    other = DATA[:-1] + b"x"
    said = refused(
        Server(other), f"is not the published file, as its sha256 begins with .*{NAME[-12:-4]}"
    )
    assert left(cache) == [f"{NAME}.wrong"]
    assert str(cache / f"{NAME}.wrong") in said
    assert (cache / f"{NAME}.wrong").read_bytes() == other


def test_parts_of_two_files_are_noticed_and_the_whole_is_downloaded(cache, capsys):
    server = Server(DATA, Answer(data=bytes(len(DATA)), cut=9), Answer(), Answer())
    assert fetch(server).read_bytes() == DATA
    assert ranges(server) == [None, "bytes=9-", None]
    assert "is downloaded from its start" in capsys.readouterr().err


def test_a_file_without_a_sum_is_resumed_only_as_the_same_file(cache, capsys):
    changed = Answer(data=DATA[::-1], etag='"two"')
    server = Server(DATA, Answer(cut=9), changed)
    assert fetch(server, PLAIN).read_bytes() == DATA[::-1]
    assert server.requests[1]["If-Range"] == '"one"'
    assert "carries no sum in its name" in capsys.readouterr().out
    # Nor is it where the server has no word for the version, or sends the rest of another one.
    server = Server(DATA, Answer(cut=9, etag=""), Answer())
    (cache / PLAIN).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        refused(server, "cannot be downloaded", PLAIN)
    assert fetch(server, PLAIN).read_bytes() == DATA
    assert ranges(server)[-1] is None


@pytest.mark.parametrize(
    "lie",
    [
        Answer(206, {"Content-Range": "bytes 5-99/100"}, ranges=False),
        Answer(206, data=DATA + b"longer", ranges=False),
    ],
)
def test_a_part_of_something_else_is_not_taken(cache, lie):
    server = Server(DATA, Answer(cut=9), lie, Answer())
    assert fetch(server).read_bytes() == DATA
    assert ranges(server) == [None, "bytes=9-", None]


def test_lengths_that_are_lies(cache):
    shorter = refused(Server(DATA, Answer(length=100)), "is not the published file")
    assert "sha256" in shorter
    (cache / f"{NAME}.wrong").unlink()
    longer = Server(DATA, Answer(length=len(DATA) + 5))
    refused(longer, "the connection ended early|416|another file")
    for path in cache.iterdir():
        path.unlink()
    assert fetch(Server(DATA, Answer(length=-1))).read_bytes() == DATA
    refused(Server(b""), "the answer was empty", PLAIN)


def test_a_web_page_is_no_file(cache):
    page = Answer(headers={"Content-Type": "text/html; charset=utf-8"}, data=b"<html>")
    refused(Server(DATA, page), "answers with a web page")
    assert left(cache) == []


def test_more_than_fits_is_said_before_it_comes(cache):
    refused(Server(DATA, Answer(length=1 << 60)), "cannot write .* MB are still to come")


def test_names_with_and_without_sums():
    files = [row.file for row in published()]
    without = {file for file in files if file and download.sum_in(file) is None}
    assert len(without) == 18
    assert {file.split(".")[-1] for file in without} == {"pth", "pyth", "pkl"}
    assert download.sum_in("tsm_r50_20220831-64d69186.pth") == "64d69186"
    assert download.sum_in("resnet50_8c2a1f00.pth") == "8c2a1f00"
    assert download.sum_in("tsm_r50_20220831.pth") is None


def test_a_mirror_stands_in_for_the_host(cache, monkeypatch):
    row = zoo.get_row("pyslowfast_x3d_m_16x5_k400")
    server = Server(DATA)
    with server.running() as address:
        path = download.fetch(row.source, mirror=f"{address}/zoo/")
        path.unlink()
        monkeypatch.setenv(download.MIRROR, address)
        download.fetch(row.source)
    paths = [request["path"] for request in server.requests]
    assert paths == ["/zoo/pyslowfast/x3d_models/x3d_m.pyth", "/pyslowfast/x3d_models/x3d_m.pyth"]
    for wrong in ("ftp://a", "/folder", "https://", "https://a b/c", "https://a/?b"):
        with pytest.raises(JaxvidError, match="is no mirror"):
            download.fetch(row.source + ".new", mirror=wrong)


@pytest.mark.parametrize("login", ["me:secret@", "me:sec/ret@", "secret@"])
def test_passwords_are_never_said(cache, monkeypatch, login):
    """Neither of a mirror, which takes none, nor of a proxy that cannot be reached."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(JaxvidError, match=r"\*\*\*@host/zoo' is no mirror") as caught:
        download.fetch("https://a/b.pth", mirror=f"https://{login}host/zoo")
    assert "ret" not in str(caught.value)
    with pytest.raises(JaxvidError, match="the address of it, or of the proxy, is none") as caught:
        download.fetch(f"http://{login}host:x/b.pth")
    assert "ret" not in str(caught.value)
    for port in ("x", "1"):
        monkeypatch.setenv("http_proxy", f"http://{login}127.0.0.1:{port}")
        with pytest.raises(JaxvidError, match="cannot be downloaded") as caught:
            download.fetch("http://a.invalid/b.pth?token=secret")
        assert "ret" not in str(caught.value)


CODE = """
import resource, signal, sys
from converters import download
from jaxvid.base.exits import exit_on_error

download.TIMEOUT, download.DELAY = 20, 0.01
if sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with exit_on_error():
    print(download.fetch(sys.argv[1]))
"""


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background deaf to it, and all that that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_is_resumed(cache, how):
    server = Server(DATA, Answer(cut=1_000_000, hold=threading.Event()), Answer())
    part = cache / f"{NAME}.part"
    with server.running() as address:
        process = started(f"{address}/{NAME}")
        while not part.exists() or part.stat().st_size < 1_000_000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(how)
        said = process.communicate()[1]
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert "stopped at 1000000 bytes" in said.splitlines()[-1]
            assert "Traceback" not in said
        assert json.loads(Path(f"{part}.json").read_text())["bytes"] == len(DATA)
        assert download.fetch(f"{address}/{NAME}").read_bytes() == DATA
        server.answers[0].hold.set()
    assert ranges(server) == [None, "bytes=1000000-"]
    assert left(cache) == [NAME]


def test_a_kill_between_the_last_byte_and_the_name_costs_nothing(cache):
    server = Server(DATA, Answer(404))
    cache.mkdir(parents=True)
    (cache / f"{NAME}.part").write_bytes(DATA)
    (cache / f"{NAME}.part.json").write_text(json.dumps({"bytes": len(DATA), "proof": ""}))
    assert fetch(server).read_bytes() == DATA
    assert server.requests == []


def test_two_processes_bring_one_file_once(cache):
    server = Server(DATA, Answer(cut=1_000_000, hold=threading.Event()), Answer())
    with server.running() as address:
        first = started(f"{address}/{NAME}")
        assert first.stdout.readline().startswith("downloading")
        others = [started(f"{address}/{NAME}") for _ in range(2)]
        for other in others:
            assert other.stderr.readline().startswith(f"waiting for process {first.pid} on ")
        server.answers[0].hold.set()
        said = [process.communicate() for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [0, 0, 0], said
    assert len(server.requests) == 1
    assert (cache / NAME).read_bytes() == DATA
    assert left(cache) == [NAME]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of the system")
def test_a_full_disk_is_one_sentence_and_loses_nothing(cache):
    server = Server(DATA)
    with server.running() as address:
        process = started(f"{address}/{NAME}", "1000000")
        said = process.communicate()[1]
        assert process.returncode == 1
        last = said.splitlines()[-1]
        assert re.match(r"error: cannot write .*: make room, or set XDG_CACHE_HOME", last), said
        assert download.fetch(f"{address}/{NAME}").read_bytes() == DATA
    assert ranges(server) == [None, "bytes=1000000-"]


def test_the_command_downloads_what_it_converts(tmp_path, cache, monkeypatch, capsys):
    from tests.converters.test_checkpoints import random_variables

    tensors = converters.to_torch("tsm_test", random_variables("tsm_test"))
    torch_write.write(tmp_path / "a.pth", tensors, {})
    data = (tmp_path / "a.pth").read_bytes()
    row = zoo.starting_row("tsm_test")
    source = f"https://example.com/files/{published_name(data)}"
    monkeypatch.setattr(
        commands.zoo, "starting_row", lambda _: dataclasses.replace(row, source=source)
    )
    with Server(data).running() as address:
        cli.main(["--model=tsm_test", f"--mirror={address}", f"--out={tmp_path / 'a'}"])
    assert f"downloading {address}/files/" in capsys.readouterr().out
    assert checkpoint.load_meta(tmp_path / "a")["source"]["file"] == published_name(data)


def test_what_cannot_be_downloaded_is_said(tmp_path):
    def refused_command(*flags):
        with pytest.raises(JaxvidError) as error:
            cli.main([*flags, f"--out={tmp_path / 'a'}"])
        return str(error.value)

    assert "no checkpoint of mvitv2_s_16x4_k400_norepeat is published" in refused_command(
        "--model=mvitv2_s_16x4_k400_norepeat"
    )
    said = refused_command("--model=dualformer_s_32x4_hmdb51")
    assert "lies behind a web page, https://drive.google.com/" in said
    assert "--checkpoint is missing" in refused_command("--to=torch")
    assert "--mirror has no use" in refused_command("--mirror=https://a", "--checkpoint=a.pth")
