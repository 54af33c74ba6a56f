"""LoRA: what is trained, what a checkpoint holds of it, and that merged it is the same network."""

import dataclasses
import json
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters.__main__ as convert
from jaxvid import checkpoint, config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import toy
from jaxvid.devices import placement
from jaxvid.inference import evaluate
from jaxvid.inference.predictor import Predictor
from jaxvid.training import loop, lora, parts, plan, start
from tests import handed
from tests.models.test_families import video

TRUNKS = (
    "videomae",
    "timesformer",
    "uniformerv2",
    "vjepa2",
    "hiera",
    "internvideo2",
    "videoprism",
    "mvit",
    "swin",
    "uniformer",
    "dualformer",
    "videomae_pretrain",
)


def make_config(records, **arguments):
    c = config.from_row(
        "videomae_vit_b", dataset="mini", data_dir=str(records), runlocal=True, **arguments
    )
    for part in (c.data, c.test):
        part.crop = 32
        part.sampling.clip_len, part.sampling.frame_interval = 4, 1
    c.test.update({"short_side": 32, "batch_size": 4})
    c.train.update({"batch_size": 8, "epochs": 3.0, "eval_epochs": 3.0, "log_steps": 4})
    c.train.update({"checkpoint_steps": 4, "lora_rank": 2, "lora_alpha": 8.0, "ema_decay": 0.5})
    c.optim.update({"lr": 0.05, "schedule": "constant", "warmup_epochs": 0.0})
    return c


@pytest.fixture(scope="module")
def base(records, tmp_path_factory):
    """The weights that the runs start from, of other classes."""
    folder = tmp_path_factory.mktemp("base") / "weights"
    model = zoo.create_model("videomae_test", 3)
    variables = model.init(jax.random.key(7), jnp.zeros((1, 4, 32, 32, 3)))
    checkpoint.save(folder, variables, {"row": "videomae_test", "classes": list("abc")})
    return folder


@pytest.fixture(scope="module")
def trained(records, base, tmp_path_factory):
    """A finished run of 12 steps."""
    workdir = tmp_path_factory.mktemp("trained")
    loop.train(make_config(records, init=str(base)), workdir)
    return workdir


def last(workdir):
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    return checkpoints.folder(checkpoints.latest_step())


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def leaves(folder):
    return json.loads((folder / checkpoint.RECORD).read_text())["leaves"]


# ---- factors


def found(variant, **train):
    c = handed.frozen(config.from_row(variant)).train
    c = dataclasses.replace(c, lora_rank=2, **train)
    model = zoo.create_model(variant, 4)
    read = parts.find(model, video(variant).shape[1:])
    return model, read, lora.find(read, c)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_attention_and_mlp_of_every_trunk_have_factors_that_first_change_nothing(trunk):
    model, read, factors = found(f"{trunk}_test")
    ends = r"(qkv|q|kv|proj|fc1|fc2|query|key|value)/kernel"
    wanted = {
        path
        for path in read.params
        if re.search(rf"(block|layer).*/{ends}$", path) and len(read.shapes[path]) < 4
    }
    assert len(wanted) > 3
    wanted = {path for path in wanted if not path.startswith("head/")}
    assert wanted <= factors.kernels.keys()
    assert not any("patch_embed" in path for path in factors.kernels)
    clip = video(f"{trunk}_test")
    variables = jax.jit(model.init)(jax.random.key(0), clip)
    params = factors.started(variables["params"], jax.random.key(1))
    merged = factors.merged(params)
    jax.tree.map(np.testing.assert_array_equal, merged, variables["params"])
    for path, (inputs, outputs) in factors.kernels.items():
        a, b = flat(params)[path + lora.A], flat(params)[path + lora.B]
        assert a.shape == (inputs, 2) and b.shape == (2, outputs)
        assert 0.2 < np.abs(a).max() * np.sqrt(inputs) <= 1 and not b.any()


def test_factors_are_those_of_the_matrix_that_a_layer_multiplies_by():
    model, _, factors = found("videoprism_test")
    clip = video("videoprism_test")
    variables = jax.jit(model.init)(jax.random.key(0), clip)
    params = flat(factors.started(variables["params"], jax.random.key(1)))
    rng = np.random.default_rng(0)
    for path in params:
        if path.endswith(lora.B):
            params[path] = rng.normal(size=params[path].shape).astype(np.float32)
    merged = flat(factors.merged(flax.traverse_util.unflatten_dict(params, sep="/")))
    # [in, heads, channels] into the heads, [heads, channels, out] out of them.
    for name, shape in (("query", (16, 2, 8)), ("proj", (2, 8, 16))):
        path = f"stage1_block0/attn/{name}/kernel"
        kernel, a, b = params[path], params[path + lora.A], params[path + lora.B]
        assert kernel.shape == shape and a.shape == (16, 2) and b.shape == (2, 16)
        change = 8 * np.asarray(a, np.float64) @ np.asarray(b, np.float64)
        np.testing.assert_allclose(merged[path] - kernel, change.reshape(shape), atol=2e-5)
    assert merged.keys() == flat(variables["params"]).keys()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"lora_layers": ("*/nothing/*",)}, r"matches no kernel of the trunk: give linear.*block0"),
        ({"lora_layers": ("head/*",)}, "matches no kernel of the trunk"),
        ({"lora_also": ("nothing*",)}, "lora_also: 'nothing.' matches no parameter: give a patt"),
        ({"lora_also": ("block0/attn/*",)}, "both name block0/attn/proj/kernel: leave it out"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(fields, words):
    with pytest.raises(JaxvidError, match=words):
        found("videomae_test", **fields)


def test_layers_are_named_by_patterns():
    _, read, factors = found(
        "videomae_test", lora_layers=("block?/attn/qkv/*",), lora_also=("*norm*",)
    )
    assert set(factors.kernels) == {f"block{i}/attn/qkv/kernel" for i in (0, 1)}
    trained = set(read.params) - factors.frozen
    assert {"head/kernel", "head/bias", "block0/norm1/scale"} <= trained
    assert all("head/" in path or "norm" in path for path in trained)


# ---- runs


def test_a_run_trains_factors_and_head_and_keeps_no_more(trained, base):
    names = leaves(last(trained))
    ours = {name for name in names if name.startswith("params/")}
    assert ours and all(name.endswith((lora.A, lora.B)) or "/head/" in name for name in ours)
    # As small are the optimizer's moments and the averaged copy.
    kernels = [name for name in names if name.endswith("qkv/kernel")]
    assert not kernels and any("mu" in name and name.endswith(lora.B) for name in names)
    merged, before = flat(checkpoint.load(trained)["params"]), flat(checkpoint.load(base)["params"])
    assert merged.keys() == before.keys()
    changed = {path for path in merged if not path.startswith("head/")}
    changed = {path for path in changed if (merged[path] != before[path]).any()}
    assert changed == {
        name.removeprefix("params/")[: -len(lora.B)] for name in ours if lora.B in name
    }
    assert "lora" not in checkpoint.load_meta(trained)


def test_what_is_loaded_is_the_network_that_ran(trained, base, records):
    c = fields.freeze(make_config(records, init=str(base)))
    made = plan.plan(c, placement.make_mesh(), toy.CLASSES, 32)
    factors = made.knobs.lora
    state = start.first_state(made, checkpoint.Checkpoints(trained / "checkpoints"), 12)
    for weights in ("last", "ema"):
        running = flat(made.merged(state.tested(weights)["params"]))
        loaded = flat(checkpoint.load(trained, weights)["params"])
        for path, array in running.items():
            np.testing.assert_allclose(array, loaded[path], atol=1e-6, err_msg=path)
    assert any((np.asarray(flat(state.params)[k + lora.B]) != 0).any() for k in factors.kernels)
    # So are the test of the run, that of its checkpoint, and the prediction.
    evaluate.evaluate(make_config(records, init=str(trained)), trained.parent / "tested")
    ours, theirs = (
        np.load(path / "eval/scores.npz")["scores"] for path in (trained, trained.parent / "tested")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_merged_checkpoint_is_an_ordinary_one(trained, tmp_path):
    convert.main([f"--checkpoint={trained}", f"--out={tmp_path}/merged"])
    one, other = flat(checkpoint.load(trained)), flat(checkpoint.load(tmp_path / "merged"))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert checkpoint.load_lora(tmp_path / "merged") is None
    names = leaves(tmp_path / "merged")
    assert "params/block0/attn/qkv/kernel" in names and not any("lora" in name for name in names)
    assert Predictor(tmp_path / "merged").classes == toy.CLASSES


def test_a_run_that_was_stopped_goes_on_exactly(trained, records, base, tmp_path, capsys):
    c = make_config(records, init=str(base))
    c.train.stop_at_step = 5
    loop.train(c, tmp_path)
    assert re.search(r"of which 0.00 M are trained \(\d+ %\)", capsys.readouterr().out)
    c.train.stop_at_step = 0
    loop.train(c, tmp_path)
    checkpoints = [checkpoint.Checkpoints(path / "checkpoints") for path in (trained, tmp_path)]
    made = plan.plan(fields.freeze(c), placement.make_mesh(), toy.CLASSES, 32)
    states = [start.first_state(made, each, 12) for each in checkpoints]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_other_factors_and_another_base_are_refused(trained, records, base, tmp_path):
    for name, value in (("lora_rank", 3), ("lora_alpha", 2.0), ("lora_rank", 0)):
        c = make_config(records, init=str(base))
        c.train[name] = value
        with pytest.raises(JaxvidError, match=rf"holds a run with config.train.{name}=[28].*, not"):
            loop.train(c, trained)
    model = zoo.create_model("videomae_test", 3)
    variables = model.init(jax.random.key(8), jnp.zeros((1, 4, 32, 32, 3)))
    hidden = base.rename(base.with_name("elsewhere"))
    try:
        with pytest.raises(JaxvidError, match=r"trained on top of .*weights \(LoRA\).*put it back"):
            checkpoint.load(trained)
        checkpoint.save(base, variables, {"row": "videomae_test"})
        with pytest.raises(JaxvidError, match="which is another one now"):
            checkpoint.load(trained)
        for path in sorted(base.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        base.rmdir()
    finally:
        hidden.rename(base)
    checkpoint.load(trained)


def test_it_starts_from_weights_that_have_what_it_leaves(records, base, tmp_path):
    with pytest.raises(JaxvidError, match="lora_rank=2 trains little.*name its checkpoint by init"):
        loop.train(make_config(records), tmp_path / "nothing")
    c = make_config(records, init=str(base))
    c.optim.freeze = ("head/*",)
    with pytest.raises(JaxvidError, match="would leave params/head/.* as it is drawn"):
        loop.train(c, tmp_path / "head")


def test_rates_of_layers_are_those_of_their_kernels(records, base):
    c = make_config(records, init=str(base))
    c.optim.layer_decay = 0.5
    made = plan.plan(fields.freeze(c), placement.make_mesh(), toy.CLASSES, 32)
    layer_of = made.knobs.layer_of
    for kernel, path in made.knobs.lora.paths():
        assert layer_of[path] == layer_of[kernel]
    assert layer_of["block0/mlp/fc1/kernel" + lora.A] == 1
