"""PyTorch's checkpoints to ours and back: reads a row's network, its name map and the tensors."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util

from converters import (
    aside,
    hub,
    hugging_face,
    hugging_face_config,
    joined,
    networks,
    spellings,
    stacks,
)
from converters.described import MAX_NAME
from converters.mapped import fetched
from converters.names import NameMap, in_order
from converters.networks import Network
from converters.report import STEP_COUNTER, Report
from converters.shards import open_all
from converters.sources import check_source, describe_source, open_source, read_source
from jaxvid import zoo
from jaxvid.base import finite
from jaxvid.base.errors import JaxvidError
from jaxvid.rows import Row

# The types of a network's tensors, as jaxvid.json names those that became float32.
FLOATS = {
    **{name: name for name in ("float16", "float32", "float64")},
    **{name: getattr(ml_dtypes, name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}


def convert(
    name: str,
    source: str | Path | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
    head: str | Path | None = None,
    classifier: int = 0,
) -> dict[str, Any]:
    """Returns `{"params", "batch_stats"}` of model `name`, nested dicts of float32 numpy arrays.

    `source` is a file that `files.read` reads, with `ema` its averaged copy, or a dict of arrays by
    PyTorch's keys; `overrides` are fields of the model that differ from the row's. Without
    `num_classes` the classifier is as wide as the source's; of a trunk that was saved without one,
    neither it nor a neck that is not there either is among the variables. `head` is the file of an
    encoder's probe, number `classifier` from 0 on of those in it, where `source` is the encoder
    alone. Raises `JaxvidError`, which lists keys and leaves that do not fit.
    """
    return convert_and_tell(
        name,
        source,
        num_classes=num_classes,
        overrides=overrides,
        ema=ema,
        head=head,
        classifier=classifier,
    )[0]


def convert_and_tell(
    name: str,
    source: str | Path | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    classes: list[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
    head: str | Path | None = None,
    classifier: int = 0,
) -> tuple[dict, dict, Report]:
    """Converts as `convert` does; returns (variables, meta for `checkpoint.save`, report).

    `classes` are the names of the classes, in the order of the logits, where they are not those
    of the row's dataset.
    """
    row = zoo.starting_row(name)
    opened = open_source(source)
    probe = None if head is None else open_all(hub.local(head, "--head"))
    where = "the source" if isinstance(opened, Mapping) else opened.path
    tensors, remarks = read_source(opened, ema)
    tensors = stacks.apart(tensors)
    apart: dict[str, np.ndarray] = {}
    if probe is not None:
        joined.check_probed(row)
        apart, more = joined.read_probe(probe, classifier)
        remarks += more
    with ThreadPoolExecutor(2) as threads:
        # The sum over all of a file leaves Python free to trace beside it, and then to copy.
        checked = [threads.submit(check_source, part) for part in (opened, probe) if part]
        try:
            if probe is not None:
                tensors, more = joined.join(row, tensors, apart, where, probe.path)
                remarks, where = remarks + more, f"{where} with {probe.path}"
            variables, meta, report = _convert(
                name, row, tensors, num_classes, classes, dict(overrides or {}), where, threads
            )
        except JaxvidError:
            for check in checked:
                check.result()  # A file that is damaged is why it does not fit.
            raise
        remarks = [*(r for check in checked for r in check.result()), *remarks, *report.remarks]
    report = dataclasses.replace(report, remarks=remarks)
    meta |= {"source": describe_source(opened), "report": report.lines()}
    return variables, meta | ({} if probe is None else {"head": describe_source(probe)}), report


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
    leaves = networks.leaves_of(name, row, num_classes or row.num_classes, overrides)
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
    total = len(read) + len(beside)
    known = spellings.join(read)
    read.clear()

    network = networks.fit(names, known, leaves, name, row, num_classes, classes, overrides)
    try:
        arrays, dropped = names.to_ours(known, network.leaves, set(network.new))
    except JaxvidError as error:
        if not reading.spelling:
            raise
        raise JaxvidError(f"{error}; its keys were read as {reading.spelling} spelt them") from None
    model = zoo.create_model(name, network.count, **overrides)
    networks.check_recomputed(row.variant, model, dropped)
    cast = {key: dtype for key, dtype in cast.items() if key not in dropped}
    known.clear()

    own = {known: key for key, known in reading.known.items()}
    keys = {path: names.key_of(path) or path for path in arrays}
    keys = {path: own.get(key, key) for path, key in keys.items()}
    remarks += network.remarks + _copy(arrays, network.leaves, keys, where, threads)
    if row.licence:
        remarks.append(f"licence of the published weights of {row.name}: {row.licence}")
    report = _report(total, arrays, list(dropped), reading, cast, remarks)
    meta = _describe(row, network, overrides) | {
        "cast": cast,
        **reading.way_back(),
        "dropped": aside.pack(dropped),
        "beside": aside.pack(beside),
    }
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return {"params": {}, "batch_stats": {}} | variables, meta, report


def _copy(
    arrays: dict[str, np.ndarray],
    leaves: Mapping[str, Any],
    keys: Mapping[str, str],
    where: object,
    threads: Executor,
) -> list[str]:
    """Puts copies that stand in memory in place of arrays of the source; returns remarks on them.

    `keys` are those of the source, by path. Raises `JaxvidError` where a value is not finite.
    """
    bad: list[tuple[str, int, int]] = []
    negative: list[str] = []

    def copy(path: str) -> None:
        read = fetched(arrays[path])
        kept = read is not arrays[path] and read.flags.c_contiguous
        kept = kept and read.dtype == leaves[path].dtype
        arrays[path] = array = read if kept else in_order(read, leaves[path].dtype)
        if count := finite.count(array):
            bad.append((repr(keys[path][:200]), count, array.size))
        if path.endswith("/var") and (array < 0).any():
            negative.append(keys[path])

    # A tensor of each thread is in memory twice: it goes as soon as it is copied.
    for _ in threads.map(copy, list(arrays)):
        pass
    finite.raise_if_any(where, bad)
    if not negative:
        return []
    return [
        f"{len(negative)} running variances are below 0, which none can be, and the answers "
        f"may be no numbers: {negative[0][:200]!r}, ..."
    ]


def _report(
    total: int,
    arrays: Mapping[str, np.ndarray],
    dropped: list[str],
    reading: spellings.Reading,
    cast: Mapping[str, str],
    remarks: list[str],
) -> Report:
    """Says what became of `total` tensors."""
    params = [array for path, array in arrays.items() if path.startswith("params/")]
    return Report(
        tensors=total,
        params=len(params),
        values=sum(array.size for array in params),
        statistics=len(arrays) - len(params),
        dropped=dropped,
        beside=reading.beside,
        cast=dict(Counter(cast.values())),
        remarks=remarks,
    )


def _describe(row: Row, network: Network, overrides: dict) -> dict[str, Any]:
    """What a checkpoint says of its network."""
    return {
        "row": row.name,
        "variant": row.variant,
        "num_classes": network.count,
        "classes": network.classes,
        "mean": list(row.mean),
        "std": list(row.std),
        "channel_order": row.channel_order,
        "overrides": overrides,
        "new": [*(f"params/{path}" for path in row.new), *network.new],
    }


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
    arrays = {path: np.asarray(leaf) for path, leaf in networks.flat(kinds).items()}
    tensors = {}
    for key, array in spellings.split(names.to_torch(arrays), respelt).items():
        with np.errstate(over="ignore"):
            tensors[key] = array.astype(cast[key]) if key in cast else array
        counter = key.removesuffix("running_var") + STEP_COUNTER
        if key.endswith(".running_var") and "dropped" not in meta and names.drops(counter):
            tensors[counter] = np.zeros((), np.int64)
    finite.refuse(f"the checkpoint of {name}", tensors.items())
    tensors |= aside.unpack(meta.get("dropped", {}))
    tensors = {prefix + respelt.get(key, key): tensor for key, tensor in tensors.items()}
    tensors = stacks.together(tensors)
    return tensors | aside.unpack(meta.get("beside", {}))


def to_hugging_face(
    name: str, variables: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the float32 tensors of model `name` by Transformers' keys, and its config.

    With the `meta` of a checkpoint that was converted from there each key is spelt as it was.
    Raises `JaxvidError` where Transformers has no such network.
    """
    meta = meta or {}
    row = zoo.starting_row(name)
    overrides = dict(meta.get("overrides", {}))
    model = zoo.create_model(name, meta.get("num_classes"), **overrides)
    spelling, config = hugging_face_config.describe(row, model, meta)
    kinds = {kind: variables.get(kind, {}) for kind in ("params", "batch_stats")}
    keys = NameMap(zoo.names(row.variant)).to_torch(networks.flat(kinds))
    respelt = hugging_face.respelt(spelling, keys)
    _, _, before = _of_source(meta)
    if before.keys() == respelt.keys() and spellings.reads(spelling, before):
        respelt = before
    return to_torch(name, variables, {"respelt": respelt, "dropped": {}}), config


def _of_source(meta: Mapping[str, Any]) -> tuple[dict[str, np.dtype], str, dict[str, str]]:
    """Returns what `meta` says of the tensors' source: types by key, prefix, and keys as spelt."""
    cast, prefix, respelt = meta.get("cast", {}), meta.get("prefix", ""), meta.get("respelt", {})
    sound = isinstance(prefix, str) and isinstance(cast, dict) and isinstance(respelt, dict)
    if not sound or not all(
        isinstance(text, str) and len(text) <= MAX_NAME
        for text in (*cast.values(), *respelt, *respelt.values())
    ):
        raise JaxvidError(f"jaxvid.json is damaged (cast, prefix or respelt): {aside.AGAIN}")
    unknown = [name for name in cast.values() if name not in FLOATS]
    if unknown:
        raise JaxvidError(
            f"jaxvid.json casts to {unknown[0][:50]!r}, which is none of {', '.join(FLOATS)}: "
            f"{aside.AGAIN}"
        )
    return {key: np.dtype(FLOATS[name]) for key, name in cast.items()}, prefix, respelt
