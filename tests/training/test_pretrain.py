"""Pretraining: runs on clips without labels, and what is made of them afterwards."""

import csv
import functools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid import checkpoint, config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import build, toy
from jaxvid.inference import evaluate, predictor
from jaxvid.objectives import masking
from jaxvid.reports import draw
from jaxvid.training import loop, parts, step
from jaxvid.training.descent import Descent
from jaxvid.training.state import make_state

CUBE = (2, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """16 toy clips to train on and 8 to test on: with labels in `named`, without in `bare`."""
    folder = tmp_path_factory.mktemp("clips")
    toy.make(folder, toy.Settings(train=2, test=1, height=48, width=48, frames=(8, 10)))
    for split in ("train", "test"):
        build.build(folder / "videos", folder / f"{split}.csv", folder / "named", workers=1)
        with open(folder / f"{split}.csv", newline="") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
        (folder / "bare").mkdir(exist_ok=True)
        (folder / "bare" / f"{split}.csv").write_text("\n".join(["path", *paths]) + "\n")
        build.build(folder / "videos", folder / "bare" / f"{split}.csv", folder / "bare", workers=1)
    return folder


def make_config(name, data_dir, **arguments):
    c = config.from_row(name, dataset="mini", data_dir=str(data_dir), runlocal=True, **arguments)
    for part in (c.data, c.test):
        part.crop = 32
        part.sampling.update({"clip_len": 4, "frame_interval": 1})
    c.test.update({"short_side": 32, "batch_size": 8})
    c.train.update({"batch_size": 8, "epochs": 2.0, "eval_epochs": 2.0, "log_steps": 1})
    return c


def pretraining(folder, stop=0, **arguments):
    c = make_config("videomae_pretrain_vit_b", folder / "bare", **arguments)
    c.train.update({"mask_ratio": 0.75, "decoder_mask_ratio": 0.5, "ema_decay": 0.8})
    c.train.stop_at_step = stop
    return c


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained")
    loop.train(pretraining(folder), workdir)
    return workdir


def flat(path, weights=None):
    return flax.traverse_util.flatten_dict(checkpoint.load(path, weights), sep="/")


def test_a_run_leaves_its_losses_and_a_picture(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    tested = [line["test_loss"] for line in lines if "test_loss" in line]
    result = json.loads((trained / "eval" / "result.json").read_text())
    assert tested == [result["loss"]] and result["videos"] == 8
    assert result["mask_ratio"] == 0.75 and result["normalize_cubes"] is True
    with open(trained / "eval" / "losses.csv", newline="") as file:
        each = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(each) == pytest.approx(result["loss"], abs=1e-4) and len(set(each)) > 1
    assert (trained / "eval" / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoint.load_meta(trained)["metric"] == -result["loss"]


def test_a_run_in_two_halves_ends_with_the_same_bits(trained, folder, tmp_path, capsys):
    loop.train(pretraining(folder, stop=2), tmp_path)
    loop.train(pretraining(folder), tmp_path)
    assert "resumed from step 2" in capsys.readouterr().out
    for weights in ("ema", "last"):
        whole, halves = (
            checkpoint.Checkpoints(run / "checkpoints").folder(4) for run in (trained, tmp_path)
        )
        one, other = flat(whole, weights), flat(halves, weights)
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)


def test_evaluation_gives_the_loss_of_training_whatever_the_batch(trained, folder, tmp_path):
    c = pretraining(folder, init=str(trained))
    c.test.batch_size = 3
    result = evaluate.evaluate(c, tmp_path)
    before = json.loads((trained / "eval" / "result.json").read_text())
    assert result.loss == pytest.approx(before["loss"], rel=1e-5)


def test_cubes_may_be_normalised_as_clips_are(folder, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(draw, "reconstructions", lambda *drawn: shown.append(drawn[:2]))
    c = pretraining(folder, stop=1)
    c.train.normalize_cubes = False
    c.data.update({"mean": (2805.0, 2805.0, 2805.0), "std": (255.0, 255.0, 255.0)})
    loop.train(c, tmp_path)  # Of a rate of zero.
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    c.init = str(tmp_path)
    tested = evaluate.evaluate(c, tmp_path).loss
    c.train.normalize_cubes = True
    assert evaluate.evaluate(c, tmp_path).loss < 5
    assert first["loss"] > 80 and tested > 80  # Pixels are about 0.5 - 11, and answers about 0.
    # What is filled in is about 11, and so white; or else the colours of the cubes themselves.
    for (pictures, captions), made in zip(
        shown[-2:], ("filled in", "detail filled in"), strict=True
    ):
        _, seen, filled = np.moveaxis(pictures, 1, 0)
        hidden = (seen == 128).all(-1)
        assert (filled[hidden] == 255).all() == (made == "filled in")
        assert all(f"what was seen of it, {made} (loss" in caption for caption in captions)


def test_fine_tuning_and_probing_take_the_encoder_and_say_what_is_new(
    trained, folder, tmp_path, capsys
):
    c = make_config("videomae_vit_b", folder / "named", init=str(trained))
    c.train.update({"stop_at_step": 1})
    c.optim.update({"freeze": ("trunk",), "warmup_epochs": 0.0})
    loop.train(c, tmp_path)
    said = capsys.readouterr().out
    new = ("fc_norm/bias", "fc_norm/scale", "head/bias", "head/kernel")
    assert "28 arrays taken, 4 new" in said
    assert all(f"new: params/{name}" in said for name in new)
    assert "left out: 21 arrays of the decoder, which only pretraining needs" in said
    assert "frozen: 30 of 32 arrays" in said
    before, after = flat(trained), flat(tmp_path)
    encoder = {name for name in before if not name.startswith("params/decoder/")}
    assert encoder == after.keys() - {f"params/{name}" for name in new}
    assert all((before[name] == after[name]).all() for name in encoder)
    assert np.ptp(after["params/fc_norm/scale"]) == 0 and np.ptp(after["params/head/bias"]) > 0


def test_hiera_lowers_its_loss_and_is_probed(folder, tmp_path, capsys):
    def resized(c):
        for part in (c.data, c.test):
            part.crop = 64
        c.test.short_side = 64
        c.optim.warmup_epochs = 0.0
        return c

    c = resized(make_config("hiera_b_16x224_mae", folder / "bare"))
    c.train.update({"epochs": 40.0, "eval_epochs": 40.0, "mask_ratio": 0.75})
    c.optim.update({"lr": 0.02, "weight_decay": 0.0})
    loop.train(c, tmp_path / "pretrained")
    lines = (tmp_path / "pretrained" / "metrics.jsonl").read_text().splitlines()
    each = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(each) == 80 and each[0] > 1  # What an answer of zeros costs.
    assert np.mean(each[-8:]) < 0.98
    assert (tmp_path / "pretrained" / "eval" / "reconstructions.png").is_file()
    c = resized(
        make_config("hiera_b_16x4_k400", folder / "named", init=str(tmp_path / "pretrained"))
    )
    c.train.stop_at_step = 1
    c.optim.freeze = ("trunk",)
    loop.train(c, tmp_path / "probed")
    said = capsys.readouterr().out
    new = ("norm/bias", "norm/scale", "head/bias", "head/kernel")
    assert all(f"new: params/{name}" in said for name in new)
    assert "arrays of the decoder, which only pretraining needs" in said
    before, after = flat(tmp_path / "pretrained"), flat(tmp_path / "probed")
    encoder = {name for name in before if not name.startswith("params/decoder/")}
    assert encoder == after.keys() - {f"params/{name}" for name in new}
    assert all((before[name] == after[name]).all() for name in encoder)


def test_what_has_no_classes_does_not_classify(trained, folder, tmp_path):
    c = make_config("videomae_vit_b", folder / "named", init=str(trained))
    with pytest.raises(JaxvidError, match="videomae_pretrain_test, which has no classes: fine"):
        evaluate.evaluate(c, tmp_path)
    with pytest.raises(JaxvidError, match="has no classes: fine-tune from it"):
        predictor.Predictor(trained)
    c = make_config("videomae_vit_b", folder / "bare")
    with pytest.raises(JaxvidError, match=r"mp4\) has no label: build with labels"):
        loop.train(c, tmp_path)


@pytest.mark.parametrize(
    "name, field, value, words",
    [
        ("pretrain_vit_b", "mixup", 0.8, "train.mixup=0.8 has no use with the loss pixels"),
        ("pretrain_vit_b", "loss", "softmax", "is not for videomae_pretrain_vit_b"),
        ("pretrain_vit_b", "decoder_mask_ratio", 0.4, "must be one of 0.0, 0.25, 0.5, 0.75"),
        ("vit_b", "loss", "pixels", "train.loss='pixels' is not for videomae_vit_b"),
        ("vit_b", "mask_ratio", 0.9, "has no use with the loss softmax: leave it 0.0"),
    ],
)
def test_fields_of_the_other_kind_are_refused(name, field, value, words):
    c = config.from_row(f"videomae_{name}")
    fields.check(c)
    c.train[field] = value
    with pytest.raises(JaxvidError, match=words):
        fields.check(c)


# ---- the step


@functools.cache
def network():
    model = zoo.create_model("videomae_pretrain_test")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    video = np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3)).astype(np.uint8)
    masks = masking.draw(jax.random.split(jax.random.key(1), 4), (2, 4, 4), 0.75)
    return model, variables, video, masks


def run(steps=1, **settings):
    model, variables, video, masks = network()
    optimizer = optax.sgd(0.5)
    update = jax.jit(
        step.make_reconstruction_update(
            model, optimizer, prepare=lambda video: video / 128 - 1.0, **settings
        )
    )
    state, losses = make_state(variables, optimizer), []
    for number in range(steps):
        state, measured = update(state, video, masks, jax.random.key(number))
        losses.append(float(measured["loss"]))
    return state.params, losses


def test_steps_lower_the_loss_and_parts_and_recomputation_change_nothing():
    plain, losses = run(steps=4)
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False)), losses
    paths = parts.find(network()[0], (4, 32, 32, 3)).params
    assert {"block1", "decoder/block0"} < parts.blocks(paths)
    other, _ = run(
        steps=4, descent=Descent(accumulate=2), blocks=step.Blocks(parts.blocks(paths), True)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), plain, other)


def test_the_answer_knows_nothing_of_what_is_hidden():
    model, variables, video, masks = network()
    cubes = masking.cut(video, CUBE)
    noise = np.random.default_rng(1).integers(0, 256, cubes.shape)
    hidden = np.ones(cubes.shape[:2], bool)
    np.put_along_axis(hidden, np.asarray(masks.visible), False, axis=1)
    other = masking.join(np.where(hidden[..., None, None], noise, cubes), (2, 4, 4), CUBE)
    answers = [
        jax.jit(model.apply)(
            variables, clips / 128 - 1.0, visible=masks.visible, decoded=masks.decoded
        )[0]
        for clips in (video, np.asarray(other))
    ]
    np.testing.assert_array_equal(*answers)
    assert answers[0].shape == (4, 24, 128, 3) and float(np.std(answers[0])) > 0
