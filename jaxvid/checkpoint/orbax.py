"""The only module that knows Orbax, which writes and reads the arrays."""

import contextlib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxvid.checkpoint import leaves

if TYPE_CHECKING:
    from orbax.checkpoint import v1 as ocp


def begin(path: Path, named: dict[str, Any], *, at_once: bool) -> Callable[[], None]:
    """Begins to write arrays by name to the new folder `path`; returns what waits for the end.

    Any thread may call that. Unless it is called `at_once`, numpy arrays are copied, as they may
    change meanwhile. So may JAX's, even by donation: it leaves memory alone that Orbax still reads.
    """
    ocp = _orbax()
    context = ocp.Context()
    # Weights hardly compress, and compressing holds all of them in memory once more.
    context.array.saving.use_compression = False
    context.memory.deepcopy_host_arrays = not at_once
    # Else a folder that cannot be made is waited for.
    context.asynchronous.create_directories_asynchronously = False
    with context, _quiet():
        response = ocp.save_async(path, leaves.nest(named))

    def finish() -> None:
        with _quiet():
            response.result()

    return finish


def read(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Reads the arrays named in `like` from the folder `path`, each as its value there says.

    Raises whatever Orbax does where they are damaged.
    """
    ocp = _orbax()
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context, _quiet():
        names, arrays, _ = leaves.flatten(ocp.load(path, leaves.nest(like)))
    return dict(zip(names, arrays, strict=True))


def system_reason(error: BaseException) -> str | None:
    """Returns what the operating system refused, or None where it is another kind of error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Orbax writes through TensorStore, which tells of a full disk in a ValueError's text.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else None


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
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not system_reason(error)

    def not_late(lost: Any) -> None:
        if str(lost.exc_value) != "Event loop is closed":
            shown(lost)

    absl_logging.get_absl_logger().addFilter(not_of_orbax)
    logging.getLogger("asyncio").addFilter(not_of_a_file)
    warnings.filterwarnings("ignore", r"coroutine 'async_serialize.* was never awaited")
    shown, sys.unraisablehook = sys.unraisablehook, not_late


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
