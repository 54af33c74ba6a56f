"""Gives memory back while the tests run: programs that are compiled stay as long as JAX runs.

They are forgotten after each module, and within one whenever `ROOM` more is in use than after the
last time; a test that needs one again finds it in the cache on disk, or compiles it.
"""

import contextlib
import ctypes
import gc
import sys
import types

import pytest

from tests.costs import resident

ROOM = 128  # MiB


class Forgetting:
    """The plugin."""

    def __init__(self):
        self.least = None

    def pytest_collection_finish(self):
        # What is there now stays: the collector need not look through it each time.
        gc.collect()
        gc.freeze()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item, nextitem):
        result = yield
        if self.least is None:
            self.least = resident()
        module = getattr(item, "module", None)
        if nextitem is None or getattr(nextitem, "module", None) is not module:
            forget_results(module)
            self.forget()
        elif resident() > self.least + ROOM:
            self.forget()
        return result

    def forget(self):
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # It is glibc's.
            ctypes.CDLL(None).malloc_trim(0)
        self.least = resident()


def forget_results(module: types.ModuleType | None) -> None:
    """Empties the caches of a module's own functions."""
    for value in list(vars(module).values()) if module else ():
        if hasattr(value, "cache_clear") and value.__module__ == module.__name__:
            value.cache_clear()
