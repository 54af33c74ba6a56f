"""What the documents say: their links, names and numbers."""

import collections
import pathlib
import re

import pytest

from jaxvid import config, zoo
from tests.documents import (
    DOCUMENTS,
    README,
    ROOT,
    anchors,
    blocks,
    commands,
    file_of,
    has_field,
    links,
    marked,
    prose,
    title,
    what_becomes_of,
)
from tests.zoo.test_zoo import published


@pytest.mark.parametrize("marker", ["run", "test"])
def test_the_marked_lines_are_one_line_each(marker):
    assert len(marked(marker).splitlines()) == 1


def test_the_readme_can_be_read_in_one_sitting():
    assert len(README.read_text("utf-8").splitlines()) <= 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_links_lead_somewhere(document):
    dead = []
    for target in links(prose(document)):
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        if not file.exists() or anchor and anchor not in anchors(file):
            dead.append(target)
    assert dead == []


def test_a_dead_link_is_seen():
    assert links("[a](b.md#c), ![d\ne](f.png), [g](https://h.i)") == ["b.md#c", "f.png"]
    assert {"one-machine", "how-processes-find-each-other"} <= anchors(
        ROOT / "docs" / "many-devices.md"
    )


def test_every_guide_is_in_the_readme_or_in_one_that_is():
    reached, waiting = set(), [README]
    while waiting:
        document = waiting.pop()
        reached.add(document)
        targets = (target.partition("#")[0] for target in links(prose(document)))
        files = {(document.parent / path).resolve() for path in targets if path.endswith(".md")}
        waiting += files - reached - set(waiting)
    guides = (document for document in DOCUMENTS if document.parent.name != "launch")
    assert [title(document) for document in guides if document not in reached] == []


def test_an_uncovered_command_is_seen():
    with pytest.raises(AssertionError, match="covers 'rm -r x'"):
        what_becomes_of("rm -r x")


def test_commands_are_cut_as_a_shell_would():
    assert commands("# why\na --b \\\n  --c\n.venv/bin/d && e\n") == ["a --b --c", "d", "e"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=title)
def test_names_in_running_text_exist(document):
    text = prose(document)
    own = {file_of(content) for _, content in blocks(document.read_text("utf-8"))}
    pattern = r"`((?:jaxvid|configs|converters|docs|tests|launch|\.ci)/[\w./-]*)`"
    files = re.findall(pattern, text.replace("NAME", "tsm_r50_8f"))
    assert [name for name in files if not (ROOT / name).exists() and name not in own] == []
    fields = config.from_row("tsm_r50_8f")
    for name in re.findall(r"`(?:--)?config\.(?!json`)([a-z_.]+)", text):
        assert has_field(fields, name), name


def test_every_family_of_the_tables_is_in_the_readme():
    """One beyond the tables may be named, too, or not."""
    families = {zoo.family_name(row.variant) for row in published()}
    said = README.read_text("utf-8").partition("## The zoo\n\n")[2].partition(":")[0]
    names = re.split(r",\s|\sand\s", said)
    assert families <= set(names) and len(set(names)) == len(names)
    assert set(names) <= {zoo.family_name(zoo.get_row(name).variant) for name in zoo.list_models()}


def numbers(pattern: str, document: pathlib.Path) -> list[int]:
    """The numbers that a document says in words of this pattern."""
    return list(map(int, re.search(pattern, document.read_text("utf-8"), re.S).groups()))


def test_the_numbers_of_rows_are_true():
    """They are those of the published tables, so a family beyond these changes none."""
    families = {zoo.family_name(row.variant) for row in published()}
    held = collections.Counter(zoo.summary(row.name)["weights"] for row in published())
    kinds = [held[kind] for kind in ("file", "page", "members", "none")]
    pattern = r"All (\d+) rows .* Of (\d+) the .* of\s(\d+) lie .*; (\d+) test .*; of (\d+) none"
    assert numbers(pattern, README) == [held.total(), *kinds]
    changes = ROOT / "CHANGELOG.md"
    pattern = r"(\d+) families with all (\d+) rows of the published"
    assert numbers(pattern, changes) == [len(families), held.total()]
    pattern = r"(\d+) rows have no published weights, and (\d+) lie behind"
    assert numbers(pattern, changes) == [held["none"], held["page"]]
