"""Attention of few keys as one TPU kernel, whose logits never leave the core's own memory.

All keys of a few heads are there at once, so a softmax is whole, and it is computed again in the
backward pass instead of kept. Heads lie side by side in the channels, as linear layers make them:
those of fewer than 128 channels are not filled up, and nothing is transposed on the way in or out.
"""

# Names end in their axes, outermost first, as in `q_BQC`:
#   B  batch
#   Q  queries, or those of a block
#   K  keys
#   N  heads
#   D  channels of a head
#   C  channels of all heads, or of a group of them
#   P  places
#   W  masks, which the batch takes in turn
# Arrays of a kernel are references, and those that a call does not have are None.

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 256
"""Queries in a block, where they are more than two blocks and have no bias or mask."""
_LANES = 128
_VMEM = 96 * 2**20
"""Bytes of the core's own memory that a kernel may use: of 128 MiB in TPUs v5e and v6e."""
_PAIRS = 8
"""How many arrays of the size of one head's logits a step has at once, at most."""
_LOWEST = float(jnp.finfo(jnp.float32).min)


def fused(
    q_BQND: jax.Array,
    k_BKND: jax.Array,
    v_BKND: jax.Array,
    bias_NQK: jax.Array | None = None,
    mask_WQK: jax.Array | None = None,
    positions_BQNP: jax.Array | None = None,
    places_KP: jax.Array | None = None,
    *,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Computes softmax(scale q k' + bias) v for every head, as `attention.attend` does.

    Args:
        q_BQND: queries [B, Q, N, D].
        k_BKND, v_BKND: keys and values [B, K, N, D]; values may have other channels.
        bias_NQK: [N, Q, K], the same for the whole batch.
        mask_WQK: bool, [W, Q, K], where W divides B: sample b has mask b % W.
        positions_BQNP, places_KP: [B, Q, N, P] and [K, P], whose product is added to the logits.
            Places are constant: they get no gradient.
        scale: what products of queries and keys are multiplied by.
        interpret: whether to compute it step by step in plain operations, on any platform.

    Returns:
        [B, Q, N, D], in the dtype of the queries.
    """
    batch, queries, heads, _ = q_BQND.shape
    places = 0 if places_KP is None else places_KP.shape[-1]
    plan = _plan(q_BQND, k_BKND, v_BKND, bias_NQK, mask_WQK, places, scale, interpret)
    q_BQC, k_BKC, v_BKC = (x.reshape(*x.shape[:2], -1) for x in (q_BQND, k_BKND, v_BKND))
    arrays = _Arrays(
        q_BQC,
        k_BKC,
        v_BKC,
        None if positions_BQNP is None else positions_BQNP.reshape(batch, queries, -1),
        None if places_KP is None else places_KP.astype(q_BQND.dtype),
        bias_NQK,
        None if mask_WQK is None else mask_WQK.astype(jnp.int8),
    )
    y_BQC = _attention(plan, arrays)
    return y_BQC.reshape(batch, queries, heads, -1)


def fits(
    q_BQND: jax.ShapeDtypeStruct | jax.Array,
    k_BKND: jax.ShapeDtypeStruct | jax.Array,
    v_BKND: jax.ShapeDtypeStruct | jax.Array,
    bias_NQK: jax.ShapeDtypeStruct | jax.Array | None = None,
    mask_WQK: jax.ShapeDtypeStruct | jax.Array | None = None,
) -> bool:
    """Whether a core's memory has room for what the kernel of the backward pass has at once."""
    plan = _plan(q_BQND, k_BKND, v_BKND, bias_NQK, mask_WQK)
    size = q_BQND.dtype.itemsize
    channels = _whole(plan.group * plan.width) + _whole(plan.group * plan.value_width)
    pairs = plan.block * _whole(plan.keys)
    # Parts of arrays are there twice, for this step and the next.
    parts = channels * (plan.block * 2 * size + plan.keys * (size + 4))
    if bias_NQK is not None:
        parts += plan.group * pairs * (bias_NQK.dtype.itemsize + 4)
    if mask_WQK is not None:
        parts += pairs
    return 2 * parts + _PAIRS * pairs * 4 <= _VMEM


def _plan(
    q_BQND: jax.ShapeDtypeStruct | jax.Array,
    k_BKND: jax.ShapeDtypeStruct | jax.Array,
    v_BKND: jax.ShapeDtypeStruct | jax.Array,
    bias_NQK: jax.ShapeDtypeStruct | jax.Array | None,
    mask_WQK: jax.ShapeDtypeStruct | jax.Array | None,
    places: int = 0,
    scale: float = 1.0,
    interpret: bool = False,
) -> "_Plan":
    _, queries, heads, width = q_BQND.shape
    _, keys, _, value_width = v_BKND.shape
    # The fewest heads whose channels fill whole vectors, or all.
    widths = (width, value_width, places)
    group = math.lcm(*(_LANES // math.gcd(n, _LANES) for n in widths if n))
    group = heads if heads < 2 * group else group
    masks = 0 if mask_WQK is None else len(mask_WQK)
    paired = bias_NQK is not None or mask_WQK is not None
    block = queries if paired or queries <= 2 * BLOCK else BLOCK
    return _Plan(heads, group, *widths, masks, queries, keys, block, scale, interpret)


def _whole(channels: int) -> int:
    """Channels as they lie in memory, in whole vectors."""
    return -(-channels // _LANES) * _LANES


class _Plan(NamedTuple):
    """How a call is cut into steps: over groups of heads, in these the batch, in it the queries."""

    heads: int
    group: int
    width: int
    value_width: int
    places: int
    masks: int
    queries: int
    keys: int
    block: int
    scale: float
    interpret: bool


_Cut = tuple[tuple[int, ...], Callable[..., tuple[Any, ...]]]
"""The sizes of a step's part of an array, and which of the parts of these sizes it is."""


class _Arrays(NamedTuple):
    """What attention is computed from, or what a step has of it."""

    q_BQC: Any
    k_BKC: Any
    v_BKC: Any
    positions_BQC: Any = None
    places_KP: Any = None
    bias_NQK: Any = None
    mask_WQK: Any = None


def _cuts(plan: _Plan) -> tuple[_Cut, ...]:
    """What a step (group n, sample b, block i) has of each array, and last of the result."""

    def rows(width: int) -> _Cut:
        return (1, plan.block, plan.group * width), lambda n, b, i: (b, i, n)

    def whole(width: int) -> _Cut:
        return (1, plan.keys, plan.group * width), lambda n, b, i: (b, 0, n)

    pairs = (plan.queries, plan.keys)
    return (
        rows(plan.width),
        whole(plan.width),
        whole(plan.value_width),
        rows(plan.places),
        ((plan.keys, plan.places), lambda n, b, i: (0, 0)),
        ((plan.group, *pairs), lambda n, b, i: (n, 0, 0)),
        ((1, *pairs), lambda n, b, i: (b % plan.masks, 0, 0)),
        rows(plan.value_width),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: _Plan, arrays: _Arrays) -> jax.Array:
    shape = (*arrays.q_BQC.shape[:2], plan.heads * plan.value_width)
    y = (jax.ShapeDtypeStruct(shape, arrays.q_BQC.dtype), _cuts(plan)[-1])
    return _call(plan, "forward", _forward_step, arrays, [], [y])[0]


def _forward(plan: _Plan, arrays: _Arrays) -> tuple[jax.Array, _Arrays]:
    return _attention(plan, arrays), arrays


def _backward(plan: _Plan, arrays: _Arrays, dy_BQC: jax.Array) -> tuple[_Arrays]:
    # Sums over blocks of queries, and over the batch, are added up in float32.
    summed = arrays.k_BKC.dtype if plan.block == plan.queries else jnp.dtype(jnp.float32)
    dtype = arrays.q_BQC.dtype
    dtypes = _Arrays(dtype, summed, summed, dtype, None, jnp.dtype(jnp.float32), None)
    outputs, there = [], []
    for x, wanted, cut in zip(arrays, dtypes, _cuts(plan)[:-1], strict=True):
        there.append(x is not None and wanted is not None)
        if there[-1]:
            outputs.append((jax.ShapeDtypeStruct(x.shape, wanted), cut))

    def step(plan: _Plan, arrays: _Arrays, dy_BQC: Any, *refs: Any) -> None:
        _backward_step(plan, arrays, dy_BQC, _fill(there, refs))

    more = [(dy_BQC, _cuts(plan)[-1])]
    gradients = _fill(there, _call(plan, "backward", step, arrays, more, outputs))
    cast = (
        x if gradient is None else gradient.astype(x.dtype)
        for x, gradient in zip(arrays, gradients, strict=True)
    )
    return (
        _Arrays(*cast)._replace(
            places_KP=None if arrays.places_KP is None else jnp.zeros_like(arrays.places_KP),
            mask_WQK=None,
        ),
    )


def _fill(there: Sequence[bool], given: Iterable[Any]) -> _Arrays:
    """Arrays of which some are not there."""
    rest = iter(given)
    return _Arrays(*(next(rest) if one else None for one in there))


_attention.defvjp(_forward, _backward)


def _call(
    plan: _Plan,
    name: str,
    step: Callable[..., None],
    arrays: _Arrays,
    more: Sequence[tuple[jax.Array, _Cut]],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, _Cut]],
) -> list[jax.Array]:
    """Runs `step` on every part of the arrays, of more inputs and of outputs, each with its cut."""
    # Imported here because it loads Pallas, which only a TPU run needs.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    there = [x is not None for x in arrays]
    given = [pair for pair in zip(arrays, _cuts(plan)[:-1], strict=True) if pair[0] is not None]
    given += more
    batch = len(arrays.q_BQC)

    def kernel(*refs: Any) -> None:
        step(plan, _fill(there, refs[: sum(there)]), *refs[sum(there) :])

    # Of the products over pairs the forward pass has two, the backward pass five.
    logits, rounds = batch * plan.heads * plan.queries * plan.keys, 2 if name == "forward" else 5
    found = pl.pallas_call(
        kernel,
        grid=(-(-plan.heads // plan.group), batch, -(-plan.queries // plan.block)),
        in_specs=[pl.BlockSpec(*cut) for _, cut in given],
        out_specs=[pl.BlockSpec(*cut) for _, cut in outputs],
        out_shape=[shape for shape, _ in outputs],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM),
        cost_estimate=pl.CostEstimate(
            flops=rounds * logits * (plan.width + plan.value_width),
            transcendentals=logits,
            bytes_accessed=sum(
                math.prod(x.shape) * x.dtype.itemsize for x, _ in [*given, *outputs]
            ),
        ),
        interpret=plan.interpret,
        name=f"attention_{name}",
    )(*(x for x, _ in given))
    return list(found)


class _Head(NamedTuple):
    """One head of a step: where it lies in channels, its softmax before it is divided, its sum."""

    number: int
    own: slice
    values: slice
    places: slice
    q_QD: jax.Array
    k_KD: jax.Array
    v_KD: jax.Array
    weights_QK: jax.Array
    total_Q1: jax.Array


def _heads(plan: _Plan, arrays: _Arrays) -> Iterator[_Head]:
    """The heads of a step's group."""
    for number in range(plan.group):
        own, values, places = (
            slice(number * width, (number + 1) * width)
            for width in (plan.width, plan.value_width, plan.places)
        )
        q_QD = _real(plan, arrays.q_BQC[0, :, own])
        k_KD, v_KD = arrays.k_BKC[0, :, own], arrays.v_BKC[0, :, values]
        logits_QK = _product(q_QD, k_KD, 1, 1) * plan.scale
        if arrays.positions_BQC is not None:
            positions_QP = _real(plan, arrays.positions_BQC[0, :, places])
            logits_QK += _product(positions_QP, arrays.places_KP[...], 1, 1)
        if arrays.bias_NQK is not None:
            logits_QK += arrays.bias_NQK[number].astype(jnp.float32)
        if arrays.mask_WQK is not None:
            logits_QK = jnp.where(arrays.mask_WQK[0].astype(jnp.int32) != 0, logits_QK, _LOWEST)
        weights_QK = jnp.exp(logits_QK - logits_QK.max(-1, keepdims=True))
        total_Q1 = weights_QK.sum(-1, keepdims=True)
        yield _Head(number, own, values, places, q_QD, k_KD, v_KD, weights_QK, total_Q1)


def _real(plan: _Plan, x_QD: jax.Array) -> jax.Array:
    """Zeros behind the last query, where anything may be."""
    from jax.experimental import pallas as pl

    if plan.queries % plan.block == 0:
        return x_QD
    row_Q1 = jax.lax.broadcasted_iota(jnp.int32, (plan.block, 1), 0) + pl.program_id(2) * plan.block
    return jnp.where(row_Q1 < plan.queries, x_QD.astype(jnp.float32), 0.0).astype(x_QD.dtype)


def _product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """The sum over an axis of each of two matrices, in float32."""
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _forward_step(plan: _Plan, arrays: _Arrays, y_BQC: Any) -> None:
    for head in _heads(plan, arrays):
        y_QD = _product(head.weights_QK.astype(head.v_KD.dtype), head.v_KD, 1, 0) / head.total_Q1
        y_BQC[0, :, head.values] = y_QD.astype(y_BQC.dtype)


def _backward_step(plan: _Plan, arrays: _Arrays, dy_BQC: Any, gradients: _Arrays) -> None:
    dq_BQC, dk_BKC, dv_BKC, dpositions_BQC, _, dbias_NQK, _ = gradients
    for head in _heads(plan, arrays):
        dy_QD = _real(plan, dy_BQC[0, :, head.values])
        dtype, weights_QK = dy_QD.dtype, head.weights_QK / head.total_Q1
        dweights_QK = _product(dy_QD, head.v_KD, 1, 1)
        shift_Q1 = (weights_QK * dweights_QK).sum(-1, keepdims=True)
        dlogits_QK = weights_QK * (dweights_QK - shift_Q1)
        if dbias_NQK is not None:
            _add(dbias_NQK, head.number, 1, dlogits_QK)
        if dpositions_BQC is not None:
            dpositions_QP = _product(dlogits_QK.astype(dtype), arrays.places_KP[...], 1, 0)
            dpositions_BQC[0, :, head.places] = dpositions_QP.astype(dtype)
        dlogits_QK = (dlogits_QK * plan.scale).astype(dtype)
        dq_BQC[0, :, head.own] = _product(dlogits_QK, head.k_KD, 1, 0).astype(dtype)
        dk_KD = _product(dlogits_QK, head.q_QD, 0, 0)
        dv_KD = _product(weights_QK.astype(dtype), dy_QD, 0, 0)
        if plan.block == plan.queries:
            dk_BKC[0, :, head.own] = dk_KD.astype(dtype)
            dv_BKC[0, :, head.values] = dv_KD.astype(dtype)
        else:
            _add(dk_BKC, (0, slice(None), head.own), 2, dk_KD)
            _add(dv_BKC, (0, slice(None), head.values), 2, dv_KD)


def _add(sum_ref: Any, at: Any, axis: int, value: jax.Array) -> None:
    """Adds up what the steps along an axis of the grid bring."""
    from jax.experimental import pallas as pl

    first = pl.program_id(axis) == 0

    @pl.when(first)
    def _() -> None:
        sum_ref[at] = value

    @pl.when(jnp.logical_not(first))
    def _() -> None:
        sum_ref[at] += value
