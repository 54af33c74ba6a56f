"""The checkpoints of a training run, side by side as `step_<number>`, written while it goes on."""

import math
import re
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import jax

from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.checkpoint import folders, leaves, peers, trees
from jaxvid.checkpoint.record import RECORD, dump, read_record, record_of

_STEP = re.compile(r"step_(\d+)")


class Checkpoints:
    """The checkpoints of one training run: the last `keep` and the one with the highest metric.

    One run writes to `directory` at a time; any number may read. With several processes all of
    them call `save`, `measure`, `wait` and `restore`, and `directory` is shared between them. As a
    context it waits, when left, for the save under way.
    """

    def __init__(self, directory: str | Path, keep: int = 1):
        if keep < 1:
            raise JaxvidError(f"keep = {keep} would delete every checkpoint: use 1 or more")
        self._directory = folders.local(directory)
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
        if peers.is_first():
            self._remove_unfinished()
        record = {"step": int(step), "metric": _number(metric), "meta": meta}
        finish = trees.begin(self.folder(step), state, record, at_once=False)

        def end() -> None:
            finish()
            self._remove_old()

        self._under_way = self._thread.submit(end)
        if peers.count() > 1:  # What one of them cannot write ends all of them here.
            self.wait()

    def measure(self, step: int, metric: float) -> None:
        """Sets the metric of a checkpoint that was saved without one."""
        self.wait()
        if peers.is_first():
            folder = self.folder(step)
            with folders.refused(folder):
                text = dump(record_of(folder) | {"metric": _number(metric)})
                whole.text(folder / RECORD, text, durable=True)
            self._remove_old()
        peers.wait_for_all("measured")

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
            peers.wait_for_all("written")

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Reads the state of `step` into the structure of `abstract_state`, equal bit for bit.

        Leaves of `abstract_state` are arrays or `jax.ShapeDtypeStruct`s; each array returns onto
        the sharding of its leaf (the first device where it has none), on any number of devices. A
        numpy leaf returns as numpy. Raises `JaxvidError` that lists leaves which differ.
        """
        self.wait()
        folder = self.folder(step)
        record = read_record(folder)
        if record is None:
            raise JaxvidError(f"{folder} is no finished checkpoint: this run has {self.steps()}")
        names, wanted, structure = leaves.flatten(abstract_state)
        like = dict(zip(names, map(leaves.like, wanted), strict=True))
        trees.compare(folder, record["leaves"], like)
        restored = trees.read(folder, record, like)
        return jax.tree_util.tree_unflatten(structure, [restored[name] for name in names])

    def _metrics(self) -> dict[int, float | None]:
        metrics = {}
        for step, folder in self._folders():
            record = read_record(folder)
            if record is not None:
                metrics[step] = record.get("metric")
        return metrics

    def _remove_old(self) -> None:
        if peers.is_first():
            kept = {*self.steps()[-self._keep :], self.best_step()}
            for old in set(self.steps()) - kept:
                folders.remove(self.folder(old))

    def _remove_unfinished(self) -> None:
        for _, folder in self._folders():
            if read_record(folder) is None:
                whole.remove_folder(folder)

    def _folders(self) -> Iterator[tuple[int, Path]]:
        entries = sorted(self._directory.iterdir()) if self._directory.is_dir() else []
        for entry in entries:
            match = _STEP.fullmatch(entry.name)
            if match and entry.is_dir():
                yield int(match[1]), entry


def _number(metric: float | None) -> float | None:
    return None if metric is None or math.isnan(metric) else float(metric)
