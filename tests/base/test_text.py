"""Names, lists, lines and cells: each question about a text from outside is answered once."""

import ast
import io
import json
import os
import pathlib
import sys

import pytest

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
OTHERS = "\x00\x07\x1b\x7f\x9b\u200b\u200e\u202e\u2066\ufeff\udcff\ud800"
FAMILY = "\U0001f468\u200d\U0001f469"


@pytest.mark.parametrize("sign", BREAKS + OTHERS)
def test_what_cannot_be_seen_is_shown_escaped_and_is_in_no_name(sign):
    line = text.shown(f"a{sign}b")
    assert line.isprintable() and line.startswith("a\\") and line.endswith("b")
    assert text.shown(line) == line
    with pytest.raises(JaxvidError, match="^list line 3: the class name 'a.*b' holds .*it"):
        text.check_name(f"a{sign}b", "list line 3")
    if sign not in "\u200b\u200e\u202e\u2066\ufeff":  # these may stand in a file's name
        with pytest.raises(JaxvidError, match="^list line 3: the path 'a.*b' holds "):
            text.one_line(f"a{sign}b", "list line 3", "path")


@pytest.mark.parametrize(
    "name",
    ["", "wave", "$1 to $2", "_x", "Größe", "走る 人", "走る\u3000人", FAMILY, "a\u00a0b", "\\n"],
)
def test_what_can_be_seen_stays_as_it_is(name):
    assert text.shown(name) == name
    assert not name or text.check_name(name, "x") == name


def test_bytes_of_a_name_that_is_not_utf8_are_shown_as_such():
    assert text.shown(os.fsdecode(b"caf\xe9\x1b.mp4")) == r"caf\xe9\x1b.mp4"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("https://me:word@host/a.pth", "https://***@host/a.pth"),
        ("https://me:w/rd@host/a.pth: no", "https://***@host/a.pth: no"),
        ("'https:/me:word@host/a'", "'https:/***@host/a'"),
        ("http://token@proxy:3128 says 407", "http://***@proxy:3128 says 407"),
        (
            "https://h/a?id=7&X-Amz-Signature=abc&x=1 and https://h/b?token=t",
            "https://h/a?id=7&X-Amz-Signature=***&x=1 and https://h/b?token=***",
        ),
        ("https://host:8080/a@v1/b", "https://host:8080/a@v1/b"),
        ("https://host/a@b", "https://host/a@b"),
        ("me@host: C:/a@b", "me@host: C:/a@b"),
    ],
)
def test_passwords_and_tokens_are_not_shown(said, shown):
    assert text.shown(said) == shown


@pytest.mark.parametrize(
    ("given", "name"),
    [(" wave\t", "wave"), ("\u3000wave\u00a0", "wave"), ("Gro\u0308\u00dfe", "Gr\u00f6\u00dfe")],
)
def test_spaces_around_a_name_and_its_normal_form_are_no_part_of_it(given, name):
    assert text.check_name(given, "x") == name
    with pytest.raises(JaxvidError, match="^x1 names 'wave' once more, after x0: "):
        text.check_names(["wave", " wave"], "x{}".format)


@pytest.mark.parametrize("name", ["", " \t", "w" * 1001, "\u2028wave", "wave\n"])
def test_no_name_too_long_and_broken_at_its_end_are_refused(name):
    with pytest.raises(JaxvidError, match="^x line 1"):
        text.check_name(name, "x line 1")


def test_more_names_than_classes_are_refused():
    names = [str(number) for number in range(text.MAX_CLASSES + 1)]
    assert len(text.check_names(names[:-1], str)) == text.MAX_CLASSES
    with pytest.raises(JaxvidError, match="one name too many"):
        text.check_names(names, str)


@pytest.mark.parametrize(
    ("one", "other"),
    [("wave", "Wave"), ("a b", "a  b"), ("a b", "a\u00a0b"), ("wave", "ｗave"), ("7", "007")],
)
def test_names_easily_taken_for_one_another_are_said(one, other):
    assert text.check_names([one, other], str) == (one, other)
    assert text.alike(["point", one, "x", other]) == [
        f"'{one}' and '{other}' are two classes, which differ in no more than case, width, spaces "
        "or leading zeros"
    ]
    assert not text.alike(["wave", "waves", "1", "10", "0", "ab", "a b"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "end", "end end  end"])
def test_a_list_is_split_at_its_line_ends_only(tmp_path, end, mark, last):
    path = tmp_path / "labels.txt"
    path.write_bytes((mark + f"point{end}_wave $1{end}Größe" + last.replace("end", end)).encode())
    assert text.read_names(path) == ("point", "_wave $1", "Größe")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *((f"a\nb{sign}c\n".encode(), " line 2: the class name 'b") for sign in BREAKS[1:]),
        (b"a\n\nb\n", " line 2 is empty"),
        (b"a\nb\na \n", " line 3 names 'a' once more"),
        (b"a\rb\rc\r", " line 1: the class name .* holds a line break"),
        (b"a\n\xef\xbb\xbfb\n", " line 2: the class name .* holds a sign"),
        (b"a\nb\xff\n", " line 2 is not UTF-8"),
        ("a\nb\n".encode("utf-16"), " is UTF-16"),
        ("a\nb\n".encode("utf-16-le"), " is UTF-16"),
        ("a\nb\n".encode("utf-32"), " is UTF-16"),
        (b"abcd\nb\x00c\n", " line 2: the class name .* holds a sign"),
        (b"a" * (text.MAX_LIST + 1), " is larger than 64 MiB"),
    ],
)
def test_what_is_no_list_of_names_is_refused_with_its_line(tmp_path, data, said):
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(JaxvidError, match=f"^{path}{said}") as caught:
        text.read_names(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_what_is_no_file_is_no_list(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "fifo"):
        with pytest.raises(JaxvidError, match="is not a file: give a list of class names"):
            text.read_names(path)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_is_exact_and_on_one_line(monkeypatch, encoding):
    value = {"a\u2028\x1b\x9b\u202e": "\udcff", "Größe": ["走る", "\U000e0001", 1.5, None]}
    value["address"] = "https://me:word@host/a?token=b"
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    text.say_json(value)
    line = stream.buffer.getvalue().decode(encoding).removesuffix("\n")
    assert json.loads(line) == value and line.isprintable()
    assert ("Größe" in line and "走る" in line) == (encoding == "utf-8")


def test_a_line_is_printed_whatever_the_console_can_show(monkeypatch):
    for name, error in (("stdout", False), ("stderr", True)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        monkeypatch.setattr(sys, name, stream)
        text.say("a\x1b[2J\nb", "Größe 走 \udcff", error=error)
        stream.flush()
        assert stream.buffer.getvalue() == b"a\\x1b[2J\\nb\nGr\xf6\xdfe \\u8d70 \\xff\n"


def test_an_error_is_printed_without_escapes_and_secrets(capsys):
    with pytest.raises(SystemExit), exit_on_error():
        raise JaxvidError("2 fail:\n  a\x1b[31m\nerror: b\n  https://me:word@host/\u202ex")
    assert capsys.readouterr().err == (
        "error: 2 fail:\n  a\\x1b[31m\\nerror: b\n  https://***@host/\\u202ex\n"
    )


def test_the_librarys_lists_go_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(text.read_names(pathlib.Path("kinetics400"))) == 400
    pathlib.Path("kinetics600").mkdir()  # of videos, maybe
    assert len(text.read_names(pathlib.Path("kinetics600"))) == 600
    pathlib.Path("kinetics400").write_text("own\n")
    assert text.read_names(pathlib.Path("kinetics400")) == ("own",)
    for other in ("../labels/kinetics600", "kinetics"):
        with pytest.raises(JaxvidError, match="is not a file: give a list of class names"):
            text.read_names(pathlib.Path(other))


def test_a_message_in_a_notebook_has_no_secrets():
    assert str(JaxvidError("http://me:word@host/a?key=1 is gone")) == (
        "http://***@host/a?key=*** is gone"
    )


SOURCES = sorted(
    path
    for room in ("jaxvid", "converters", "configs")
    for path in (pathlib.Path(__file__).parents[2] / room).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_line_is_said_by_the_one_room_that_escapes_it(path):
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in called or path.name == "text.py", "use jaxvid.base.text.say"
