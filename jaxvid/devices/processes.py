"""The processes of one run: how they find each other, act together and end together."""

import contextlib
import os
import pathlib
import re
import secrets
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvid.base.errors import JaxvidError, Stopped
from jaxvid.base.text import say

_EXPLICIT = ("JAXVID_COORDINATOR", "JAXVID_PROCESSES", "JAXVID_PROCESS")


def join_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Connects this process with its peers, if its environment says that it has some.

    `JAXVID_COORDINATOR` (host:port of process 0), `JAXVID_PROCESSES` (how many) and
    `JAXVID_PROCESS` (which one, from 0) say it in full. Else JAX finds out by itself: among the
    tasks of Slurm's `srun`, on a TPU slice of Kubernetes, and wherever `JAXVID_DISTRIBUTED=on`,
    which `launch/tpu_pod.sh` sets; `off` keeps this process alone. To be called before JAX
    computes anything.

    Raises:
      JaxvidError: the variables contradict each other or there are no peers to be found.
    """
    wanted = environment.get("JAXVID_DISTRIBUTED", "")
    if wanted not in ("", "on", "off"):
        raise JaxvidError(f"JAXVID_DISTRIBUTED={wanted!r} is unknown: set it to on or off")
    explicit = _explicit_processes(environment)
    if wanted == "off" or not (explicit or wanted == "on" or _is_one_of_several(environment)):
        return
    # Its handler would swallow SIGTERM, by which launchers and schedulers end a process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**explicit)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise JaxvidError(
            f"this process cannot join the others ({reason}): start all of them at once and let "
            "them reach the first one's port, or set JAXVID_DISTRIBUTED=off to run alone"
        ) from error


@contextlib.contextmanager
def failing_at_once() -> Iterator[None]:
    """Ends a process that fails without waiting for its peers, which wait for it in turn.

    Whoever started them can then end the others. Nothing is changed without peers, or where all
    of them end together: at success and when they are `Stopped`.
    """
    try:
        yield
    except BaseException as error:
        together = isinstance(error, Stopped) or isinstance(error, SystemExit) and not error.code
        if together or not jax.distributed.is_initialized():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def in_first(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """Enters a context in process 0 alone; what it raises there at once ends all processes."""
    error = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(context)
            except Exception as refused:
                error = refused
        if jax.process_count() > 1:
            failed = multihost_utils.broadcast_one_to_all(np.array(error is not None))
            if failed and error is None:
                raise JaxvidError("process 0 was refused, and says why")
        if error is not None:
            raise error
        yield


def check_shared(folder: pathlib.Path) -> None:
    """Refuses a folder that is not one and the same for all processes.

    Raises:
      JaxvidError: in every process, naming those that do not see what process 0 writes.
    """
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    mark = folder / f".shared-{int(number):08x}"
    if jax.process_index() == 0:
        mark.touch()
    multihost_utils.sync_global_devices("jaxvid marked")
    seen = multihost_utils.process_allgather(np.array(mark.exists()))
    if jax.process_index() == 0:
        mark.unlink()
    if not seen.all():
        blind = ", ".join(map(str, np.flatnonzero(~seen)))
        raise JaxvidError(
            f"{folder} is another folder for process {blind} than for process 0: give --workdir a "
            "folder on a disk that all machines share, or in a bucket"
        )


def _explicit_processes(environment: Mapping[str, str]) -> dict[str, Any]:
    """What `JAXVID_*` say to `jax.distributed.initialize`; nothing if they are not set."""
    given = {name: environment[name] for name in _EXPLICIT if environment.get(name)}
    if not given:
        return {}
    if len(given) < len(_EXPLICIT):
        raise JaxvidError(f"set all of {', '.join(_EXPLICIT)}, or none: only {', '.join(given)} is")
    address, count, process = given.values()
    if not re.fullmatch(r"\S+:\d+", address):
        raise JaxvidError(f"JAXVID_COORDINATOR={address!r} must be host:port of process 0")
    if not (count.isdecimal() and process.isdecimal() and int(process) < int(count)):
        raise JaxvidError(
            f"JAXVID_PROCESS={process!r} of JAXVID_PROCESSES={count!r} must be one of 0, 1, ... "
            "below their number"
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(process),
    }


def _is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether Slurm or Kubernetes started several processes, of which this is one."""
    # A batch script has SLURM_NTASKS too, but only what srun started belongs to a step.
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return True
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def log(message: str) -> None:
    """Prints a line at once, from process 0 only."""
    if jax.process_index() == 0:
        say(message)
