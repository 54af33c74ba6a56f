"""Hiera: the order of its tokens, what a block sees, its constants, and what its weights cost."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import checkpoints
from jaxvid import config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.pool import max_pool
from jaxvid.models import hiera
from jaxvid.training import parts

CLIP = (4, 32, 64, 3)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fill(shapes):
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([draw(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])


def test_units_hold_squares_of_tokens_and_pooling_is_that_of_the_grid():
    units = (3, 2, 4)
    grid = draw(2, 3, 16, 32, 5)
    tokens = hiera.to_units(grid)
    assert tokens.shape == (2, 64, 24, 5)
    square = grid[:, 1, 8:16, 16:24].reshape(2, 64, 5)  # Unit (1, 1, 2), number 8 + 4 + 2.
    np.testing.assert_array_equal(np.sort(tokens[:, :, 14], axis=1), np.sort(square, axis=1))
    for _ in range(hiera.HALVINGS + 1):
        np.testing.assert_array_equal(hiera.to_grid(tokens, units), grid)
        if tokens.shape[1] > 1:
            tokens = hiera.pool(tokens)
            grid = max_pool(jnp.asarray(grid), (1, 2, 2), (1, 2, 2))


@pytest.mark.parametrize("within_units, pools", [(True, False), (True, True), (False, True)])
def test_attention_is_within_units_or_of_all_tokens(within_units, pools):
    init = nn.initializers.normal(1.0)
    module = hiera.Attention(8, 2, within_units, pools, init, init)
    x = jnp.asarray(draw(1, 16, 3, 4))
    variables = module.init(jax.random.key(0), x)
    changes = module.apply(variables, x) - module.apply(variables, x.at[0, 5, 1].add(1.0))
    assert changes.shape == (1, 4 if pools else 16, 3, 8)
    changed = np.abs(changes[0]).max((0, 2)) > 1e-6
    assert changed.tolist() == ([False, True, False] if within_units else [True] * 3)


def test_a_stage_begins_as_the_one_before_attends():
    seen = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, hiera.Attention) and context.method_name == "__call__":
            module = context.module
            seen.append((module.dim, module.heads, module.within_units, module.pools))
        return call(*args, **kwargs)

    settings = {"stages": (2, 2, 2, 2), "dim": 8, "input_size": CLIP[:3]}
    for network, last in ((hiera.Model, True), (hiera.PretrainingModel, False)):
        seen.clear()
        with nn.intercept_methods(note):
            jax.eval_shape(network(**settings).init, jax.random.key(0), jnp.zeros((1, *CLIP)))
        assert seen == [
            *[(8, 1, True, False)] * 2,
            *[(16, 2, True, pools) for pools in (True, False)],
            *[(32, 4, within, within) for within in (True, False)],
            *[(64, 8, False, pools) for pools in (last, False)],
        ]


def test_every_norm_adds_a_millionth():
    epsilons = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, LayerNorm):
            epsilons.append(context.module.epsilon)
        return call(*args, **kwargs)

    for name, others in (("hiera_test", 1), ("hiera_pretrain_test", 4)):
        epsilons.clear()
        model = zoo.create_model(name)
        with nn.intercept_methods(note):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *CLIP)))
        assert epsilons == [1e-6] * (2 * sum(model.stages) + others)


def test_positions_are_of_place_and_time():
    """Without them, clips of the same units in another order would score alike."""
    model = zoo.create_model("hiera_test", 5, input_size=CLIP[:3])
    clip = draw(1, *CLIP)
    clip[:, :, :, 32:] = clip[:, :, :, :32]
    still = np.broadcast_to(clip[:, :1], clip.shape)
    variables = fill(jax.eval_shape(model.init, jax.random.key(0), clip))
    grid = jax.jit(model.apply)(variables, still)[1]["stage1"]
    assert np.abs(grid[0, :, :, 2:6] - grid[0, :, :, 10:14]).max() > 1e-2
    assert np.abs(grid[0, 0] - grid[0, 1])[2:6, 2:6].max() > 1e-2


@pytest.mark.parametrize("size", [(4, 32, 40), (4, 56, 64)])
def test_pictures_are_whole_units(size):
    clip = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with pytest.raises(JaxvidError, match=f"{size[1]} x {size[2]} pixels .* whole units of 32 x"):
        jax.eval_shape(zoo.create_model("hiera_test").init, jax.random.key(0), clip)


def test_tables_are_of_the_first_layer_and_do_not_decay():
    found = parts.find(zoo.create_model("hiera_test"), CLIP).params
    layers = {path.split("/")[0]: layer for path, layer in parts.layers(found).items()}
    tables = dict.fromkeys(("pos_embed_spatial", "pos_embed_temporal", "patch_embed"), 0)
    assert layers == tables | {f"block{i}": i + 1 for i in range(6)} | {"norm": 7, "head": 7}
    for name in zoo.list_models("hiera*"):
        c = config.from_row(name)
        fields.check(c)
        assert set(c.optim.no_decay) == {"ndim<2", "pos_embed_*"}


def test_the_licence_of_the_weights_is_shown_and_said(capsys):
    for name in zoo.list_models("hiera*"):
        zoo.main(["show", name])
        assert "\nlicence: CC BY-NC 4.0" in capsys.readouterr().out
    model = zoo.create_model("hiera_b_16x224", 5, input_size=CLIP[:3], stages=(1, 1, 1, 1))
    given = {"input_size": CLIP[:3], "stages": (1, 1, 1, 1)}
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *CLIP)))
    tensors = converters.to_torch("hiera_b_16x224", fill(shapes))
    _, meta, report = checkpoints.convert_and_tell("hiera_b_16x224", tensors, overrides=given)
    said = "licence of the published weights of hiera_b_16x4_k400: CC BY-NC 4.0"
    assert any(line.startswith(said) for line in report.lines())
    assert report.lines() == meta["report"]
    plain = zoo.create_model("swin_test")
    shapes = jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    _, _, report = checkpoints.convert_and_tell(
        "swin_test", converters.to_torch("swin_test", fill(shapes))
    )
    assert not re.search("licen[cs]e", "\n".join(report.lines()))


# ---- pretraining

WIDE = (4, 64, 96)  # A grid of 2 x 2 x 3 units.


@functools.cache
def autoencoder():
    model = zoo.create_model("hiera_pretrain_test", input_size=WIDE)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *WIDE, 3)))
    return model, fill(shapes)


def test_the_encoder_that_sees_all_units_is_the_fine_tuned_networks():
    """Up to the last stage, which pools there."""
    model, variables = autoencoder()
    clips = draw(1, *WIDE, 3)
    fine_tuned = zoo.create_model("hiera_test", 5, input_size=WIDE)
    own = fill(jax.eval_shape(fine_tuned.init, jax.random.key(0), clips))["params"]
    params = variables["params"]
    assert jax.tree.map(jnp.shape, {k: v for k, v in own.items() if k in params}) == jax.tree.map(
        jnp.shape, {k: v for k, v in params.items() if k != "decoder"}
    )
    row = zoo.get_row("hiera_pretrain_test")
    assert {path.split("/")[0] for path in row.new} == own.keys() - params.keys()
    shared = own | {k: v for k, v in params.items() if k in own}
    _, out = jax.jit(model.apply)(variables, clips)
    _, expected = jax.jit(fine_tuned.apply)({"params": shared}, clips)
    for name in ("stem", "stage1", "stage2", "stage3"):
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-4, atol=1e-4)


def test_answers_are_for_the_patches_asked_for_and_know_nothing_of_hidden_units():
    model, variables = autoencoder()
    clips = draw(1, *WIDE, 3)
    places, asked = jnp.array([[1, 6, 11]]), jnp.array([[3, 0, 40]])
    apply = jax.jit(model.apply)
    pixels, out = apply(variables, clips, visible=places, decoded=asked)
    assert pixels.shape == (1, 3, 256, 3) and out["latent"].shape == (1, 3, 2, 2, 64)
    whole, _ = apply(variables, clips, visible=places)
    close = {"rtol": 1e-3, "atol": 1e-4 * float(np.abs(pixels).max())}
    assert whole.shape == (1, 2 * 4 * 6, 256, 3)
    np.testing.assert_allclose(pixels, whole[:, asked[0]], **close)
    seen = np.asarray(hiera.shown(places, (2, 2, 3)))
    assert seen.sum() == 3 * 2 * 32 * 32
    assert seen[0, :2, :32, 32:64].all() and seen[0, 2:, :32, :32].all()
    noise = np.where(seen, clips, draw(1, *WIDE, 3, seed=1))
    np.testing.assert_array_equal(apply(variables, noise, visible=places, decoded=asked)[0], pixels)
    other, swapped = apply(variables, clips, visible=places[:, ::-1], decoded=asked)
    np.testing.assert_allclose(other, pixels, **close)
    np.testing.assert_allclose(swapped["latent"][:, ::-1], out["latent"], rtol=1e-3, atol=1e-3)
    looped = zoo.create_model("hiera_pretrain_test", input_size=WIDE, scan_blocks=True)
    again, _ = jax.jit(looped.apply)(variables, clips, visible=places, decoded=asked)
    np.testing.assert_allclose(again, pixels, **close)


def test_every_network_that_pretrains_has_a_recipe_and_commands(capsys):
    assert {row.name for row in hiera.PRETRAINING_ROWS} == set(hiera.PRETRAINING_VARIANTS)
    for name in hiera.PRETRAINING_VARIANTS:
        fields.check(config.from_row(name))
        zoo.main(["show", name])
        said = capsys.readouterr().out
        assert "\nlicence: CC BY-NC 4.0" in said
        by_hand = "" if "mae" in name else " --checkpoint=FILE"
        assert f"python -m converters --model={name}{by_hand} --out=WEIGHTS" in said
        model = zoo.create_model(name)
        twin = zoo.create_model(name.replace("_mae", "").replace("pretrain_", ""))
        for field in ("dim", "heads", "stages", "mlp_ratio"):
            assert getattr(model, field) == getattr(twin, field)
        back = converters.to_torch(name, autoencoder()[1]) if "mae" not in name else {}
        assert not back or converters.convert(name, back, overrides={"input_size": WIDE})
    c = config.from_row("hiera_b_16x224_mae")
    assert (c.train.mask_ratio, c.optim.betas, c.data.repeats) == (0.9, (0.9, 0.95), 4)
