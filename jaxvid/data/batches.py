"""The machinery of batches: each process's part of them, the threads that make them, bad videos.

Examples are planned, read and decoded in threads, which let go of Python's lock for the latter two.
"""

import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.data.cores import usable_cores
from jaxvid.data.cpu_tf import tf
from jaxvid.data.examples import Examples

IN_FLIGHT = 32
"""Examples that are fetched at a time where a network is waited for."""


class Part:
    """This process's part of every global batch."""

    def __init__(self, batch: int, process: int | None, processes: int | None, what: str):
        self.process = jax.process_index() if process is None else process
        processes = jax.process_count() if processes is None else processes
        if batch < 1 or batch % processes:
            raise JaxvidError(
                f"config.{what}.batch_size is {batch}, which does not divide over {processes}"
                f" processes: take a multiple of {processes}"
            )
        self.batch = batch
        self.size = batch // processes

    def number(self, position: int) -> int:
        """The global example number of this process's `position`-th example."""
        step, place = divmod(int(position), self.size)
        return step * self.batch + self.process * self.size + place


class Batches:
    """Batches of examples that are planned in Python and made by TensorFlow.

    Examples keep the order of their positions. Which attempt at one succeeds follows from the
    position and the files alone, whatever was met before. `bad` holds, by video, why it could not
    be used.
    """

    def __init__(
        self,
        examples: Examples,
        positions: range,
        size: int,
        *,
        workers: int,
        ahead: int,
        max_bad: int,
    ):
        """Starts the threads.

        Args:
          examples: what they make.
          positions: which of them, in this order.
          size: how many are a batch.
          workers: threads that read and decode; 0 takes as many as there are cores.
          ahead: batches that are made before they are asked for.
          max_bad: how many videos may be bad; one more is an error.
        """
        self.bad: dict[int, str] = {}
        self._examples, self._positions, self._size = examples, positions, size
        self._workers, self._ahead, self._max_bad = workers or usable_cores(), ahead, max_bad
        self._attempts: dict[int, int] = {}
        self._running: list[Iterator[dict[str, np.ndarray]]] = []
        # Threads that call Python while it shuts down would hang the process: this also runs then.
        self._finalizer = weakref.finalize(self, _end, self._running)
        self._start()

    def _start(self) -> None:
        """Makes batches from the first of the positions on."""
        options = tf.data.Options()
        options.threading.private_threadpool_size = self._workers
        options.threading.max_intra_op_parallelism = 1
        made = tf.data.Dataset.range(self._positions.start, self._positions.stop)
        fetch, change = _maker(self._examples, self._attempts)
        if self._examples.source.remote:
            # Threads that wait for a network take no core from those that decode.
            options.threading.private_threadpool_size += IN_FLIGHT
            made = made.map(fetch, num_parallel_calls=IN_FLIGHT, deterministic=True)
            made = made.map(change, num_parallel_calls=self._workers, deterministic=True)
        else:
            made = made.map(
                tf.autograph.experimental.do_not_convert(lambda position: change(fetch(position))),
                num_parallel_calls=self._workers,
                deterministic=True,
            )
        made = made.batch(self._size).prefetch(self._ahead).with_options(options)
        self._running[:] = [made.as_numpy_iterator()]

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._running:
            raise StopIteration
        try:
            batch = next(self._running[0])
        except tf.errors.OpError as error:
            _let_go(error)
            # Where nothing is wrong now, a store was not to be reached for a while.
            if not self._replace_bad() and not self._examples.source.remote:
                raise
            self._start()
            batch = next(self._running[0])
        self._positions = self._positions[self._size :]
        return batch

    def close(self) -> None:
        """Ends the threads; there are no batches after this."""
        self._finalizer()

    def _replace_bad(self) -> bool:
        """Finds what failed in the next batch and what to take instead; says if there was any.

        Makes its examples again, one by one: TensorFlow does not say which it was.
        """
        self._attempts = {}
        for position in self._positions[: self._size]:
            attempt = 0
            while self._failure(position, self._examples.pick(position, attempt)):
                attempt += 1
                self._attempts[position] = attempt
        return bool(self._attempts)

    def _failure(self, position: int, video: int) -> str:
        """Says why the example cannot be made of this video, and counts it; or nothing."""
        try:
            loaded = self._examples.load(position, video)
            self._examples.change({name: tf.constant(array) for name, array in loaded.items()})
            return ""
        except stores.Unreachable:
            raise
        except JaxvidError as error:
            reason = str(error)
        except tf.errors.OpError as error:
            line = error.message.splitlines()[0]
            name = self._examples.source.name(video)
            reason = f"{name} cannot be decoded ({line}): leave it out"
        if video not in self.bad:
            self._count(video, reason)
        return reason

    def _count(self, video: int, reason: str) -> None:
        """Counts a bad video and says so; too many are an error."""
        self.bad[video] = reason
        count, limit = len(self.bad), self._max_bad
        if count > limit or count == len(self._examples.source):
            counted = f" ({count} bad videos; config.data.max_bad_records is {limit})"
            raise JaxvidError(reason + counted if limit else reason)
        say(
            f"warning: {reason}; another video takes its place (bad video {count} of at most"
            f" {limit})",
            error=True,
        )


def _let_go(error: BaseException) -> None:
    """Takes from the frames of an error what they hold, such as the iterator that it ended.

    TensorFlow's errors lie in circles, which the garbage collector finds at any time and in any
    thread. An iterator that it ends waits for its threads, and those for the one thread that asks a
    store: if that is where the collector runs, for ever.
    """
    held: BaseException | None = error
    while held is not None:
        traceback.clear_frames(held.__traceback__)
        held = held.__context__


def _end(running: list[Iterator[dict[str, np.ndarray]]]) -> None:
    """Ends iterators, in another thread where the one that asks stores would wait for itself."""
    ended = running[:]
    running.clear()
    if threading.current_thread().name == "fsspecIO":
        threading.Thread(target=ended.clear, daemon=True).start()
    else:
        ended.clear()


def _maker(examples: Examples, attempts: dict[int, int]) -> tuple[Any, Any]:
    """The functions of TensorFlow from a position to what is loaded, and from that to its example.

    Threads hold them, so they must not hold the `Batches`: they end when nobody else holds these.
    """
    specs = dict(examples.specs)

    def plan(position: int) -> list[Any]:
        try:
            at = int(position)
            loaded = examples.load(at, examples.pick(at, attempts.get(at, 0)))
            return [loaded[name] for name in specs]
        except JaxvidError:
            # TensorFlow would print a traceback. No frames fail too, and are explained.
            return [_nothing(spec) for spec in specs.values()]

    @tf.autograph.experimental.do_not_convert
    def fetch(position: Any) -> dict[str, Any]:
        arrays = tf.numpy_function(plan, [position], [spec.dtype for spec in specs.values()])
        loaded = dict(zip(specs, arrays, strict=True))
        for name, spec in specs.items():
            loaded[name].set_shape(spec.shape)
        return loaded

    @tf.autograph.experimental.do_not_convert
    def change(loaded: dict[str, Any]) -> dict[str, Any]:
        tf.debugging.assert_positive(tf.size(loaded["images"]))
        return examples.change(loaded)

    return fetch, change


def _nothing(spec: Any) -> np.ndarray:
    """An array that fits the description, without elements where their number is free."""
    shape = [size or 0 for size in spec.shape]
    return np.zeros(shape, object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)


def filled(
    batches: Iterator[dict[str, np.ndarray]], steps: int, size: int, nothing: dict[str, np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Fills the last of `steps` batches up to `size` examples: zeros, with an `index` of -1.

    `nothing` is a batch of no examples, for processes that have none.
    """
    for _ in range(steps):
        batch = next(batches, nothing)
        missing = size - len(batch["index"])
        if missing:
            batch = {
                name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
                for name, array in batch.items()
            }
            batch["index"][-missing:] = -1
        yield batch
