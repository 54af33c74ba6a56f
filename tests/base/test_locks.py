"""One command at a time: the second is told who is there, and the dead stand in nobody's way."""

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import sys

import pytest

from jaxvid.base import locks
from jaxvid.base.errors import JaxvidError

# Other tests leave threads in this process: a fork of it may find a lock of theirs taken for ever.
SPAWN = multiprocessing.get_context("spawn")
WORDS = ["python", "-m", "jaxvid.somewhere"]


def hold_until_told(path, words, options, pipe):
    sys.orig_argv = words
    with locks.hold(path, "--out", **options):
        pipe.send("here")
        pipe.recv()


@contextlib.contextmanager
def another(path, words=WORDS, **options):
    """Another process, started by these words, that holds the lock."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=hold_until_told, args=(path, words, options, theirs))
    process.start()
    try:
        assert ours.poll(60) and ours.recv() == "here"
        yield process
    finally:
        ours.send("go")
        process.join()


@pytest.mark.parametrize("beside", [False, True])
def test_who_comes_second_is_told_who_is_there(tmp_path, beside):
    path = tmp_path / "new" / "out"
    with (
        another(path, beside=beside) as process,
        pytest.raises(JaxvidError) as caught,
        locks.hold(path, "--out", beside=beside),
    ):
        pytest.fail("both hold it")
    said = str(caught.value)
    assert said.startswith(f"--out={path} is being written by process {process.pid} on ")
    assert f" on {socket.gethostname()} since 20" in said and " ".join(WORDS) in said
    assert said.endswith("): wait for its end, or choose another place")
    with locks.hold(path, "--out", beside=beside):
        assert path.exists() == (not beside)
    assert list(tmp_path.iterdir()) == []  # Neither the lock nor the folders made for it.


def test_what_was_written_stays(tmp_path):
    with locks.hold(tmp_path / "a" / "b", "--out"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == ["file"]


@pytest.mark.parametrize("beside", [False, True])
def test_a_lock_of_the_dead_is_taken_over(tmp_path, beside):
    path = tmp_path / "out"
    with another(path, beside=beside) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        (left,) = tmp_path.rglob("*lock")
        assert json.loads(left.read_text())["pid"] == process.pid
        with locks.hold(path, "--out", beside=beside):
            assert json.loads(left.read_text())["pid"] == os.getpid()
    assert not left.exists()


def test_who_waits_says_for_whom_and_comes_next(tmp_path, capsys):
    with another(tmp_path) as process:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(process.pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with locks.hold(tmp_path, "", wait=True):
            pass
    said = capsys.readouterr().err
    assert f"waiting for process {process.pid} on " in said
    assert said.endswith(f"), which writes {tmp_path}\n") and said.count("waiting") == 1


def contend(path, count, results):
    locks._PATIENCE = 0.001
    held = refused = torn = 0
    for _ in range(count):
        try:
            with locks.hold(path, ""):
                mark = path / "mark"
                torn += mark.exists()
                mark.touch()
                mark.unlink()
                held += 1
        except JaxvidError:
            refused += 1
    results.put((held, refused, torn))


def test_no_two_ever_hold_it_though_its_file_comes_and_goes(tmp_path):
    results = SPAWN.Queue()
    path = tmp_path / "out"
    racing = [SPAWN.Process(target=contend, args=(path, 100, results)) for _ in range(4)]
    for process in racing:
        process.start()
    counts = [results.get(timeout=60) for _ in racing]
    for process in racing:
        process.join()
        assert process.exitcode == 0
    held, refused, torn = map(sum, zip(*counts, strict=True))
    assert torn == 0 and held + refused == 400 and held > 0
    assert list(tmp_path.rglob("*lock")) == []


def test_a_holder_that_has_not_said_who_it_is_keeps_others_away(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with open(tmp_path / locks.NAME, "w") as file:
        for text in ("", "{", "[1]", '{"pid": "x"}', "[" * 4000):
            file.seek(0)
            file.write(text)
            file.truncate()
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(JaxvidError, match="written by another process: wait"):
                locks.hold(tmp_path, "").__enter__()


def test_a_card_shows_no_password_and_no_escapes(tmp_path):
    words = [
        "python",
        "-m",
        "converters",
        "--mirror=https://me:secret@host/x",
        "\x1b[31m" + "y" * 500,
    ]
    with (
        another(tmp_path, words),
        pytest.raises(JaxvidError) as caught,
        locks.hold(tmp_path, "--out"),
    ):
        pass
    said = str(caught.value)
    assert "secret" not in said and "--mirror=https://host/x" in said
    assert said.isprintable() and len(said) < 500


def test_a_file_system_without_locks_is_said_once_and_works(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    for _ in range(2):
        with locks.hold(tmp_path / "out", "--out"), locks.hold(tmp_path / "out", "--out"):
            (tmp_path / "out" / "file").touch()
    assert capsys.readouterr().err.count("note: this file system has no locks (No locks av") == 1


def test_a_folder_that_cannot_be_made_is_the_systems_error(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "out"
    with pytest.raises(OSError), locks.hold(path, ""):
        pass
    with (
        pytest.raises(JaxvidError, match=f"^cannot write --out={path} "),
        locks.hold(path, "--out"),
    ):
        pass


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, ".hidden", "plain"])
def test_a_neighbour_has_a_name_that_file_systems_take(tmp_path, name):
    one = locks.neighbour(tmp_path / name, ".part")
    one.touch()
    assert one.name.startswith(".") and one.parent == tmp_path
    assert one != locks.neighbour(tmp_path / (name[:-1] + "b"), ".part")
