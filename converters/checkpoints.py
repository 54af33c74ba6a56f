"""PyTorch's checkpoints to ours and back: reads a row's network, its name map and the tensors."""

import base64
import dataclasses
import math
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from converters import files, spellings
from converters.described import MAX_NAME
from converters.mapped import MAX_DIMENSIONS, Mapped, fetched
from converters.names import NameMap, in_order
from converters.report import STEP_COUNTER, Report
from converters.shards import Sharded, open_all
from jaxvid import zoo
from jaxvid.base import finite
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.layers import mobileone
from jaxvid.rows import CLASS_COUNTS, Row

# Stacked (x, y) pairs of a flow network's input, in every published row.
FLOW_CHANNELS = 10
# What the keys of all but the trunk begin with, in the codebases that save trunks by themselves.
_HEADS = {"cls_head", "head", "neck"}
Source = Mapping[str, Any] | Mapped | Sharded
# What may be kept aside in jaxvid.json, before and after it was compressed.
MAX_DROPPED_BYTES = 64 << 20
MAX_PACKED_BYTES = 16 << 20
# The types of a network's tensors, as jaxvid.json names those that became float32.
FLOATS = {
    **{name: name for name in ("float16", "float32", "float64")},
    **{name: getattr(ml_dtypes, name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}
_AGAIN = "copy the checkpoint or convert it again"


def convert(
    name: str,
    source: str | Path | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
) -> dict:
    """Returns `{"params", "batch_stats"}` of model `name`, nested dicts of float32 numpy arrays.

    `source` is a file that `files.read` reads, with `ema` its averaged copy, or a dict of arrays by
    PyTorch's keys; `overrides` are fields of the model that differ from the row's. Without
    `num_classes` the classifier is as wide as the source's; of a trunk that was saved without one,
    neither it nor a neck that is not there either is among the variables. Raises `JaxvidError`,
    which lists keys and leaves that do not fit.
    """
    return convert_and_tell(name, source, num_classes=num_classes, overrides=overrides, ema=ema)[0]


def convert_and_tell(
    name: str,
    source: str | Path | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    classes: list[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
) -> tuple[dict, dict, Report]:
    """Converts as `convert` does; returns (variables, meta for `checkpoint.save`, report).

    `classes` are the names of the classes, in the order of the logits, where they are not those
    of the row's dataset.
    """
    row = zoo.starting_row(name)
    source = open_source(source)
    where = "the source" if isinstance(source, Mapping) else source.path
    tensors, remarks = read_source(source, ema)
    with ThreadPoolExecutor(2) as threads:
        # The sum over all of a file leaves Python free to trace beside it, and then to copy.
        checked = threads.submit(check_source, source)
        try:
            variables, meta, report = _convert(
                name, row, tensors, num_classes, classes, dict(overrides or {}), where, threads
            )
        except JaxvidError:
            checked.result()  # A file that is damaged is why it does not fit.
            raise
        remarks = [*checked.result(), *remarks, *report.remarks]
    report = dataclasses.replace(report, remarks=remarks)
    return variables, meta | {"source": describe_source(source), "report": report.lines()}, report


def _convert(
    name: str,
    row: Row,
    tensors: dict[str, Any],
    num_classes: int | None,
    classes: list[str] | None,
    overrides: dict,
    where: object,
    threads: Executor,
) -> tuple[dict, dict, Report]:
    """Returns variables, their meta and what became of `tensors`, copied on `threads`.

    `tensors` is emptied, so that no tensor stays in memory twice.
    """
    if classes is not None:
        num_classes = len(classes)
    count = num_classes or row.num_classes
    leaves = leaves_of(name, row, count, overrides)
    names = NameMap(zoo.names(row.variant))
    reading = spellings.read(names, tensors)
    remarks = reading.remarks()
    reading.refuse_strays()
    read = {
        known: np.asarray(tensors[key]) for key, known in reading.known.items() if known is not None
    }
    beside = {key: np.asarray(tensors[key]) for group in reading.beside.values() for key in group}
    tensors.clear()
    cast = {key: tensor.dtype.name for key, tensor in read.items() if tensor.dtype != np.float32}
    count_of_tensors = len(read) + len(beside)
    known = spellings.join(read)
    read.clear()

    if num_classes is None:
        count = _count_classes(names, known, leaves, name, row, overrides) or count
        if count != row.num_classes:
            leaves = leaves_of(name, row, count, overrides)
            remarks.append(f"the classifier has {count} classes, not the row's {row.num_classes}")
    new = _lacks_head(names, known, leaves, name, row, overrides)
    if new and classes:
        raise JaxvidError("the file has no classifier whose classes could be named: leave them out")
    if classes is None:
        classes = [] if new else _labels(row, count)
        if count and not classes and not new:
            remarks.append(f"the {count} classes have no names: give them with --classes=FILE")
    remarks += [f"new, for training to fill: {path} {leaves[path].shape}" for path in new]

    try:
        arrays, dropped = names.to_ours(known, leaves, set(new))
    except JaxvidError as error:
        if not reading.spelling:
            raise
        raise JaxvidError(f"{error}; its keys were read as {reading.spelling} spelt them") from None
    _check_recomputed(row.variant, zoo.create_model(name, count, **overrides), dropped)
    cast = {key: dtype for key, dtype in cast.items() if key not in dropped}
    known.clear()

    own = {known: key for key, known in reading.known.items()}
    bad: list[tuple[str, int, int]] = []
    negative: list[str] = []

    def copy(path: str) -> None:
        read = fetched(arrays[path])
        kept = read is not arrays[path] and read.flags.c_contiguous
        kept = kept and read.dtype == leaves[path].dtype
        arrays[path] = array = read if kept else in_order(read, leaves[path].dtype)
        key = names.key_of(path) or path
        key = own.get(key, key)
        if count := finite.count(array):
            bad.append((repr(key[:200]), count, array.size))
        if path.endswith("/var") and (array < 0).any():
            negative.append(key)

    # A tensor of each thread is in memory twice: it goes as soon as it is copied.
    for _ in threads.map(copy, list(arrays)):
        pass
    finite.raise_if_any(where, bad)
    if negative:
        remarks.append(
            f"{len(negative)} running variances are below 0, which none can be, and the answers "
            f"may be no numbers: {negative[0][:200]!r}, ..."
        )
    params = {path: array for path, array in arrays.items() if path.startswith("params/")}
    report = Report(
        tensors=count_of_tensors,
        params=len(params),
        values=sum(array.size for array in params.values()),
        statistics=len(arrays) - len(params),
        dropped=list(dropped),
        beside=reading.beside,
        cast=dict(Counter(cast.values())),
        remarks=remarks,
    )
    meta = {
        "row": row.name,
        "variant": row.variant,
        "num_classes": count,
        "classes": classes,
        "mean": list(row.mean),
        "std": list(row.std),
        "channel_order": row.channel_order,
        "overrides": overrides,
        "new": [*(f"params/{path}" for path in row.new), *new],
        "cast": cast,
        **reading.way_back(),
        "dropped": _pack(dropped),
        "beside": _pack(beside),
    }
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return {"params": {}, "batch_stats": {}} | variables, meta, report


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
    finite.refuse(f"{variant}, made of this checkpoint,", _flat(deployed).items())
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
    arrays = {path: np.asarray(leaf) for path, leaf in _flat(variables).items()}
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
    return {"params": {}, "batch_stats": {}} | variables, meta


def is_trunk(meta: Mapping[str, Any]) -> bool:
    """Says whether a checkpoint with this meta is of a trunk, whose classifier is to be trained."""
    head = any(path.startswith("params/head/") for path in meta.get("new", ()))
    return head and not zoo.pretrains(meta["variant"])


def to_torch(
    name: str, variables: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Returns the tensors of model `name` by PyTorch's keys.

    With the `meta` of a converted checkpoint every key and bit of its source returns, also those
    that were dropped. Otherwise each BatchNorm's step counter is 0.
    """
    meta = meta or {}
    cast, prefix, respelt = _of_source(meta)
    names = NameMap(zoo.names(zoo.starting_row(name).variant))
    kinds = {kind: variables.get(kind, {}) for kind in ("params", "batch_stats")}
    arrays = {path: np.asarray(leaf) for path, leaf in _flat(kinds).items()}
    tensors = {}
    for key, array in spellings.split(names.to_torch(arrays), respelt).items():
        with np.errstate(over="ignore"):
            tensors[key] = array.astype(cast[key]) if key in cast else array
        counter = key.removesuffix("running_var") + STEP_COUNTER
        if key.endswith(".running_var") and "dropped" not in meta and names.drops(counter):
            tensors[counter] = np.zeros((), np.int64)
    finite.refuse(f"the checkpoint of {name}", tensors.items())
    tensors |= _unpack(meta.get("dropped", {}))
    tensors = {prefix + respelt.get(key, key): tensor for key, tensor in tensors.items()}
    return tensors | _unpack(meta.get("beside", {}))


def _of_source(meta: Mapping[str, Any]) -> tuple[dict[str, np.dtype], str, dict[str, str]]:
    """Returns what `meta` says of the tensors' source: types by key, prefix, and keys as spelt."""
    cast, prefix, respelt = meta.get("cast", {}), meta.get("prefix", ""), meta.get("respelt", {})
    sound = isinstance(prefix, str) and isinstance(cast, dict) and isinstance(respelt, dict)
    if not sound or not all(
        isinstance(text, str) and len(text) <= MAX_NAME
        for text in (*cast.values(), *respelt, *respelt.values())
    ):
        raise JaxvidError(f"jaxvid.json is damaged (cast, prefix or respelt): {_AGAIN}")
    unknown = [name for name in cast.values() if name not in FLOATS]
    if unknown:
        raise JaxvidError(
            f"jaxvid.json casts to {unknown[0][:50]!r}, which is none of {', '.join(FLOATS)}: "
            f"{_AGAIN}"
        )
    return {key: np.dtype(FLOATS[name]) for key, name in cast.items()}, prefix, respelt


def leaves_of(name: str, row: Row, num_classes: int, overrides: dict) -> dict[str, Any]:
    """Returns shape and dtype of every variable of the network, by path; computes nothing."""
    model = zoo.create_model(name, num_classes, **overrides)
    sampling = row.train
    frames = sampling.clip_len if sampling.clip_len > 1 else sampling.num_clips
    channels = 3 if row.modality == "rgb" else FLOW_CHANNELS
    clip = jax.ShapeDtypeStruct((1, frames, row.train_crop, row.train_crop, channels), np.float32)
    variables = jax.eval_shape(lambda video: model.init(jax.random.key(0), video), clip)
    return _flat(variables)


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
        tensor, layout = tensors.get(names.key_of(path)), names.layout_of(path)
        wanted = layout.torch_shape(leaves[path].shape) if layout else ()
        if tensor is None or tensor.ndim != len(wanted):
            return None
        return layout.to_ours(tensor).shape

    shapes = {path: shape_in_source(path) for path in leaves}
    if all(shape in (None, leaves[path].shape) for path, shape in shapes.items()):
        return None
    wider = leaves_of(name, row, row.num_classes + 1, overrides)
    counts = set()
    for path, leaf in leaves.items():
        for axis, size in enumerate(leaf.shape):
            if wider[path].shape[axis] == size + 1 and shapes[path]:
                counts.add(shapes[path][axis] - size + row.num_classes)
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
    return sorted(classifier | absent)


def _first_word(names: NameMap, path: str) -> str:
    return (names.key_of(path) or "").partition(".")[0]


def _check_recomputed(variant: str, model: Any, dropped: Mapping[str, np.ndarray]) -> None:
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


def _labels(row: Row, count: int) -> list[str]:
    if not row.dataset or count != row.num_classes:
        return []
    try:
        labels = zoo.labels(row.dataset)
    except JaxvidError:
        return []
    return labels if len(labels) == count else []


def open_source(source: Mapping[str, Any] | str | Path) -> Source:
    """Returns what `source` is a path of, not yet read, or the tensors that it is."""
    return open_all(source) if isinstance(source, str | Path) else source


def read_source(source: Source, ema: bool) -> tuple[dict, list[str]]:
    """Returns a new dict of the tensors of what `open_source` gave, and remarks on them.

    Those of a file are not checked before `check_source` has returned.
    """
    if isinstance(source, Mapped | Sharded):
        return files.read_and_tell(source, ema=ema)
    if ema:
        raise JaxvidError("ema = True chooses within a file: give a path or leave it out")
    return dict(source), []


def check_source(source: Source) -> list[str]:
    """Checks what `read_source` read, where that was a file; returns remarks on it."""
    if not isinstance(source, Mapped | Sharded):
        return []
    remarks = files.verify_and_tell(source)
    source.sha256()  # Which `describe_source` says: any other time it would be waited for.
    return remarks


def describe_source(source: Source) -> dict[str, Any] | None:
    """Returns what a checkpoint says of the file that it was made from."""
    if not isinstance(source, Mapped | Sharded):
        return None
    return {"file": source.path.name, "bytes": source.size, "sha256": source.sha256()}


def _pack(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns dropped tensors as JSON: integers as they are, others as compressed text."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_DROPPED_BYTES:
        raise JaxvidError(f"{size >> 20} MiB of tensors would be dropped: check --model")
    packed = {}
    left = MAX_PACKED_BYTES
    for key, tensor in tensors.items():
        tensor = fetched(tensor)
        if tensor.shape == () and tensor.dtype == np.int64:
            packed[key] = int(tensor)
            continue
        data = base64.b64encode(zlib.compress(np.ascontiguousarray(tensor).tobytes()))
        left -= len(data)
        if left < 0:
            raise JaxvidError(
                f"over {MAX_PACKED_BYTES >> 20} MiB of tensors would be dropped: check --model"
            )
        shape = list(tensor.shape)
        packed[key] = {"dtype": tensor.dtype.name, "shape": shape, "zlib": data.decode("ascii")}
    return packed


def _unpack(packed: Any) -> dict[str, np.ndarray]:
    """Returns what `_pack` was given, and unpacks no more than it would have taken."""
    if not isinstance(packed, dict):
        raise JaxvidError(f"jaxvid.json is damaged (dropped): {_AGAIN}")
    tensors, left = {}, MAX_DROPPED_BYTES
    for key, value in packed.items():
        try:
            if type(value) is int:
                tensors[key] = np.array(value, np.int64)
                continue
            dtype, shape = jax.numpy.dtype(value["dtype"]), tuple(value["shape"])
            if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError("a shape that is none")
            size = dtype.itemsize * math.prod(shape)
            left -= size
            if left < 0:
                raise ValueError("too large")
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(value["zlib"]), size + 1)
            tensors[key] = np.frombuffer(data, dtype).reshape(shape)
        except (LookupError, TypeError, ValueError, OverflowError, zlib.error) as error:
            raise JaxvidError(
                f"the dropped tensor {key[:200]!r} in jaxvid.json is damaged: {_AGAIN}"
            ) from error
    return tensors


def _flat(tree: Any) -> dict[str, Any]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
