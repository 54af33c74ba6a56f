"""The leaves of a tree by name, what each is in words, and what to read in its place.

A name is the way to a leaf, as `params/stem/kernel`, whatever classes held it; in words a leaf is
its type and shape, as `float32[3,4]`.
"""

from typing import Any

import jax
import numpy as np


def flatten(tree: Any) -> tuple[list[str], list, Any]:
    """Returns the names (`params/stem/kernel`), leaves and structure of a tree."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    return names, [leaf for _, leaf in paths], structure


def nest(named: dict[str, Any]) -> dict:
    """Returns nested dicts; what is on disk is independent of the classes that held the state."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def array_of(leaf: Any) -> jax.Array | np.ndarray:
    """Returns a leaf as the array that JAX would make of it, for a plain number too."""
    if isinstance(leaf, jax.Array):
        return leaf
    return np.asarray(leaf, None if hasattr(leaf, "dtype") else jax.numpy.result_type(leaf))


def describe(leaf: Any) -> str:
    """Returns type and shape of a leaf in words."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def like(leaf: Any) -> Any:
    """Returns what Orbax should make of a leaf: numpy, or an array on the leaf's sharding."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    array = array_of(leaf)
    return _like_numpy(array.shape, array.dtype)


def like_described(described: str) -> np.ndarray:
    """Returns what asks Orbax for a leaf, given in the words of `describe`, as numpy."""
    dtype, sizes = described.removesuffix("]").split("[")
    shape = tuple(int(size) for size in sizes.split(",") if size)
    return _like_numpy(shape, jax.numpy.dtype(dtype))


def _like_numpy(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array that asks Orbax for numpy and takes no memory itself."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def empty(like: Any) -> np.ndarray | jax.Array:
    """Returns an array that has no elements, as numpy or on the sharding of `like`."""
    zeros = np.zeros(like.shape, like.dtype)
    if isinstance(like, np.ndarray):
        return zeros
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: zeros[index])
