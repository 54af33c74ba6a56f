"""Every lowering computes the same convolution, in value and in both gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.layers.conv import LOWERINGS, TABLE, Conv, Geometry, chosen, conv, use_lowering

# (size T, H, W), kernel, stride, padding, groups, inputs, outputs
CASES = {
    "pointwise": ((3, 5, 4), (1, 1, 1), (1, 1, 1), (0, 0, 0), 1, 3, 5),
    "pointwise strided": ((3, 5, 6), (1, 1, 1), (2, 2, 3), (0, 0, 0), 1, 3, 5),
    "pointwise padded": ((2, 3, 3), (1, 1, 1), (1, 2, 1), (0, 1, 1), 1, 2, 3),
    "2-D": ((3, 6, 5), (1, 3, 3), (1, 1, 1), (0, 1, 1), 1, 3, 4),
    "2-D strided": ((3, 7, 6), (1, 3, 3), (1, 2, 2), (0, 1, 1), 1, 3, 4),
    "2-D stem": ((2, 9, 8), (1, 5, 5), (1, 2, 2), (0, 2, 2), 1, 3, 4),
    "2-D uneven": ((5, 9, 8), (1, 2, 5), (2, 3, 2), (0, 0, 2), 1, 3, 4),
    "2-D grouped": ((2, 5, 5), (1, 3, 3), (1, 2, 1), (0, 1, 1), 2, 4, 6),
    "2-D padded in time": ((2, 4, 4), (1, 3, 3), (1, 1, 1), (1, 1, 1), 1, 2, 3),
    "temporal": ((5, 3, 4), (3, 1, 1), (1, 1, 1), (1, 0, 0), 1, 3, 4),
    "temporal strided": ((9, 3, 3), (5, 1, 1), (4, 1, 1), (2, 0, 0), 1, 3, 4),
    "3-D": ((4, 5, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1), 1, 3, 4),
    "3-D strided": ((5, 7, 6), (3, 2, 3), (2, 2, 2), (1, 0, 1), 1, 3, 4),
    "3-D stem": ((4, 7, 7), (2, 4, 4), (1, 2, 2), (1, 2, 2), 1, 2, 3),
    "patches": ((4, 6, 6), (2, 3, 2), (2, 3, 2), (0, 0, 0), 1, 3, 5),
    "patches and a rest": ((5, 7, 6), (2, 3, 2), (2, 3, 2), (0, 0, 0), 1, 3, 5),
    "overlapping patches": ((5, 9, 8), (3, 4, 4), (2, 3, 3), (1, 2, 2), 1, 3, 4),
    "stride past kernel": ((7, 8, 9), (2, 1, 2), (3, 2, 4), (0, 0, 0), 1, 2, 3),
    "shorter than the kernel": ((1, 5, 4), (3, 2, 1), (1, 1, 1), (1, 1, 0), 1, 2, 3),
    "3-D grouped": ((4, 5, 4), (3, 3, 3), (1, 2, 2), (1, 1, 1), 2, 4, 6),
    "depthwise": ((4, 6, 5), (3, 3, 3), (1, 1, 1), (1, 1, 1), 5, 5, 5),
    "depthwise strided": ((4, 7, 8), (3, 3, 3), (1, 2, 2), (1, 1, 1), 5, 5, 5),
    "depthwise pool": ((4, 17, 16), (3, 3, 3), (1, 8, 8), (1, 1, 1), 3, 3, 3),
    "depthwise uneven": ((6, 7, 9), (2, 5, 1), (2, 1, 3), (1, 2, 0), 3, 3, 3),
    "depthwise temporal": ((6, 3, 3), (5, 1, 1), (1, 1, 1), (2, 0, 0), 3, 3, 3),
    "depthwise multiplied": ((3, 5, 5), (2, 3, 1), (1, 2, 1), (1, 1, 0), 3, 3, 6),
    "depthwise of many taps": ((5, 5, 6), (5, 5, 3), (2, 1, 1), (2, 2, 1), 3, 3, 3),
    "depthwise padded past its kernel": ((3, 5, 4), (3, 3, 3), (1, 1, 2), (3, 4, 5), 2, 2, 2),
    "depthwise 2-D": ((2, 5, 5), (1, 3, 3), (1, 1, 1), (0, 1, 1), 3, 3, 3),
    "one channel": ((3, 4, 4), (2, 2, 3), (1, 1, 1), (1, 1, 1), 1, 1, 2),
}


def geometry_of(case):
    _, kernel, stride, padding, groups, inputs, outputs = case
    return Geometry(kernel, stride, padding, groups, inputs, outputs)


def arrays(case, dtype=np.float64, batch=2):
    size, kernel, _, _, groups, inputs, outputs = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *size, inputs)).astype(dtype)
    return x, rng.normal(size=(*kernel, inputs // groups, outputs)).astype(dtype)


def options(case):
    return {"stride": case[2], "padding": case[3], "groups": case[4]}


def by_definition(x, kernel, *, stride, padding, groups):
    """The convolution as its definition reads: one window of numpy sums per output position."""
    x = np.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))
    k, size = kernel.shape[:3], x.shape[1:4]
    out = [(size[i] - k[i]) // stride[i] + 1 for i in range(3)]
    y = np.zeros((x.shape[0], *out, kernel.shape[-1]))
    n_in, n_out = kernel.shape[3], kernel.shape[4] // groups
    for position in itertools.product(*map(range, out)):
        window = tuple(
            slice(position[i] * stride[i], position[i] * stride[i] + k[i]) for i in range(3)
        )
        for g in range(groups):
            part = x[(slice(None), *window, slice(g * n_in, (g + 1) * n_in))]
            outs = slice(g * n_out, (g + 1) * n_out)
            y[(slice(None), *position, outs)] = np.tensordot(part, kernel[..., outs], 4)
    return y


# Arrays are small and programs many: most of the time would go into optimising them.
@functools.partial(
    jax.jit,
    static_argnames=("lowering", "name"),
    compiler_options={"xla_backend_optimization_level": 0},
)
def value_and_gradients(x, kernel, lowering, name):
    """The result for the case of this name, and the gradients of a random functional of it."""

    def run(x, kernel):
        return conv(x, kernel, lowering=lowering, **options(CASES[name]))

    y, pullback = jax.vjp(run, x, kernel)
    cotangent = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
    return y, *pullback(jnp.asarray(cotangent))


def each_lowering_of(*names):
    """Parameters (lowering, case's name): every lowering that can compute each case."""
    return pytest.mark.parametrize(
        ("lowering", "name"),
        [
            (lowering, name)
            for name in names
            for lowering, entry in LOWERINGS.items()
            if entry.handles(geometry_of(CASES[name]))
        ],
    )


@pytest.mark.parametrize("name", CASES)
def test_every_lowering_equals_the_definition_and_native_gradients(name):
    x, kernel = arrays(CASES[name])
    with jax.enable_x64(True):
        reference = value_and_gradients(x, kernel, "native", name)
        expected = by_definition(x, kernel, **options(CASES[name]))
        np.testing.assert_allclose(reference[0], expected, atol=1e-12)
        for lowering, entry in LOWERINGS.items():
            if lowering == "native" or not entry.handles(geometry_of(CASES[name])):
                continue
            got = value_and_gradients(x, kernel, lowering, name)
            for what, a, b in zip(("value", "dx", "dkernel"), got, reference, strict=True):
                assert a.dtype == jnp.float64
                np.testing.assert_allclose(a, b, atol=1e-11, err_msg=f"{lowering}: {what}")


@pytest.mark.parametrize("backend", TABLE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_table_names_a_lowering_that_can_do_it(case, backend):
    geometry = geometry_of(case)
    assert LOWERINGS[chosen(geometry, backend=backend)].handles(geometry)


@each_lowering_of("pointwise", "2-D strided", "temporal", "depthwise pool")
def test_bfloat16_sums_in_float32(lowering, name):
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in arrays(CASES[name]))
    got = value_and_gradients(x, kernel, lowering, name)
    wide = value_and_gradients(x.astype("float32"), kernel.astype("float32"), "native", name)
    for a, b in zip(got, wide, strict=True):
        assert a.dtype == jnp.bfloat16
        # 2^-8 is one rounding to bfloat16; a few are allowed, a sum kept in bfloat16 takes more.
        np.testing.assert_allclose(a.astype("float32"), b, atol=0.01 * float(jnp.abs(b).max()))


@each_lowering_of("patches", "temporal", "depthwise pool")
def test_vmap_of_gradients(lowering, name):
    x, kernel = arrays(CASES[name], np.float32)
    kernels = np.stack([kernel, 2 * kernel])
    mapped = jax.vmap(lambda k: value_and_gradients(x, k, lowering, name))(kernels)
    for i, k in enumerate(kernels):
        single = value_and_gradients(x, k, "native", name)
        for a, b in zip(mapped, single, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4)


def test_override_order(monkeypatch):
    pool, dense = geometry_of(CASES["depthwise"]), geometry_of(CASES["3-D grouped"])
    monkeypatch.delenv("JAXVID_CONV", raising=False)
    assert chosen(pool, backend="cpu") == TABLE["cpu"]["depthwise"]
    assert chosen(pool, backend="some_plugin") == "native"
    monkeypatch.setenv("JAXVID_CONV", "planes")
    assert chosen(pool) == "planes"
    with use_lowering("shifts"):
        assert chosen(pool) == "shifts"
        assert chosen(pool, "native") == "native"
        with use_lowering(None):
            assert chosen(pool) == "planes"
    assert chosen(pool) == "planes"
    monkeypatch.setenv("JAXVID_CONV", "shifts")
    assert chosen(dense, backend="cpu") == TABLE["cpu"]["grouped"], "shifts needs depthwise"


def test_unknown_lowering_lists_the_names(monkeypatch):
    case = CASES["3-D"]
    x, kernel = arrays(case, np.float32)
    with pytest.raises(JaxvidError, match="fastest.*native.*shifts"):
        conv(x, kernel, lowering="fastest")
    with pytest.raises(JaxvidError, match="fastest.*native.*shifts"), use_lowering("fastest"):
        pass
    monkeypatch.setenv("JAXVID_CONV", "fastest")
    with pytest.raises(JaxvidError, match="JAXVID_CONV.*native.*shifts"):
        conv(x, kernel)


@pytest.mark.parametrize(
    ("x", "kernel", "kwargs", "message"),
    [
        ((4, 5, 5, 3), (1, 3, 3, 3, 4), {}, "B, T, H, W, C"),
        ((1, 4, 5, 5, 3), (3, 3, 3, 4), {}, "5-D kernel"),
        ((1, 4, 5, 5, 3), (1, 1, 1, 3, 4), {"stride": (2, 2)}, "3 strides"),
        ((1, 4, 5, 5, 3), (1, 3, 3, 4, 4), {}, "3 input channels"),
        ((1, 4, 5, 5, 4), (1, 3, 3, 2, 3), {"groups": 2}, "groups must divide"),
        ((1, 2, 5, 5, 3), (3, 3, 3, 3, 4), {}, "smaller than the kernel"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, kernel, kwargs, message):
    with pytest.raises(JaxvidError, match=message):
        conv(jnp.zeros(x), jnp.zeros(kernel), **kwargs)


def test_module_parameters_and_bias():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7, 9, 4)), jnp.float32)
    module = Conv(6, (3, 3, 5), (1, 2, 1), (1, 1, 0), groups=2, use_bias=True)
    params = module.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 3, 5, 2, 6), "bias": (6,)}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    params["bias"] = jnp.arange(6.0)
    y = module.apply({"params": params}, x)
    assert y.shape == (2, 3, 4, 5, 6)
    expected = by_definition(
        x, params["kernel"], stride=(1, 2, 1), padding=(1, 1, 0), groups=2
    ) + np.arange(6.0)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert set(Conv(2).init(jax.random.key(0), x)["params"]) == {"kernel"}


def test_module_dtype():
    x = jnp.ones((1, 2, 4, 4, 3))
    module = Conv(2, (3, 3, 3), padding=(1, 1, 1), use_bias=True, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert module.apply(variables, x).dtype == jnp.bfloat16
    follows = Conv(2, (3, 3, 3), padding=(1, 1, 1), use_bias=True)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        assert follows.apply(wide, np.ones((1, 2, 4, 4, 3))).dtype == jnp.float64
