"""The network that tensors are of: its variables, its classes, and whether its head is there."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from converters.mapped import fetched
from converters.names import NameMap
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.rows import Row

# Stacked (x, y) pairs of a flow network's input, in every published row.
FLOW_CHANNELS = 10
# What the keys of all but the trunk begin with, in the codebases that save trunks by themselves.
_HEADS = {"cls_head", "head", "neck"}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as the tensors of a file fit it.

    `classes` are the names of its `count` classes, none where they are not known; `leaves` are
    shape and dtype of every variable by path, of which those at `new` are left to training.
    `remarks` are sentences on what is unusual about it.
    """

    count: int
    classes: list[str]
    leaves: dict[str, Any]
    new: list[str]
    remarks: list[str]


def fit(
    names: NameMap,
    tensors: Mapping[str, np.ndarray],
    leaves: dict[str, Any],
    name: str,
    row: Row,
    num_classes: int | None,
    classes: list[str] | None,
    overrides: dict,
) -> Network:
    """Returns the network of model `name` that the tensors are of.

    `leaves` are those of `num_classes`, or of the row's where that is None and the tensors say it.
    """
    count, remarks = num_classes or row.num_classes, []
    if num_classes is None:
        count = _count_classes(names, tensors, leaves, name, row, overrides) or count
        if count != row.num_classes:
            leaves = leaves_of(name, row, count, overrides)
            remarks.append(f"the classifier has {count} classes, not the row's {row.num_classes}")
    new = _lacks_head(names, tensors, leaves, name, row, overrides)
    if new and classes:
        raise JaxvidError("the file has no classifier whose classes could be named: leave them out")
    if classes is None:
        classes = [] if new else _labels(row, count)
        if count and not classes and not new:
            remarks.append(f"the {count} classes have no names: give them with --classes=FILE")
    remarks += [f"new, for training to fill: {path} {leaves[path].shape}" for path in new]
    return Network(count, classes, leaves, new, remarks)


def leaves_of(name: str, row: Row, num_classes: int, overrides: dict) -> dict[str, Any]:
    """Returns shape and dtype of every variable of the network, by path; computes nothing."""
    model = zoo.create_model(name, num_classes, **overrides)
    sampling = row.train
    frames = sampling.clip_len if sampling.clip_len > 1 else sampling.num_clips
    channels = 3 if row.modality == "rgb" else FLOW_CHANNELS
    clip = jax.ShapeDtypeStruct((1, frames, row.train_crop, row.train_crop, channels), np.float32)
    variables = jax.eval_shape(lambda video: model.init(jax.random.key(0), video), clip)
    return flat(variables)


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _count_classes(
    names: NameMap,
    tensors: Mapping[str, np.ndarray],
    leaves: Mapping[str, Any],
    name: str,
    row: Row,
    overrides: dict,
) -> int | None:
    """Returns how many classes the tensors were trained for, or None where they do not say.

    The classifier is what changes shape with the number of classes.
    """

    def shape_in_source(path: str) -> tuple[int, ...] | None:
        tensor, layout = tensors.get(names.key_of(path) or ""), names.layout_of(path)
        if tensor is None or layout is None:
            return None
        if tensor.ndim != len(layout.torch_shape(leaves[path].shape)):
            return None
        return layout.to_ours(tensor).shape

    shapes = {path: shape_in_source(path) for path in leaves}
    if all(shape in (None, leaves[path].shape) for path, shape in shapes.items()):
        return None
    wider = leaves_of(name, row, row.num_classes + 1, overrides)
    counts = set()
    for path, leaf in leaves.items():
        for axis, size in enumerate(leaf.shape):
            if wider[path].shape[axis] == size + 1 and (found := shapes[path]):
                counts.add(found[axis] - size + row.num_classes)
    return counts.pop() if len(counts) == 1 else None


def _lacks_head(
    names: NameMap,
    tensors: Mapping[str, np.ndarray],
    leaves: Mapping[str, Any],
    name: str,
    row: Row,
    overrides: dict,
) -> list[str]:
    """Returns the paths that a trunk without its classifier leaves to training; [] of a network.

    They are the classifier, of which nothing may be there, and heads and necks that are not either.
    """
    missing = [path for path in leaves if names.key_of(path) not in tensors]
    if not missing or len(missing) == len(leaves):
        return []
    wider = leaves_of(name, row, row.num_classes + 1, overrides)
    other = leaves_of(name, row, row.num_classes + 2, overrides)
    classifier = {path for path in leaves if wider[path].shape != other[path].shape}
    if not classifier or not classifier.issubset(missing):
        return []
    there = {key.partition(".")[0] for key in tensors}
    absent = {path for path in missing if _first_word(names, path) in _HEADS - there}
    head = {path for path in leaves if path.startswith("params/head/")}
    absent |= head if head.issubset(missing) else set()
    return sorted(classifier | absent)


def _first_word(names: NameMap, path: str) -> str:
    return (names.key_of(path) or "").partition(".")[0]


def _labels(row: Row, count: int) -> list[str]:
    if not row.dataset or count != row.num_classes:
        return []
    try:
        labels = zoo.labels(row.dataset)
    except JaxvidError:
        return []
    return labels if len(labels) == count else []


def check_recomputed(variant: str, model: Any, dropped: Mapping[str, np.ndarray]) -> None:
    """Raises a `JaxvidError` if a dropped tensor is not what the network computes in its place.

    A family's `RECOMPUTED` gives, by key, the function of model and shape that computes it.
    """
    for key, recompute in getattr(zoo.family(variant), "RECOMPUTED", {}).items():
        tensor = dropped.get(key)
        if tensor is None:
            continue
        tensor = fetched(tensor)
        expected = recompute(model, tensor.shape)
        # bfloat16, the least precision that files are saved with, rounds 1 by up to 2e-3.
        same = tensor.shape == expected.shape
        if not same or not np.allclose(tensor.astype(np.float32), expected, atol=4e-3):
            raise JaxvidError(
                f"{key!r} does not hold what {variant} computes itself in its place, so the "
                "network would answer otherwise: check --model and the size of its pictures"
            )
