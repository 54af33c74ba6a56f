"""Gradients of kernels in float32, also of networks that compute in less.

Devices add gradients up in the dtype in which each of them made its share. Where that is bfloat16,
what a device adds is rounded to 8 bits first, and so is every sum on the way.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers.blocks import Run, with_arrays


@contextlib.contextmanager
def wide_gradients(asked: bool = True) -> Iterator[None]:
    """Lets layers inside give the gradients of their own parameters in float32, where `asked`.

    These are the layers that have a `kernel`. What they answer, and the gradients of what they are
    given, stay what they are; as products of numbers that are narrow already, those of parameters
    need no more than a wider result.
    """
    if not asked:
        yield
        return
    inside: list[nn.Module] = []

    def wrap(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if inside or context.method_name != "__call__" or not _is_narrow(module):
            return call(*args, **kwargs)
        run, arrays = with_arrays(args, kwargs)
        inside.append(module)
        try:
            return _widened(module.clone(parent=None), run)(module.variables["params"], arrays)
        finally:
            inside.pop()

    with nn.intercept_methods(wrap):
        yield


def _is_narrow(module: nn.Module) -> bool:
    """Whether a layer computes in a dtype of its own, and has a kernel; not while it is made."""
    dtype = getattr(module, "dtype", None)
    if dtype is None or jnp.finfo(dtype).bits >= 32 or module.is_initializing():
        return False
    return "kernel" in module.variables.get("params", ())


def _widened(layer: nn.Module, run: Run) -> Callable[[Any, dict[int, jax.Array]], Any]:
    """What a layer makes of its parameters and arrays, with the gradient described above."""
    wide = layer.clone(dtype=jnp.float32)

    def computed(layer: nn.Module, params: Any, arrays: dict[int, jax.Array]) -> Any:
        return nn.apply(run, layer)({"params": params}, arrays)

    @jax.custom_vjp
    def call(params: Any, arrays: dict[int, jax.Array]) -> Any:
        return computed(layer, params, arrays)

    def forward(params: Any, arrays: dict[int, jax.Array]) -> tuple[Any, Any]:
        return call(params, arrays), (params, arrays)

    def backward(saved: Any, gradient: Any) -> tuple[Any, Any]:
        params, arrays = saved
        _, to_arrays = jax.vjp(lambda arrays: computed(layer, params, arrays), arrays)
        as_wide = jax.tree.map(_as_wide, arrays)
        _, to_params = jax.vjp(lambda params: computed(wide, params, as_wide), params)
        return *to_params(jax.tree.map(_as_wide, gradient)), *to_arrays(gradient)

    call.defvjp(forward, backward)
    return call


def _as_wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
