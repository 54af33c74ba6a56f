"""The losses of every family's first steps are those that were committed, to the last bit."""

import json

import pytest

from tests.training import traces

WRITTEN = json.loads(traces.FILE.read_text("utf-8"))


def test_every_family_has_a_trace():
    assert list(WRITTEN["losses"]) == traces.subjects()


@pytest.mark.parametrize("name", WRITTEN["losses"])
def test_losses_are_those_committed(name):
    wanted = [float.fromhex(loss) for loss in WRITTEN["losses"][name]]
    found = traces.trace(name)
    if traces.machine() == WRITTEN["made_with"]:
        assert found == wanted
    else:  # Another compiler rounds elsewhere, and three steps multiply what it does.
        assert found == pytest.approx(wanted, rel=2e-3)
