"""OmniSource's net: two heads, and images as clips that stand still."""

import jax
import numpy as np

from jaxvid import zoo
from jaxvid.models import omnisource
from tests.models.test_families import network, video


def test_an_image_is_the_middle_of_a_clip_that_stands_still():
    model, variables = network("omnisource_test")
    still = video("omnisource_test")[:, :1].repeat(3, 1)
    # One temporal kernel of three frames: the middle frame sees no end.
    middle = jax.jit(model.apply)(variables, still)[1]["stage3"][:, 1]
    image_model = zoo.create_model("omnisource_test", 5, images=True)
    image_variables = omnisource.image_variables(variables)
    logits, out = jax.jit(image_model.apply)(image_variables, still[:, :1])
    np.testing.assert_allclose(out["stage3"][:, 0], middle, rtol=1e-4, atol=1e-5)
    assert logits.shape == (2, 7)


def test_both_heads_have_weights_whichever_answers():
    model, variables = network("omnisource_test")
    image_model = zoo.create_model("omnisource_test", 5, images=True)
    shapes = jax.eval_shape(image_model.init, jax.random.key(0), video("omnisource_test")[:, :1])
    expected = jax.tree.map(np.shape, omnisource.image_variables(variables))
    assert jax.tree.map(np.shape, shapes) == expected
