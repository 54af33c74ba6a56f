"""The losses of every family's first steps are those that were committed, to the last bit."""

import csv
import json
import pathlib

import pytest

from jaxvid import zoo
from tests.training import traces

TABLE = pathlib.Path(__file__).parents[1] / "golden" / "zoo_rows.csv"
WRITTEN = json.loads(traces.FILE.read_text("utf-8"))


def test_every_family_of_the_tables_has_a_trace():
    with open(TABLE, newline="", encoding="utf-8") as file:
        published = {row["variant"] for row in csv.DictReader(file)} & set(zoo.variants())
    families, traced = (
        {zoo.family(name).__name__ for name in names} for names in (published, WRITTEN["losses"])
    )
    assert families and families <= traced
    assert set(WRITTEN["losses"]) <= set(traces.subjects())


@pytest.mark.parametrize("name", WRITTEN["losses"])
def test_losses_are_those_committed(name):
    wanted = [float.fromhex(loss) for loss in WRITTEN["losses"][name]]
    found = traces.trace(name)
    if traces.machine() == WRITTEN["made_with"]:
        assert found == wanted
    else:  # Another compiler rounds elsewhere, and three steps multiply what it does.
        assert found == pytest.approx(wanted, rel=2e-3)
