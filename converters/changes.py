"""A converted checkpoint into another: its form to deploy, or with the classes of a dataset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from converters.networks import flat, leaves_of
from jaxvid import zoo
from jaxvid.base import finite
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.layers import mobileone
from jaxvid.rows import CLASS_COUNTS


def deploy(variables: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[dict, dict]:
    """Returns variables and meta of the form to deploy, from those of the training form.

    It is for networks on MobileOne, whose variants have a twin called `_deploy`.
    """
    variant = f"{meta['variant']}_deploy"
    if variant not in zoo.variants():
        raise JaxvidError(
            f"{meta['variant']} has no other form to deploy: only MobileOne's training form has one"
        )
    of_source = ("cast", "prefix", "respelt", "dropped", "beside")
    kept = {key: meta[key] for key in meta if key not in of_source}
    deployed = mobileone.deploy(variables)
    finite.refuse(f"{variant}, made of this checkpoint,", flat(deployed).items())
    return deployed, kept | {"row": variant, "variant": variant}


def map_classes(
    variables: Mapping[str, Any],
    meta: Mapping[str, Any],
    target: str,
    source: str | None = None,
    *,
    missing: str = "refuse",
) -> tuple[dict, dict]:
    """Returns variables and meta of the same network with a classifier for another dataset.

    Its channels are chosen by `zoo.channel_map`. `target` and `source` are datasets as
    `zoo.dataset` takes them; without `source` it is the one whose classes the checkpoint has. A
    class of `target` that `source` lacks is an error, or with `missing="zero"` has weights and bias
    of 0, for training to fill. Raises `JaxvidError`.
    """
    target = zoo.dataset(target)
    if is_trunk(meta):
        raise JaxvidError("the checkpoint has no classifier to give other classes to")
    if source is None:
        known = [name for name in CLASS_COUNTS if zoo.labels(name) == meta.get("classes")]
        if not known:
            raise JaxvidError(
                "the checkpoint's classes are of no known dataset: say --classes-from"
            )
        source = known[0]
    channels, labels = zoo.channel_map(source, target), zoo.labels(target)
    row, count = zoo.starting_row(meta["row"]), meta["num_classes"]
    if CLASS_COUNTS[zoo.dataset(source)] != count:
        raise JaxvidError(f"the checkpoint has {count} classes, which are not those of {source}")
    absent = [label for label, place in zip(labels, channels, strict=True) if place is None]
    if absent and missing != "zero":
        raise JaxvidError(
            f"{source} lacks {len(absent)} classes of {target} "
            f"({listed(sorted(absent), separator=', ')}): with "
            "--missing=zero their weights are 0, for training to fill"
        )
    overrides = meta.get("overrides", {})
    wider = leaves_of(row.name, row, count + 1, overrides)
    arrays = {path: np.asarray(leaf) for path, leaf in flat(variables).items()}
    places = np.array([-1 if place is None else place for place in channels])
    for path, array in arrays.items():
        for axis, size in enumerate(array.shape):
            if path in wider and wider[path].shape[axis] == size + 1:
                taken = np.take(array, places, axis)
                np.moveaxis(taken, axis, 0)[places < 0] = 0
                arrays[path] = taken
    leaves = leaves_of(row.name, row, len(labels), overrides)
    if {p: x.shape for p, x in arrays.items()} != {p: x.shape for p, x in leaves.items()}:
        raise JaxvidError(f"the checkpoint is not what {meta['row']} says, or its head is of parts")
    report = [*meta.get("report", []), f"the classes of {target} out of those of {source}"]
    if absent:
        report.append(
            f"{len(absent)} classes have weights of 0, to be trained: {', '.join(absent)}"
        )
    meta = {**meta, "num_classes": len(labels), "classes": labels, "report": report}
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return {"params": {}, "batch_stats": {}, **variables}, meta


def is_trunk(meta: Mapping[str, Any]) -> bool:
    """Says whether a checkpoint with this meta is of a trunk, whose classifier is to be trained."""
    head = any(path.startswith("params/head/") for path in meta.get("new", ()))
    return head and not zoo.pretrains(meta["variant"])
