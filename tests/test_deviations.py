"""The table of deviations: each of its rows exists, and says in its note what the table says."""

import fnmatch
import pathlib
import re

import pytest

from jaxvid import zoo

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


def test_every_row_that_says_a_deviation_is_in_the_table():
    for patterns, _, words in LINES:
        named = re.findall(r"`(.+?)`", patterns)
        said = [name for name in zoo.list_models() if words in zoo.get_row(name).note]
        others = [name for name in said if not any(fnmatch.fnmatch(name, p) for p in named)]
        if "split 1" not in words and words not in (
            "annotated clips",
            "only a checkpoint is published",
        ):
            assert others == [], words
