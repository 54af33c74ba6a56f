"""The one door for paths: what it lets through, what it refuses, and that it leaves no trace."""

import contextlib
import os
import pathlib
import resource

import pytest

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError


@contextlib.contextmanager
def small_files():
    """Files of at most 1000 bytes: beyond, writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:  # before anything else writes, such as pytest into its own output
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "text",
    ["a", "a/b", "a:b", "C:/clip.mp4", "a b/gs://c", "../é/~", "/x/~/y", "-", "\udcff"],
)
def test_a_local_path_stays_as_it_is(text):
    assert paths.local(text, "--out") == pathlib.Path(text)
    assert paths.local(pathlib.Path(text), "--out") == pathlib.Path(text)


@pytest.mark.parametrize("text", ["./gs:/b", "./~", "./~name/a"])
def test_what_is_meant_literally_stays_so_at_the_second_door(text):
    once = paths.local(text, "--out")
    assert once == paths.local(once, "--out") == pathlib.Path.cwd() / text


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~", "--out") == tmp_path
    assert paths.local("~/a/~", "--out") == tmp_path / "a/~"
    assert paths.local(pathlib.Path("~/a"), "--out") == tmp_path / "a"
    assert paths.local("~root/a", "--out").is_absolute()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("az://bucket/w", "--out=az://bucket/w is not a local folder or file: mount the bucket"),
        ("az:/bucket/w", "--out=az:/bucket/w is not a local folder or file: mount the bucket"),
        ("S4://b", "mount the bucket and give its path"),
        ("abfss://c@a.dfs.core.windows.net/x", "mount the bucket"),
        ("simplecache::s3://b", "mount the bucket"),
        ("https://host/clip.mp4", "fetch it and give its path"),
        ("rtsp://user:secret@camera/1", "--out=rtsp://***@camera/1 is"),
        ("https://host/clip.mp4?signature=secret", "--out=https://host/clip.mp4?signature=*** is"),
        ("file:///tmp/w", "leave file:// out"),
        ("", "--out is empty"),
        ("a\0b", "NUL"),
        ("~nobody-of-this-name/a", "there is no user nobody-of-this-name: write ./~nobody"),
    ],
)
@pytest.mark.parametrize("door", [paths.local, paths.readable, paths.writable, paths.writable_file])
def test_what_is_no_local_path_is_refused(door, text, said):
    with pytest.raises(JaxvidError) as caught:
        door(text, "--out")
    assert said in str(caught.value) and "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_pathlib_bent_is_recognised():
    with pytest.raises(JaxvidError, match="mount the bucket"):
        paths.local(pathlib.Path("gs://bucket/w"), "--out")


@pytest.mark.parametrize("text", ["gs://bucket/w", "gs:/bucket/w/", "GS://bucket/w"])
def test_a_bucket_is_let_in_where_stores_are(text):
    for given in (text, pathlib.Path(text)):
        path = paths.anywhere(given, "--out")
        assert str(path) == "gs://bucket/w" and path == paths.anywhere(path, "--out")
        with pytest.raises(JaxvidError, match="gs:/.*mount the bucket"):
            paths.local(path, "--out")


def test_no_bucket_is_said():
    with pytest.raises(JaxvidError, match="--out=s3:// names no bucket: write s3://bucket/folder"):
        paths.anywhere("s3://", "--out")


@pytest.mark.parametrize("home", ["", "relative", None])
def test_no_home_is_said(monkeypatch, home):
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as in a container with -u 12345
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    with pytest.raises(JaxvidError, match="--out=~/a: there is no home folder .* set HOME"):
        paths.local("~/a", "--out")
    with pytest.raises(JaxvidError, match="set HOME or XDG_CACHE_HOME"):
        paths.cache()


def test_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert paths.cache() == tmp_path / ".cache/jaxvid"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert paths.cache() == tmp_path / "c/jaxvid"


def test_a_name_that_a_library_cannot_open_is_refused(monkeypatch, tmp_path):
    assert paths.in_utf8("é", "--out", "TensorFlow") == pathlib.Path("é")
    with pytest.raises(JaxvidError, match="--out=.* has a name that is not UTF-8, which Tensor"):
        paths.in_utf8(tmp_path / "a\udcff", "--out", "TensorFlow")
    (tmp_path / "a\udcff").mkdir()
    monkeypatch.chdir(tmp_path / "a\udcff")
    with pytest.raises(JaxvidError, match="--out=b has a name that is not UTF-8"):
        paths.in_utf8("b", "--out", "TensorFlow")


def test_readable(tmp_path):
    file = tmp_path / "a"
    file.touch()
    assert paths.readable(file, "--video") == file
    assert paths.readable(str(tmp_path), "--video") == tmp_path
    for path, said in (
        (tmp_path / "b", "--video=.*/b does not exist"),
        (file / "b", "cannot be read .Not a directory"),
        (tmp_path / ("n" * 300), "cannot be read .File name too long"),
    ):
        with pytest.raises(JaxvidError, match=said):
            paths.readable(path, "--video")


def test_readable_asks_for_permission(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(JaxvidError, match="cannot be read .Permission denied"):
        paths.readable(tmp_path, "--videos")


def test_writable_leaves_nothing_behind(tmp_path):
    assert paths.writable(tmp_path / "a/b", "--out") == tmp_path / "a/b"
    assert paths.writable(tmp_path, "--out") == tmp_path
    assert paths.writable_file(tmp_path / "a/b.pth", "--out") == tmp_path / "a/b.pth"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    for path, said in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file/a/b", "Not a directory: .*/file"),
        (tmp_path / "lost/a", "Not a directory: .*/lost"),
        (tmp_path / ("n" * 300) / "a", "File name too long"),
        ("/proc/jaxvid/a", ": /proc"),
    ):
        with pytest.raises(JaxvidError, match=rf"cannot write --out=.* \(.*{said}.*\): make room"):
            paths.writable(path, "--out")
    with pytest.raises(JaxvidError, match="--out=.* is a folder: give the path of a file"):
        paths.writable_file(tmp_path, "--out")
    with pytest.raises(JaxvidError, match="Not a directory"):
        paths.writable_file(tmp_path / "file/a.pth", "--out")


def test_a_full_disk_is_known_before_the_work(tmp_path):
    said = rf"cannot write --out={tmp_path}/a \(File too large"
    with pytest.raises(JaxvidError, match=said), small_files():
        paths.writable(tmp_path / "a", "--out")


def test_writing_says_what_the_system_refused(tmp_path):
    said = rf"--out={tmp_path} \(No such file.*: {tmp_path}/a/b\)"
    with pytest.raises(JaxvidError, match=said), paths.writing(tmp_path, "--out"):
        (tmp_path / "a/b").write_text("")
    with pytest.raises(KeyError), paths.writing(tmp_path, "--out"):
        raise KeyError("a bug")
