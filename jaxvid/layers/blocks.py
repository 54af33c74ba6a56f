"""What is done to whole blocks of a network, by their paths and whatever their family."""

import contextlib
from collections.abc import Callable, Iterator, Set
from typing import Any

import flax.linen as nn
import jax

Run = Callable[[nn.Module, dict[int, jax.Array]], Any]
"""A block's call, of the module and the arrays among its arguments by their places."""


@contextlib.contextmanager
def changing(paths: Set[str], change: Callable[[str, Run], Run]) -> Iterator[None]:
    """Lets every module at `paths` be called as `change` makes of its path and its call.

    Only arrays are arguments of the call, which flax's transformations may then be applied to.
    """
    inside: list[str] = []

    def wrap(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if path not in paths or context.method_name != "__call__" or path in inside:
            return call(*args, **kwargs)
        run, arrays = with_arrays(args, kwargs)
        inside.append(path)
        try:
            return change(path, run)(context.module, arrays)
        finally:
            inside.pop()

    with nn.intercept_methods(wrap):
        yield


def with_arrays(args: Any, kwargs: Any) -> tuple[Run, dict[int, jax.Array]]:
    """A module's call with the arrays among its arguments, and these; sizes and flags stay."""
    leaves, structure = jax.tree.flatten((args, kwargs))

    def run(module: nn.Module, arrays: dict[int, jax.Array]) -> Any:
        given = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, given)
        return module(*args, **kwargs)

    return run, {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
