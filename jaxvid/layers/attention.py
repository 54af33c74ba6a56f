"""Attention over [B, Q, N, D]: one function, three implementations, one rule that picks.

`which` is the rule. In this order, the first that can do the job does it:

cudnn   cuDNN's flash attention. CUDA only; float16 or bfloat16; head dimensions up to 128; a bias
        or mask only where queries and keys are both even in number (its gradient needs that).
splash  JAX's splash attention kernel. One TPU device (the compiler does not split the kernel over
        several); float32 or bfloat16; no bias or mask.
xla     Everything else, in plain operations. Logits of one sample larger than `XLA_LOGITS` are
        computed in pieces, so that memory stays bounded.

The flash kernels are not picked below `FLASH_KEYS` keys: there the logits are small.
`jax.nn.dot_product_attention` on its own never picks cuDNN, so it is asked for by name.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers.backend import backend as traced_backend

IMPLEMENTATIONS = ("cudnn", "splash", "xla")
FLASH_KEYS = 128
XLA_LOGITS = 2**26
_CUDNN_HEAD_DIM = 128
_SPLASH_BLOCK = 128


class Choice(NamedTuple):
    """An implementation's name, and one clause that says why it is the one."""

    implementation: str
    reason: str


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Computes softmax(scale q k' + bias) v for every head; the softmax is float32 or wider.

    Args:
        q: [B, Q, N, D], N heads of D channels.
        k: [B, K, N, D].
        v: [B, K, N, E]; E is usually D.
        bias: [B or 1, N or 1, Q, K], added to the scaled logits.
        mask: bool, [B or 1, N or 1, Q, K]; False forbids a pair. Each query needs one True.
        scale: 1 / sqrt(D) if None.
        implementation: one of `IMPLEMENTATIONS`; None follows the rule (see `which`).

    Returns:
        [B, Q, N, E], in the dtype of `q`.

    Raises:
        JaxvidError: the shapes do not fit, or `implementation` cannot compute this.
    """
    choice = which(q, k, v, bias=bias, mask=mask, implementation=implementation)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if choice.implementation == "cudnn":
        return _cudnn(q, k, v, bias, mask, scale)
    if choice.implementation == "splash":
        return _splash(q, k, v, scale)
    return _xla(q, k, v, bias, mask, scale)


def which(
    q: jax.ShapeDtypeStruct | jax.Array,
    k: jax.ShapeDtypeStruct | jax.Array,
    v: jax.ShapeDtypeStruct | jax.Array,
    *,
    bias: jax.ShapeDtypeStruct | jax.Array | None = None,
    mask: jax.ShapeDtypeStruct | jax.Array | None = None,
    implementation: str | None = None,
    backend: str | None = None,
    devices: int | None = None,
) -> Choice:
    """Says which implementation `attend` uses for such arguments, and why.

    Args:
        q, k, v, bias, mask, implementation: as for `attend`; only shapes and dtypes are read.
        backend: `cpu`, `cuda`, `rocm` or `tpu`; None is the one JAX runs on here.
        devices: how many devices the program spans; None counts those of this run.

    Raises:
        JaxvidError: the shapes do not fit, or `implementation` cannot compute this.
    """
    _check_shapes(q, k, v, bias, mask)
    backend = backend or _backend()
    devices = devices or jax.device_count()
    pairwise = bias is not None or mask is not None
    obstacles = {
        "cudnn": _cudnn_obstacle(q, k, v, pairwise, backend),
        "splash": _splash_obstacle(q, k, v, pairwise, backend, devices),
        "xla": None,
    }
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
    flash = [name for name in ("cudnn", "splash") if obstacles[name] is None]
    if flash and k.shape[1] >= FLASH_KEYS:
        return Choice(flash[0], f"can compute this on {backend}")
    if flash:
        return Choice("xla", f"{k.shape[1]} keys are fewer than {FLASH_KEYS}")
    return Choice("xla", "; ".join(f"{name} {why}" for name, why in obstacles.items() if why))


def _check_shapes(q, k, v, bias, mask):
    batch, queries, heads, width = q.shape
    keys = k.shape[1]
    if k.shape != (batch, keys, heads, width) or v.shape[:3] != k.shape[:3]:
        raise JaxvidError(
            f"attention needs q [B, Q, N, D], k [B, K, N, D] and v [B, K, N, E], but got "
            f"{q.shape}, {k.shape} and {v.shape}"
        )
    for name, pair in (("bias", bias), ("mask", mask)):
        if pair is None:
            continue
        if (
            pair.ndim != 4
            or pair.shape[0] not in (1, batch)
            or pair.shape[1] not in (1, heads)
            or pair.shape[2:] != (queries, keys)
        ):
            raise JaxvidError(
                f"attention's {name} must be [{batch} or 1, {heads} or 1, {queries}, {keys}], "
                f"but is {list(pair.shape)}"
            )
    if mask is not None and mask.dtype != jnp.bool_:
        raise JaxvidError(f"attention's mask must be bool, but is {mask.dtype}: give bias= floats")


def _backend() -> str:
    """Names the backend, telling NVIDIA's GPUs from AMD's."""
    name = traced_backend()
    if name != "gpu":
        return name
    return "cuda" if "cuda" in jax.devices()[0].client.platform_version else "rocm"


def _cudnn_obstacle(q, k, v, pairwise, backend) -> str | None:
    if backend != "cuda":
        return f"needs CUDA, not {backend}"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"needs float16 or bfloat16, not {_dtypes(q, k, v)}"
    if max(q.shape[-1], v.shape[-1]) > _CUDNN_HEAD_DIM:
        return f"needs heads of at most {_CUDNN_HEAD_DIM} channels"
    if pairwise and (q.shape[1] % 2 or k.shape[1] % 2):
        return f"with a bias or mask needs even lengths, not {q.shape[1]} and {k.shape[1]}"
    return None


def _splash_obstacle(q, k, v, pairwise, backend, devices) -> str | None:
    if backend != "tpu":
        return f"needs a TPU, not {backend}"
    if devices > 1:
        return f"is not split over devices, and there are {devices}"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"needs float32 or bfloat16, not {_dtypes(q, k, v)}"
    if pairwise:
        return "takes no bias or mask"
    return None


def _dtypes(*arrays) -> str:
    return ", ".join(dict.fromkeys(str(x.dtype) for x in arrays))


def _cudnn(q, k, v, bias, mask, scale):
    # cuDNN wants one head dimension for all three, a multiple of 8: zeros change no product.
    width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8
    out = jax.nn.dot_product_attention(
        _widen(q, width),
        _widen(k, width),
        _widen(v, width),
        bias=None if bias is None else bias.astype(q.dtype),
        mask=mask,
        scale=scale,
        implementation="cudnn",
    )
    return out[..., : v.shape[-1]]


def _splash(q, k, v, scale, interpret=False):
    # Imported here because it loads Pallas, which only a TPU run needs.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    queries, keys = q.shape[1], k.shape[1]
    width = -(-max(q.shape[-1], v.shape[-1]) // _SPLASH_BLOCK) * _SPLASH_BLOCK
    # The kernel reads [N, length, D] and does not scale.
    heads = (_blocks(_widen(x, width)).swapaxes(1, 2) for x in (q * scale, k, v))
    q_, k_, v_ = (x.astype(q.dtype) for x in heads)
    # Padding keys form a segment of their own that no query looks at.
    segments = splash.SegmentIds(
        q=jnp.zeros(q_.shape[2], jnp.int32),
        kv=(jnp.arange(k_.shape[2]) >= keys).astype(jnp.int32),
    )
    every_pair = splash.FullMask((q_.shape[2], k_.shape[2]))
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([every_pair] * q.shape[2]), interpret=interpret
    )
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q_, k_, v_, segments)
    return out.swapaxes(1, 2)[:, :queries, :, : v.shape[-1]]


def _widen(x, width):
    """Pads the last axis of x with zeros up to `width`."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


def _blocks(x):
    """Pads the length of x [B, L, N, D] to a whole number of splash blocks."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _SPLASH_BLOCK), (0, 0), (0, 0)))


def _xla(q, k, v, bias, mask, scale):
    # Heads before lengths: products over the two leading axes are what CPU is fastest at.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    pieces = math.ceil(heads * queries * keys / XLA_LOGITS)
    part = functools.partial(_xla_part, k=k, v=v, scale=scale)
    if pieces == 1:
        return part((q, bias, mask)).swapaxes(1, 2)
    size = math.ceil(queries / pieces)
    rows = jax.tree.map(lambda x: _split_rows(x, pieces, size), (q, bias, mask))
    # Recomputed in the backward pass, or every piece's logits would be kept for it.
    out = jax.lax.map(jax.checkpoint(part), rows)
    out = jnp.moveaxis(out, 0, 2).reshape(*q.shape[:2], pieces * size, v.shape[-1])
    return out[:, :, :queries].swapaxes(1, 2)


def _split_rows(x, pieces, size):
    """Cuts [B, N, Q, ...] into [pieces, B, N, size, ...], zeros behind the last query."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, pieces * size - x.shape[2]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:2], pieces, size, x.shape[-1]), 2, 0)


def _xla_part(rows, k, v, scale):
    """Attention of q [B, N, Q, D] and its rows of bias and mask to k, v [B, N, K, D]."""
    q, bias, mask = rows
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bnqd,bnkd->bnqk", q, k, preferred_element_type=wide)
    if scale != 1:
        logits = logits * scale
    if bias is not None:
        logits = logits + bias.astype(wide)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(wide).min)
    # A softmax whose sum divides the result, not every weight: so its gradient has no sums over
    # keys, which XLA on CPU computes over and over, and it is the same in value.
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum("bnqk,bnkd->bnqd", weights.astype(v.dtype), v, preferred_element_type=wide)
    return (out / total).astype(q.dtype)
