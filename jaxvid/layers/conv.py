"""Convolution over [B, T, H, W, C]: one function, several lowerings, one table.

XLA's own 3-D convolution is slow for many shapes that video networks use, above all on CPU:
depthwise kernels, kernels that span one axis only, stems. Each lowering here computes the same
sums in other operations. `chosen` says which one a shape gets; `TABLE` is where that is decided.
Set the environment variable JAXVID_CONV, or enter `use_lowering`, to ask for one by name.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvid.base.errors import JaxvidError
from jaxvid.layers.backend import backend as traced_backend

Triple = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a lowering needs to know of a convolution beyond its two arrays (axes: T, H, W)."""

    kernel: Triple
    stride: Triple
    padding: Triple
    groups: int
    inputs: int
    outputs: int

    @property
    def kind(self) -> str:
        """The row of `TABLE` this convolution belongs to."""
        if self.groups > 1:
            return "depthwise" if self.groups == self.inputs else "grouped"
        if self.kernel == (1, 1, 1) and self.padding == (0, 0, 0):
            return "pointwise"
        if self.kernel == self.stride and self.padding == (0, 0, 0):
            return "patches"
        if self.kernel[0] == 1 and self.padding[0] == 0:
            return "spatial"
        if self.kernel[1:] == (1, 1):
            return "temporal"
        return "stem" if self.inputs <= STEM_CHANNELS else "volume"


# Up to this many input channels a kernel that spans time counts as a stem.
STEM_CHANNELS = 8

# XLA's CPU backend stops vectorising a fusion of about 100 shifted reads.
FUSED_TAPS = 64

# backend -> kind of convolution -> lowering, as tests/layers/bench_conv.py measured it. gpu and tpu
# have not been measured and keep XLA's own convolution.
_UNMEASURED = {
    "pointwise": "dot",
    "patches": "native",
    "spatial": "native",
    "temporal": "native",
    "stem": "native",
    "volume": "native",
    "depthwise": "native",
    "grouped": "native",
}
TABLE: dict[str, dict[str, str]] = {
    "cpu": {
        "pointwise": "dot",
        "patches": "patches",
        "spatial": "fold",
        "temporal": "taps",
        "stem": "stack",
        "volume": "planes",
        "depthwise": "shifts",
        "grouped": "planes",
    },
    "gpu": _UNMEASURED,
    "tpu": _UNMEASURED,
}

_override: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "conv_lowering", default=None
)


@contextlib.contextmanager
def use_lowering(name: str | None) -> Iterator[None]:
    """Asks for one lowering in every convolution traced inside; None returns to the table.

    It is read while JAX traces: a function compiled before keeps what it was compiled with.
    """
    _check_name(name)
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def chosen(geometry: Geometry, lowering: str | None = None, backend: str | None = None) -> str:
    """Names the lowering that a convolution gets.

    The first that is set counts: the argument, `use_lowering`, the variable JAXVID_CONV. A lowering
    that cannot compute this geometry (`shifts` for a dense kernel) gives way to the table's.

    Raises:
        JaxvidError: the name asked for is none of `LOWERINGS`.
    """
    asked = lowering or _override.get() or os.environ.get("JAXVID_CONV") or None
    _check_name(asked)
    if asked and LOWERINGS[asked].handles(geometry):
        return asked
    return TABLE.get(backend or traced_backend(), _UNMEASURED)[geometry.kind]


def _check_name(name: str | None) -> None:
    if name is not None and name not in LOWERINGS:
        raise JaxvidError(
            f"unknown convolution lowering {name!r} (JAXVID_CONV, use_lowering or lowering=): "
            f"choose one of {', '.join(LOWERINGS)}"
        )


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    groups: int = 1,
    lowering: str | None = None,
) -> jax.Array:
    """Convolves video with a kernel (cross-correlation, as everywhere in deep learning).

    Args:
        x: [B, T, H, W, in].
        kernel: [kt, kh, kw, in / groups, out], dtype of `x`; kt = 1 is a 2-D convolution.
        stride: steps along T, H, W.
        padding: zeros put on both sides of T, H, W.
        groups: number of channel groups; `in` makes it depthwise.
        lowering: how to compute it, see `LOWERINGS`; None lets `chosen` decide. `shifts` has
            gradients of its own and no forward mode: for jax.jvp ask for `native` or `planes`.

    Returns:
        [B, T', H', W', out] with T' = (T + 2 padding - kt) // stride + 1 and so on.

    Raises:
        JaxvidError: the shapes do not fit together, or the lowering's name is unknown.
    """
    geometry = _geometry(x, kernel, tuple(stride), tuple(padding), groups)
    return LOWERINGS[chosen(geometry, lowering)].compute(x, kernel, geometry)


def _geometry(x, kernel, stride, padding, groups) -> Geometry:
    if x.ndim != 5 or kernel.ndim != 5 or len(stride) != 3 or len(padding) != 3:
        raise JaxvidError(
            f"conv needs x [B, T, H, W, C], a 5-D kernel and 3 strides and paddings, but got x "
            f"{x.shape}, kernel {kernel.shape}, stride {stride}, padding {padding}"
        )
    inputs, outputs = x.shape[-1], kernel.shape[-1]
    if inputs != kernel.shape[3] * groups or outputs % groups:
        raise JaxvidError(
            f"a kernel {kernel.shape} with groups={groups} does not fit {inputs} input channels: "
            f"its 4th size must be input channels / groups, and groups must divide its 5th"
        )
    if min(_output_size(x.shape[1:4], kernel.shape[:3], stride, padding)) < 1:
        raise JaxvidError(
            f"video of T, H, W {x.shape[1:4]} with padding {padding} is smaller than the kernel "
            f"{kernel.shape[:3]}: use a longer or larger clip"
        )
    return Geometry(kernel.shape[:3], stride, padding, groups, inputs, outputs)


def _output_size(size, kernel, stride, padding) -> Triple:
    return tuple(
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )


# The lowerings. Each takes x [B, T, H, W, in], kernel [kt, kh, kw, in / groups, out], geometry.


def _native(x, kernel, geometry):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.stride,
        padding=[(p, p) for p in geometry.padding],
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        feature_group_count=geometry.groups,
    )


def _dot(x, kernel, geometry):
    st, sh, sw = geometry.stride
    return x[:, ::st, ::sh, ::sw] @ kernel[0, 0, 0]


def _patches(x, kernel, geometry):
    (kt, kh, kw), (batch, *size, _) = geometry.kernel, x.shape
    nt, nh, nw = (n // k for n, k in zip(size, geometry.kernel, strict=True))
    x = x[:, : nt * kt, : nh * kh, : nw * kw].reshape(batch, nt, kt, nh, kh, nw, kw, -1)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, nt, nh, nw, -1)
    return x @ kernel.reshape(-1, geometry.outputs)


def _fold(x, kernel, geometry):
    x = x[:, :: geometry.stride[0]]
    return _unfold(_conv2d(_merge_time(x), kernel[0], geometry), x)


def _planes(x, kernel, geometry):
    x = _pad(x, (geometry.padding[0], 0, 0))
    frames = _time_slices(x, geometry)
    planes = (
        _conv2d(_merge_time(frame), kernel[i], geometry).astype(_sum_dtype(x))
        for i, frame in enumerate(frames)
    )
    return _unfold(functools.reduce(jnp.add, planes), frames[0]).astype(x.dtype)


def _stack(x, kernel, geometry):
    x = _pad(x, (geometry.padding[0], 0, 0))
    frames = jnp.concatenate(_time_slices(x, geometry), axis=-1)
    kernel = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, geometry.outputs)
    return _unfold(_conv2d(_merge_time(frames), kernel, geometry), frames)


def _taps(x, kernel, geometry):
    x = _pad(x, geometry.padding)
    products = (
        jnp.matmul(part, kernel[tap], preferred_element_type=_sum_dtype(x))
        for tap, part in _slices(x, geometry)
    )
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _columns(x, kernel, geometry):
    x = _pad(x, geometry.padding)
    columns = jnp.concatenate([part for _, part in _slices(x, geometry)], axis=-1)
    return columns @ kernel.reshape(-1, geometry.outputs)


def _shifts(x, kernel, geometry):
    repeats = geometry.outputs // geometry.inputs
    if repeats > 1:
        x = jnp.repeat(x, repeats, axis=-1)
    return _depthwise(x, kernel[:, :, :, 0], geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x, kernel, geometry):
    """Sums shifted copies of x, each scaled by one tap of kernel [kt, kh, kw, C]."""
    return _sum_of_shifts(_pad(x, geometry.padding), kernel, geometry)


def _sum_of_shifts(x, kernel, geometry):
    """Convolves padded x [B, T, H, W, C] with kernel [kt, kh, kw, C].

    What spans time is a loop: over the frames of the output or, where one frame has too many taps
    to fuse, over the planes of the kernel. As a single expression XLA's CPU backend would fuse it
    into everything that uses it and compute it there again: on a path of shortcuts, in every later
    block.
    """

    def add_taps(total, x, kernel, geometry):
        for tap, part in _slices(x, geometry):
            total = total + part.astype(total.dtype) * kernel[tap].astype(total.dtype)
        return total

    size = _output_size(x.shape[1:4], geometry.kernel, geometry.stride, (0, 0, 0))
    length, stride = geometry.kernel[0], geometry.stride[0]
    total = jnp.zeros((x.shape[0], *size, x.shape[-1]), _sum_dtype(x))
    if length == 1:
        return add_taps(total, x, kernel, geometry).astype(x.dtype)

    def set_frame(t, out):
        frames = lax.dynamic_slice_in_dim(x, t * stride, length, axis=1)
        frame = add_taps(jnp.zeros_like(total[:, :1]), frames, kernel, geometry)
        return lax.dynamic_update_slice_in_dim(out, frame.astype(x.dtype), t, axis=1)

    if math.prod(geometry.kernel) <= FUSED_TAPS:
        return lax.fori_loop(0, size[0], set_frame, total.astype(x.dtype))
    plane = dataclasses.replace(geometry, kernel=(1, *geometry.kernel[1:]))

    def add_plane(t, total):
        frames = lax.dynamic_slice_in_dim(x, t, (size[0] - 1) * stride + 1, axis=1)
        return add_taps(total, frames, lax.dynamic_slice_in_dim(kernel, t, 1), plane)

    return lax.fori_loop(0, length, add_plane, total).astype(x.dtype)


def _depthwise_forward(x, kernel, geometry):
    return _depthwise(x, kernel, geometry), (x, kernel)


def _depthwise_backward(geometry, saved, dy):
    x, kernel = saved
    return _depthwise_dx(x, kernel, dy, geometry), _depthwise_dkernel(x, kernel, dy, geometry)


def _depthwise_dx(x, kernel, dy, geometry):
    """Gradient of the input: per phase of the stride, a sum of shifts of dy."""
    phases = _Phases(x.shape[1:4], dy.shape[1:4], geometry)
    kernel = phases.split_kernel(kernel)  # [qt, qh, qw, st, sh, sw, C]
    dy = phases.pad(dy)
    if geometry.stride == (1, 1, 1):
        flipped = dataclasses.replace(geometry, padding=(0, 0, 0))
        return _sum_of_shifts(dy, kernel[:, :, :, 0, 0, 0], flipped)
    unit = dataclasses.replace(geometry, kernel=phases.kernel, stride=(1, 1, 1))
    total = 0
    for tap, part in _slices(dy, unit):
        part = jnp.expand_dims(part.astype(_sum_dtype(x)), (2, 4, 6))
        total = total + part * jnp.expand_dims(kernel[tap], (0, 2, 4)).astype(part.dtype)
    return phases.join(total.astype(x.dtype))


def _depthwise_dkernel(x, kernel, dy, geometry):
    """Gradient of the kernel: one running sum [W', C] per tap, over the rows of dy.

    XLA's CPU reductions over all but the last axis walk memory with strides and do not vectorise;
    running sums over whole rows do, which makes this some twenty times faster.
    """
    x = _pad(x, geometry.padding)
    batch, *size, channels = dy.shape
    strides, dtype = geometry.stride, _sum_dtype(x)
    width = (size[2] - 1) * strides[2] + 1

    def plane(t0):
        taps = _taps_of((1, *geometry.kernel[1:]))

        def add_row(i, totals):
            b, t, h = jnp.unravel_index(i, (batch, *size[:2]))
            row = lax.dynamic_slice(dy, (b, t, h, 0, 0), (1, 1, 1, size[2], channels))
            row = row.astype(dtype)[0, 0, 0]
            start = (b, t * strides[0] + t0, h * strides[1])
            new = []
            for total, (_, kh, kw) in zip(totals, taps, strict=True):
                at = (*start[:2], start[2] + kh, kw, 0)
                part = lax.dynamic_slice(x, at, (1, 1, 1, width, channels))[0, 0, 0, :: strides[2]]
                new.append(total + part.astype(dtype) * row)
            return tuple(new)

        zeros = tuple(jnp.zeros((size[2], channels), dtype) for _ in taps)
        totals = lax.fori_loop(0, batch * size[0] * size[1], add_row, zeros)
        return jnp.stack(totals).sum(1)

    totals = lax.map(plane, jnp.arange(geometry.kernel[0]))
    return totals.reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class _Phases:
    """How the gradient of a strided convolution's input splits into `stride` interleaved parts.

    Position s o + r of the padded input (phase r < s) meets only the taps r, r + s, r + 2 s, ...,
    so the gradient is a convolution of dy at stride 1, with ceil(k / s) taps and one output per
    phase; the phases are then interleaved. No zeros are ever put between the elements of dy.
    """

    def __init__(self, size, out_size, geometry):
        axes = list(
            zip(size, out_size, geometry.kernel, geometry.stride, geometry.padding, strict=True)
        )
        self.stride, self.size = geometry.stride, size
        self.kernel = tuple(-(-k // s) for _, _, k, s, _ in axes)
        self.skipped = tuple(p // s for *_, s, p in axes)  # blocks that lie in the padding
        self.blocks = tuple(-(-(n + p) // s) - p // s for n, _, _, s, p in axes)
        self.crop = tuple(p % s for *_, s, p in axes)
        self.pads = tuple(
            (q - 1 - skip, skip + n - out)
            for q, skip, n, out in zip(
                self.kernel, self.skipped, self.blocks, out_size, strict=True
            )
        )

    def split_kernel(self, kernel):
        """[kt, kh, kw, ...] to [qt, qh, qw, st, sh, sw, ...], flipped along the q axes."""
        ends = (
            q * s - k for q, s, k in zip(self.kernel, self.stride, kernel.shape[:3], strict=True)
        )
        rest = kernel.shape[3:]
        kernel = jnp.pad(kernel, [*((0, end) for end in ends), *((0, 0) for _ in rest)])
        (qt, qh, qw), (st, sh, sw) = self.kernel, self.stride
        kernel = kernel.reshape(qt, st, qh, sh, qw, sw, *rest)[::-1, :, ::-1, :, ::-1]
        return jnp.moveaxis(kernel, (2, 4), (1, 2))

    def pad(self, dy):
        """Pads or crops dy so that a convolution with `kernel` taps yields one value per block."""
        zero = jnp.zeros((), dy.dtype)
        return lax.pad(dy, zero, [(0, 0, 0), *((a, b, 0) for a, b in self.pads), (0, 0, 0)])

    def join(self, blocks):
        """[B, nt, st, nh, sh, nw, sw, C] to the input's [B, T, H, W, C]."""
        whole = (n * s for n, s in zip(self.blocks, self.stride, strict=True))
        x = blocks.reshape(blocks.shape[0], *whole, blocks.shape[-1])
        at = tuple(slice(c, c + n) for c, n in zip(self.crop, self.size, strict=True))
        return x[(slice(None), *at)]


# What the lowerings are made of.


def _conv2d(x, kernel, geometry):
    """2-D convolution of images [N, H, W, in] with [kh, kw, in / groups, out]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.stride[1:],
        padding=[(p, p) for p in geometry.padding[1:]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
    )


def _merge_time(x):
    return x.reshape(-1, *x.shape[2:])


def _unfold(images, x):
    return images.reshape(*x.shape[:2], *images.shape[1:])


def _pad(x, padding):
    if not any(padding):
        return x
    return jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))


def _slices(x, geometry):
    """Lists (tap of the kernel, the part [B, T', H', W', C] of padded x that it meets)."""
    size = _output_size(x.shape[1:4], geometry.kernel, geometry.stride, (0, 0, 0))
    slices = []
    for tap in _taps_of(geometry.kernel):
        ends = (t + (n - 1) * s + 1 for t, n, s in zip(tap, size, geometry.stride, strict=True))
        part = lax.slice(
            x, (0, *tap, 0), (x.shape[0], *ends, x.shape[-1]), (1, *geometry.stride, 1)
        )
        slices.append((tap, part))
    return slices


def _time_slices(x, geometry):
    kt, st = geometry.kernel[0], geometry.stride[0]
    frames = (x.shape[1] - kt) // st + 1
    return [x[:, t : t + (frames - 1) * st + 1 : st] for t in range(kt)]


def _taps_of(kernel):
    kt, kh, kw = kernel
    return [(t, h, w) for t in range(kt) for h in range(kh) for w in range(kw)]


def _sum_dtype(x):
    """Partial sums are at least float32 wide, as they are inside one XLA convolution."""
    return jnp.promote_types(x.dtype, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Lowering:
    """One way to compute a convolution, and the geometries it is able to."""

    compute: Callable[[jax.Array, jax.Array, Geometry], jax.Array]
    handles: Callable[[Geometry], bool]
    summary: str


def _is_dense(geometry: Geometry) -> bool:
    return geometry.groups == 1


LOWERINGS: dict[str, Lowering] = {
    "native": Lowering(_native, lambda g: True, "XLA's own 3-D convolution"),
    "dot": Lowering(_dot, lambda g: g.kind == "pointwise", "1x1x1: a matrix product"),
    "patches": Lowering(
        _patches,
        lambda g: g.kind == "patches",
        "windows that neither overlap nor leave gaps: a matrix product",
    ),
    "fold": Lowering(
        _fold,
        lambda g: g.kernel[0] == 1 and g.padding[0] == 0,
        "kt = 1: frames join the batch, one 2-D convolution",
    ),
    "planes": Lowering(_planes, lambda g: True, "sum over kt of 2-D convolutions"),
    "stack": Lowering(_stack, _is_dense, "frames of the window as channels, one 2-D convolution"),
    "taps": Lowering(_taps, _is_dense, "sum over the kernel's taps of matrix products"),
    "columns": Lowering(_columns, _is_dense, "all taps as channels, one matrix product"),
    "shifts": Lowering(
        _shifts, lambda g: g.groups == g.inputs, "depthwise: sum of shifted, scaled copies"
    ),
}


class Conv(nn.Module):
    """Convolution over [B, T, H, W, C] with parameters `kernel` and, if asked for, `bias`.

    A 2-D convolution has kernel_size (1, kh, kw). Padding is explicit and symmetric. `dtype` is the
    compute dtype; None follows the inputs and parameters.
    """

    features: int
    kernel_size: Sequence[int] = (1, 1, 1)
    stride: Sequence[int] = (1, 1, 1)
    padding: Sequence[int] = (0, 0, 0)
    groups: int = 1
    use_bias: bool = False
    dtype: Any = None
    kernel_init: Callable = nn.initializers.kaiming_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, H, W, in] to [B, T', H', W', features]."""
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if bias is None else y + bias
