"""What is this project's own of the site: what docstrings become, and the picture of the map."""

import importlib.util
import pathlib
import re
import types

import pytest

from jaxvid import zoo
from tests import house

PARTS = pathlib.Path(__file__).parent.parent / "docs" / "site_parts"


def part(name: str):
    """A module of the site, which stands outside of the library."""
    spec = importlib.util.spec_from_file_location(name, PARTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


floors, markup = part("floors"), part("markup")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("Reads `path` or `a b`s.", "Reads `path` or ``a b``\\ s."),
        ("2 * 3, a_ and *so*, **all", "2 \\* 3, a\\_ and *so*, \\*\\*all"),
        ("One.\n\n    a_ = `b`\n\nTwo.", "One.\n\n::\n\n    a_ = `b`\n\nTwo."),
        ("One.\n\npython -m x --y=*", "One.\n\n::\n\n    python -m x --y=*\n"),
        ("Args:\n    x: a `b`.\n\n    y: c.", "Args:\n    x: a `b`.\n\n    y: c."),
        ("cpu   slow\n      but sure", "cpu\n      slow\n      but sure"),
    ],
)
def test_docstrings_keep_their_meaning(written, wanted):
    lines = written.split("\n")
    markup.docstring(None, "module", "x", None, None, lines)
    assert "\n".join(lines) == wanted


def test_signatures_leave_out_what_every_module_of_flax_has():
    text = "(width: int, hook: H = <function no_hook>, parent: M | None = <flax._Sentinel object>)"
    assert markup.signature(None, "class", "x", None, None, text, None) == (
        "(width: int, hook: H = no_hook)",
        None,
    )


def test_members_of_other_libraries_are_left_out():
    assert markup.skip(None, "class", "activation", types.SimpleNamespace, False, None)
    assert markup.skip(None, "class", "room_of", house.room_of, False, None)
    assert markup.skip(None, "class", "get_row", zoo.get_row, False, None) is None


def test_the_picture_of_the_map_has_every_room_and_arrow():
    _, _, block = house.page_map().partition("```mermaid\n")
    picture = floors.draw(block.partition("```")[0])
    rooms = {room.removeprefix("jaxvid.") for room in house.ARROWS}
    assert sorted(re.findall(r"<title>(.*?)</title>", picture)) == sorted(rooms)
    arrows = sum(len(others - house.GROUND) for others in house.arrows().values())
    assert picture.count("marker-end") == arrows


def test_rooms_of_one_floor_do_not_overlap():
    top, ground = ["a" * 20, "b", "c" * 9], ["d"]
    at = floors.places([top, ground], [("b", "d")])
    spans = sorted((x - width / 2, x + width / 2) for x, _, width in map(at.get, top))
    assert all(end < start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    assert spans[0][0] > 0 and spans[-1][1] < floors.WIDTH


@pytest.mark.parametrize("line", ["a -.-> b", "a --> nowhere"])
def test_a_map_of_other_words_is_refused(line):
    with pytest.raises(ValueError, match="a map has no"):
        floors.draw(f"flowchart TD\nsubgraph f\na\nb\nend\n{line}\n")
