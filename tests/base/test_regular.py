"""Only what is a file is opened as one, and nothing else is waited for."""

import errno
import os

import pytest

from jaxvid.base import regular


def test_a_file_is_read_from_its_start_without_a_buffer(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with regular.open_to_read(tmp_path / "a") as file:
        assert file.read(2) == b"12"
        # A buffer would have read on.
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 2
        assert file.read() == b"345"


def test_a_link_is_what_it_leads_to(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with regular.open_to_read(str(tmp_path / "b")) as file:
        assert file.read() == b"1"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(os.devnull, path)])
def test_a_pipe_a_folder_and_a_device_are_refused_at_once(tmp_path, make):
    make(tmp_path / "a")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as refusal:
        regular.open_to_read(tmp_path / "a")
    assert refusal.value.filename == str(tmp_path / "a")
    if make is os.mkdir:
        assert refusal.value.errno == errno.EISDIR
    else:
        assert "it is no regular file" in str(refusal.value)
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        regular.open_to_read(tmp_path / "a")
