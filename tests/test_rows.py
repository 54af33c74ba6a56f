"""The table of rows: its page is what was tried, and no row is missing or failed."""

import json

from tests import rows
from tests.zoo.test_zoo import published

KEPT = json.loads(rows.KEPT.read_text("utf-8"))


def test_every_row_was_tried_and_none_failed():
    assert {row.name for row in published()} == KEPT.keys()
    assert [name for name, found in KEPT.items() if "error" in found] == []


def test_the_page_is_what_was_tried(tmp_path, monkeypatch):
    before = rows.PAGE.read_text("utf-8")
    monkeypatch.setattr(rows, "PAGE", tmp_path / "page.md")
    rows.PAGE.write_text(before, "utf-8")
    rows.write(KEPT)
    assert rows.PAGE.read_text("utf-8") == before, "run `python -m tests.rows`"
