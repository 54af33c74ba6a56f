"""The CSV of paths and labels: what is read, and what is refused with its line."""

import os
import pathlib
import unicodedata

import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import table
from jaxvid.data.table import Row, read

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Größe.mp4") for form in ("NFC", "NFD"))


def write(folder: pathlib.Path, content: str | bytes) -> pathlib.Path:
    path = folder / "train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(folder: pathlib.Path, content: str | bytes) -> list[tuple[str, str]]:
    return [(row.path, row.label) for row in read(write(folder, content))]


def numbered(
    labels: list[str], names: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    given = [Row(number + 2, f"{number}.mp4", label) for number, label in enumerate(labels)]
    found, numbers = table.number_labels(given, names, pathlib.Path("train.csv"), "correct it")
    return found, [numbers[label] for label in labels]


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.mp4,wave\nb c.mp4,point\n",
        "\ufeffpath,label\r\na.mp4,wave\r\nb c.mp4,point\r\n",
        "path,label\ra.mp4,wave\rb c.mp4,point",
        '"Path","Label"\n"a.mp4","wave"\n"b c.mp4", "point"\n',
        " label , path\nwave , a.mp4\n\u00a0point\t, b c.mp4\n",
        "path,label,,\na.mp4,wave,,\n,,,\nb c.mp4,point,,\n\n",
        "path,label\na.mp4,wave,,\nb c.mp4,point\n , \n",
        "\n,path,label,split\n0,a.mp4,wave,train\n1,b c.mp4,point,\n",
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, content):
    assert rows(tmp_path, content) == [("a.mp4", "wave"), ("b c.mp4", "point")]


def test_paths_alone_and_commas_in_quotes_are_read(tmp_path):
    assert rows(tmp_path, "path\na.mp4\nb.mp4,\n") == [("a.mp4", ""), ("b.mp4", "")]
    assert rows(tmp_path, 'path,label\n"a, b.mp4","so, ""x"""\n') == [("a, b.mp4", 'so, "x"')]
    assert rows(tmp_path, "path,label\n-a.mp4,=1+1\n") == [("-a.mp4", "=1+1")]


SSV2 = (
    "path,label\n"
    "v0.mp4,Putting something that cannot roll onto a slanted surface, so it slides down\n"
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SSV2, " line 2 has 3 cells, the header 2: quote what holds a comma"),
        ("path,label\nx,y.mp4,wave\n", " line 2 has 3 cells, the header 2: quote what holds"),
        ("path,label\na.mp4,wave\n\nx,y.mp4,wave\n", " line 4 has 3 cells, the header 2: quote"),
        ("path,label,split\na.mp4,so, it falls,train\n", " line 2 has 4 cells, the header 3: "),
        ("path,label,split\na.mp4,wave\n", " line 2 has 2 cells, the header 3: write all"),
        ("label,path\nso, it falls,a.mp4\n", " line 2 has 3 cells, the header 2: quote"),
        ("path\na, b.mp4\n", " line 2 has 2 cells, the header 1: quote"),
        ("path,label\na.mp4,wave,,x\n", " line 2 has 4 cells"),
        ("path,label\na.mp4\n", " line 2 has no label: it has 1 cell, the header 2"),
        ("path,label\na.mp4,\n", " line 2 has no label"),
        ("path,label,note\n,wave,x\n", " line 2 has no path"),
        ("path,label,path\na,wave,b\n", " has two columns 'path'"),
        ("path,Label,label\na,wave,b\n", " has two columns 'label'"),
        ("path;label\na.mp4;wave\n", " separates its cells by ';'"),
        ("path\tlabel\na.mp4\twave\n", r" separates its cells by '\\t'"),
        ("a.mp4;wave\nb.mp4;point\n", " separates its cells by ';'"),
        ("a.mp4,wave\nb.mp4,point\n", " has no column path and no column label"),
        ("a.mp4 0\nb.mp4 1\n", " has no column path and no column label"),
        ("", " has no column path and no column label"),
        ("path,label\n,\n\n", " lists no video"),
        ("path,label\na.mp4,wave".encode("utf-16"), " is UTF-16"),
        ("path,label\na.mp4,wave".encode("utf-16-be"), " is UTF-16"),
        (
            b"path,label\na.mp4,w\nb.mp4,caf\xe9\n",
            r" is not a CSV in UTF-8 .line 3 holds 'b.mp4,caf\\xe9'.; save",
        ),
        (
            b"path,label,by\na.mp4,w,caf\xe9\n",
            r" is not a CSV in UTF-8 .line 2 holds 'a.mp4,w,caf\\xe9'.; save",
        ),
        (b"path,label\na\x00.mp4,wave\n", r" line 2: the cell 'a\\x00.mp4' holds a sign"),
        ("path,label\na.mp4,wa\x1b[31mve\n", r" line 2: the cell 'wa\\x1b.31mve' holds a sign"),
        ("path,label\na.mp4,a\u2028b\n", r" line 2: the cell 'a\\u2028b' holds a line break"),
        ("path,label\na.mp4,wave\u2029\n", r" line 2: the cell 'wave\\u2029' holds a line break"),
        ("path,label\na\x85.mp4,wave\n", r" line 2: the cell 'a\\x85.mp4' holds a line break"),
        ("path,label\na.mp4,w\tave\n", r" line 2: the cell 'w\\tave' holds a sign"),
        ('path,label\na.mp4,x\n"b.mp4,x\nc.mp4,"x\nd.mp4,x\n', " is not a CSV from line 3 on"),
        ('path,label\n"a.mp4,x\nb.mp4",x\n', " line 2 has a line break in a cell: close its quote"),
        ('path,label,x\na,b,"c\nd,e,f\ng,h,i"\n', " line 2 has a line break in a cell"),
        ('path,label\na.mp4,wave\n"b.mp4,wave\n', " is not a CSV from line 3 on"),
        ("path,label\n" + "x" * 5000 + ",x\n", " line 2: the path 'x.*' .5000 .* shorten it"),
        ("path,label\na.mp4," + "x" * 200_000 + "\n", " is not a CSV from line 2 on"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_with_its_line(tmp_path, content, said):
    path = write(tmp_path, content)
    with pytest.raises(JaxvidError, match=f"^{path}{said}") as caught:
        read(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_labels_are_names_or_numbers():
    assert numbered(["b", "a", "b"]) == (("a", "b"), [(1,), (0,), (1,)])
    assert numbered(["2", "0"]) == (("0", "1", "2"), [(2,), (0,)])
    assert numbered(["1", "b"]) == (("1", "b"), [(0,), (1,)])
    # Not a number: it would come back as 7, and beside 7 be taken for it.
    assert numbered(["007", "7"]) == (("007", "7"), [(0,), (1,)])
    assert numbered(["٣", "2"]) == (("2", "٣"), [(1,), (0,)])
    assert numbered(["1", "0"], ("wave", "point")) == (("wave", "point"), [(1,), (0,)])
    assert numbered(["1", "2"], ("2", "1"))[1] == [(1,), (0,)]


def test_several_labels_stand_between_bars():
    assert numbered(["b | a", "a|a", "a"])[1] == [(1, 0), (0,), (0,)]
    assert numbered(["a|b", "b|a"], ("a", "b", "a|b"))[1] == [(2,), (1, 0)]
    for cell in ("a||b", "|a", "a| ", "|"):
        with pytest.raises(JaxvidError, match="line 2: .* has an empty label beside a bar"):
            numbered([cell])


def test_normal_forms_of_a_name_are_one_label():
    names, numbers = numbered([COMPOSED, DECOMPOSED, f"x|{DECOMPOSED}"])
    assert names == (COMPOSED, "x") and numbers == [(0,), (0,), (1, 0)]
    assert numbered([DECOMPOSED], ("x", COMPOSED))[1] == [(1,)]


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        (["0", "-1"], (), "line 3: the label '-1' is no class number; number the classes 0, 1"),
        (["1.0", "0.0"], (), "line 2: the label '1.0' is no class number"),
        (["1", "+2"], (), r"line 3: the label '\+2' is no class number"),
        (["1", "2e3"], (), "line 3: the label '2e3' is no class number"),
        (["0", "100000"], (), "line 3: the label '100000' is too large for a class number"),
        (["0", "9" * 900], (), "line 3: the label '9.*' .900 char.* is too large"),
        (["0", "9" * 5000], (), "line 3: the label '9.*' .5000 char.* is longer than 1000"),
        (
            ["9" * 900],
            ("a", "b"),
            "line 2: the label '9.*' .900 char.* is not one of the 2 classes",
        ),
        (["2"], ("a", "b"), "line 2: the label '2' is not one of the 2 classes; correct"),
        (["-1"], ("a", "b"), "line 2: the label '-1' is not one of the 2 classes; correct"),
        (["01"], ("a", "b"), "line 2: the label '01' is not one of the 2 classes; correct"),
        (["Wave"], ("a", "wave"), "line 2: .* not one of the 2 classes .one is 'wave'.; correct"),
        (["a  b"], ("a b",), "line 2: .* not one of the 1 classes .one is 'a b'.; correct"),
        (["a\u202eb"], (), r"line 2: the label 'a\\u202eb' holds a sign that cannot be seen"),
        (["a|\u200b"], (), r"line 2: the label '\\u200b' holds a sign"),
    ],
)
def test_what_is_no_label_is_refused_with_its_line(labels, names, said):
    with pytest.raises(JaxvidError, match=f"^train.csv {said}") as caught:
        numbered(labels, names)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_more_labels_than_classes_are_refused():
    with pytest.raises(JaxvidError, match="has 100001 different labels: there are at most 100000"):
        numbered([f"v{number}" for number in range(table.MAX_CLASSES + 1)])


def test_paths_are_found_in_either_normal_form(tmp_path, capsys):
    for written, there in ((COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)):
        (tmp_path / there).write_text("")
        assert os.path.samefile(table.locate(tmp_path, written), tmp_path / there)
        table.say_oddities(tmp_path, [Row(2, written, "x")], ["x"], pathlib.Path("train.csv"))
        assert capsys.readouterr().err == (
            "note: train.csv: paths that are on disk in another Unicode form, and were found: 1, "
            f"the first in line 2 ('{written}')\n"
        )
        (tmp_path / there).unlink()
    assert table.locate(tmp_path, COMPOSED) == tmp_path / COMPOSED
    given = [Row(2, COMPOSED, "a"), Row(5, f"./{DECOMPOSED}", "a")]
    kept, repeated = table.without_repeats(given, pathlib.Path("train.csv"))
    assert kept == given[:1] and list(repeated) == [f"./{DECOMPOSED}"]


def test_names_easily_taken_for_one_another_are_said(tmp_path, capsys):
    table.say_oddities(tmp_path, [], ["Wave", "nod", "wave"], pathlib.Path("train.csv"))
    assert capsys.readouterr().err == (
        "note: train.csv: 'Wave' and 'wave' are two classes, which differ in no more than case, "
        "width, spaces or leading zeros\n"
    )


@pytest.mark.parametrize("name", ["x" * 300, "missing", "a\x00b", "x" * 300 + "/é"])
def test_a_name_that_no_file_has_is_not_there(tmp_path, name):
    assert not table.is_there(table.locate(tmp_path, name))
