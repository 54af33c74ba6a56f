"""How arrays lie over a mesh of the axes `data`, `fsdp` and `model`.

The batch is split over `data` and `fsdp`, so activations are too. Parameters are split over `fsdp`
and `model` where they are kept, and come together where they are used; `model` splits the heads
and the hidden channels that they make. Nothing here does anything on one device, or where nobody
said which mesh a program is for (see `backend.tracing_for`).
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvid.layers import lanes
from jaxvid.layers.backend import target_mesh
from jaxvid.layers.blocks import Run, changing

DATA, FSDP, MODEL = "data", "fsdp", "model"
AXES = (DATA, FSDP, MODEL)
BATCH = (DATA, FSDP)
"""The axes that the batch is split over."""
KEPT = (FSDP, MODEL)
"""The axes that parameters are split over where they are kept."""
Axes = tuple[str | None, ...]
"""What each axis of an array is, as `lie` takes it."""
SMALL = 1024
"""Arrays of fewer elements are not worth splitting: sending the parts takes longer than they do."""
_FREE = PartitionSpec.UNCONSTRAINED


def size_of(mesh: Mesh | None, axes: str | tuple[str, ...]) -> int:
    """How many devices stand along axes of a mesh together."""
    axes = (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape.get(axis, 1) for axis in axes) if mesh is not None else 1


def kept_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How an array of the state of such a shape is split where it is kept.

    Along its largest dimension that divides over the devices of `fsdp` and `model`; only small
    arrays, and those of which no dimension divides, are whole on every device (ZeRO: Rajbhandari et
    al., 2020).
    """
    count = size_of(mesh, KEPT)
    axes = [axis for axis, size in enumerate(shape) if size and size % count == 0]
    if count == 1 or math.prod(shape) < SMALL or not axes:
        return PartitionSpec()
    # Of equals the last: in a kernel those are its channels.
    split = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*[None] * split, tuple(a for a in KEPT if mesh.shape[a] > 1))


def lie(x: jax.Array, *axes: str | None) -> jax.Array:
    """Says how x lies over the mesh, axis by axis: `batch`, `model`, None for whole, or `any`.

    What is said of an axis that does not divide is left open, and so are the axes that are not
    named.
    """
    mesh = target_mesh()
    if mesh is None or mesh.size == 1:
        return x
    named: dict[str | None, Any] = {"batch": BATCH, "model": MODEL, None: None, "any": _FREE}
    spec = [named[axis] for axis in axes] + [_FREE] * (x.ndim - len(axes))
    for i, axis in enumerate(spec):
        if isinstance(axis, (str, tuple)) and x.shape[i] % size_of(mesh, axis):
            spec[i] = _FREE
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def lie_hidden(x: jax.Array) -> jax.Array:
    """x [B, ..., C], whose channels are split over `model`: those between two linear layers."""
    return lie(x, "batch", *["any"] * (x.ndim - 2), "model") if splits_heads() else x


@jax.custom_vjp
def used_by_heads(parameter: jax.Array) -> jax.Array:
    """A parameter [..., C] whose answers `lie_hidden`: whole itself, its gradient made in parts.

    Left alone, it would be split as they are, and sent around.
    """
    return lie(parameter, *[None] * parameter.ndim)


def _from_heads(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    *rest, _ = whole = [None] * gradient.ndim
    return (lie(lie(gradient, *rest, "model"), *whole),)


used_by_heads.defvjp(lambda parameter: (used_by_heads(parameter), None), _from_heads)


def splits_heads(heads: int = 0) -> bool:
    """Whether so many heads, or any number of hidden channels, are split over the mesh."""
    shards = size_of(target_mesh(), MODEL)
    return shards > 1 and heads % shards == 0


def apart(function: Callable[..., jax.Array], *arrays: tuple[jax.Array, Axes]) -> jax.Array:
    """Calls a function of arrays on each device's own part, without a word to the others.

    Each array comes with what its axes are, as for `lie`; an axis of one element is whole
    everywhere. The first says it of the result.
    """
    mesh = target_mesh()
    if mesh is None or mesh.size == 1 or not divides(len(arrays[0][0])):
        return function(*(array for array, _ in arrays))

    def spec(x: jax.Array, axes: Axes) -> PartitionSpec:
        named = {"batch": BATCH, "model": MODEL, None: None}
        # An axis that the mesh does not split is named too: a gradient would be added up over it.
        unsplit = {"model"} if size_of(mesh, MODEL) == 1 else set()
        found = [
            named[axis] if size > 1 or axis in unsplit else None
            for axis, size in zip(axes, x.shape, strict=True)
        ]
        heads = [size for axis, size in zip(axes, x.shape, strict=True) if axis == "model"]
        if any(size % size_of(mesh, MODEL) for size in heads):
            found = [axis if axis != MODEL else None for axis in found]
        return PartitionSpec(*found)

    specs = tuple(spec(array, axes) for array, axes in arrays)
    spread = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return spread(*(array for array, _ in arrays))


def has_whole_groups(groups: int) -> bool:
    """Whether each of so many groups of a batch lies on devices of its own, or several on each."""
    shards = size_of(target_mesh(), BATCH)
    return groups % shards == 0 or shards % groups == 0


def total(function: Callable[..., jax.Array], groups: int, *arrays: jax.Array) -> jax.Array:
    """What a function makes of the groups of arrays [B, ...], added up over the devices of each.

    Args:
      function: maps arrays [g, B / groups, ...], for any number g of groups or parts of groups, to
        sums [g, ...] over the batch.
      groups: how many there are, of clips that follow one another; see `has_whole_groups`.

    Returns:
      [groups, ...].
    """
    mesh = target_mesh()
    shards = size_of(mesh, BATCH)
    whole = shards == 1 or groups % shards == 0

    def part(*parts: jax.Array) -> jax.Array:
        here = groups // shards if whole else 1
        sums = function(*(each.reshape(here, -1, *each.shape[1:]) for each in parts))
        if whole:
            return sums
        own = jnp.arange(groups) == jax.lax.axis_index(BATCH) // (shards // groups)
        own = own.reshape(-1, *[1] * (sums.ndim - 1))
        return jax.lax.psum(jnp.where(own, sums, 0), BATCH)

    if mesh is None or mesh.size == 1:
        return part(*arrays)
    batch = PartitionSpec(BATCH)
    sums = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(batch,) * len(arrays),
        out_specs=batch if whole else PartitionSpec(),
        check_vma=False,
    )(*arrays)
    return sums if whole else lie(sums, *[None] * sums.ndim)


def divides(batch: int) -> bool:
    """Whether a batch of so many can be split over the mesh."""
    return batch % size_of(target_mesh(), BATCH) == 0


def whole(
    params: Any, dtype: Any = None, but: Set[str] = frozenset(), reduced_in: Any = None
) -> Any:
    """A tree of parameters, of which each comes together on every device; see `gathering`.

    Those of the blocks `but` stay as they are.
    """
    mesh = target_mesh()
    if mesh is None or size_of(mesh, KEPT) == 1:
        return params

    def gather(path: Any, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if any("/".join(names[:depth]) in but for depth in range(1, len(names))):
            return leaf
        # Kernels in the dtype in which they are multiplied.
        travels = dtype if dtype and names[-1] == "kernel" else leaf.dtype
        return _whole(leaf, mesh, travels, reduced_in or travels)

    return jax.tree_util.tree_map_with_path(gather, params)


def whole_variables(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a network, with all of its parameters together on every device."""
    dtype = getattr(model, "dtype", None)
    return {k: whole(v, dtype) if k == "params" else v for k, v in variables.items()}


def _whole(leaf: jax.Array, mesh: Mesh, dtype: Any, reduced_in: Any) -> jax.Array:
    spec = kept_spec(leaf.shape, mesh)
    if spec == PartitionSpec():
        return leaf
    kept, everywhere = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())

    # Its gradient is added up and split in one, not made whole on every device first.
    @jax.custom_vjp
    def gather(leaf: jax.Array) -> jax.Array:
        leaf = jax.lax.with_sharding_constraint(leaf.astype(dtype), kept)
        # Its gradient is of the dtype that it is given in.
        return jax.lax.with_sharding_constraint(leaf, everywhere).astype(reduced_in)

    def scatter(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        if splits_heads():
            # Else activations would travel, to where the gradient is to lie.
            gradient = jax.lax.with_sharding_constraint(gradient, everywhere)
        gradient = jax.lax.with_sharding_constraint(gradient, kept)
        return (gradient.astype(leaf.dtype),)

    gather.defvjp(lambda leaf: (gather(leaf), None), scatter)
    return gather(leaf)


def _kept_for_backward(primitive: Any, *_: Any, **__: Any) -> bool:
    """What a block keeps of its forward pass: all but what came together for it."""
    return primitive.name != "sharding_constraint"


@contextmanager
def gathering(
    blocks: Set[str],
    dtype: Any = None,
    recomputed: Set[str] = frozenset(),
    reduced_in: Any = None,
) -> Iterator[None]:
    """Lets the parameters of each block come together where the block begins, and go after it.

    The backward pass gathers them again, so that no more than one block's are whole at a time; of
    blocks that are `recomputed` in it that is left to whoever does so. They travel in `dtype` where
    they are kernels, and their gradients in `reduced_in`, if that is said. What enters and leaves a
    block is split over the batch.
    """
    mesh = target_mesh()
    if mesh is None or mesh.size == 1:
        yield
        return

    together = functools.partial(whole, dtype=dtype, reduced_in=reduced_in)

    def change(path: str, run: Run) -> Run:
        def by_batch(module: nn.Module, arrays: dict[int, jax.Array]) -> Any:
            return jax.tree.map(_by_batch, run(module, jax.tree.map(_by_batch, arrays)))

        if size_of(mesh, KEPT) == 1:
            return by_batch
        gathered = nn.map_variables(by_batch, "params", together)
        if path in recomputed:
            return gathered
        return nn.remat(gathered, policy=_kept_for_backward)

    with changing(blocks, change):
        yield


def _by_batch(x: Any) -> Any:
    """x [B, ...] split over the batch and whole along all other axes."""
    if not isinstance(x, jax.Array) or x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    packed = lanes.packed(x)
    return lie(packed, "batch", *[None] * (packed.ndim - 1)).reshape(x.shape)
