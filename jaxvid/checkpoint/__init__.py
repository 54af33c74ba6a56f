"""Checkpoints on disk: the only file that knows Orbax.

A checkpoint is a folder with `jaxvid.json` (what the arrays are) beside a folder of arrays in
Orbax's format, whose name `jaxvid.json` holds. It is written arrays first, and becomes real in the
one rename that puts `jaxvid.json` in place. Until then the folder is no checkpoint, or still the
old one, so a kill or a full disk never leaves half of one. A training run keeps such folders side
by side as `step_<number>`, and writes them while it goes on.

`jaxvid.json` holds a checksum of each array as a whole, whatever devices its parts lay on, so that
whoever reads arrays on any others sees whether they are still what was written.
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxvid.base import finite, jsons, locks, paths, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.text import normal, say
from jaxvid.checkpoint import meta as metas

if TYPE_CHECKING:
    from orbax.checkpoint import v1 as ocp

RECORD = "jaxvid.json"
FORMAT = 1
_STEP = re.compile(r"step_(\d+)")
_ARRAYS = re.compile(r"arrays-([0-9]{1,9})")
_LEAF = re.compile(r"[\w<>]{1,30}\[(?:[0-9]{1,15}(?:,[0-9]{1,15}){0,31})?\]")
_MAX_NAME, _MAX_DEPTH = 1000, 50
_SUM = re.compile(r"[0-9a-f]{16}")
# What a killed save may leave: its own folder, Orbax's temporary form of it, an unnamed record.
_OURS = re.compile(r"arrays-\d+(\..+)?|jaxvid\.json\.tmp|\.jaxvid\.json\.part")


def save(path: str | Path, variables: dict, meta: dict, *, overwrite: bool = False) -> None:
    """Writes `{"params", "batch_stats"}` and what they are to the folder `path`, whole or not.

    `meta` is anything JSON can hold. Raises `JaxvidError` where `path` already holds a checkpoint
    and `overwrite` is false, holds other files, cannot be written, or another process writes there.
    """
    folder = _local(path)
    with contextlib.ExitStack() as stack:
        if _first_process():
            with _refused(folder):
                stack.enter_context(locks.hold(folder, ""))
        _check_free(folder, overwrite)
        _begin(folder, variables, {"meta": meta})()
        _wait_for_all("written")


def check_free(path: str | Path, what: str, *, overwrite: bool = False) -> Path:
    """Refuses a folder that `save` could not write to, before the work whose result it would hold.

    `what` is the flag that names it. Returns it as it is to be given to `save`.
    """
    folder = paths.writable(path, what)
    paths.in_utf8(folder, what, "Orbax")
    _check_free(folder, overwrite)
    return folder


def load(path: str | Path, weights: str | None = None) -> dict:
    """Reads `{"params", "batch_stats"}`: nested dicts of numpy arrays, whatever devices wrote them.

    `path` is a checkpoint's folder or a training run's, which means its best checkpoint, or its
    last where none was measured. `weights` is `ema`, the averaged copy where the run kept one, or
    `last`, the parameters themselves; None takes those that the run was tested with. Raises
    `JaxvidError` where there is no checkpoint or it is damaged.
    """
    folder = find(path)
    record = _read_record(folder)
    test = record["meta"].get("test")
    tested = test.get("weights", "ema") if isinstance(test, dict) else "ema"
    averaged = any(name.startswith("ema/") for name in record["leaves"])
    inside = "ema/" if averaged and (weights or tested) == "ema" else ""
    like = {}
    with _damage(folder):
        for name, described in record["leaves"].items():
            if name.startswith((f"{inside}params/", f"{inside}batch_stats/")):
                like[name] = _like_described(described)
    if not like:
        raise JaxvidError(f"{folder} holds no params: give the folder of a network's checkpoint")
    read = _nest(_read(folder, record, like))
    return {"params": {}, "batch_stats": {}} | (read["ema"] if inside else read)


def load_finite(path: str | Path, weights: str | None = None) -> dict:
    """Reads as `load` does what is to be computed with: no array may hold NaN or infinity."""
    variables = load(path, weights)
    names, leaves, _ = _flatten(variables)
    finite.refuse(path, zip(names, leaves, strict=True))
    return variables


def load_meta(path: str | Path) -> dict:
    """Reads what the checkpoint at `path` says of itself, with `step` and `metric` in training."""
    folder = find(path)
    record = _read_record(folder)
    metas.check(record["meta"], folder / RECORD)
    meta = record["meta"] | {key: record[key] for key in ("step", "metric") if key in record}
    if meta.get("classes"):
        # Lists of names that are read today are composed, which an older one may not have been.
        meta["classes"] = [normal(name) for name in meta["classes"]]
    return meta


def find(path: str | Path) -> Path:
    """Returns the folder of the checkpoint that `path` means; see `load`."""
    path = _local(path)
    if _read_record(path) is not None:
        return path
    for parent in (path, path / "checkpoints"):
        checkpoints = Checkpoints(parent)
        step = checkpoints.best_step()
        if step is None:
            step = checkpoints.latest_step()
        if step is not None:
            return checkpoints.folder(step)
    raise JaxvidError(
        f"{path} holds no finished checkpoint ({RECORD}, or step_* folders that have one): "
        "give a converted checkpoint's folder or a training run's"
    )


class Checkpoints:
    """The checkpoints of one training run: the last `keep` and the one with the highest metric.

    One run writes to `directory` at a time; any number may read. With several processes all of
    them call `save`, `measure`, `wait` and `restore`, and `directory` is shared between them. As a
    context it waits, when left, for the save under way.
    """

    def __init__(self, directory: str | Path, keep: int = 1):
        if keep < 1:
            raise JaxvidError(f"keep = {keep} would delete every checkpoint: use 1 or more")
        self._directory = _local(directory)
        self._keep = keep
        self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._under_way: futures.Future | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self.wait()
            elif self._under_way is not None:  # The peers may be elsewhere: wait for none of them.
                self._under_way.result()
        except JaxvidError as error:
            if kind is None:
                raise
            say(f"warning: {error}", error=True)
        finally:
            self._thread.shutdown()

    def folder(self, step: int) -> Path:
        """Returns where the checkpoint of `step` lies."""
        return self._directory / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Returns the steps with a finished checkpoint, ascending."""
        return sorted(self._metrics())

    def latest_step(self) -> int | None:
        """Returns the last step with a finished checkpoint, or None."""
        return max(self._metrics(), default=None)

    def best_step(self) -> int | None:
        """Returns the step with the highest metric, the first of equals, or None."""
        measured = {step: m for step, m in self._metrics().items() if m is not None}
        return max(measured, key=lambda step: (measured[step], -step), default=None)

    def metric(self, step: int) -> float | None:
        """Returns what `best` compares of the finished checkpoint of `step`, or None."""
        return self._metrics().get(step)

    def save(self, step: int, state: Any, meta: dict, metric: float | None = None) -> None:
        """Begins to write `state`, any pytree of arrays, and returns as soon as that may change.

        Several processes wait for the end, so that none goes on without the others.
        The arrays may be given away (donated) at once. The checkpoint counts when it is whole on
        disk, for which `wait` waits, as the next save does; both raise what went wrong. `metric`
        is what `best` compares, higher is better. Checkpoints that are neither among the last nor
        the best are deleted afterwards, and so is what a killed run left unfinished.
        """
        self.wait()
        if _first_process():
            self._remove_unfinished()
        record = {"step": int(step), "metric": _number(metric), "meta": meta}
        finish = _begin(self.folder(step), state, record, at_once=False)

        def end() -> None:
            finish()
            self._remove_old()

        self._under_way = self._thread.submit(end)
        if jax.process_count() > 1:  # What one of them cannot write ends all of them here.
            self.wait()

    def measure(self, step: int, metric: float) -> None:
        """Sets the metric of a checkpoint that was saved without one."""
        self.wait()
        if _first_process():
            folder = self.folder(step)
            with _refused(folder):
                text = _dump(_read_record(folder) | {"metric": _number(metric)})
                whole.text(folder / RECORD, text, durable=True)
            self._remove_old()
        _wait_for_all("measured")

    def check(self) -> None:
        """Raises what went wrong with the last save, if that is known by now."""
        if self._under_way is not None and self._under_way.done():
            error = self._under_way.exception()
            if error is not None:
                self._under_way = None
                raise error

    def wait(self) -> None:
        """Returns when the last save is whole on disk, or raises what went wrong with it."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
            _wait_for_all("written")

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Reads the state of `step` into the structure of `abstract_state`, equal bit for bit.

        Leaves of `abstract_state` are arrays or `jax.ShapeDtypeStruct`s; each array returns onto
        the sharding of its leaf (the first device where it has none), on any number of devices. A
        numpy leaf returns as numpy. Raises `JaxvidError` that lists leaves which differ.
        """
        self.wait()
        folder = self.folder(step)
        record = _read_record(folder)
        if record is None:
            raise JaxvidError(f"{folder} is no finished checkpoint: this run has {self.steps()}")
        names, leaves, structure = _flatten(abstract_state)
        like = dict(zip(names, map(_like, leaves), strict=True))
        _compare(folder, record["leaves"], like)
        restored = _read(folder, record, like)
        return jax.tree_util.tree_unflatten(structure, [restored[name] for name in names])

    def _metrics(self) -> dict[int, float | None]:
        metrics = {}
        for step, folder in self._folders():
            record = _read_record(folder)
            if record is not None:
                metrics[step] = record.get("metric")
        return metrics

    def _remove_old(self) -> None:
        if _first_process():
            kept = {*self.steps()[-self._keep :], self.best_step()}
            for old in set(self.steps()) - kept:
                _remove(self.folder(old))

    def _remove_unfinished(self) -> None:
        for _, folder in self._folders():
            if _read_record(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> Iterator[tuple[int, Path]]:
        entries = sorted(self._directory.iterdir()) if self._directory.is_dir() else []
        for entry in entries:
            match = _STEP.fullmatch(entry.name)
            if match and entry.is_dir():
                yield int(match[1]), entry


def _begin(folder: Path, tree: Any, record: dict, *, at_once: bool = True) -> Callable[[], None]:
    """Begins to write `tree` beside what `folder` holds.

    Returns what waits for the end and makes it the one that `folder` means; any thread may call
    that. Unless it is called `at_once`, numpy arrays are copied, as they may change meanwhile. So
    may JAX's, even by donation: it leaves memory alone that Orbax still reads.
    """
    names, leaves, _ = _flatten(tree)
    named = dict(zip(names, map(_array, leaves), strict=True))
    # Orbax refuses arrays without elements; their shape is all there is to them.
    full = {name: leaf for name, leaf in named.items() if leaf.size}
    old = _read_record(folder)
    arrays = f"arrays-{int(_ARRAYS.fullmatch(old['arrays'])[1]) + 1 if old else 0}"
    record = {"format": FORMAT, "arrays": arrays} | record
    record["leaves"] = {name: _describe(leaf) for name, leaf in named.items()}
    _dump(record)  # What JSON cannot hold is refused before anything is written.
    response = None
    with _refused(folder):
        if _first_process():
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder, keep=old["arrays"] if old else None)
        _wait_for_all("prepared")
        if full:
            ocp = _orbax()
            context = ocp.Context()
            # Weights hardly compress, and compressing holds all of them in memory once more.
            context.array.saving.use_compression = False
            context.memory.deepcopy_host_arrays = not at_once
            # Else a folder that cannot be made is waited for.
            context.asynchronous.create_directories_asynchronously = False
            with context, _quiet():
                response = ocp.save_async(folder / arrays, _nest(full))
        # While Orbax writes; later the arrays may be given away.
        record["sums"] = _sums(named, _first_process())

    def finish() -> None:
        with _refused(folder):
            if response is not None:
                with _quiet():
                    response.result()
            # Orbax has waited for all processes to write their parts.
            if _first_process():
                _flush(folder / arrays)
                whole.text(folder / RECORD, _dump(record), durable=True)
                _remove_leftovers(folder, keep=arrays)

    return finish


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Says in one sentence that the system lets nothing be written, and gives back the room."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = _system_reason(error)
        if reason is None:
            raise
        if _first_process():
            _undo(folder)
        raise JaxvidError(
            f"cannot write the checkpoint {folder} ({reason}): make room or choose another "
            "folder; what was saved before is untouched"
        ) from error


def _system_reason(error: BaseException) -> str | None:
    """Returns what the operating system refused, or None where it is another kind of error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Orbax writes through TensorStore, which tells of a full disk in a ValueError's text.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


def _undo(folder: Path) -> None:
    """Removes all but what the record in place names, to give back the room of a failed save."""
    with contextlib.suppress(OSError, JaxvidError):
        record = _read_record(folder)
        _remove_leftovers(folder, keep=record["arrays"] if record else None)
        if record is None:
            folder.rmdir()


def _read(folder: Path, record: dict, like: dict) -> dict:
    """Reads the leaves named in `like`, each as its value there says."""
    restored = {name: _empty(leaf) for name, leaf in like.items() if 0 in leaf.shape}
    full = {name: leaf for name, leaf in like.items() if name not in restored}
    if full:
        ocp = _orbax()
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context, _damage(folder), _quiet():
            names, leaves, _ = _flatten(ocp.load(folder / record["arrays"], _nest(full)))
            restored |= dict(zip(names, leaves, strict=True))
            if restored.keys() != like.keys():
                raise ValueError("arrays are missing")
    _check_sums(folder, record.get("sums", {}), restored)
    return restored


def _check_sums(folder: Path, expected: dict[str, str], arrays: dict[str, Any]) -> None:
    """Refuses arrays that are not what was written; of what older versions wrote nothing is known.

    Raises:
      JaxvidError: naming the first of them.
    """
    known = {name: array for name, array in arrays.items() if name in expected}
    wrong = [name for name, found in _sums(known).items() if found != expected[name]]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise JaxvidError(
            f"the array {wrong[0]}{more} of {folder} is damaged, as its checksum says: copy the "
            "folder again from where it is whole, or write it again"
        )


def _sums(arrays: dict[str, Any], needed: bool = True) -> dict[str, str]:
    """The checksum of each array; {} if not `needed` here, where only its parts are.

    All processes take part, as some arrays may have to be gathered.
    """

    def sum_of(leaf: Any) -> str | None:
        array = _gathered(leaf)
        return _checksum(array) if needed else None

    local = {name: leaf for name, leaf in arrays.items() if _is_here(leaf)}
    # What is gathered is gathered by all processes in the same order.
    sums = {name: sum_of(leaf) for name, leaf in arrays.items() if name not in local}
    if not needed:
        return {}
    with futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return sums | dict(zip(local, pool.map(sum_of, local.values()), strict=True))


_ROWS, _COLUMNS = 512, 256


def _checksum(array: np.ndarray) -> str:
    """Sixteen digits that change with any bit of an array, at the speed at which memory is read.

    The bytes, in the order of the array's elements, are laid out in blocks of 512 rows of 256 words
    of 8 bytes, the last one shorter. Of each block the rows are added up, modulo 2**64, and all
    these sums with what is left over at the end are hashed by BLAKE2b. A word that changes always
    changes its sum.
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    end = data.size - data.size % (_COLUMNS * 8)
    rows = data[:end].view("<u8").reshape(-1, _COLUMNS)
    whole_blocks = len(rows) - len(rows) % _ROWS
    blocks = rows[:whole_blocks].reshape(-1, _ROWS, _COLUMNS)
    digest = hashlib.blake2b(np.add.reduce(blocks, axis=1), digest_size=8)
    digest.update(np.add.reduce(rows[whole_blocks:], axis=0))
    digest.update(data[end:])
    return digest.hexdigest()


def _is_here(leaf: Any) -> bool:
    """Whether this process has all of an array."""
    return isinstance(leaf, np.ndarray) or leaf.is_fully_replicated or leaf.is_fully_addressable


def _gathered(leaf: Any) -> np.ndarray:
    """All of an array; what is on this machine's memory as numpy already is not copied.

    `np.asarray` of the array itself would be kept as long as the array is.
    """
    if isinstance(leaf, np.ndarray):
        return leaf
    if not _is_here(leaf):
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.sharding.PartitionSpec())
        leaf = jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    array = np.empty(leaf.shape, leaf.dtype)
    for shard in leaf.addressable_shards:
        array[shard.index] = np.asarray(shard.data)
    return array


def _compare(folder: Path, stored: dict[str, str], wanted: dict) -> None:
    problems = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    problems += [f"{name} is left over" for name in stored.keys() - wanted.keys()]
    for name in stored.keys() & wanted.keys():
        if stored[name] != _describe(wanted[name]):
            problems.append(f"{name} is {stored[name]}, not {_describe(wanted[name])}")
    if problems:
        raise JaxvidError(
            f"{folder} was written by a run with another state, resume with the config that "
            f"wrote it: {listed(sorted(problems))}"
        )


def _dump(record: dict) -> str:
    text = jsons.dump(record, indent=1, ensure_ascii=False)
    if len(text.encode()) > jsons.MAX_BYTES:
        raise JaxvidError(
            f"what {RECORD} would say takes over {jsons.MAX_BYTES >> 20} MiB, which is not read "
            "again: say less in `meta`"
        )
    return text


def _number(metric: float | None) -> float | None:
    return None if metric is None or math.isnan(metric) else float(metric)


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _like_described(described: str) -> np.ndarray:
    dtype, shape = described.removesuffix("]").split("[")
    shape = tuple(int(size) for size in shape.split(",") if size)
    return _like_numpy(shape, jax.numpy.dtype(dtype))


def _like_numpy(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array that asks Orbax for numpy and takes no memory itself."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _empty(like: Any) -> np.ndarray | jax.Array:
    """Returns an array that has no elements, as numpy or on the sharding of `like`."""
    zeros = np.zeros(like.shape, like.dtype)
    if isinstance(like, np.ndarray):
        return zeros
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: zeros[index])


def _like(leaf: Any) -> Any:
    """Returns what Orbax should make of a leaf: numpy, or an array on the leaf's sharding."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    array = _array(leaf)
    return _like_numpy(array.shape, array.dtype)


def _array(leaf: Any) -> jax.Array | np.ndarray:
    """Returns a leaf as the array that JAX would make of it, for a plain number too."""
    if isinstance(leaf, jax.Array):
        return leaf
    return np.asarray(leaf, None if hasattr(leaf, "dtype") else jax.numpy.result_type(leaf))


def _flatten(tree: Any) -> tuple[list[str], list, Any]:
    """Returns the names (`params/stem/kernel`), leaves and structure of a tree."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    return names, [leaf for _, leaf in paths], structure


def _nest(named: dict[str, Any]) -> dict:
    """Returns nested dicts; what is on disk is independent of the classes that held the state."""
    tree = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _read_record(folder: Path) -> dict | None:
    """Returns the checkpoint's record, or None where `folder` is no finished checkpoint."""
    try:
        record = jsons.read(folder / RECORD)
        if not _is_sound(record):
            raise ValueError("meta, arrays or leaves")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise JaxvidError(f"cannot read {folder / RECORD} ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JaxvidError(
            f"{folder / RECORD} is damaged: delete that folder, or copy or write it again"
        ) from error
    if record.get("format") != FORMAT:
        raise JaxvidError(
            f"{folder / RECORD} has format {str(record.get('format'))[:20]!r}, this program reads "
            f"{FORMAT}: update jaxvid"
        )
    return record


def _is_sound(record: Any) -> bool:
    """Says whether a record has the parts that all of them have, and such as can be read."""
    leaves, names = record["leaves"], set(record["leaves"])
    step, metric = record.get("step", 0), record.get("metric")
    return (
        isinstance(record["meta"], dict)
        and bool(_ARRAYS.fullmatch(record["arrays"]))
        and all(_LEAF.fullmatch(described) for described in leaves.values())
        and all(len(name) <= _MAX_NAME and name.count("/") < _MAX_DEPTH for name in names)
        # No array has another one inside.
        and not any(
            name[: end.start()] in names for name in names for end in re.finditer("/", name)
        )
        and record.get("sums", leaves).keys() == leaves.keys()
        and all(_SUM.fullmatch(digits) for digits in record.get("sums", {}).values())
        and type(step) is int
        and (metric is None or isinstance(metric, int | float))
    )


def _check_free(folder: Path, overwrite: bool) -> None:
    if not overwrite and _read_record(folder) is not None:
        raise JaxvidError(
            f"{folder} already holds a checkpoint: choose another folder or overwrite"
        )
    if folder.is_dir():
        with paths.writing(folder, "path"):
            _leftovers(folder)


def _leftovers(folder: Path) -> list[Path]:
    """Returns all of ours but the record; whatever else is in the folder is refused."""
    entries = [entry for entry in folder.iterdir() if entry.name not in (RECORD, locks.NAME)]
    for entry in entries:
        if not _OURS.fullmatch(entry.name):
            raise JaxvidError(
                f"{folder} holds other files ({entry.name}): choose an empty or new folder"
            )
    return entries


def _remove_leftovers(folder: Path, keep: str | None) -> None:
    for entry in _leftovers(folder):
        if entry.name != keep:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _remove(folder: Path) -> None:
    """Deletes a checkpoint; its record goes first, so that a kill leaves no half of it."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _flush(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            whole.flush(Path(parent, name))
        whole.flush(parent)


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Says in one sentence that a checkpoint cannot be read, whatever Orbax says of it."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        raise JaxvidError(
            f"the arrays of {folder} cannot be read ({reason}): copy or write them again"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging, once per thread, the error that it also raises."""

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    from absl import logging as absl_logging

    logger = absl_logging.get_absl_logger()
    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)


def _first_process() -> bool:
    return jax.process_index() == 0


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"jaxvid checkpoint {what}")


def _local(path: str | Path) -> Path:
    return paths.in_utf8(path, "path", "Orbax").absolute()


@functools.cache
def _orbax() -> "ocp":
    """Imports Orbax on first use: it costs more than the rest of the library together."""
    from orbax.checkpoint import v1 as ocp

    _hush()
    return ocp


def _hush() -> None:
    """Keeps what writes the arrays from printing, again and late, the errors that it also raises.

    Orbax logs them from its own threads. Of several files that TensorStore could not write it
    raises one: asyncio logs the others when it forgets them, TensorStore cannot tell of those that
    come after the end, as the loop that waited for them is closed, and Python warns of those that
    were not begun.
    """
    from absl import logging as absl_logging

    def not_of_orbax(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)

    def not_of_a_file(record: logging.LogRecord) -> bool:
        return not (record.exc_info and _system_reason(record.exc_info[1]))

    def not_late(lost: Any) -> None:
        if str(lost.exc_value) != "Event loop is closed":
            shown(lost)

    absl_logging.get_absl_logger().addFilter(not_of_orbax)
    logging.getLogger("asyncio").addFilter(not_of_a_file)
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize.* was never awaited")
    shown, sys.unraisablehook = sys.unraisablehook, not_late
