"""Every command of the pages on datasets, run on miniatures in the layouts that these show."""

import hashlib
import pathlib
import re
import shlex

import pytest

from jaxvid.data.prepare import catalogue, web
from jaxvid.data.prepare.command import main
from tests.data.miniatures import MINIATURES, SPORTS
from tests.documents import DATASET_PAGES, ROOT, blocks, commands, title

COMMAND = "python -m jaxvid.data.prepare "


def prepares(document: pathlib.Path) -> list[list[str]]:
    """The arguments of a page's commands, all of which prepare something."""
    shown = [
        command
        for language, block in blocks(document.read_text("utf-8"))
        if language == "sh"
        for command in commands(block)
    ]
    assert all(command.startswith(COMMAND) for command in shown)
    return [shlex.split(command.removeprefix(COMMAND)) for command in shown]


@pytest.mark.parametrize("document", DATASET_PAGES, ids=title)
def test_every_command_of(document, tmp_path, monkeypatch, capsys):
    digest = hashlib.sha256("\n".join(SPORTS).encode()).hexdigest()
    monkeypatch.setattr(web, "_SPORTS", digest)
    monkeypatch.chdir(tmp_path)
    arguments = prepares(document)
    assert arguments
    for name, source, *more in arguments:
        folder = pathlib.Path(source.removeprefix("--source="))
        if not folder.exists():
            MINIATURES[name.removesuffix("_pretrain")](folder)
        main([name, source, *more, "--workers=1"])
        if "--lists" not in more:
            assert " videos, " in capsys.readouterr().out
    for language, block in blocks(document.read_text("utf-8")):
        if language == "text" and document.parent.name == "datasets":
            lines = block.splitlines()
            assert [line for line in lines if not list(tmp_path.glob(line))] == []


def test_every_dataset_is_on_a_page():
    named = {name for page in DATASET_PAGES for name, *_ in prepares(page)}
    assert named == set(catalogue.DATASETS)
    table = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    assert set(re.findall(r"`(\w+)`", table)) >= named
