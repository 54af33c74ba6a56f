"""What networks take: parameters, and the multiply-accumulates of a view and of a test."""

import csv
import dataclasses
import functools
import pathlib

from jaxvid import models
from jaxvid.base.errors import JaxvidError
from jaxvid.zoo.index import get_row

_COSTS = pathlib.Path(models.__path__[0]) / "costs.csv"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a row's network takes; the tables call multiply-accumulates FLOPs.

    `params` are its parameters, `macs` the multiply-accumulates of the convolutions and matrix
    products of one view, and `total_macs` those of all views of a video in its test.
    """

    params: int
    macs: int
    total_macs: int


@functools.cache
def _costs() -> dict[tuple[str, int, int], dict[str, int]]:
    """By variant, frames and side of a view: what `jaxvid/models/costs.csv` says of it."""
    found = {}
    with _COSTS.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            name, _ = line.pop("variant"), line.pop("counted_on")
            numbers = {key: int(text) for key, text in line.items()}
            found[name, numbers["frames"], numbers["side"]] = numbers
    return found


def cost(name: str) -> Cost:
    """What the network of a row takes: counted on the published models, not as tables print it.

    Where several networks answer together, as two streams, it is what they all take.

    Raises:
      JaxvidError: no row has that name, or nothing was counted of such a view.
    """
    row = get_row(name)
    if len(row.members) > 1:
        parts = [dataclasses.astuple(cost(member)) for member in row.members]
        return Cost(*map(sum, zip(*parts, strict=True)))
    line = _costs().get((row.variant, *row.view[:2]))
    if line is None:
        raise JaxvidError(
            f"{row.name}: {_COSTS} has no line of {row.variant} at {row.view}: run "
            "`python -m tests.generate`, which counts it."
        )
    more_classes = row.num_classes - line["num_classes"]
    params = line["params"] + more_classes * line["params_per_class"]
    return Cost(params, line["macs"], line["macs"] * row.num_views)
