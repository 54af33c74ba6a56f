"""Pictures beside the videos of a training: their batches, their part of a step, a resumed run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid import checkpoint, config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, images, pipeline
from jaxvid.models import omnisource
from jaxvid.objectives import losses
from jaxvid.training import loop, step
from jaxvid.training.state import make_state
from tests import handed
from tests.data import clips
from tests.data.test_pipeline import assert_same, take

PICTURES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of six clips of two classes, and of seven pictures of as many."""
    folder = tmp_path_factory.mktemp("omni")
    for number in range(PICTURES):
        color = (30 * number, 200 - 20 * number, 100)
        clips.encode(folder / f"{number}.mp4", 9, color=color)
        clips.encode(folder / f"picture{number}.mp4", 1, color=color)
    for split in ("train", "test"):
        table = folder / f"{split}.csv"
        lines = [f"{number}.mp4,{'ab'[number % 2]}" for number in range(6)]
        table.write_text("\n".join(["path,label", *lines]))
        build.build(folder, table, folder / "clips", workers=1, shards=1)
    lines = [f"picture{number}.mp4,{number}" for number in range(PICTURES)]
    (folder / "train.csv").write_text("\n".join(["path,label", *lines]))
    build.build(folder, folder / "train.csv", folder / "pictures", workers=1, shards=1)
    return folder


def make_config(folder, **train):
    c = config.from_row("omnisource_test", dataset="clips", data_dir=str(folder), runlocal=True)
    c.data.update({"images": "pictures", "crop": 32, "workers": 2})
    c.data.sampling.update({"clip_len": 4, "frame_interval": 2, "num_clips": 1})
    c.test.update({"crop": 32, "short_side": 32, "batch_size": 2, "crops": "center"})
    c.test.sampling.update({"clip_len": 4, "frame_interval": 2, "num_clips": 1})
    c.train.update({"batch_size": 4, "image_batch_size": 6, "epochs": 4.0, "eval_epochs": 4.0})
    c.train.update({"log_steps": 1, "image_weight": 0.5, **train})
    return c


def test_pictures_have_an_order_of_their_own(folder):
    c = handed.frozen(make_config(folder))
    split = images.open_images(c.data)

    def batches(**how):
        return pipeline.train_batches(
            split, images.data_of(c.data), batch_size=6, loss="softmax", seed=images.SEED, **how
        )

    whole = take(batches(), 4)
    assert whole[0]["video"].shape == (6, 1, 32, 32, 3)
    seen = np.concatenate([batch["index"] for batch in whole])
    assert sorted(seen[:7]) == list(range(7))
    assert_same(whole[2:], take(batches(start_step=2), 2))
    joint = images.Joint(batches(), batches())
    first = next(joint)
    np.testing.assert_array_equal(first["image"], whole[0]["video"])
    np.testing.assert_array_equal(first["image_label"], whole[0]["label"])
    assert joint.bad == {}
    joint.close()


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_step_goes_down_both_losses():
    model = zoo.create_model("omnisource_test", 2, dropout=0.0, image_dropout=0.0)
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.normal(size=(4, 4, 32, 32, 3)), jnp.float32)
    pictures = jnp.asarray(rng.normal(size=(6, 1, 32, 32, 3)), jnp.float32)
    labels, names = jnp.array([0, 1, 1, 0]), jnp.array([0, 6, 5, 4, 1, 2])
    variables = jax.jit(model.init)(jax.random.key(0), video)
    update = step.make_update(model, optax.sgd(1.0), step.Lesson(image_weight=0.5))
    state = make_state(variables, optax.sgd(1.0), frozenset(), False)
    beside = {"image": pictures, "image_label": names}
    run = jax.jit(lambda images: update(state, video, labels, jax.random.key(1), None, images))
    (plain, _), (joint, measured) = run({}), run(beside)

    def image_loss(params):
        network = model.clone(images=True)
        (logits, _), updated = network.apply(
            {"params": omnisource.image_variables(params), "batch_stats": state.batch_stats},
            pictures,
            train=True,
            mutable=["batch_stats"],
        )
        return losses.softmax_cross_entropy(logits, names), updated["batch_stats"]

    (loss, stats), gradient = jax.jit(jax.value_and_grad(image_loss, has_aux=True))(state.params)
    np.testing.assert_allclose(measured["image_loss"], loss, rtol=1e-5)
    expected = jax.tree.map(lambda after, down: after - 0.5 * down, plain.params, gradient)
    jax.tree.map(close, joint.params, expected)
    # Running statistics: of the trunk and the head for videos those of videos alone.
    image_head = joint.batch_stats["head"].pop("image")
    close(image_head["bn"]["mean"], stats["head"]["image"]["bn"]["mean"])
    moved = plain.batch_stats["head"].pop("image")
    assert np.abs(image_head["bn"]["mean"] - moved["bn"]["mean"]).max() > 0
    jax.tree.map(close, joint.batch_stats, plain.batch_stats)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(folder, tmp_path):
    loop.train(make_config(folder), tmp_path / "whole")
    loop.train(make_config(folder, stop_at_step=2), tmp_path / "parts")
    loop.train(make_config(folder), tmp_path / "parts")
    folders = [tmp_path / name / "checkpoints" for name in ("whole", "parts")]
    one, other = (checkpoint.load(checkpoint.Checkpoints(each).folder(4)) for each in folders)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    measured = [json.loads(line) for line in lines if "image_loss" in line]
    assert len(measured) == 4 and {"loss", "image_top1", "top1"} <= measured[0].keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train.image_batch_size": 0}, "data.images='pictures' and .* go together"),
        ({"data.images": "clips"}, "clips has 2 classes, but the network's head for images 7"),
        ({"train.accumulate_steps": 4}, "image_batch_size=6 must divide by .*: take a multiple of"),
        ({"model.name": "c3d_test"}, "is for networks with a head for images"),
    ],
)
def test_what_cannot_be_learnt_together_is_refused(folder, tmp_path, change, said):
    c = make_config(folder)
    if "model.name" in change:
        c.model = config.from_row("c3d_test", dataset="clips", data_dir=str(folder)).model
    else:
        c.update_from_flattened_dict(change)
    with pytest.raises(JaxvidError, match=said):
        loop.train(c, tmp_path)
