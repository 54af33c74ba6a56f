"""The notebooks run as they stand, and hold what their cells gave, as the site shows them."""

import base64
import pathlib
import re

import nbformat
import pytest

from tests import documents, notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))
MOST_BYTES = 400_000
# Times, rates and pictures differ from run to run: what is alike is the kinds of what cells gave.
Kinds = list[list[tuple[str, ...]]]


def kinds(notebook: nbformat.NotebookNode) -> Kinds:
    """Of each code cell what it gave: streams by name, and values by the forms that they have.

    Standard error is left out: there a machine may warn of itself.
    """
    return [
        sorted(
            (output.output_type, output.name)
            if output.output_type == "stream"
            else (output.output_type, *sorted(output.data))
            for output in cell.outputs
            if output.get("name") != "stderr"
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]


def prose(notebook: nbformat.NotebookNode) -> str:
    """All text of a notebook that is not code."""
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> pathlib.Path:
    return request.param


@pytest.fixture
def written(path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_there_are_notebooks():
    assert len(PATHS) == 2


def test_a_notebook_runs_and_gives_what_it_holds(path, written):
    assert kinds(notebooks.run(path)) == kinds(written)


def test_a_notebook_was_written_after_its_last_change(written):
    assert written.metadata.jaxvid.sources == notebooks.sources(written), (
        "its cells changed: run python -m tests.notebooks --write"
    )
    counts = [cell.execution_count for cell in written.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_a_change_of_a_cell_is_seen(written):
    before = notebooks.sources(written)
    written.cells[-2].source += "\npass"
    assert notebooks.sources(written) != before


def test_a_notebook_is_small_and_has_pictures(path, written):
    assert path.stat().st_size < MOST_BYTES
    found = pictures(written)
    assert len(found) >= 3
    assert all(picture.startswith(b"\x89PNG") for picture in found)


def test_a_notebook_names_no_place_of_the_machine_that_wrote_it(written):
    outputs = [output for cell in written.cells for output in cell.get("outputs", ())]
    said = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    assert re.findall(r"/(?:home|root|tmp|var|work|Users)/.*", "\n".join(said)) == []


def test_the_first_cell_installs_only_where_nothing_is_installed(written):
    first = next(cell for cell in written.cells if cell.cell_type == "code")
    assert re.search(
        r'find_spec\("jaxvid"\) is None:\n {4}%pip install .*"\S+\[data\]"', first.source
    )
    assert first.outputs == []


def test_the_readme_leads_to_a_notebook(path):
    leads = documents.links(documents.README.read_text("utf-8"))
    assert str(path.relative_to(notebooks.ROOT)) in leads


def test_links_of_a_notebook_lead_somewhere(path, written):
    targets = documents.links(prose(written))
    assert targets
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_commands_of_a_notebook_are_known(written):
    said = re.findall(r"```sh\n(.*?)```", prose(written), re.S)
    for command in (command for block in said for command in documents.commands(block)):
        documents.what_becomes_of(command)


def test_a_cell_that_fails_is_named(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "x / 0")]
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(notebooks.nbclient.exceptions.CellExecutionError, match="x / 0"):
        notebooks.run(path)
