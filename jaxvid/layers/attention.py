"""Attention over [B, Q, N, D]: one function, four implementations, one rule that picks.

`which` is the rule. In this order, the first that can do the job does it:

cudnn   cuDNN's flash attention. CUDA only; float16 or bfloat16; head dimensions up to 128; a bias
        or mask only where queries and keys are both even in number (its gradient needs that).
splash  JAX's splash attention kernel. TPU only; float32 or bfloat16; no bias, mask or positions,
        but alone of the kernels it caps logits.
fused   Our kernel `layers.fused`. TPU only; float32 or bfloat16; all keys of some heads must
        fit into a core's own memory; a bias only for the whole batch, a mask only for all heads.
xla     Everything else, in plain operations. Logits of one sample larger than `XLA_LOGITS` are
        computed in pieces, so that memory stays bounded.

The kernels are not picked below `FLASH_KEYS` keys: there the logits are small.
`jax.nn.dot_product_attention` on its own never picks cuDNN, so it is asked for by name. Over a mesh
each device calls a kernel on its own part of the batch and the heads (see `layers.spread`). Where
nobody said over which devices, those for TPUs are not picked, as the compiler does not split them
by itself.
"""

# Names end in their axes, outermost first, as in `q_BQND`:
#   B  batch
#   L  tokens of a sequence
#   Q  queries
#   K  keys
#   N  heads
#   D  channels of a head
#   E  channels of a head's values
#   P  pieces, computed one after another
#   W  what the batch takes in turn, a divisor of B
# N is 1 in a bias or mask that is the same for all heads, and W is 1 in one for the whole batch.

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import spread
from jaxvid.layers.backend import devices as traced_devices
from jaxvid.layers.backend import note, platform, target_mesh
from jaxvid.layers.fused import fits, fused

IMPLEMENTATIONS = ("cudnn", "fused", "splash", "xla")
FLASH_KEYS = 128
XLA_LOGITS = 2**26
_CUDNN_HEAD_DIM = 128
_CUDNN_VERSION = 91000  # What JAX's CUDA extra brings, or newer.
_SPLASH_BLOCK = 128


class Choice(NamedTuple):
    """An implementation's name, and one clause that says why it is the one."""

    implementation: str
    reason: str


def attend(
    q_BQND: jax.Array,
    k_BKND: jax.Array,
    v_BKNE: jax.Array,
    *,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    scale: float | None = None,
    positions: tuple[jax.Array, jax.Array] | None = None,
    cap: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Computes softmax(scale q k' + bias) v for every head; the softmax is float32 or wider.

    Args:
        q_BQND: queries [B, Q, N, D], N heads of D channels.
        k_BKND: keys [B, K, N, D].
        v_BKNE: values [B, K, N, E]; E is usually D.
        bias: [W, N or 1, Q, K], added to the scaled logits. W is B or a divisor of it, so 1 too:
            sample b takes number b % W.
        mask: bool, [W, N or 1, Q, K]; False forbids a pair. Each query needs one True.
        scale: 1 / sqrt(D) if None.
        positions: [B, Q, N, P] of queries and [K, P] of keys, whose products are added to the
            scaled logits. What keys have of it is constant: it may get no gradient.
        cap: what scaled logits cannot pass, as they become cap tanh(logits / cap); no bias or
            positions are with it.
        implementation: one of `IMPLEMENTATIONS`; None follows the rule (see `which`).

    Returns:
        [B, Q, N, E], in the dtype of the queries.

    Raises:
        JaxvidError: the shapes do not fit, or `implementation` cannot compute this.
    """
    scale = q_BQND.shape[-1] ** -0.5 if scale is None else scale
    join = functools.partial(_join, scale=scale)
    asked = (q_BQND, k_BKND)
    if positions is not None:
        asked = jax.eval_shape(join, q_BQND, k_BKND, positions)
    choice = which(
        asked[0],
        asked[1],
        v_BKNE,
        bias=bias,
        mask=mask,
        positioned=positions is not None,
        capped=cap is not None,
        implementation=implementation,
    )
    note("attention", choice.implementation)
    if positions is not None and choice.implementation != "fused":
        (q_BQND, k_BKND), positions, scale = join(q_BQND, k_BKND, positions), None, 1.0
    tokens: spread.Axes = ("batch", None, "model", None)
    pairs: spread.Axes = ("batch", "model", None, None)
    inputs = [(x_BLND, tokens) for x_BLND in (q_BQND, k_BKND, v_BKNE)]
    if choice.implementation == "splash":
        return spread.apart(functools.partial(_splash, scale=scale, cap=cap), *inputs)
    batch = q_BQND.shape[0]
    bias, masks = _for_each(bias, batch), pairs
    if (
        mask is not None
        and choice.implementation == "fused"
        and spread.divides(batch // mask.shape[0])
    ):
        # A device has all turns, and every one of them on its own part of the batch.
        masks = (None, "model", None, None)
    else:
        mask = _for_each(mask, batch)
    if choice.implementation == "xla":
        q_BQND, k_BKND, v_BKNE = (spread.lie(x_BLND, *tokens) for x_BLND, _ in inputs)
        return _xla(q_BQND, k_BKND, v_BKNE, bias, mask, scale, cap)
    if positions is not None:
        inputs += [(positions[0], tokens), (positions[1], (None, None))]
    inputs += [(x, axes) for x, axes in ((bias, pairs), (mask, masks)) if x is not None]
    kernel: Callable[..., jax.Array] = {"cudnn": _cudnn, "fused": _fused}[choice.implementation]

    def call(*arrays: jax.Array) -> jax.Array:
        rest = iter(arrays)
        qkv = [next(rest) for _ in range(3)]
        own = [] if positions is None else [next(rest), next(rest)]
        both = [None if x is None else next(rest) for x in (bias, mask)]
        return kernel(*qkv, *both, scale, *own)

    return spread.apart(call, *inputs)


def _join(
    q_BQND: jax.Array, k_BKND: jax.Array, positions: tuple[jax.Array, jax.Array], scale: float
) -> tuple[jax.Array, jax.Array]:
    """Queries and keys with positions as further channels, whose products are the logits."""
    positions_BQNP, places_KP = positions
    places_BKNP = jnp.broadcast_to(
        places_KP[None, :, None], (*k_BKND.shape[:3], places_KP.shape[-1])
    )
    return (
        jnp.concatenate([q_BQND * scale, positions_BQNP], axis=-1),
        jnp.concatenate([k_BKND, places_BKNP], axis=-1),
    )


def _for_each(x_WNQK: jax.Array | None, batch: int) -> jax.Array | None:
    """What the samples of a batch take of x in turn: [B, N, Q, K], or x if all take the same."""
    if x_WNQK is None or x_WNQK.shape[0] in (1, batch):
        return x_WNQK
    turns = jnp.broadcast_to(x_WNQK, (batch // x_WNQK.shape[0], *x_WNQK.shape))
    return turns.reshape(batch, *x_WNQK.shape[1:])


def which(
    q_BQND: jax.ShapeDtypeStruct | jax.Array,
    k_BKND: jax.ShapeDtypeStruct | jax.Array,
    v_BKNE: jax.ShapeDtypeStruct | jax.Array,
    *,
    bias: jax.ShapeDtypeStruct | jax.Array | None = None,
    mask: jax.ShapeDtypeStruct | jax.Array | None = None,
    positioned: bool = False,
    capped: bool = False,
    implementation: str | None = None,
    backend: str | None = None,
    devices: int | None = None,
) -> Choice:
    """Says which implementation `attend` uses for such arguments, and why.

    Args:
        q_BQND, k_BKND, v_BKNE, bias, mask, implementation: as for `attend`; only shapes and dtypes
            are read.
        positioned: whether `attend` is given positions, and q and k are joined with them here.
        capped: whether it is given a cap.
        backend: `cpu`, `cuda`, `rocm` or `tpu`; None is the one that the program is traced for.
        devices: how many devices the program spans; None means those that it is traced for.

    Raises:
        JaxvidError: the shapes do not fit, or `implementation` cannot compute this.
    """
    _check_shapes(q_BQND, k_BKND, v_BKNE, bias, mask)
    backend = backend or platform()
    pairwise = bias is not None or mask is not None
    devices = devices or traced_devices()
    obstacles = {
        "cudnn": _cudnn_obstacle(q_BQND, k_BKND, v_BKNE, pairwise, backend),
        "splash": _splash_obstacle(q_BQND, k_BKND, v_BKNE, pairwise, backend, devices),
        "fused": _fused_obstacle(q_BQND, k_BKND, v_BKNE, bias, mask, backend, devices),
        "xla": None,
    }
    if capped:
        obstacles |= dict.fromkeys(("cudnn", "fused"), "caps no logits")
    if implementation is not None:
        if implementation not in obstacles:
            raise JaxvidError(
                f"unknown attention implementation {implementation!r}: choose one of "
                f"{', '.join(IMPLEMENTATIONS)}"
            )
        if obstacles[implementation]:
            raise JaxvidError(
                f"attention implementation {implementation!r} {obstacles[implementation]}; "
                f"leave implementation unset to use one that works"
            )
        return Choice(implementation, "asked for")
    flash = [name for name, why in obstacles.items() if why is None and name != "xla"]
    if positioned and "fused" in flash:  # The others want them copied beside queries and keys.
        flash = ["fused"]
    keys = k_BKND.shape[1]
    if flash and keys >= FLASH_KEYS:
        return Choice(flash[0], f"can compute this on {backend}")
    if flash:
        return Choice("xla", f"{keys} keys are fewer than {FLASH_KEYS}")
    return Choice("xla", "; ".join(f"{name} {why}" for name, why in obstacles.items() if why))


def _check_shapes(q_BQND, k_BKND, v_BKNE, bias, mask):
    batch, queries, heads, width = q_BQND.shape
    keys = k_BKND.shape[1]
    if k_BKND.shape != (batch, keys, heads, width) or v_BKNE.shape[:3] != k_BKND.shape[:3]:
        raise JaxvidError(
            f"attention needs q [B, Q, N, D], k [B, K, N, D] and v [B, K, N, E], but got "
            f"{q_BQND.shape}, {k_BKND.shape} and {v_BKNE.shape}"
        )
    for name, pair in (("bias", bias), ("mask", mask)):
        if pair is None:
            continue
        if (
            pair.ndim != 4
            or batch % pair.shape[0]
            or pair.shape[1] not in (1, heads)
            or pair.shape[2:] != (queries, keys)
        ):
            raise JaxvidError(
                f"attention's {name} must be [{batch} or a divisor of it, {heads} or 1, {queries}, "
                f"{keys}], but is {list(pair.shape)}"
            )
    if mask is not None and mask.dtype != jnp.bool_:
        raise JaxvidError(f"attention's mask must be bool, but is {mask.dtype}: give bias= floats")


def _cudnn_obstacle(q_BQND, k_BKND, v_BKNE, pairwise, backend) -> str | None:
    """Why cuDNN cannot do it, as the rest of a sentence that begins with its name."""
    if backend != "cuda":
        return f"needs CUDA, not {backend}"
    if not isinstance(q_BQND.shape[0], int):
        return "needs a batch of a known size"
    dtypes = _dtypes(q_BQND, k_BKND, v_BKNE)
    if dtypes not in ("bfloat16", "float16"):
        return f"needs float16 or bfloat16, not {dtypes}"
    if max(q_BQND.shape[-1], v_BKNE.shape[-1]) > _CUDNN_HEAD_DIM:
        return f"needs heads of at most {_CUDNN_HEAD_DIM} channels"
    queries, keys = q_BQND.shape[1], k_BKND.shape[1]
    if pairwise and (queries % 2 or keys % 2):
        return f"with a bias or mask needs even lengths, not {queries} and {keys}"
    return None


def _fused_obstacle(q_BQND, k_BKND, v_BKNE, bias, mask, backend, devices) -> str | None:
    """Why our kernel cannot do it, as the rest of a sentence that begins with its name."""
    obstacle = _tpu_obstacle(q_BQND, k_BKND, v_BKNE, backend, devices)
    if obstacle:
        return obstacle
    queries, keys, heads = q_BQND.shape[1], k_BKND.shape[1], q_BQND.shape[2]
    if bias is not None and (bias.shape[0] != 1 or bias.shape[1] != heads):
        return "takes a bias of all heads for the whole batch"
    if mask is not None and mask.shape[1] != 1:
        return "takes a mask for all heads"
    if not fits(q_BQND, k_BKND, v_BKNE, bias, mask):
        return f"has no room for {queries} queries and {keys} keys of {heads} heads"
    return None


def _splash_obstacle(q_BQND, k_BKND, v_BKNE, pairwise, backend, devices) -> str | None:
    """Why splash attention cannot do it, as the rest of a sentence that begins with its name."""
    if backend == "tpu" and pairwise:
        return "takes no bias or mask"
    return _tpu_obstacle(q_BQND, k_BKND, v_BKNE, backend, devices)


def _tpu_obstacle(q_BQND, k_BKND, v_BKNE, backend, devices) -> str | None:
    """Why no kernel for TPUs can do it."""
    if backend != "tpu":
        return f"needs a TPU, not {backend}"
    dtypes = _dtypes(q_BQND, k_BKND, v_BKNE)
    if dtypes not in ("bfloat16", "float32"):
        return f"needs float32 or bfloat16, not {dtypes}"
    if not isinstance(q_BQND.shape[0], int):
        return "needs a batch of a known size"
    if devices > 1 and target_mesh() is None:
        return f"is not split over devices, and there are {devices}"
    if not spread.divides(q_BQND.shape[0]):
        return f"needs a batch that divides over {devices} devices, not {q_BQND.shape[0]}"
    return None


def _dtypes(*arrays) -> str:
    """The dtypes of `arrays`, each named once."""
    return ", ".join(dict.fromkeys(str(x.dtype) for x in arrays))


def _cudnn(q_BQND, k_BKND, v_BKNE, bias_BNQK, mask_BNQK, scale):
    # cuDNN wants one head dimension for all three, a multiple of 8: zeros change no product.
    widest = -(-max(q_BQND.shape[-1], v_BKNE.shape[-1]) // 8) * 8
    (batch, queries), keys = q_BQND.shape[:2], k_BKND.shape[1]
    # Nor does JAX differentiate it for odd lengths: one token more, which is not looked at.
    lengths: dict[str, Any] = {}
    if queries % 2 or keys % 2:
        q_BQND, k_BKND, v_BKNE = (
            jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
            for x in (q_BQND, k_BKND, v_BKNE)
        )
        lengths = {
            "query_seq_lengths": jnp.full(batch, queries, jnp.int32),
            "key_value_seq_lengths": jnp.full(batch, keys, jnp.int32),
        }
    with _cudnn_elsewhere():
        y_BQND = jax.nn.dot_product_attention(
            _widen(q_BQND, widest),
            _widen(k_BKND, widest),
            _widen(v_BKNE, widest),
            **lengths,
            bias=None if bias_BNQK is None else bias_BNQK.astype(q_BQND.dtype),
            mask=mask_BNQK,
            scale=scale,
            implementation="cudnn",
        )
    return y_BQND[:, :queries, :, : v_BKNE.shape[-1]]


@contextlib.contextmanager
def _cudnn_elsewhere() -> Iterator[None]:
    """Lets JAX believe in the cuDNN of another machine, for which a program is traced here."""
    if jax.default_backend() == "gpu":
        yield
        return
    from jax._src.cudnn import fused_attention_stablehlo

    check = fused_attention_stablehlo.check_cudnn_version
    fused_attention_stablehlo.check_cudnn_version = lambda: _CUDNN_VERSION
    try:
        yield
    finally:
        fused_attention_stablehlo.check_cudnn_version = check


def _fused(q_BQND, k_BKND, v_BKNE, bias_1NQK, mask_W1QK, scale, *positions):
    bias_NQK = None if bias_1NQK is None else bias_1NQK[0]
    mask_WQK = None if mask_W1QK is None else mask_W1QK[:, 0]
    return fused(q_BQND, k_BKND, v_BKNE, bias_NQK, mask_WQK, *positions, scale=scale)


def _splash(q_BQND, k_BKND, v_BKNE, scale, cap=None, interpret=False):
    # Imported here because it loads Pallas, which only a TPU run needs.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    queries, keys, heads = q_BQND.shape[1], k_BKND.shape[1], q_BQND.shape[2]
    widest = -(-max(q_BQND.shape[-1], v_BKNE.shape[-1]) // _SPLASH_BLOCK) * _SPLASH_BLOCK
    # The kernel does not scale.
    q_BNQD, k_BNKD, v_BNKD = (
        _fill_blocks(x_BLND, widest).astype(q_BQND.dtype)
        for x_BLND in (q_BQND * scale, k_BKND, v_BKNE)
    )
    # Padding keys form a segment of their own that no query looks at.
    segments = splash.SegmentIds(
        q=jnp.zeros(q_BNQD.shape[2], jnp.int32),
        kv=(jnp.arange(k_BNKD.shape[2]) >= keys).astype(jnp.int32),
    )
    every_pair = splash.FullMask((q_BNQD.shape[2], k_BNKD.shape[2]))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([every_pair] * heads),
        attn_logits_soft_cap=cap,
        interpret=interpret,
    )
    y_BNQD = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q_BNQD, k_BNKD, v_BNKD, segments)
    return y_BNQD.swapaxes(1, 2)[:, :queries, :, : v_BKNE.shape[-1]]


def _fill_blocks(x_BLND, widest):
    """Pads x to `widest` channels and whole blocks of tokens, heads first: [B, N, L, D]."""
    x_BLND = _widen(x_BLND, widest)
    more = -x_BLND.shape[1] % _SPLASH_BLOCK
    return jnp.pad(x_BLND, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2)


def _widen(x_BLND, widest):
    """Pads x with zeros up to `widest` channels."""
    return jnp.pad(x_BLND, ((0, 0), (0, 0), (0, 0), (0, widest - x_BLND.shape[-1])))


def _xla(q_BQND, k_BKND, v_BKNE, bias_BNQK, mask_BNQK, scale, cap):
    # Heads before lengths: products over the two leading axes are what CPU is fastest at.
    q_BNQD, k_BNKD, v_BNKE = (x_BLND.swapaxes(1, 2) for x_BLND in (q_BQND, k_BKND, v_BKNE))
    batch, heads, queries, _ = q_BNQD.shape
    pieces = math.ceil(heads * queries * k_BNKD.shape[2] / XLA_LOGITS)
    part = functools.partial(_xla_part, k_BNKD=k_BNKD, v_BNKE=v_BNKE, scale=scale, cap=cap)
    rows = (q_BNQD, bias_BNQK, mask_BNQK)
    if pieces == 1:
        return part(rows).swapaxes(1, 2)
    size = math.ceil(queries / pieces)
    rows = jax.tree.map(lambda x: _split_queries(x, pieces, size), rows)
    # Recomputed in the backward pass, or every piece's logits would be kept for it.
    y_PBNQE = jax.lax.map(jax.checkpoint(part), rows)
    y_BNQE = jnp.moveaxis(y_PBNQE, 0, 2).reshape(batch, heads, pieces * size, v_BNKE.shape[-1])
    return y_BNQE[:, :, :queries].swapaxes(1, 2)


def _split_queries(x, pieces, size):
    """Cuts x [B, N, Q, ...] into [P, B, N, `size`, ...], zeros behind the last query."""
    batch, heads, queries, width = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (0, pieces * size - queries), (0, 0)))
    return jnp.moveaxis(x.reshape(batch, heads, pieces, size, width), 2, 0)


def _xla_part(rows, k_BNKD, v_BNKE, scale, cap):
    """Attention [B, N, Q, E] of some queries; `rows` are they and their rows of bias and mask."""
    q_BNQD, bias_BNQK, mask_BNQK = rows
    wide = jnp.promote_types(q_BNQD.dtype, jnp.float32)
    logits_BNQK = jnp.einsum("BNQD,BNKD->BNQK", q_BNQD, k_BNKD, preferred_element_type=wide)
    if scale != 1:
        logits_BNQK = logits_BNQK * scale
    if cap is not None:
        logits_BNQK = cap * jnp.tanh(logits_BNQK / cap)
    if bias_BNQK is not None:
        logits_BNQK = logits_BNQK + bias_BNQK.astype(wide)
    if mask_BNQK is not None:
        logits_BNQK = jnp.where(mask_BNQK, logits_BNQK, jnp.finfo(wide).min)
    # A softmax whose sum divides the result, not every weight: so its gradient has no sums over
    # keys, which XLA on CPU computes over and over, and it is the same in value.
    peak_BNQ1 = jax.lax.stop_gradient(logits_BNQK.max(-1, keepdims=True))
    weights_BNQK = jnp.exp(logits_BNQK - peak_BNQ1)
    total_BNQ1 = weights_BNQK.sum(-1, keepdims=True)
    y_BNQE = jnp.einsum(
        "BNQK,BNKE->BNQE", weights_BNQK.astype(v_BNKE.dtype), v_BNKE, preferred_element_type=wide
    )
    return (y_BNQE / total_BNQ1).astype(q_BNQD.dtype)
