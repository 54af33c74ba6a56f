"""Networks of ours as modules of NNX, by Flax's own bridge: as linen's in all that they do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxvid

CLIPS = np.random.default_rng(0).normal(size=[4, 8, 64, 64, 3]).astype(np.float32)
LABELS = jnp.array([0, 1, 0, 1])


def made(name="tsm_test", **fields):
    """A network of linen, its variables, and the same of NNX, as the page makes it."""
    model = jaxvid.create_model(name, num_classes=2, **fields)
    variables = jax.jit(model.init)(jax.random.key(0), CLIPS[:1])
    net = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(dropout=1))
    for part, values in nnx.bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(net, part, nnx.data(values))
    return model, variables, net


def variables_of(net):
    parts = {k: v for k, v in vars(net).items() if not k.startswith(("to_nnx__", "_pytree__"))}
    return nnx.bridge.variables.nnx_attrs_to_linen_vars(parts)


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def close(one, two):
    """Of programs that give back other things beside, and are compiled otherwise."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), one, two)


@pytest.mark.parametrize("name", ["tsm_test", "slowfast_test", "videomae_test", "mvit_test"])
def test_logits_and_intermediates_are_those_of_linen(name):
    model, variables, net = made(name)
    clips = CLIPS[:2]
    found = nnx.jit(lambda net, x: net(x, train=False))(net, clips)
    same(found, jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clips))
    same(variables_of(net), dict(variables))


def test_batch_norms_statistics_are_those_of_linen_and_stay_where_they_are_not_mutable():
    model, variables, net = made(dropout=0.0)

    def train(net, x):
        return net(x, train=True, mutable=["batch_stats"])[0]

    found = nnx.jit(train)(net, CLIPS)
    (logits, _), updates = jax.jit(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, CLIPS)
    close(found, logits)
    close(variables_of(net)["batch_stats"], updates["batch_stats"])
    means = jax.tree.leaves(variables["batch_stats"])
    assert any((a != b).any() for a, b in zip(means, jax.tree.leaves(updates), strict=True))
    before = jax.tree.map(np.asarray, variables_of(net))
    nnx.jit(lambda net, x: net(x, train=False))(net, CLIPS)
    same(variables_of(net), before)


def test_dropout_draws_from_its_stream_as_linen_does_from_the_same_key():
    model, variables, net = made("videomae_test", dropout=0.5, drop_path=0.5)
    found = net(CLIPS, train=True, rngs=nnx.Rngs(dropout=7))[0]
    key = nnx.Rngs(dropout=7).dropout()
    same(found, model.apply(variables, CLIPS, train=True, rngs={"dropout": key})[0])
    train = nnx.jit(lambda net, x: net(x, train=True)[0])
    one, two = train(net, CLIPS), train(net, CLIPS)  # The stream of the module goes on.
    assert np.abs(one - two).max() > 1e-3
    test = nnx.jit(lambda net, x: net(x, train=False)[0])
    same(test(net, CLIPS), test(net, CLIPS))


def test_gradients_are_those_of_linen_and_an_optimizer_lowers_the_loss():
    model, variables, net = made(dropout=0.0)

    def loss_of(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    def own(net):
        return loss_of(net(CLIPS, train=True, mutable=["batch_stats"])[0])

    def linens(params):
        given = {**variables, "params": params}
        (logits, _), _ = model.apply(given, CLIPS, train=True, mutable=["batch_stats"])
        return loss_of(logits)

    grads = nnx.jit(nnx.grad(own))(net)
    wanted = jax.jit(jax.grad(linens))(variables["params"])
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        nnx.to_pure_dict(grads),
        wanted,
    )

    @nnx.jit
    def step(net, optimizer):
        loss, grads = nnx.value_and_grad(own)(net)
        optimizer.update(net, grads)
        return loss

    optimizer = nnx.Optimizer(net, optax.adam(1e-3), wrt=nnx.Param)
    losses = [float(step(net, optimizer)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.02


def test_without_weights_the_bridge_draws_them():
    model = jaxvid.create_model("tsm_test", num_classes=2)
    net = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(CLIPS[:1])
    shapes = jax.eval_shape(model.init, jax.random.key(0), CLIPS[:1])
    assert jax.tree.map(jnp.shape, variables_of(net)) == jax.tree.map(jnp.shape, dict(shapes))
