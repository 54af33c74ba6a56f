"""Every family at its test sizes: what any network of this library does, whatever its kind.

A family's variants called `*_test` come here by themselves; one that needs another view than most
stands in `VIEWS`. What sets a family apart is tested in its own file. The slow set takes one
training step of every published architecture, too.
"""

import dataclasses
import fnmatch
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.conv import use_lowering
from jaxvid.objectives import losses
from tests.models.test_arch import SERVED

NAMES = [name for name in zoo.variants() if name.endswith("_test")]
TRANSFORMERS = [
    name
    for name in NAMES
    if name.partition("_")[0]
    in (
        "dualformer",
        "hiera",
        "internvideo2",
        "mvit",
        "swin",
        "timesformer",
        "uniformer",
        "uniformerv2",
        "videomae",
        "videoprism",
        "vjepa2",
    )
    or name == "tsn_swin_test"
]
CLASSES = 5
# Of the deviation of the logits: how far bfloat16 may be from float32.
HALF = 0.05
# Frames, height and width where (4, 32, 32) does not enter, or of a published architecture not its
# own number of frames at 64 x 64.
VIEWS: dict[str, tuple[int, int, int]] = {
    # Stem, its pooling and the pooling behind stage 1 halve time.
    "i3d_test": (16, 32, 32),
    "i3d_nl_test": (16, 32, 32),
    "c3d": (16, 112, 112),
}
# Parameters that cannot learn, as patterns of paths: their part of the network is not asked.
IDLE = {
    # Only the class token leaves the last block; it is not pooled and has no relative position.
    "mvit_test": ("block3/attn/pool_q/*", "block3/attn/positions/*"),
    # Clips do not reach what is for single pictures.
    "vjepa2_1_test": ("image_*",),
    # Clips do not reach the head for images.
    "omnisource_test": ("head/image/*",),
    "omni_slowonly_r50": ("head/image/*",),
    **{
        name: (f"block{last}/attn/pool_q/*", f"block{last}/attn/positions/*")
        for name, last in [
            ("mvitv2_s", 15),
            ("mvitv2_s_maskfeat", 15),
            ("mvitv2_b", 23),
            ("mvitv2_l", 47),
        ]
    },
}


def is_idle(name: str, path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in IDLE.get(name, ()))


@functools.cache
def video(name: str) -> np.ndarray:
    """Two samples for `name`."""
    rng = np.random.default_rng(0)
    row = zoo.starting_row(name)
    frames = row.train.clip_len * (row.train.num_clips if row.modality == "rgb" else 1)
    usual = (4, 32, 32) if name in NAMES else (frames, 64, 64)
    return rng.normal(size=(2, *VIEWS.get(name, usual), len(row.mean))).astype(np.float32)


def make_network(name: str):
    """A network with weights that let signals through to every part, and its variables."""
    fields = {field.name for field in dataclasses.fields(zoo.family(name).Model)}
    # What chance leaves out of two samples would have no gradient.
    model = zoo.create_model(name, CLASSES, **dict.fromkeys(fields & {"dropout", "drop_path"}, 0.0))
    shapes = jax.eval_shape(model.init, jax.random.key(0), video(name))
    rng = np.random.default_rng(1)

    def fill(key_path, leaf):
        path = jax.tree_util.keystr(key_path, simple=True, separator="/")
        if path.endswith("kernel"):
            values = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
            # Larger products would let a non-local block's softmax pick a single position, and
            # what float32 rounds decide which.
            return np.float32(values * 0.1 if "/theta/" in path else values)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(fill, shapes)


network = functools.cache(make_network)


@functools.cache
def forward(name: str):
    model, variables = network(name)
    return jax.jit(lambda x: model.apply(variables, x, train=False))


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_intermediates(name):
    logits, out = forward(name)(video(name))
    assert logits.shape == (2, CLASSES) and logits.dtype == jnp.float32
    assert {"stem", "stage1", "pre_logits"} <= out.keys()
    assert all(value.shape[0] == 2 and value.dtype == jnp.float32 for value in out.values())
    assert np.isfinite(logits).all() and np.std(logits) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_mix(name):
    together = forward(name)(video(name))[0]
    swapped = forward(name)(video(name)[::-1].copy())[0]
    np.testing.assert_allclose(together, swapped[::-1], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize(
    "name", NAMES + [pytest.param(name, marks=pytest.mark.slow("architectures")) for name in SERVED]
)
def test_gradients_reach_every_parameter_and_a_step_lowers_the_loss(name):
    # The published ones together would not fit in memory.
    model, variables = network(name) if name in NAMES else make_network(name)

    # Compiling is nearly all the time that this takes.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def differentiate(params):
        def loss_of(params):
            (logits, out), updated = model.apply(
                {**variables, "params": params},
                video(name),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )
            labels = jnp.array([1, 3])
            loss = losses.softmax_cross_entropy(logits, labels)
            if "aux_logits" in out:
                loss += losses.softmax_cross_entropy(out["aux_logits"], labels)
            return loss, updated

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, updated), gradients = differentiate(variables["params"])
    for path, value in flax.traverse_util.flatten_dict(gradients, sep="/").items():
        assert np.isfinite(value).all(), path
        assert (np.abs(value).max() > 0) != is_idle(name, path), path
    old = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}), sep="/")
    new = flax.traverse_util.flatten_dict(updated.get("batch_stats", {}), sep="/")
    assert old.keys() == new.keys()
    for path, value in new.items():
        assert (np.abs(value - old[path]).max() > 0) != is_idle(name, path), path

    # A step lowers the loss: by a hundredth of itself, as far as the gradient foretells, or by less
    # in a deep network with the statistics of two small maps, whose loss is far from straight.
    square = sum(float((value**2).sum()) for value in jax.tree.leaves(gradients))
    for share in (1e-2, 1e-3):
        rate = share * float(loss) / square
        stepped = jax.tree.map(lambda p, g, r=rate: p - r * g, variables["params"], gradients)
        (lower, _), _ = differentiate(stepped)
        if lower < loss:
            break
    assert lower < loss


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_computes_in_it_and_answers_in_float32(name):
    model = zoo.create_model(name, CLASSES, jnp.bfloat16)
    variables = network(name)[1]
    logits, out = jax.eval_shape(model.apply, variables, jnp.asarray(video(name), jnp.bfloat16))
    assert logits.dtype == jnp.float32
    assert out["stage1"].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_half_precision_gives_the_same_answers(name):
    """Up to a twentieth of the logits' deviation; a class that is ahead by more stays the best."""
    whole = np.asarray(forward(name)(video(name))[0])
    fields = {field.name for field in dataclasses.fields(zoo.family(name).Model)}
    still = dict.fromkeys(fields & {"dropout"}, 0.0)
    model = zoo.create_model(name, CLASSES, jnp.bfloat16, **still)
    # Compiling is nearly all the time that this takes.
    quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    with use_lowering("native"):
        half = np.asarray(quick(model.apply)(network(name)[1], video(name))[0])
    tolerance = HALF * whole.std()
    assert 0 < np.abs(half - whole).max() <= tolerance
    best = np.sort(whole)
    ahead = best[:, -1] - best[:, -2] > tolerance
    assert (half.argmax(-1) == whole.argmax(-1))[ahead].all()


@pytest.mark.parametrize("view", [(2, 32, 32), (6, 32, 32), (4, 48, 64)])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_other_lengths_and_sizes_enter_a_transformer(name, view, caplog):
    """And the log says where a learnt table of positions is interpolated for them."""
    family = name.partition("_")[0]
    made_for = {"img_size": 32} if family in ("timesformer", "videomae", "videoprism") else {}
    model = zoo.create_model(name, CLASSES, **made_for)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video(name))
    usual = jax.eval_shape(model.apply, shapes, video(name))[1]["stage1"].shape
    caplog.set_level("INFO")
    if family == "hiera" and view[1] % 32:  # Its units are 32 x 32 pixels.
        view = (view[0], 64, 64)
    clip = jax.ShapeDtypeStruct((2, *view, 3), jnp.float32)
    if family == "dualformer" and view[0] == 2:  # Its kernels pool over all of four frames.
        with pytest.raises(JaxvidError, match="use a longer or larger clip"):
            jax.eval_shape(model.apply, shapes, clip)
        return
    logits, out = jax.eval_shape(model.apply, shapes, clip)
    assert logits.shape == (2, CLASSES)
    grid = [n * new // old for n, new, old in zip(usual[1:4], view, (4, 32, 32), strict=True)]
    assert list(out["stage1"].shape[1:4]) == grid
    larger, other_length = view[1:] != (32, 32), view[0] != 4
    resized = {
        "hiera": larger or other_length,
        "internvideo2": larger or other_length,
        "mvit": larger or other_length,
        "timesformer": larger or (other_length and name != "timesformer_space_test"),
        "uniformerv2": larger,
        "videomae": larger,
        "videoprism": larger or other_length,
    }
    said = [message for message in caplog.messages if message.startswith(("the table", "tables"))]
    assert bool(said) == resized.get(family, False), said
