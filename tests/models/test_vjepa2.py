"""V-JEPA 2: how it turns queries and keys, what its probe looks at, and how it is sampled."""

import functools
import json
import math
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import checkpoints
from jaxvid import checkpoint, config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import sampling
from jaxvid.inference import predictor
from jaxvid.layers import position
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.probe import AttentiveProbe
from jaxvid.models import vjepa2
from jaxvid.rows import Sampling
from jaxvid.training import parts, start
from tests.training.test_start_from import state_of

CLIP = (4, 32, 32, 3)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(model, clip=CLIP):
    shapes = jax.eval_shape(model.init, jax.random.key(0), draw(1, *clip))
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten(
        [draw(*leaf.shape, seed=i + 1) * 0.3 for i, leaf in enumerate(leaves)]
    )


@functools.cache
def network(name="vjepa2_test"):
    model = zoo.create_model(name, 5)
    return model, filled(model)


# ---- positions


def turned(tables, x):
    cosines, sines = (jnp.asarray(table, jnp.float32) for table in tables)
    return np.asarray(position.rotate(jnp.asarray(x), cosines, sines))


def test_three_chunks_turn_by_time_height_and_width_and_the_rest_stays():
    tables = position.rotary_tables((2, 3, 2), 16, tiled=False)
    x = draw(1, 12, 2, 16)
    y = turned(tables, x)
    np.testing.assert_array_equal(y[..., 12:], x[..., 12:])
    pairs = x[..., :12].reshape(1, 12, 2, 6, 2) @ [1, 1j]
    places = np.indices((2, 3, 2)).reshape(3, -1).T
    angles = np.concatenate([places[:, i : i + 1] * [1, 10000**-0.5] for i in range(3)], axis=1)
    expected = pairs * np.exp(1j * angles)[:, None]
    found = y[..., :12].reshape(1, 12, 2, 6, 2) @ [1, 1j]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_members_of_a_pair_turn_by_different_angles_where_frequencies_are_tiled():
    x = np.zeros((1, 2, 1, 12), np.float32)
    x[0, 1, 0, 0] = 1
    y = turned(position.rotary_tables((2, 1, 1), 12, tiled=True), x)[0, 1, 0]
    np.testing.assert_allclose(y[:2], [math.cos(1), math.sin(0.01)], atol=1e-6)
    assert not y[2:].any()


def test_places_are_stretched_in_height_and_width_alone():
    cosines, _ = position.rotary_tables((3, 4, 2), 6, tiled=False, stretch=15.0)
    cosines = cosines.reshape(3, 4, 2, 6)
    np.testing.assert_allclose(cosines[:, 0, 0, 0], np.cos([0, 1, 2]))
    np.testing.assert_allclose(cosines[0, :, 0, 2], np.cos([0, 5, 10, 15]))
    np.testing.assert_allclose(cosines[0, 0, :, 4], np.cos([0, 15]))


@pytest.mark.parametrize("name", ["vjepa2_test", "vjepa2_1_test"])
def test_blocks_turn_as_their_version_does(name, monkeypatch):
    asked = []

    def note(*args, **kwargs):
        asked.append((args, kwargs))
        return position.rotary_tables(*args, **kwargs)

    monkeypatch.setattr(vjepa2, "rotary_tables", note)
    model, variables = network(name)
    jax.eval_shape(model.apply, variables, draw(1, *CLIP))
    first = name == "vjepa2_test"
    assert asked[-1] == (((2, 4, 4), 12), {"tiled": first, "stretch": 0.0 if first else 15.0})


def test_pictures_that_cannot_be_stretched_are_refused():
    model, variables = network("vjepa2_1_test")
    with pytest.raises(JaxvidError, match="grid of 1 x 4 cubes.*at least 16 pixels"):
        jax.eval_shape(model.apply, variables, draw(1, 4, 8, 32, 3))


# ---- norms, levels and clips


@pytest.mark.parametrize("name", ["vjepa2_test", "vjepa2_1_test"])
def test_norms_add_1e_6_in_the_encoder_and_1e_5_in_the_probe(name):
    found = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, LayerNorm):
            found["/".join(context.module.path)] = context.module.epsilon
        return call(*args, **kwargs)

    model, variables = network(name)
    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x), variables, draw(1, *CLIP))
    assert {path for path in found if path.startswith("head/")} == {
        f"head/{part}/norm{i}" for part in ("block0", "cross") for i in (1, 2)
    }
    assert all(found[path] == (1e-5 if path.startswith("head/") else 1e-6) for path in found)
    assert len(found) == 4 + 6 + (1 if name == "vjepa2_test" else 2)


def test_the_probe_looks_at_the_blocks_that_are_asked_for_through_one_norm():
    model, variables = network()
    apply = jax.jit(lambda model, v, x: model.apply(v, x)[1], static_argnums=0)
    clips = draw(2, *CLIP)
    out = apply(model.clone(out_layers=(0, 2)), variables, clips)
    last = apply(model, variables, clips)
    params = {k: v for k, v in variables["params"].items() if k not in ("block1", "block2")}
    first = apply(model.clone(depth=1), {"params": params}, clips)
    np.testing.assert_allclose(out["stage1"], first["stage1"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["stage2"], last["stage1"], rtol=1e-4, atol=1e-5)
    both = jnp.concatenate([out[f"stage{i}"].reshape(2, -1, 24) for i in (1, 2)], axis=1)
    np.testing.assert_array_equal(out["tokens"], both)


def test_blocks_without_a_norm_are_refused():
    model, variables = network("vjepa2_1_test")
    for wrong in ({"out_layers": (1,)}, {"norms": (0, 1), "out_layers": ()}):
        with pytest.raises(JaxvidError, match="the blocks that have a norm: change out_layers"):
            jax.eval_shape(model.clone(**wrong).apply, variables, draw(1, *CLIP))


def test_clips_of_a_video_are_seen_one_by_one_and_probed_together():
    model, variables = network()
    model = model.clone(clip_frames=4)
    video = draw(1, 8, 32, 32, 3)
    apply = jax.jit(lambda v, x: model.apply(v, x))
    logits, out = apply(variables, video)
    assert out["stage1"].shape == (1, 4, 4, 4, 24)
    halves = [apply(variables, half) for half in np.split(video, 2, axis=1)]
    tokens = np.concatenate([half["tokens"] for _, half in halves], axis=1)
    np.testing.assert_allclose(out["tokens"], tokens, rtol=1e-4, atol=1e-5)
    # The probe knows no order.
    swapped, _ = apply(variables, np.roll(video, 4, axis=1))
    np.testing.assert_allclose(swapped, logits, rtol=1e-4, atol=1e-5)
    assert np.abs(logits - halves[0][0]).max() > 1e-3
    with pytest.raises(JaxvidError, match="6 frames are not clips of 4"):
        jax.eval_shape(model.apply, variables, video[:, :6])


def test_one_picture_has_an_embedding_of_its_own_in_version_2_1():
    model, variables = network("vjepa2_1_test")
    picture = draw(1, 1, 32, 32, 3)
    changed = {**variables["params"], "video_embed": filled(model)["params"]["image_embed"]}
    apply = jax.jit(model.apply)
    logits, out = apply(variables, picture)
    assert out["stem"].shape == (1, 1, 4, 4, 24)
    np.testing.assert_array_equal(apply({"params": changed}, picture)[0], logits)
    shapes = jax.eval_shape(model.init, jax.random.key(0), picture)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("name", ["vjepa2_test", "vjepa2_1_test"])
def test_the_loop_answers_as_the_blocks_do(name):
    model, variables = network(name)
    clips = draw(2, *CLIP)
    expected = jax.jit(model.apply)(variables, clips)[0]
    looped = model.clone(scan_blocks=True)
    np.testing.assert_allclose(
        jax.jit(looped.apply)(variables, clips)[0], expected, rtol=1e-4, atol=1e-5
    )


# ---- the probe


def test_a_probe_starts_smaller_where_branches_end():
    probe = AttentiveProbe(7, depth=3, heads=4)
    params = jax.jit(probe.init)(jax.random.key(0), draw(1, 5, 64))["params"]
    assert params["linear"]["kernel"].shape == (64, 7)
    for path, blocks in {
        ("block0", "attn", "qkv"): 0,
        ("block1", "mlp", "fc1"): 0,
        ("cross", "kv"): 0,
        ("block0", "attn", "proj"): 1,
        ("block0", "mlp", "fc2"): 1,
        ("block1", "attn", "proj"): 2,
        ("cross", "mlp", "fc2"): 2,
    }.items():
        kernel = functools.reduce(dict.__getitem__, path, params)["kernel"]
        expected = float(np.std(params["linear"]["kernel"])) / math.sqrt(2 * blocks or 1)
        assert np.std(kernel) == pytest.approx(expected, rel=0.1), path
    assert not any(leaf.any() for leaf in jax.tree.leaves(params) if leaf.shape == (256,))


def test_a_probe_takes_any_number_of_tokens_in_any_order():
    probe = AttentiveProbe(7, depth=2, heads=4)
    tokens = draw(2, 9, 16)
    variables = probe.init(jax.random.key(0), tokens)
    logits, found = probe.apply(variables, tokens)
    assert logits.shape == (2, 7) and found.shape == (2, 16)
    np.testing.assert_allclose(probe.apply(variables, tokens[:, ::-1])[0], logits, atol=1e-5)
    assert probe.apply(variables, tokens[:, :3])[0].shape == (2, 7)


# ---- sizes, files and rows


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vjepa2_vitl", 303_885_312),
        ("vjepa2_vith", 631_648_000),
        ("vjepa2_vitg", 1_012_173_952),
        ("vjepa2_vitg_384", 1_012_173_952),
        ("vjepa2_1_vitb_384", 86_833_152),
        ("vjepa2_1_vitl_384", 304_680_960),
        ("vjepa2_1_vitg_384", 1_013_267_968),
        ("vjepa2_1_vitG_384", 1_845_216_768),
    ],
)
def test_encoders_have_the_published_parameters(name, count):
    model = zoo.create_model(name)
    clip = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_layers_are_the_blocks_of_encoder_and_probe():
    layers = parts.layers(parts.find(network()[0], CLIP).params)
    assert layers["video_embed/kernel"] == 0 and layers["block2/mlp/fc1/kernel"] == 3
    assert layers["norm/scale"] <= layers["head/block0/mlp/fc1/kernel"]


def test_rows_train_the_probe_alone(monkeypatch):
    for row in vjepa2.ROWS:
        c = config.from_row(row.name)
        fields.check(c)
        model = zoo.create_model(row.name)
        assert row.test.sampling.clip_len == model.clip_frames
        assert c.optim.freeze == ("trunk",) and row.num_views == 3
    frozen = parts.frozen(parts.find(network()[0], CLIP), ("trunk",), "")
    assert {path.split("/")[0] for path in frozen} == network()[1]["params"].keys() - {"head"}


def published(tensors, name):
    """An encoder's file as its authors save them: the student, what it learnt from, and more."""
    student = {f"module.backbone.{key}": tensor + 1 for key, tensor in tensors.items()}
    teacher = {f"module.backbone.{key}": tensor for key, tensor in tensors.items()}
    return {
        "encoder": student,
        "predictor": {"module.backbone.norm.weight": np.ones(3, np.float32)},
        "opt": {"state": {}, "param_groups": []},
        name: teacher,
        "epoch": 5,
    }


@pytest.mark.parametrize("kind", ["target_encoder", "ema_encoder"])
def test_of_an_encoders_file_the_averaged_weights_are_taken(kind, tmp_path):
    model, variables = network()
    params = {k: v for k, v in variables["params"].items() if k != "head"}
    tensors = converters.to_torch("vjepa2_test", {"params": params})
    tensors = {key.removeprefix("encoder."): tensor for key, tensor in tensors.items()}
    tensors["pos_embed"] = draw(1, 8, 24)  # Old files have one, of no use.
    (tmp_path / "a.pt").write_bytes(pickle.dumps(published(tensors, kind)))
    converted, meta, report = checkpoints.convert_and_tell("vjepa2_test", tmp_path / "a.pt")
    assert {path.split("/")[1] for path in meta["new"]} == {"head"}
    assert jax.tree.all(jax.tree.map(np.array_equal, converted["params"], params))
    said = "\n".join(report.lines())
    assert f"{kind!r} holds the averaged weights" in said and "pos_embed" in said
    back = converters.to_torch("vjepa2_test", converted, json.loads(json.dumps(meta)))
    assert back.keys() == {f"module.backbone.{key}" for key in tensors}


def test_an_encoder_gives_features_and_no_answers_and_training_starts_from_it(tmp_path):
    small = {"dim": 24, "depth": 3, "heads": 2, "patch": 8}
    _, variables = network()
    params = {k: v for k, v in variables["params"].items() if k != "head"}
    tensors = converters.to_torch("vjepa2_vitl", {"params": params})
    converted, meta, _ = checkpoints.convert_and_tell("vjepa2_vitl", tensors, overrides=small)
    assert meta["num_classes"] == 0 and meta["new"] == []
    checkpoint.save(tmp_path / "w", converted, meta)
    encoder = predictor.Predictor(tmp_path / "w", views="one")
    frames = np.zeros((70, 64, 64, 3), np.uint8)
    assert encoder.extractor(["tokens"])(frames)["tokens"].shape == (24,)
    with pytest.raises(JaxvidError, match="a trunk without a classifier: train from it first"):
        encoder.predict(frames)
    state = start.start_from(state_of("vjepa2_test", 2, 0.0), str(tmp_path / "w"), ["a", "b"])
    taken = dict(state.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(taken.pop("head")))
    assert jax.tree.all(jax.tree.map(np.array_equal, taken, params))


# ---- sampling


def test_segments_are_sampled_as_published():
    how = Sampling("segments", clip_len=4, frame_interval=3, num_clips=2)
    assert (how.views, how.length, how.frames) == (1, 8, "4x3x2")
    # Parts of 20 frames, clips of 12 in the middle of each, which end on the last but one.
    views = sampling.sample_views(how, 40, test=True)
    np.testing.assert_array_equal(views, [[4, 8, 12, 15, 24, 28, 32, 35]])
    # Clips are longer than parts: the second starts where it ends with the video.
    views = sampling.sample_views(how, 20, test=True)
    np.testing.assert_array_equal(views, [[0, 5, 10, 10, 8, 13, 18, 18]])
    # Shorter than a clip: both are of the whole video, and the last frame repeats.
    views = sampling.sample_views(how, 7, test=True)
    np.testing.assert_array_equal(views, [[0, 5, 5, 5] * 2])
    np.testing.assert_array_equal(sampling.sample_views(how, 1, test=True), [[0] * 8])
    rng = np.random.default_rng(0)
    starts = {tuple(sampling.sample(how, 40, test=False, rng=rng)[:, 0]) for _ in range(200)}
    assert {first for first, _ in starts} == set(range(8))
    assert {second for _, second in starts} == set(range(20, 28))
