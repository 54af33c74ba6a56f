"""CSVs: what spreadsheets would compute stays text, and all is read as it was written."""

import csv

import pytest

from jaxvid.base import csvs
from jaxvid.base.errors import JaxvidError


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "＝", "'=", "''-"])
def test_no_cell_begins_as_a_formula_and_all_are_read_as_they_were(tmp_path, sign):
    rows = [[f"{sign}1+1", "wave", "it's"], ["'a'", 'a,\n"b"', f"b{sign}"]]
    csvs.write(tmp_path / "a.csv", ["path", "x", "y"], rows)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        plain = list(csv.reader(file))[1:]
    assert plain[0][0] == f"'{sign}1+1" and plain[0][1:] == rows[0][1:]
    assert csvs.read(tmp_path / "a.csv") == rows


def test_a_damaged_file_of_ours_is_one_sentence(tmp_path):
    for data in (b"path\n\xff\n", b"path\n" + b"x" * 200_000):
        (tmp_path / "a.csv").write_bytes(data)
        with pytest.raises(JaxvidError, match="a.csv is damaged .*: delete it"):
            csvs.read(tmp_path / "a.csv")


def test_numbers_and_what_is_not_utf8_are_written_too(tmp_path):
    csvs.write(tmp_path / "a.csv", ["path", "x"], [["a\udcff", -1.5]])
    assert (tmp_path / "a.csv").read_bytes() == b"path,x\r\na\\udcff,-1.5\r\n"
