"""Datasets of the tables, their classes, and which classes of two are the same."""

import json
import pathlib
import re
from collections.abc import Hashable, Sequence

from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import read_names
from jaxvid.rows import CLASS_COUNTS, SHORT_NAMES

_LABELS = pathlib.Path(__file__).parents[1] / "labels"


def dataset(name: str) -> str:
    """The dataset called `name`, as rows call it: `kinetics400` of `k400` or `Kinetics-400`.

    Raises:
      JaxvidError: no such dataset; the message lists all, with their short names.
    """
    known = {plain(full): full for full in CLASS_COUNTS} | SHORT_NAMES
    if plain(name) not in known:
        short = {full: f" ({brief})" for brief, full in SHORT_NAMES.items()}
        listed = ", ".join(full + short.get(full, "") for full in CLASS_COUNTS)
        raise JaxvidError(f"No labels of a dataset {name!r}; there are {listed}.")
    return known[plain(name)]


def labels(name: str) -> list[str]:
    """Class names of a dataset, in the order of the classifier's outputs.

    Args:
      name: anything `dataset` takes.

    Raises:
      JaxvidError: there is no such dataset.
    """
    return list(read_names(_LABELS / f"{dataset(name)}.txt"))


def channel_map(source: str, target: str) -> list[int | None]:
    """For each class of `target` the output of a network of `source`, or None where it has none.

    Kinetics-710 joins the classes of Kinetics-400, 600 and 700, and calls a few of them otherwise.
    Its published maps (UniFormerV2, Li et al. 2022) hold between any two of the four; classes of
    other datasets are the same where their names are, but for case, spaces and signs.

    Args:
      source: dataset of the network, as `dataset` takes it.
      target: dataset whose classes are wanted.

    Raises:
      JaxvidError: one of them is unknown, or they have no class in common.
    """
    source, target = dataset(source), dataset(target)
    keys, wanted = _kinetics_channels(source), _kinetics_channels(target)
    if keys is None or wanted is None:
        keys, wanted = (list(map(plain, labels(name))) for name in (source, target))
    places = {key: place for place, key in enumerate(keys)}
    found = [places.get(key) for key in wanted]
    if all(place is None for place in found):
        raise JaxvidError(f"{source} and {target} have no class in common.")
    return found


def _kinetics_channels(name: str) -> Sequence[Hashable] | None:
    """For each class of a Kinetics dataset that of Kinetics-710; None for other datasets."""
    if name == "kinetics710":
        return list(range(CLASS_COUNTS[name]))
    published = _LABELS / f"kinetics710_to_{name.removeprefix('kinetics')}.json"
    return json.loads(published.read_text(encoding="utf-8")) if published.is_file() else None


def plain(text: str) -> str:
    """The text without what people write differently: case, spaces and signs."""
    return re.sub(r"[\W_]", "", text.lower())
