"""What is said to the type checker: nothing public goes by it, and nothing is ignored unsaid."""

import re

import pytest

import converters
import jaxvid
from tests.house import ROOT, SOURCES

IGNORED = re.compile(r"# type: ignore(?P<code>\[[\w-]+\])?(?P<reason>  # \w.+)?")


@pytest.mark.parametrize("package", [converters, jaxvid])
def test_every_public_name_is_held_to_its_type(package):
    held = (ROOT / "tests" / "public_types.py").read_text("utf-8")
    assert [n for n in package.__all__ if f"{package.__name__}.{n}(" not in held] == []


def test_what_is_ignored_has_its_reason():
    texts = [path.read_text("utf-8") for path in SOURCES.values()]
    found = [match for text in texts for match in IGNORED.finditer(text)]
    assert found and all(match["code"] and match["reason"] for match in found)
