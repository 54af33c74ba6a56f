"""The tables of chips: their page is what was measured, and what they ask for exists."""

import json

import pytest

from jaxvid import zoo
from tests import accelerators

KNOWN = json.loads(accelerators.KEPT.read_text("utf-8"))


def test_the_page_is_what_was_measured(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(accelerators.PAGE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(accelerators, "PAGE", page)
    accelerators.write(KNOWN)
    fresh = page.read_text("utf-8")
    monkeypatch.undo()
    assert accelerators.PAGE.read_text("utf-8") == fresh, "run `python -m tests.accelerators`"
    for found in KNOWN.values():
        assert f"| {found['model']} |" in fresh


@pytest.mark.parametrize("asked", [*accelerators.FAMILIES, *accelerators._LARGE])
def test_what_is_asked_for_exists(asked):
    fields = {f.partition("=")[0].removeprefix("--config.model.overrides.") for f in asked.flags}
    overrides = {"scan_blocks": True} if "scan_blocks" in fields else {}
    zoo.create_model(asked.row, **overrides)


def test_what_was_measured_is_asked_for():
    asked = {each.key for each in [*accelerators.FAMILIES, *accelerators.ELSEWHERE]}
    assert KNOWN.keys() <= asked
