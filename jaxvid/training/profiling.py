"""A profile of some steps of a run, by JAX's own profiler."""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.devices.processes import log

MOST = 100
"""Steps of a profile: each adds megabytes, and one is like the next."""


class Steps(NamedTuple):
    """The first and the last step of a profile, as the log numbers them."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


def steps(given: str) -> Steps:
    """The steps that `--profile=START:STOP` names, both of them included.

    Raises:
      JaxvidError: they are no such range, or too many.
    """
    match = re.fullmatch(r"(\d{1,15}):(\d{1,15})", given, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise JaxvidError(
            f"--profile={given} must be START:STOP, the first and the last step to look at as the "
            "log numbers them, such as 20:22"
        )
    found = Steps(int(match[1]), int(match[2]))
    if found.last - found.first >= MOST:
        raise JaxvidError(
            f"--profile={given} is {found.last - found.first + 1} steps: take at most {MOST}, as a "
            "few show what all do"
        )
    return found


def check(wanted: Steps | None, step: int, end: int) -> None:
    """Refuses steps that a run from after `step` to `end` does not make."""
    if wanted and not step < wanted.first <= wanted.last <= end:
        left = f"steps {step + 1} to {end}" if step < end else "no more steps"
        raise JaxvidError(f"--profile={wanted}: this run makes {left}: choose among these")


class Profile:
    """Writes a profile of the `wanted` steps, if there are any, into `profile` of a workdir.

    `wait` waits until the devices have nothing to do.
    """

    def __init__(self, wanted: Steps | None, workdir: pathlib.Path, wait: Callable[[], None]):
        self._wanted, self._wait, self._open = wanted, wait, False
        self._folder = workdir / "profile"
        self._copy = contextlib.ExitStack()
        if jax.process_count() > 1:
            # The profiler names files by the machine, which processes may share.
            self._folder /= f"process-{jax.process_index()}"

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            jax.profiler.stop_trace()
        self._copy.close()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Handing the step of this number to the devices."""
        if self._wanted and number == self._wanted.first:
            self._wait()
            folder = self._folder
            if isinstance(folder, stores.StorePath):
                folder = self._copy.enter_context(stores.unfinished_folder(folder))
            jax.profiler.start_trace(folder)
            self._open = True
        if not self._open:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def handed(self, number: int) -> None:
        """Ends the profile where the step that was handed over is its last."""
        if self._open and self._wanted and number == self._wanted.last:
            self._wait()
            self._open = False
            jax.profiler.stop_trace()
            self._copy.close()
            log(
                f"a profile of steps {self._wanted} is in {self._folder}: open its file "
                "*.trace.json.gz at https://ui.perfetto.dev, or give the folder to xprof"
            )
