"""Files come into being whole, whatever ends the writing, and a kill leaves nothing for good."""

import errno
import multiprocessing
import os
import signal

import pytest

from jaxvid.base import whole

# Other tests leave threads in this process: a fork of it may find a lock of theirs taken for ever.
SPAWN = multiprocessing.get_context("spawn")


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    whole.text(path, "old", durable=True)
    with whole.file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_what_cannot_be_written_to_its_end_leaves_the_old(tmp_path, error):
    path = tmp_path / "file"
    whole.text(path, "old")
    with pytest.raises(type(error)), whole.file(path) as file:
        file.write(b"new")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def killed(path):
    with whole.file(path) as file:
        file.write(b"much longer than what comes")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_kill_leaves_is_cleared_by_the_next(tmp_path):
    path = tmp_path / "file"
    process = SPAWN.Process(target=killed, args=(path,))
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    assert left.name == ".file.part"
    whole.text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def write_often(path, letter):
    for _ in range(100):
        with whole.file(path) as file:
            for _ in range(20):
                file.write(letter * 1000)
                file.flush()


def test_two_that_write_one_file_do_not_mix(tmp_path):
    path = tmp_path / "file"
    racing = [SPAWN.Process(target=write_often, args=(path, letter)) for letter in (b"a", b"b")]
    for process in racing:
        process.start()
    while any(process.is_alive() for process in racing):
        if path.exists():
            content = path.read_bytes()
            assert content in (b"a" * 20_000, b"b" * 20_000)
    for process in racing:
        process.join()
        assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_modes_are_those_of_the_user(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = os.umask(0o027)
    try:
        whole.text(tmp_path / "link", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "x"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
