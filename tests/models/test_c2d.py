"""C2D: what its one look at time sees, and its smaller maps."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid import zoo
from tests.models.test_families import forward, video


def test_only_who_is_whose_neighbour_matters():
    see, clip = forward("c2d_test"), video("c2d_test")
    logits = see(clip)[0]
    # The maximum over a pair is blind to its order, the mean over pairs to theirs.
    np.testing.assert_allclose(see(clip[:, [1, 0, 3, 2]])[0], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(see(clip[:, [2, 3, 0, 1]])[0], logits, rtol=1e-4, atol=1e-5)
    assert np.abs(see(clip[:, [0, 2, 1, 3]])[0] - logits).max() > 1e-2 * np.std(logits)


def test_the_stem_is_pooled_without_padding_where_time_is_pooled():
    clip = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32)
    sizes = {}
    for name in ("c2d_r50_pool", "c2d_r50_nopool"):
        model = zoo.create_model(name)
        (_, out), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), clip)
        stages = ("stem", "stage1", "stage2", "stage3", "stage4")
        sizes[name] = [out[stage].shape[1:3] for stage in stages]
    assert sizes == {
        "c2d_r50_pool": [(8, 55), (8, 55), (4, 28), (4, 14), (4, 7)],
        "c2d_r50_nopool": [(8, 56), (8, 56), (8, 28), (8, 14), (8, 7)],
    }
