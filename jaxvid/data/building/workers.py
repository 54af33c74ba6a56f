"""Processes that write shards side by side; a video that kills one is left out and named."""

import collections
import contextlib
import dataclasses
import multiprocessing
import pathlib
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import cast

from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data.building.tasks import Result, Task, write_shard


def in_processes(
    tasks: Sequence[Task], workplace: pathlib.Path, workers: int, progress: Progress
) -> Iterator[Result]:
    """Yields results as worker processes finish them.

    A video that kills its worker is left out, named, and its shard begun again without it.
    """
    waiting = collections.deque(tasks)
    finished: set[int] = set()
    busy: dict[Connection, _Worker] = {}

    def begin(worker: _Worker, task: Task) -> None:
        worker.begin(task)
        busy[worker.pipe] = worker

    try:
        while waiting and len(busy) < workers:
            begin(_Worker(workplace), waiting.popleft())
        while busy:
            for pipe in cast(list[Connection], wait(list(busy))):
                worker = busy.pop(pipe)
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionError):
                    begin(_Worker(workplace), worker.task_without_killer())
                    continue
                if isinstance(message, Result):
                    yield message
                    if waiting:
                        begin(worker, waiting.popleft())
                    else:
                        worker.stop()
                elif isinstance(message, int | None):
                    busy[pipe] = worker
                    worker.ready = True
                    if message is not None:
                        worker.finished.add(message)
                        progress.update(message not in finished)
                        finished.add(message)
                else:
                    worker.stop()
                    raise message if isinstance(message, OSError) else RuntimeError(message)
    finally:
        for worker in busy.values():
            worker.stop()


class _Worker:
    """A process that writes shards. Its pipe is its own: a shared lock could die with a worker."""

    def __init__(self, workplace: pathlib.Path):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, workplace), daemon=True)
        self._process.start()
        self.ready = False
        theirs.close()

    def begin(self, task: Task) -> None:
        self.task, self.finished = task, set(task.skip)
        with contextlib.suppress(ConnectionError):  # a dead one is noticed when it is read from
            self.pipe.send(task)

    def task_without_killer(self) -> Task:
        """The task of a worker that died, without the video that it died of."""
        self._process.join()
        code = self._process.exitcode
        killer = next((j.number for j in self.task.jobs if j.number not in self.finished), None)
        if not self.ready or killer is None:
            raise JaxvidError(
                f"a worker process ended with exit code {code} outside of any video; call build "
                "below `if __name__ == '__main__':`, or use --workers=1"
            )
        reason = f"the process that decoded it died with exit code {code}"
        return dataclasses.replace(self.task, skip={**self.task.skip, killer: reason})

    def stop(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _work(pipe: Connection, workplace: pathlib.Path) -> None:
    """What a worker process does: one task after the other until its pipe closes."""
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        pipe.send(None)  # it has started: from now on, what ends it is a video
        while True:
            task = pipe.recv()
            answer: Result | OSError | str
            try:
                answer = write_shard(task, workplace, pipe.send)
            except ConnectionError:
                raise
            except OSError as error:
                answer = OSError(error.errno, error.strerror)
            except Exception:
                answer = traceback.format_exc()
            pipe.send(answer)
