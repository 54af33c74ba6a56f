"""Every slow test is in one part, and the page of when they ran is read as it was written."""

import ast
import pathlib
import re

import pytest

from tests import slow

TESTS = pathlib.Path(__file__).parent


def marks() -> list[tuple[str, ast.expr]]:
    """(place, mark) of everything in a test file that marks a test slow."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark.slow":
                place = f"{path.relative_to(TESTS)}:{node.lineno}"
                found.append((place, calls.get(id(node), node)))
    return found


def test_every_slow_test_is_in_one_part():
    used = {slow.GOLDENS}
    for place, mark in marks():
        words = [ast.literal_eval(word) for word in getattr(mark, "args", [])]
        assert len(words) == 1 and words[0] in slow.PARTS, f"{place}: {ast.unparse(mark)}"
        used |= set(words)
    assert used == slow.PARTS.keys()


class Item:
    nodeid = "tests/test_x.py::test"

    def __init__(self, *marks):
        self.marks = marks

    def iter_markers(self, name):
        return [mark for mark in self.marks if mark.name == name]

    def get_closest_marker(self, name):
        return next(iter(self.iter_markers(name)), None)


def test_a_test_of_no_part_or_of_two_is_refused():
    mark = pytest.mark
    assert slow.part_of(Item()) is None
    assert slow.part_of(Item(mark.golden.mark)) == slow.GOLDENS
    assert slow.part_of(Item(mark.slow("kills").mark, mark.golden.mark)) == "kills"
    assert slow.part_of(Item(mark.slow("kills").mark, mark.slow("kills").mark)) == "kills"
    for wrong in ([mark.slow], [mark.slow("more")], [mark.slow("kills"), mark.slow("races")]):
        with pytest.raises(pytest.UsageError, match="with one part of tests/slow.py"):
            slow.part_of(Item(*(each.mark for each in wrong)))


def test_the_page_names_every_part_as_the_tests_do():
    page = slow.TABLE.read_text("utf-8")
    assert slow.written(page) == page
    assert len(re.findall(r"^\| `", page, re.M)) == len(slow.PARTS)


def test_a_run_writes_its_row_and_no_other():
    page = slow.TABLE.read_text("utf-8")
    row = {"last run": "2031-01-02", "commit": "abc1234+", "passed": 7, "failed": 1, "skipped": 0}
    row |= {"processor": "3.0 min", "clock": "2.0 min, 2 at once"}
    after = slow.written(page, "kills", row)
    changed = set(after.splitlines()) ^ set(page.splitlines())
    assert len(changed) == 2 and all(line.startswith("| `kills` |") for line in changed)
    assert slow.rows(after)["kills"].items() >= {key: str(row[key]) for key in row}.items()
    assert slow.written(after) == after
