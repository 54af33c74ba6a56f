"""VideoMAE: its fixed positions, its blocks as a loop, and the layers that rates go by."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import checkpoints
from jaxvid import config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.layers.position import resize_grid, sinusoids
from jaxvid.models import videomae
from jaxvid.training import parts

CLIP = (4, 24, 24, 3)


def build(**overrides):
    return videomae.Model(**{**videomae.VARIANTS["videomae_test"], "num_classes": 5, **overrides})


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def variables():
    shapes = jax.eval_shape(build().init, jax.random.key(0), draw(1, *CLIP))
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([draw(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])


def test_positions_count_on_in_longer_clips_and_are_interpolated_in_other_crops():
    model = build()
    expected = sinusoids(4 * 9, 8).reshape(4, 3, 3, 8)
    np.testing.assert_array_equal(model.positions((2, 3, 3)), expected[:2])
    np.testing.assert_array_equal(model.positions((4, 3, 3)), expected)
    for moment, table in zip(model.positions((4, 5, 2)), expected, strict=True):
        np.testing.assert_allclose(moment, resize_grid(jnp.asarray(table), (5, 2)), atol=1e-6)


def test_place_and_time_count():
    """Without positions, clips of the same cubes in another order would score alike."""
    clip = np.broadcast_to(draw(1, 2, 24, 24, 3), (2, 2, 24, 24, 3))
    clip = np.concatenate([clip[:1], clip[1:, :, ::-1]])[None]
    clips = np.concatenate([clip, clip[:, ::-1]]).reshape(2, 4, 24, 24, 3)
    logits = jax.jit(build().apply)(variables(), clips)[0]
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_the_loop_starts_as_the_blocks_do_and_drops_samples_by_the_rate_of_each():
    clip = jnp.broadcast_to(draw(1, *CLIP), (32, *CLIP))
    looped = build(scan_blocks=True, drop_path=1.0)
    assert jax.tree.map(jnp.shape, variables()) == jax.tree.map(
        jnp.shape, jax.eval_shape(looped.init, jax.random.key(0), clip[:1])
    )
    # The first block drops nothing and the last one everything.
    _, out = jax.jit(functools.partial(looped.apply, train=True))(
        variables(), clip, rngs={"dropout": jax.random.key(0)}
    )
    first = {name: value for name, value in variables()["params"].items() if name != "block1"}
    _, expected = jax.jit(build(depth=1).apply)({"params": first}, clip[:1])
    expected = jnp.broadcast_to(expected["stage1"], out["stage1"].shape)
    np.testing.assert_allclose(out["stage1"], expected, rtol=1e-4, atol=1e-4)
    rates = jax.jit(functools.partial(build(scan_blocks=True, drop_path=0.5).apply, train=True))
    scores = rates(variables(), clip, rngs={"dropout": jax.random.key(0)})[0]
    assert len(np.unique(np.round(scores[:, 0], 3))) == 4


def test_layers_are_the_published_ones():
    layers = parts.layers(parts.find(build(depth=3), CLIP).params)
    expected = {"patch_embed": 0, "block0": 1, "block1": 2, "block2": 3, "fc_norm": 4, "head": 4}
    assert {path.split("/")[0]: layer for path, layer in layers.items()} == expected


@pytest.mark.parametrize(
    ("variant", "millions"), [("videomaev2_vit_h", 633), ("videomaev2_vit_g", 1013)]
)
def test_the_sizes_without_row_have_the_papers_parameters(variant, millions):
    model = zoo.create_model(variant)
    one, two = (
        jax.eval_shape(
            model.clone(depth=depth).init, jax.random.key(0), jnp.zeros((1, 16, 224, 224, 3))
        )
        for depth in (1, 2)
    )
    one, two = (sum(leaf.size for leaf in jax.tree.leaves(shapes)) for shapes in (one, two))
    assert one + (model.depth - 1) * (two - one) == pytest.approx(millions * 1e6, rel=2e-3)


def test_other_positions_than_ours_are_refused():
    tensors = converters.to_torch("videomae_test", variables())
    for positions in (sinusoids(18, 8)[None], sinusoids(36, 8)[None].astype(np.float16)):
        tensors["backbone.pos_embed"] = positions
        converters.convert("videomae_test", tensors)
    for positions in (sinusoids(18, 8)[None] + 0.01, sinusoids(20, 8)[None], sinusoids(18, 8)):
        tensors["backbone.pos_embed"] = positions
        with pytest.raises(JaxvidError, match="'backbone.pos_embed' does not hold what"):
            converters.convert("videomae_test", tensors)


# ---- pretraining


def autoencoder(**overrides):
    return zoo.create_model("videomae_pretrain_test", **overrides)


@functools.cache
def drawn():
    """Variables of the network that pretrains, whose encoder is that of `variables`."""
    shapes = jax.eval_shape(autoencoder().init, jax.random.key(0), draw(1, *CLIP))
    leaves, structure = jax.tree.flatten(shapes)
    leaves = [draw(*leaf.shape, seed=i + 100) for i, leaf in enumerate(leaves)]
    params = structure.unflatten(leaves)["params"]
    return {"params": params | {k: v for k, v in variables()["params"].items() if k in params}}


def test_the_encoder_that_sees_all_cubes_is_the_fine_tuned_networks():
    clips = draw(2, *CLIP)
    shapes = jax.tree.map(jnp.shape, drawn()["params"])
    own = jax.tree.map(jnp.shape, variables()["params"])
    assert own.keys() - shapes.keys() == {"fc_norm", "head"} and shapes.keys() - own == {"decoder"}
    row = zoo.get_row("videomae_pretrain_test")
    assert {path.split("/")[0] for path in row.new} == {"fc_norm", "head"}
    _, out = jax.jit(autoencoder().apply)(drawn(), clips)
    _, expected = jax.jit(build().apply)(variables(), clips)
    for name in ("stem", "stage1"):
        np.testing.assert_allclose(out[name], expected[name], rtol=1e-5, atol=1e-6)


def test_visible_cubes_are_encoded_in_any_order_at_their_places():
    clips, places = draw(1, *CLIP), jnp.array([[3, 17, 8, 4]])
    asked, order = jnp.array([[0, 5, 9]]), jnp.array([2, 0, 3, 1])
    apply = jax.jit(autoencoder().apply)
    pixels, out = apply(drawn(), clips, visible=places, decoded=asked)
    other, swapped = apply(drawn(), clips, visible=places[:, order], decoded=asked)
    assert pixels.shape == (1, 3, 128, 3) and out["stage1"].shape == (1, 4, 8)
    np.testing.assert_allclose(out["stage1"][:, order], swapped["stage1"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(pixels, other, rtol=1e-3, atol=1e-4 * np.abs(pixels).max())
    moved, _ = apply(drawn(), clips, visible=places, decoded=asked[:, ::-1])
    np.testing.assert_allclose(pixels[:, ::-1], moved, rtol=1e-3, atol=1e-4 * np.abs(pixels).max())
    looped, _ = jax.jit(autoencoder(scan_blocks=True).apply)(
        drawn(), clips, visible=places, decoded=asked
    )
    np.testing.assert_allclose(pixels, looped, rtol=1e-3, atol=1e-4 * np.abs(pixels).max())


def published_tensors(dim, depth, decoder_dim, decoder_depth, cube):
    """Keys and shapes of a pretraining checkpoint of the authors, filled with noise."""
    shapes = {
        "mask_token": (1, 1, decoder_dim),
        "encoder.patch_embed.proj.weight": (dim, 3, *cube),
        "encoder.patch_embed.proj.bias": (dim,),
        "encoder_to_decoder.weight": (decoder_dim, dim),
        "decoder.head.weight": (3 * np.prod(cube), decoder_dim),
        "decoder.head.bias": (3 * np.prod(cube),),
    }
    for part, width, blocks in (("encoder", dim, depth), ("decoder", decoder_dim, decoder_depth)):
        norms = [f"{part}.norm"]
        for block in (f"{part}.blocks.{i}" for i in range(blocks)):
            norms += [f"{block}.norm1", f"{block}.norm2"]
            shapes |= {
                f"{block}.attn.q_bias": (width,),
                f"{block}.attn.v_bias": (width,),
                f"{block}.attn.qkv.weight": (3 * width, width),
                f"{block}.attn.proj.weight": (width, width),
                f"{block}.attn.proj.bias": (width,),
                f"{block}.mlp.fc1.weight": (4 * width, width),
                f"{block}.mlp.fc1.bias": (4 * width,),
                f"{block}.mlp.fc2.weight": (width, 4 * width),
                f"{block}.mlp.fc2.bias": (width,),
            }
        shapes |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    return {key: draw(*shape, seed=i) for i, (key, shape) in enumerate(shapes.items())}


def test_published_pretraining_checkpoints_convert_and_return():
    tensors = published_tensors(8, 2, 12, 1, (2, 8, 8))
    converted, meta, _ = checkpoints.convert_and_tell("videomae_pretrain_test", tensors.copy())
    assert meta["classes"] == [] and len(meta["new"]) == 4
    kernel = converted["params"]["decoder"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["decoder.head.weight"].T)
    scale = converted["params"]["decoder"]["encoder_norm"]["scale"]
    np.testing.assert_array_equal(scale, tensors["encoder.norm.weight"])
    back = converters.to_torch("videomae_pretrain_test", converted, meta)
    assert back.keys() == tensors.keys()
    assert all((back[key] == tensors[key]).all() for key in tensors)


@pytest.mark.parametrize(
    "size, shape", [("s", (384, 12, 192, 4)), ("b", (768, 12, 384, 4)), ("l", (1024, 24, 512, 12))]
)
def test_networks_that_pretrain_have_the_published_shapes(size, shape):
    name = f"videomae_pretrain_vit_{size}"
    model = zoo.create_model(name)
    assert (model.dim, model.depth, model.decoder_dim, model.decoder_depth) == shape
    assert model.dim // model.heads == model.decoder_dim // model.decoder_heads == 64
    fine_tuned = zoo.create_model(f"videomae{'v2' * (size == 's')}_vit_{size}")
    assert all(
        getattr(model, field) == getattr(fine_tuned, field)
        for field in ("dim", "depth", "heads", "mlp_ratio", "patch", "tubelet", "img_size")
    )


def test_every_network_that_pretrains_has_a_recipe_and_commands(capsys):
    assert {row.name for row in videomae.PRETRAINING_ROWS} == set(videomae.PRETRAINING_VARIANTS)
    assert not set(zoo.variants()) & set(videomae.PRETRAINING_VARIANTS)
    for name in videomae.PRETRAINING_VARIANTS:
        fields.check(config.from_row(name))
        zoo.main(["show", name])
        said = capsys.readouterr().out
        assert f"--config=configs/zoo_row.py:name={name},dataset=mine,data_dir=MINE --" in said
        assert f"python -m converters --model={name} --checkpoint=FILE --out=WEIGHTS" in said
    c = config.from_row("videomae_pretrain_vit_b")
    assert (c.train.batch_size, c.train.epochs, c.train.mask_ratio) == (2048, 800, 0.9)
    assert (c.optim.lr, c.optim.betas, c.optim.warmup_epochs) == (1.2e-3, (0.9, 0.95), 40)
