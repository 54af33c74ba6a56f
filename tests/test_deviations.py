"""The table of deviations: each of its rows exists, and says in its note what the table says."""

import pathlib
import re

import pytest

from jaxvid import rows, zoo

TEXT = (pathlib.Path(__file__).parent.parent / "docs" / "deviations.md").read_text("utf-8")
LINES = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]


def test_the_table_is_read():
    assert len(LINES) > 8 and {len(line) for line in LINES} == {3}


@pytest.mark.parametrize("patterns, _, words", LINES)
def test_the_notes_of_rows_agree(patterns, _, words):
    for pattern in re.findall(r"`(.+?)`", patterns):
        names = zoo.list_models(pattern)
        assert names, pattern
        for name in names:
            assert words in zoo.get_row(name).note, name


def test_every_row_whose_norms_are_unknown_is_in_the_table():
    [line] = [line for line in LINES if "GPUs shared a batch" in line[2]]
    said = {n for n in zoo.list_models() if rows.NORMS_UNKNOWN in zoo.get_row(n).note}
    assert said == {
        n for pattern in re.findall(r"`(.+?)`", line[0]) for n in zoo.list_models(pattern)
    }
