"""TANet: what each of the two parts of its module sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models.tanet import TemporalAdaptive

X = np.random.default_rng(0).normal(size=(2, 8, 3, 3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def adapt():
    """The module with random parameters, compiled."""
    module = TemporalAdaptive()
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), X)
    variables = jax.tree.map(lambda a: rng.uniform(0.5, 1.5, a.shape).astype(np.float32), shapes)
    kernel = rng.normal(size=(8, 16)).astype(np.float32)
    variables["params"]["kernel_fc1"]["kernel"] = kernel
    variables["params"]["kernel_fc2"]["kernel"] = rng.normal(size=(16, 3)).astype(np.float32)
    return jax.jit(lambda x: module.apply(variables, x))


def test_the_kernel_sees_all_frames(adapt):
    """The last frame changes what the first becomes, seven frames away."""
    changed = X.copy()
    changed[:, -1] += 1
    assert np.abs(adapt(changed)[:, 0] - adapt(X)[:, 0]).max() > 1e-3


def test_a_still_clip_is_only_dimmed(adapt):
    """Taps sum to 1 and weights lie between 0 and 1."""
    still = np.repeat(X[:, :1], 8, axis=1)
    ratio = np.asarray(adapt(still)) / still
    inner = ratio[:, 2:-2]
    assert ((inner > 0) & (inner < 1)).all()
    # One factor per sample and channel, wherever it is in the picture.
    np.testing.assert_allclose(inner, np.broadcast_to(inner[:, :1, :1, :1], inner.shape), rtol=1e-4)


def test_where_in_the_picture_does_not_matter(adapt):
    order = np.random.default_rng(2).permutation(9)

    def move(x):
        return np.asarray(x).reshape(2, 8, 9, 8)[:, :, order].reshape(X.shape)

    np.testing.assert_allclose(adapt(move(X)), move(adapt(X)), rtol=1e-4, atol=1e-5)


def test_samples_have_kernels_of_their_own(adapt):
    alone = np.asarray(adapt(jnp.asarray(X[:1])))
    np.testing.assert_allclose(adapt(X)[:1], alone, rtol=1e-4, atol=1e-5)
    scaled = np.asarray(adapt(np.stack([X[0], 2 * X[0]])))
    assert np.abs(scaled[1] - 2 * scaled[0]).max() > 1e-3
