"""`docs/dependencies.md` has a line for every requirement of `setup.cfg`, and no other."""

import configparser
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "dependencies.md"


def declared(setup: str) -> set[tuple[str, str]]:
    """The requirements with the part that asks for each, without markers and addresses."""
    parsed = configparser.ConfigParser()
    parsed.read_string(setup)
    parts = {"core": parsed["options"]["install_requires"], **parsed["options.extras_require"]}
    return {
        (re.split(r" @ |;", line)[0].strip(), part)
        for part, lines in parts.items()
        for line in lines.splitlines()
        if line and not line.startswith("#")
    }


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table's lines, without its head."""
    blocks = re.findall(r"^\| -.*\n((?:\|.*\n)+)", page, re.M)
    return [
        [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
        for block in blocks
    ]


def listed(page: str) -> list[tuple[str, str]]:
    """The requirements of the first table with each part that its line names."""
    return [(line[0].strip("`"), part) for line in tables(page)[0] for part in line[1].split(", ")]


def test_every_requirement_has_its_line_and_no_other_is_there():
    found = listed(PAGE.read_text("utf-8"))
    assert set(found) == declared((ROOT / "setup.cfg").read_text("utf-8"))
    assert len(found) == len(set(found))


def test_every_line_is_whole():
    required, refused = tables(PAGE.read_text("utf-8"))
    assert all(len(line) == 6 and all(line) for line in required + refused)
    upkeep = [line[5] for line in required] + [line[4] for line in refused]
    assert [text for text in upkeep if not re.search(r"\b20\d\d-\d\d, \w", text)] == []
    # Whatever is used in some other place is no candidate any more.
    names = {re.split(r"[\[><=]", line[0].strip("`"))[0] for line in required}
    assert names.isdisjoint(line[0] for line in refused)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    numpy>=2.0\n", "    numpy>=2.1\n"),
        ("    numpy>=2.0\n", "    numpy>=2.0\n    filelock>=4\n"),
        ("    ruff>=0.8\n", ""),
        ("test =\n    pytest>=8\n", "test =\n"),
    ],
)
def test_a_page_that_is_not_true_is_seen(old, new):
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    assert old in setup
    assert set(listed(PAGE.read_text("utf-8"))) != declared(setup.replace(old, new))
