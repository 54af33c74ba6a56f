"""Compiling in the least time, for tests whose numbers may be a little off and slow to come by.

And counting what is compiled.
"""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import jax
from jax._src import compiler

# The last makes one module of all kernels in place of one module each, in half the time.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


@functools.cache
def quick_options() -> dict[str, object]:
    """What makes XLA compile fast, of what this version of it knows."""
    known = {}
    nothing = jax.jit(lambda x: x).lower(0.0)
    for name, value in _QUICK.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            nothing.compile(compiler_options={name: value})
            known[name] = value
    return known


def quick_flags() -> str:
    """The same for a process of its own, as its `XLA_FLAGS`."""
    return " ".join(f"--{name}={value}".lower() for name, value in quick_options().items())


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Gives these options to all programs; JAX lets them be given to single ones only."""
    options = quick_options()
    original = compiler.get_compile_options

    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        given = {**options, **(env_options_overrides or {})}
        return original(*args, env_options_overrides=given, **kwargs)

    with mock.patch.object(compiler, "get_compile_options", get_compile_options):
        yield


@contextlib.contextmanager
def counting() -> Iterator[list[float]]:
    """A list that gets a number for each program that is compiled, or read from a cache."""
    seconds: list[float] = []

    def note(event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
