"""Attention: what it computes, and the rule that picks how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.devices.placement import make_mesh
from jaxvid.layers import attention
from jaxvid.layers.attention import attend, which
from jaxvid.layers.backend import tracing_for
from jaxvid.layers.fused import fused


def expected(q, k, v, bias=None, mask=None, scale=None):
    """Attention in float64, one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        logits = q[b, :, n] @ k[b, :, n].T * (q.shape[-1] ** -0.5 if scale is None else scale)
        if bias is not None:
            logits += np.asarray(bias)[b % bias.shape[0], n % bias.shape[1]]
        if mask is not None:
            logits[~np.asarray(mask)[b % mask.shape[0], n % mask.shape[1]]] = -np.inf
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, n]
    return out


def draw(queries=7, keys=5, heads=3, width=4, value_width=4, batch=2, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = ((queries, width), (keys, width), (keys, value_width))
    return [jnp.asarray(rng.normal(size=(batch, n, heads, d)), dtype) for n, d in shapes]


def draw_pairs(batch, heads, queries=7, keys=5):
    rng = np.random.default_rng(1)
    bias = jnp.asarray(rng.normal(size=(batch, heads, queries, keys)), jnp.float32)
    mask = rng.random((batch, heads, queries, keys)) < 0.5
    mask[..., 0] = True
    return bias, jnp.asarray(mask)


@pytest.mark.parametrize("value_width", [4, 6])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_equals_the_definition(value_width, scale):
    q, k, v = draw(value_width=value_width)
    np.testing.assert_allclose(
        attend(q, k, v, scale=scale), expected(q, k, v, scale=scale), atol=1e-6
    )


@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_bias_and_mask_broadcast_over_batch_and_heads(batch, heads):
    q, k, v = draw()
    bias, mask = draw_pairs(batch, heads)
    for kwargs in ({"bias": bias}, {"mask": mask}, {"bias": bias, "mask": mask}):
        np.testing.assert_allclose(
            attend(q, k, v, **kwargs), expected(q, k, v, **kwargs), atol=1e-6
        )


def test_samples_take_biases_and_masks_in_turn():
    q, k, v = draw(batch=6)
    bias, mask = draw_pairs(2, 3)
    out = attend(q, k, v, bias=bias, mask=mask)
    np.testing.assert_allclose(out, expected(q, k, v, bias, mask), atol=1e-6)
    each = attend(q, k, v, bias=jnp.tile(bias, (3, 1, 1, 1)), mask=jnp.tile(mask, (3, 1, 1, 1)))
    np.testing.assert_array_equal(out, each)


def test_half_precision_inputs_keep_their_dtype_and_a_wide_softmax():
    q, k, v = draw(keys=600, dtype=jnp.bfloat16)
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    # Sums of 600 weights in bfloat16 would be off by far more than this.
    np.testing.assert_allclose(out.astype(jnp.float32), expected(q, k, v), atol=4e-3)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        q, k, v = draw(dtype=np.float64)
        out = attend(q, k, v)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, expected(q, k, v), atol=1e-14)


@pytest.mark.parametrize("paired", [False, True])
def test_pieces_equal_the_whole(monkeypatch, paired):
    q, k, v = draw()
    bias, mask = draw_pairs(1, 3) if paired else (None, None)

    def loss(q, k, v):
        return jnp.sin(attend(q, k, v, bias=bias, mask=mask)).sum()

    whole = attend(q, k, v, bias=bias, mask=mask)
    gradient = jax.grad(loss, (0, 1, 2))(q, k, v)
    monkeypatch.setattr(attention, "XLA_LOGITS", 35)  # 105 logits a sample: 3 pieces of 3 queries
    assert "scan" in str(jax.make_jaxpr(lambda q: attend(q, k, v))(q))
    np.testing.assert_allclose(attend(q, k, v, bias=bias, mask=mask), whole, atol=1e-6)
    for ours, theirs in zip(jax.grad(loss, (0, 1, 2))(q, k, v), gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def struct(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def ask(backend, dtype=jnp.bfloat16, queries=1568, keys=392, width=96, devices=1, **kwargs):
    q, k = struct(2, queries, 4, width, dtype=dtype), struct(2, keys, 4, width, dtype=dtype)
    return which(q, k, k, backend=backend, devices=devices, **kwargs)


@pytest.mark.parametrize(
    ("picked", "reason", "arguments"),
    [
        ("cudnn", "cuda", {"backend": "cuda"}),
        ("cudnn", "cuda", {"backend": "cuda", "dtype": jnp.float16, "devices": 8}),
        ("cudnn", "cuda", {"backend": "cuda", "queries": 1569, "keys": 393}),
        ("cudnn", "cuda", {"backend": "cuda", "bias": struct(1, 4, 1568, 392)}),
        ("xla", "even lengths", {"backend": "cuda", "keys": 393, "bias": struct(1, 4, 1568, 393)}),
        (
            "xla",
            "even lengths",
            {"backend": "cuda", "keys": 393, "mask": struct(1, 1, 1568, 393, dtype=jnp.bool_)},
        ),
        ("xla", "not float32", {"backend": "cuda", "dtype": jnp.float32}),
        ("xla", "at most 128 channels", {"backend": "cuda", "width": 136}),
        ("xla", "fewer than 128", {"backend": "cuda", "keys": 49}),
        ("xla", "not rocm", {"backend": "rocm"}),
        ("splash", "tpu", {"backend": "tpu"}),
        ("splash", "tpu", {"backend": "tpu", "dtype": jnp.float32, "width": 136}),
        ("fused", "tpu", {"backend": "tpu", "positioned": True}),
        ("splash", "tpu", {"backend": "tpu", "keys": 9000, "positioned": True}),
        ("fused", "tpu", {"backend": "tpu", "queries": 392, "bias": struct(1, 4, 392, 392)}),
        (
            "fused",
            "tpu",
            {"backend": "tpu", "queries": 392, "mask": struct(2, 1, 392, 392, dtype=jnp.bool_)},
        ),
        ("splash", "tpu", {"backend": "tpu", "keys": 9000}),
        ("xla", "there are 4", {"backend": "tpu", "devices": 4}),
        ("xla", "no room", {"backend": "tpu", "keys": 1568, "bias": struct(1, 4, 1568, 1568)}),
        (
            "xla",
            "whole batch",
            {"backend": "tpu", "queries": 392, "bias": struct(2, 4, 392, 392)},
        ),
        (
            "xla",
            "for all heads",
            {"backend": "tpu", "queries": 392, "mask": struct(1, 4, 392, 392, dtype=jnp.bool_)},
        ),
        ("xla", "not float64", {"backend": "tpu", "dtype": jnp.float64}),
        ("xla", "not cpu", {"backend": "cpu"}),
        ("xla", "asked for", {"backend": "cuda", "implementation": "xla"}),
        ("cudnn", "asked for", {"backend": "cuda", "keys": 49, "implementation": "cudnn"}),
    ],
)
def test_rule(picked, reason, arguments):
    with jax.enable_x64(True):
        choice = ask(**arguments)
    assert choice.implementation == picked
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "cpu", "implementation": "cudnn"}, "'cudnn' needs CUDA, not cpu"),
        ({"backend": "cuda", "implementation": "splash"}, "'splash' needs a TPU, not cuda"),
        ({"backend": "cuda", "dtype": jnp.float32, "implementation": "cudnn"}, "not float32"),
        ({"backend": "cpu", "implementation": "flash"}, "choose one of cudnn, fused, splash, xla"),
        ({"backend": "cpu", "bias": struct(1, 1, 1568, 391)}, "bias must be"),
        ({"backend": "cpu", "bias": struct(1, 4, 392)}, "bias must be"),
        ({"backend": "cpu", "bias": struct(3, 4, 1568, 392)}, "2 or a divisor of it"),
        ({"backend": "cpu", "mask": struct(1, 1, 1568, 392)}, "must be bool"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_reason(arguments, message):
    with pytest.raises(JaxvidError, match=message):
        ask(**arguments)


def test_attend_refuses_what_it_cannot_do():
    q, k, v = draw()
    with pytest.raises(JaxvidError, match="needs CUDA"):
        attend(q, k, v, implementation="cudnn")
    with pytest.raises(JaxvidError, match="attention needs q"):
        attend(q, k, v[:, 1:])


def test_cudnn_is_asked_for_by_name_with_widths_and_lengths_it_takes(monkeypatch):
    asked = {}

    def stand_in(q, k, v, *, implementation, **kwargs):
        asked.update(implementation=implementation, widths={x.shape[-1] for x in (q, k, v)})
        asked.update(lengths=(q.shape[1], k.shape[1], v.shape[1]))
        return plain(q, k, v, implementation="xla", **kwargs)

    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v = draw(width=13, value_width=9)
    out = attention._cudnn(q, k, v, None, None, 0.3)
    assert asked == {"implementation": "cudnn", "widths": {16}, "lengths": (8, 6, 6)}
    np.testing.assert_allclose(out, expected(q, k, v, scale=0.3), atol=1e-6)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_positions_are_added_to_the_logits(scale):
    q, k, v = draw()
    rng = np.random.default_rng(2)
    positions, places = (jnp.asarray(rng.normal(size=s), q.dtype) for s in ((2, 7, 3, 2), (5, 2)))
    bias = jnp.einsum("BQNP,KP->BNQK", positions, places)
    out = attend(q, k, v, scale=scale, positions=(positions, places))
    np.testing.assert_allclose(out, expected(q, k, v, bias, scale=scale), atol=1e-6)


@pytest.mark.parametrize("shards", [1, 2])
def test_fused_is_called_on_each_part_with_all_turns_of_a_mask(monkeypatch, shards):
    called = []

    def stand_in(*arrays, scale):
        called.append([x.shape for x in arrays])
        return fused(*arrays, scale=scale, interpret=True)

    monkeypatch.setattr(attention, "fused", stand_in)
    q, k, v = draw(keys=130, batch=4)
    bias, mask = draw_pairs(1, 3, keys=130)[0], draw_pairs(2, 1, keys=130)[1]
    rng = np.random.default_rng(2)
    positions, places = (jnp.asarray(rng.normal(size=s), q.dtype) for s in ((4, 7, 3, 2), (130, 2)))
    # Traced only, the mesh may have the one device that is here twice.
    mesh = make_mesh(jax.devices()[:1] * shards)
    with tracing_for("tpu", mesh):
        traced = jax.jit(
            lambda: attend(q, k, v, bias=bias, mask=mask, positions=(positions, places))
        ).trace()
    part, keys = (4 // shards, 7, 3, 4), (4 // shards, 130, 3, 4)
    pairs = [(3, 7, 130), (2, 7, 130)]
    assert called == [[part, keys, keys, *pairs, (*part[:3], 2), (130, 2)]]
    if shards == 1:
        out = traced.lower().compile()()
        bias = bias + jnp.einsum("BQNP,KP->BNQK", positions, places)
        np.testing.assert_allclose(out, expected(q, k, v, bias, mask), atol=1e-5)


def test_splash_masks_its_padding():
    q, k, v = draw(queries=130, keys=140, heads=2, width=5, value_width=4)
    out = attention._splash(q, k, v, 0.3, interpret=True)
    np.testing.assert_allclose(out, expected(q, k, v, scale=0.3), atol=1e-5)
