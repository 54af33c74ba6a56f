"""InternVideo2: what only float64 tells, its positions, and the layers that rates go by."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import changes, checkpoints
from jaxvid import config, zoo
from jaxvid.config import fields
from jaxvid.models import internvideo2
from jaxvid.training import parts
from tests.test_golden import load

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "internvideo2_s.npz"
CLIP = (4, 32, 32, 3)


def variables(classes=5, **overrides):
    model = zoo.create_model("internvideo2_test", classes, **overrides)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *CLIP)))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)


def test_in_float64_it_is_the_reference():
    """Other epsilons move logits by 1e-5 to 1e-4, the other GELU by 6e-4."""
    weights, video, expected, overrides = load(GOLDEN)
    model = zoo.create_model("internvideo2_s", **overrides)
    del overrides["num_classes"]
    converted = converters.convert("internvideo2_s", weights, overrides=overrides)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), converted)
        logits, _ = jax.jit(model.apply)(wide, jnp.asarray(video, jnp.float64))
    assert logits.dtype == jnp.float64
    difference = np.abs(np.asarray(logits).mean(0) - expected["logits_f64"][0]).max()
    print(f"max |difference| {difference:.1e}")
    assert difference < 1e-9


def test_positions_start_as_waves_of_moment_column_and_row():
    table = internvideo2.first_positions(3, 4, 16)
    assert table.shape == (1, 1 + 3 * 16, 16) and not table[0, 0].any()
    grid = table[0, 1:].reshape(3, 4, 4, 16)
    moment, row, column = 2, 1, 3
    for start, depth, place in ((0, 4, moment), (4, 6, column), (10, 6, row)):
        angles = place / 10000 ** (np.arange(depth // 2) / (depth // 2))
        waves = np.concatenate([np.sin(angles), np.cos(angles)])
        found = grid[moment, row, column, start : start + depth]
        np.testing.assert_allclose(found, waves, atol=1e-6)
    model = zoo.create_model("internvideo2_test", 5)
    made = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *CLIP)))["params"]["pos_embed"]
    np.testing.assert_array_equal(made, internvideo2.first_positions(4, 4, 16))


def test_the_tables_first_row_is_the_class_tokens_and_is_never_interpolated():
    model, drawn = variables()
    moved = jax.tree.map(np.array, drawn)
    moved["params"]["pos_embed"][:, 0] += 1.0
    moved["params"]["cls_token"] -= 1.0
    for size in (CLIP, (6, 48, 64, 3)):
        clip = np.random.default_rng(1).normal(size=(1, *size)).astype(np.float32)
        one, other = (jax.jit(model.apply)(each, clip)[0] for each in (drawn, moved))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_layers_are_the_published_ones():
    found = parts.find(zoo.create_model("internvideo2_test"), CLIP).params
    layers = {path.split("/")[0]: layer for path, layer in parts.layers(found).items()}
    first = dict.fromkeys(("cls_token", "pos_embed", "patch_embed"), 0)
    last = dict.fromkeys(("pool", "fc_norm", "head"), 3)
    assert layers == first | {"block0": 1, "block1": 2} | last


def test_rows_have_the_published_figures_and_recipes():
    rows = [zoo.get_row(name) for name in zoo.list_models("internvideo2*")]
    assert len(rows) == 25
    for row in rows:
        c = config.from_row(row.name)
        fields.check(c)
        assert row.num_views == (6 if row.dataset.startswith("sth") else 12)
        assert set(c.optim.no_decay) == {"ndim<2", "cls_token", "pos_embed"}
        assert (row.recipe.flip == 0) == row.dataset.startswith("sth")
        assert row.licence and row.view[0] == zoo.create_model(row.name).num_frames
    tuned = zoo.get_row("internvideo2_b_f8_k600")
    assert (tuned.top1, tuned.recipe.lr, tuned.recipe.epochs) == (88.9, pytest.approx(1.6e-4), 5)
    assert tuned.recipe.initial_weights == "internvideo2_b_f8_k710"


def test_a_classifier_of_kinetics_710_gives_its_rows_to_the_others():
    """Of Kinetics-400 the first 400, as the authors take them."""
    _, drawn = variables(710)
    tensors = converters.to_torch("internvideo2_test", drawn)
    converted, meta, _ = checkpoints.convert_and_tell(
        "internvideo2_test", tensors, classes=zoo.labels("k710")
    )
    mapped, _ = changes.map_classes(converted, meta, "k400")
    head = mapped["params"]["head"]["kernel"]
    np.testing.assert_array_equal(head.T, tensors["head.weight"][:400])
