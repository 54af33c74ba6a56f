"""What a program is traced for: the platform, and the mesh that it is spread over.

What picks among ways to compute asks here, never the machine that it happens to run on: a program
may be compiled for chips that are elsewhere.
"""

import contextlib
import contextvars
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax


class Target(NamedTuple):
    """A platform by name, or the one that JAX runs on; and a mesh, or whatever the caller has."""

    platform: str | None = None
    mesh: jax.sharding.Mesh | None = None


PLAIN = "plain"
"""A platform without kernels, and without a mesh, for whoever counts operations; see `for_mesh`."""
_HERE = Target()
_target: contextvars.ContextVar[Target] = contextvars.ContextVar("target", default=_HERE)


def platform() -> str:
    """`cpu`, `tpu`, `cuda` or `rocm`; of another name nothing may be taken for granted.

    `gpu` is one of NVIDIA's unless JAX runs on one of AMD's here.
    """
    name = _target.get().platform or jax.default_backend()
    if name != "gpu":
        return name
    here = jax.default_backend() == "gpu"
    return "rocm" if here and "rocm" in jax.devices()[0].client.platform_version else "cuda"


def backend() -> str:
    """The platform, with all makers of GPUs as `gpu`."""
    name = platform()
    return "gpu" if name in ("cuda", "rocm") else name


def target_mesh() -> jax.sharding.Mesh | None:
    """The mesh that the program is spread over; None if nobody said, which may be any."""
    return _target.get().mesh


def devices() -> int:
    """How many devices the program spans: where nobody said, it may be all there are."""
    mesh = target_mesh()
    return jax.device_count() if mesh is None else mesh.size


_notes: contextvars.ContextVar[Counter[tuple[str, str]] | None] = contextvars.ContextVar(
    "notes", default=None
)


@contextlib.contextmanager
def noting() -> Iterator[Counter[tuple[str, str]]]:
    """Counts what is picked while programs are traced inside: (of what, which way)."""
    notes: Counter[tuple[str, str]] = Counter()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(what: str, way: str) -> None:
    """Notes a way that was picked to compute something, where somebody counts."""
    notes = _notes.get()
    if notes is not None:
        notes[what, way] += 1


@contextlib.contextmanager
def tracing_for(name: str | None = None, mesh: jax.sharding.Mesh | None = None) -> Iterator[None]:
    """Lets what is traced inside be meant for a platform, or for the devices of a mesh."""
    if mesh is not None and name is None:
        name = mesh.devices.flat[0].platform
    token = _target.set(Target(name, mesh))
    try:
        yield
    finally:
        _target.reset(token)


def for_mesh(
    function: Callable[..., Any], mesh: jax.sharding.Mesh | None, precision: str = ""
) -> Callable[..., Any]:
    """The function, which is meant for the devices of a mesh, if one is said, when it is traced.

    `precision` is what float32 is multiplied in, where it is said (`jax.default_matmul_precision`).
    """
    if mesh is None:
        return function

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        plain = _target.get().platform == PLAIN
        with (
            tracing_for(PLAIN) if plain else tracing_for(mesh=mesh),
            jax.default_matmul_precision(precision) if precision else contextlib.nullcontext(),
        ):
            return function(*args)

    return traced
