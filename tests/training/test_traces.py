"""The losses of every family's first steps are those that were committed, to the last bit."""

import json

import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from tests import generate
from tests.training import traces
from tests.zoo.test_zoo import published

WRITTEN = json.loads(traces.FILE.read_text("utf-8"))


def test_every_family_of_the_tables_has_a_trace():
    families = {zoo.family(row.variant).__name__ for row in published()}
    traced = {zoo.family(name).__name__ for name in WRITTEN["losses"]}
    assert families and families - traced == set(), "run `python -m tests.generate`"
    assert set(WRITTEN["losses"]) <= set(traces.subjects())


@pytest.mark.parametrize("name", WRITTEN["losses"])
def test_losses_are_those_committed(name):
    wanted = [float.fromhex(loss) for loss in WRITTEN["losses"][name]]
    found = traces.trace(name)
    if traces.machine() == WRITTEN["made_with"]:
        assert found == wanted
    else:  # Another compiler rounds elsewhere, and three steps multiply what it does.
        assert found == pytest.approx(wanted, rel=2e-3)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A file of another kind of machine than this, in which the first network is missing."""
    _, *others = traces.subjects()
    file = tmp_path / "traces.json"
    file.write_text(json.dumps({"made_with": {}, "losses": dict.fromkeys(others, ["0x1p0"])}))
    monkeypatch.setattr(traces, "FILE", file)
    return file


def test_a_new_network_can_be_left_out_where_the_file_is_of_another_machine(elsewhere, capsys):
    before = elsewhere.read_text("utf-8")
    name = traces.subjects()[0]
    traces.main([name])
    generate.first_losses()
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith(f"{name}: ") and "can be left out" in first
    assert elsewhere.read_text("utf-8") == before


def test_losses_that_are_written_are_not_mixed_with_those_of_another_machine(elsewhere):
    with pytest.raises(JaxvidError, match="or all of them here, by naming none"):
        traces.main(traces.subjects()[:2])
    with pytest.raises(JaxvidError, match="tsm_tset: losses are of one of these: c2d_test"):
        traces.main(["tsm_tset"])
