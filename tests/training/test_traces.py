"""The losses of every family's first steps are those that were committed, to the last bit."""

import json

import pytest

from jaxvid import zoo
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
