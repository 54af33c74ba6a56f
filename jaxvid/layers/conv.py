"""Convolution over [B, T, H, W, C]: one function, several lowerings, one table.

XLA's own 3-D convolution is slow for many shapes that video networks use, above all on CPU:
depthwise kernels, kernels that span one axis only, stems. Each lowering here computes the same
sums in other operations. `chosen` says which one a shape gets; `TABLE` is where that is decided.
Set the environment variable JAXVID_CONV, or enter `use_lowering`, to ask for one by name.
"""

# Names end in their axes, outermost first, as in `x_BTHWC`:
#   B  batch
#   T  frames
#   H  height
#   W  width
#   C  channels
#   I  channels into a kernel, those of one group
#   O  channels out of a kernel
#   M  many in a row: frames or windows, of one sample or of all
#   t, h, w  what a kernel or window spans of T, H, W; beside them T, H, W count such spans

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
from jaxvid.layers import lanes
from jaxvid.layers.backend import backend as traced_backend
from jaxvid.layers.backend import note
from jaxvid.layers.spread import apart, splits_heads

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
    asked = _asked(lowering)
    if asked and LOWERINGS[asked].handles(geometry):
        return asked
    return TABLE.get(backend or traced_backend(), _UNMEASURED)[geometry.kind]


def _asked(lowering: str | None) -> str | None:
    asked = lowering or _override.get() or os.environ.get("JAXVID_CONV") or None
    _check_name(asked)
    return asked


def _check_name(name: str | None) -> None:
    if name is not None and name not in LOWERINGS:
        raise JaxvidError(
            f"unknown convolution lowering {name!r} (JAXVID_CONV, use_lowering or lowering=): "
            f"choose one of {', '.join(LOWERINGS)}"
        )


def conv(
    x_BTHWC: jax.Array,
    kernel_thwIO: jax.Array,
    *,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    groups: int = 1,
    lowering: str | None = None,
) -> jax.Array:
    """Convolves video with a kernel (cross-correlation, as everywhere in deep learning).

    Args:
        x_BTHWC: video [B, T, H, W, C].
        kernel_thwIO: [t, h, w, C / groups, O], in the dtype of x; t = 1 is a 2-D convolution.
        stride: steps along T, H, W.
        padding: zeros put on both sides of T, H, W.
        groups: number of channel groups; C makes it depthwise.
        lowering: how to compute it, see `LOWERINGS`; None lets `chosen` decide. `shifts` has
            gradients of its own and no forward mode: for jax.jvp ask for `native` or `planes`.

    Returns:
        [B, T', H', W', O] with T' = (T + 2 padding - t) // stride + 1 and so on.

    Raises:
        JaxvidError: the shapes do not fit together, or the lowering's name is unknown.
    """
    geometry = _geometry(x_BTHWC, kernel_thwIO, tuple(stride), tuple(padding), groups)
    across = (geometry.kernel[2], geometry.stride[2], geometry.padding[2])
    if not _asked(lowering) and lanes.fits(x_BTHWC.shape[3], *across):
        alone = groups == geometry.inputs == geometry.outputs and across == (1, 1, 0)
        if groups == 1 or alone:
            note(f"{geometry.kind} convolution", "lanes")
            way = lanes.conv if groups == 1 else lanes.depthwise
            return way(x_BTHWC, kernel_thwIO, geometry.stride, geometry.padding)
    name = chosen(geometry, lowering)
    if name == "shifts" and splits_heads():
        name = "native"  # which the compiler splits by channels as it finds them
    note(f"{geometry.kind} convolution", name)
    compute = LOWERINGS[name].compute
    if name != "shifts":
        return compute(x_BTHWC, kernel_thwIO, geometry)
    # Its gradient goes through the rows one by one: through those that are here.
    video, kernel = ("batch", *[None] * 4), (None,) * 5
    return apart(lambda x, k: compute(x, k, geometry), (x_BTHWC, video), (kernel_thwIO, kernel))


def _geometry(x_BTHWC, kernel_thwIO, stride, padding, groups) -> Geometry:
    shape, kernel = x_BTHWC.shape, kernel_thwIO.shape
    if len(shape) != 5 or len(kernel) != 5 or len(stride) != 3 or len(padding) != 3:
        raise JaxvidError(
            f"conv needs x [B, T, H, W, C], a 5-D kernel and 3 strides and paddings, but got x "
            f"{shape}, kernel {kernel}, stride {stride}, padding {padding}"
        )
    inputs, outputs = shape[-1], kernel[-1]
    if inputs != kernel[3] * groups or outputs % groups:
        raise JaxvidError(
            f"a kernel {kernel} with groups={groups} does not fit {inputs} input channels: "
            f"its 4th size must be input channels / groups, and groups must divide its 5th"
        )
    if min(_output_size(shape[1:4], kernel[:3], stride, padding)) < 1:
        raise JaxvidError(
            f"video of T, H, W {shape[1:4]} with padding {padding} is smaller than the kernel "
            f"{kernel[:3]}: use a longer or larger clip"
        )
    return Geometry(kernel[:3], stride, padding, groups, inputs, outputs)


def _output_size(size, kernel, stride, padding) -> Triple:
    return tuple(
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )


# The lowerings. Each takes x [B, T, H, W, C], a kernel [t, h, w, I, O] and their geometry.


def _native(x_BTHWC, kernel_thwIO, geometry):
    return lax.conv_general_dilated(
        x_BTHWC,
        kernel_thwIO,
        window_strides=geometry.stride,
        padding=[(p, p) for p in geometry.padding],
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        feature_group_count=geometry.groups,
    )


def _dot(x_BTHWC, kernel_thwIO, geometry):
    st, sh, sw = geometry.stride
    return x_BTHWC[:, ::st, ::sh, ::sw] @ kernel_thwIO[0, 0, 0]


def _patches(x_BTHWC, kernel_thwIO, geometry):
    (kt, kh, kw), (batch, *size, _) = geometry.kernel, x_BTHWC.shape
    nt, nh, nw = (n // k for n, k in zip(size, geometry.kernel, strict=True))
    x_BTHWC = x_BTHWC[:, : nt * kt, : nh * kh, : nw * kw]
    x_BTtHhWwC = x_BTHWC.reshape(batch, nt, kt, nh, kh, nw, kw, -1)
    x_BTHWthwC = x_BTtHhWwC.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    x_BTHWC = x_BTHWthwC.reshape(batch, nt, nh, nw, -1)
    return x_BTHWC @ kernel_thwIO.reshape(-1, geometry.outputs)


def _fold(x_BTHWC, kernel_thwIO, geometry):
    x_BTHWC = x_BTHWC[:, :: geometry.stride[0]]
    return _unfold(_conv2d(_fold_frames(x_BTHWC), kernel_thwIO[0], geometry), x_BTHWC)


def _planes(x_BTHWC, kernel_thwIO, geometry):
    x_BTHWC = _pad(x_BTHWC, (geometry.padding[0], 0, 0))
    frames = _time_slices(x_BTHWC, geometry)
    planes = (
        _conv2d(_fold_frames(frame_BTHWC), kernel_thwIO[t], geometry).astype(_sum_dtype(x_BTHWC))
        for t, frame_BTHWC in enumerate(frames)
    )
    y_MHWC = functools.reduce(jnp.add, planes)
    return _unfold(y_MHWC, frames[0]).astype(x_BTHWC.dtype)


def _stack(x_BTHWC, kernel_thwIO, geometry):
    x_BTHWC = _pad(x_BTHWC, (geometry.padding[0], 0, 0))
    x_BTHWC = jnp.concatenate(_time_slices(x_BTHWC, geometry), axis=-1)
    _, height, width, _, outputs = kernel_thwIO.shape
    kernel_hwIO = jnp.moveaxis(kernel_thwIO, 0, 2).reshape(height, width, -1, outputs)
    return _unfold(_conv2d(_fold_frames(x_BTHWC), kernel_hwIO, geometry), x_BTHWC)


def _taps(x_BTHWC, kernel_thwIO, geometry):
    x_BTHWC = _pad(x_BTHWC, geometry.padding)
    products = (
        jnp.matmul(part_BTHWC, kernel_thwIO[tap], preferred_element_type=_sum_dtype(x_BTHWC))
        for tap, part_BTHWC in _slices(x_BTHWC, geometry)
    )
    return functools.reduce(jnp.add, products).astype(x_BTHWC.dtype)


def _columns(x_BTHWC, kernel_thwIO, geometry):
    x_BTHWC = _pad(x_BTHWC, geometry.padding)
    parts = [part_BTHWC for _, part_BTHWC in _slices(x_BTHWC, geometry)]
    x_BTHWC = jnp.concatenate(parts, axis=-1)
    return x_BTHWC @ kernel_thwIO.reshape(-1, geometry.outputs)


def _shifts(x_BTHWC, kernel_thwIO, geometry):
    repeats = geometry.outputs // geometry.inputs
    if repeats > 1:
        x_BTHWC = jnp.repeat(x_BTHWC, repeats, axis=-1)
    return _depthwise(x_BTHWC, kernel_thwIO[:, :, :, 0], geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x_BTHWC, kernel_thwC, geometry):
    """Sums shifted copies of x, each scaled by one tap of the kernel."""
    return _sum_of_shifts(_pad(x_BTHWC, geometry.padding), kernel_thwC, geometry)


def _sum_of_shifts(x_BTHWC, kernel_thwC, geometry):
    """Convolves each channel of x, which is padded already, with the kernel's of that number.

    What spans time is a loop: over the frames of the output or, where one frame has too many taps
    to fuse, over the planes of the kernel. As a single expression XLA's CPU backend would fuse it
    into everything that uses it and compute it there again: on a path of shortcuts, in every later
    block.
    """
    batch, *size, channels = x_BTHWC.shape
    size = _output_size(size, geometry.kernel, geometry.stride, (0, 0, 0))
    length, stride = geometry.kernel[0], geometry.stride[0]
    zeros_BTHWC = jnp.zeros((batch, *size, channels), _sum_dtype(x_BTHWC))
    if length == 1:
        y_BTHWC = _add_taps(zeros_BTHWC, x_BTHWC, kernel_thwC, geometry)
        return y_BTHWC.astype(x_BTHWC.dtype)

    def set_frame(t, y_BTHWC):
        seen_BTHWC = lax.dynamic_slice_in_dim(x_BTHWC, t * stride, length, axis=1)
        zeros_B1HWC = jnp.zeros_like(zeros_BTHWC[:, :1])
        y_B1HWC = _add_taps(zeros_B1HWC, seen_BTHWC, kernel_thwC, geometry)
        return lax.dynamic_update_slice_in_dim(y_BTHWC, y_B1HWC.astype(x_BTHWC.dtype), t, axis=1)

    if math.prod(geometry.kernel) <= FUSED_TAPS:
        return lax.fori_loop(0, size[0], set_frame, zeros_BTHWC.astype(x_BTHWC.dtype))
    plane = dataclasses.replace(geometry, kernel=(1, *geometry.kernel[1:]))

    def add_plane(t, total_BTHWC):
        seen_BTHWC = lax.dynamic_slice_in_dim(x_BTHWC, t, (size[0] - 1) * stride + 1, axis=1)
        kernel_1hwC = lax.dynamic_slice_in_dim(kernel_thwC, t, 1)
        return _add_taps(total_BTHWC, seen_BTHWC, kernel_1hwC, plane)

    return lax.fori_loop(0, length, add_plane, zeros_BTHWC).astype(x_BTHWC.dtype)


def _add_taps(total_BTHWC, x_BTHWC, kernel_thwC, geometry):
    """Adds to a sum what each tap makes of padded x, in the sum's dtype."""
    dtype = total_BTHWC.dtype
    for tap, part_BTHWC in _slices(x_BTHWC, geometry):
        total_BTHWC = total_BTHWC + part_BTHWC.astype(dtype) * kernel_thwC[tap].astype(dtype)
    return total_BTHWC


def _depthwise_forward(x_BTHWC, kernel_thwC, geometry):
    return _depthwise(x_BTHWC, kernel_thwC, geometry), (x_BTHWC, kernel_thwC)


def _depthwise_backward(geometry, saved, dy_BTHWC):
    given = (*saved, dy_BTHWC, geometry)
    return _depthwise_dx(*given), _depthwise_dkernel(*given)


def _depthwise_dx(x_BTHWC, kernel_thwC, dy_BTHWC, geometry):
    """Gradient of the input: per phase of the stride, a sum of shifts of dy."""
    phases = _Phases(x_BTHWC.shape[1:4], dy_BTHWC.shape[1:4], geometry)
    kernel_THWthwC = phases.split_kernel(kernel_thwC)
    dy_BTHWC = phases.pad(dy_BTHWC)
    if geometry.stride == (1, 1, 1):
        flipped = dataclasses.replace(geometry, padding=(0, 0, 0))
        return _sum_of_shifts(dy_BTHWC, kernel_THWthwC[:, :, :, 0, 0, 0], flipped)
    unit = dataclasses.replace(geometry, kernel=phases.kernel, stride=(1, 1, 1))
    dx_BTtHhWwC: Any = 0
    for tap, part_BTHWC in _slices(dy_BTHWC, unit):
        part_BT1H1W1C = jnp.expand_dims(part_BTHWC.astype(_sum_dtype(x_BTHWC)), (2, 4, 6))
        tap_1t1h1wC = jnp.expand_dims(kernel_THWthwC[tap], (0, 2, 4))
        dx_BTtHhWwC = dx_BTtHhWwC + part_BT1H1W1C * tap_1t1h1wC.astype(part_BT1H1W1C.dtype)
    return phases.join(dx_BTtHhWwC.astype(x_BTHWC.dtype))


def _depthwise_dkernel(x_BTHWC, kernel_thwC, dy_BTHWC, geometry):
    """Gradient of the kernel: one running sum [W', C] per tap, over the rows of dy.

    XLA's CPU reductions over all but the last axis walk memory with strides and do not vectorise;
    running sums over whole rows do, which makes this some twenty times faster.
    """
    x_BTHWC = _pad(x_BTHWC, geometry.padding)
    batch, *size, channels = dy_BTHWC.shape
    strides, dtype = geometry.stride, _sum_dtype(x_BTHWC)
    width = (size[2] - 1) * strides[2] + 1
    taps = _taps_of((1, *geometry.kernel[1:]))

    def sums_of_plane(kt):
        def add_row(i, totals):
            b, t, h = jnp.unravel_index(i, (batch, *size[:2]))
            dy_111WC = lax.dynamic_slice(dy_BTHWC, (b, t, h, 0, 0), (1, 1, 1, size[2], channels))
            dy_WC = dy_111WC.astype(dtype)[0, 0, 0]
            frame, row = t * strides[0] + kt, h * strides[1]
            new = []
            for total_WC, (_, kh, kw) in zip(totals, taps, strict=True):
                at = (b, frame, row + kh, kw, 0)
                x_111WC = lax.dynamic_slice(x_BTHWC, at, (1, 1, 1, width, channels))
                x_WC = x_111WC[0, 0, 0, :: strides[2]]
                new.append(total_WC + x_WC.astype(dtype) * dy_WC)
            return tuple(new)

        zeros = tuple(jnp.zeros((size[2], channels), dtype) for _ in taps)
        totals = lax.fori_loop(0, batch * size[0] * size[1], add_row, zeros)
        return jnp.stack(totals).sum(1)

    sums = lax.map(sums_of_plane, jnp.arange(geometry.kernel[0]))
    return sums.reshape(kernel_thwC.shape).astype(kernel_thwC.dtype)


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

    def split_kernel(self, kernel_thwC):
        """Sorts the taps by their phases t, h, w: [T, H, W, t, h, w, C], flipped along T, H, W."""
        ends = (
            q * s - k
            for q, s, k in zip(self.kernel, self.stride, kernel_thwC.shape[:3], strict=True)
        )
        kernel_thwC = jnp.pad(kernel_thwC, [*((0, end) for end in ends), (0, 0)])
        (qt, qh, qw), (st, sh, sw) = self.kernel, self.stride
        kernel_TtHhWwC = kernel_thwC.reshape(qt, st, qh, sh, qw, sw, -1)
        return jnp.moveaxis(kernel_TtHhWwC[::-1, :, ::-1, :, ::-1], (2, 4), (1, 2))

    def pad(self, dy_BTHWC):
        """Pads or crops dy so that a convolution with `kernel` taps yields one value per block."""
        zero = jnp.zeros((), dy_BTHWC.dtype)
        return lax.pad(dy_BTHWC, zero, [(0, 0, 0), *((a, b, 0) for a, b in self.pads), (0, 0, 0)])

    def join(self, x_BTtHhWwC):
        """Interleaves the phases t, h, w to the gradient of the input [B, T, H, W, C]."""
        whole = (n * s for n, s in zip(self.blocks, self.stride, strict=True))
        x_BTHWC = x_BTtHhWwC.reshape(x_BTtHhWwC.shape[0], *whole, x_BTtHhWwC.shape[-1])
        at = tuple(slice(c, c + n) for c, n in zip(self.crop, self.size, strict=True))
        return x_BTHWC[(slice(None), *at)]


# What the lowerings are made of.


def _conv2d(x_MHWC, kernel_hwIO, geometry):
    """2-D convolution of frames, by what the geometry has for H and W."""
    return lax.conv_general_dilated(
        x_MHWC,
        kernel_hwIO,
        window_strides=geometry.stride[1:],
        padding=[(p, p) for p in geometry.padding[1:]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
    )


def _fold_frames(x_BTHWC):
    return x_BTHWC.reshape(-1, *x_BTHWC.shape[2:])


def _unfold(y_MHWC, x_BTHWC):
    """Undoes `_fold_frames` of x for what was made of it."""
    return y_MHWC.reshape(*x_BTHWC.shape[:2], *y_MHWC.shape[1:])


def _pad(x_BTHWC, padding):
    if not any(padding):
        return x_BTHWC
    return jnp.pad(x_BTHWC, ((0, 0), *((p, p) for p in padding), (0, 0)))


def _slices(x_BTHWC, geometry):
    """Lists (tap of the kernel, the part [B, T', H', W', C] of padded x that it meets)."""
    batch, *size, channels = x_BTHWC.shape
    size = _output_size(size, geometry.kernel, geometry.stride, (0, 0, 0))
    slices = []
    for tap in _taps_of(geometry.kernel):
        ends = (t + (n - 1) * s + 1 for t, n, s in zip(tap, size, geometry.stride, strict=True))
        strides = (1, *geometry.stride, 1)
        part_BTHWC = lax.slice(x_BTHWC, (0, *tap, 0), (batch, *ends, channels), strides)
        slices.append((tap, part_BTHWC))
    return slices


def _time_slices(x_BTHWC, geometry):
    """For each plane of the kernel, the frames [B, T', H, W, C] of padded x that it meets."""
    kt, st = geometry.kernel[0], geometry.stride[0]
    frames = (x_BTHWC.shape[1] - kt) // st + 1
    return [x_BTHWC[:, t : t + (frames - 1) * st + 1 : st] for t in range(kt)]


def _taps_of(kernel):
    kt, kh, kw = kernel
    return [(t, h, w) for t in range(kt) for h in range(kh) for w in range(kw)]


def _sum_dtype(x):
    """The dtype of partial sums: float32 or wider, as they are inside one XLA convolution."""
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
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        """Maps [B, T, H, W, C] to [B, T', H', W', features]."""
        shape = (*self.kernel_size, x_BTHWC.shape[-1] // self.groups, self.features)
        kernel_thwIO = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias_O = None
        if self.use_bias:
            bias_O = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x_BTHWC, kernel_thwIO, bias_O = nn.dtypes.promote_dtype(
            x_BTHWC, kernel_thwIO, bias_O, dtype=self.dtype
        )
        y_BTHWC = conv(
            x_BTHWC, kernel_thwIO, stride=self.stride, padding=self.padding, groups=self.groups
        )
        return y_BTHWC if bias_O is None else y_BTHWC + bias_O
