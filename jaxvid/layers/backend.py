"""The backend that a program is traced for: what picks among ways to compute asks here."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_asked: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


def backend() -> str:
    """The one that `tracing_for` names, else the one that JAX runs on: `cpu`, `gpu`, `tpu`.

    Another name stands for a backend of which nothing may be taken for granted.
    """
    return _asked.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Lets what is traced inside be meant for another backend than JAX runs on."""
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)
