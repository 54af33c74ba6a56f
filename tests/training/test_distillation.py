"""Distillation: a student learns what a teacher answers for the same clips."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid import checkpoint, config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import build, toy
from jaxvid.objectives import losses
from jaxvid.training import loop, step, teachers
from jaxvid.training.state import make_state

CLASSES = 5


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(0, 2, shape)


def softmax(logits):
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_divergence_of_softened_answers(temperature):
    own, theirs = draw(0, 3, CLASSES), draw(1, 3, CLASSES)
    p, q = softmax(theirs / temperature), softmax(own / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum(-1).mean()
    found = losses.distillation("softmax", jnp.asarray(own), jnp.asarray(theirs), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    p, q = sigmoid(theirs / temperature), sigmoid(own / temperature)
    terms = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = losses.distillation("sigmoid", jnp.asarray(own), jnp.asarray(theirs), temperature)
    np.testing.assert_allclose(found, temperature**2 * terms.mean(), rtol=1e-5)
    for kind in ("softmax", "sigmoid"):
        assert losses.distillation(kind, theirs, theirs, temperature) == 0


class Means(nn.Module):
    """A linear layer on the mean pixel of a clip."""

    @nn.compact
    def __call__(self, video, train=False):
        return nn.Dense(CLASSES, name="head")(video.mean((1, 2, 3))), {}


def test_labels_and_teacher_share_the_loss_and_the_teacher_learns_nothing():
    pixels, labels = draw(1, 2, 2, 3, 3, 4).astype(np.float32), np.array([1, 3])
    matrix = draw(2, 4, CLASSES).astype(np.float32)
    model, optimizer = Means(), optax.sgd(1.0)
    lesson = step.Lesson(
        distilled=lambda matrix, pixels: pixels.mean((1, 2, 3)) @ matrix,
        distilled_weight=0.25,
        temperature=2.0,
    )
    # The student sees pixels that are prepared, the teacher those that are not.
    update = step.make_update(model, optimizer, lesson, prepare=lambda video: 3 * video)
    state = make_state(model.init(jax.random.key(0), pixels), optimizer)
    kernel = np.array(state.params["head"]["kernel"])

    def loss_of(matrix):
        new, measured = update(state, pixels, labels, jax.random.key(0), matrix)
        return measured["loss"], new.params["head"]["kernel"]

    (loss, moved), taught = jax.value_and_grad(loss_of, has_aux=True)(matrix)
    assert not taught.any()
    features = pixels.mean((1, 2, 3))
    logits, theirs = 3 * features @ kernel, features @ matrix
    p, q = softmax(theirs / 2), softmax(logits / 2)
    of_labels = -np.log(softmax(logits))[np.arange(2), labels].mean()
    np.testing.assert_allclose(
        loss, 0.75 * of_labels + 0.25 * 4 * (p * np.log(p / q)).sum(-1).mean(), rtol=1e-5
    )
    slope = 0.75 * (softmax(logits) - np.eye(CLASSES)[labels]) + 0.25 * 2 * (q - p)
    np.testing.assert_allclose(kernel - moved, 3 * features.T @ slope / 2, rtol=1e-4, atol=1e-6)


def test_a_teacher_sees_the_frames_that_it_takes_in_its_size():
    pixels = draw(0, 2, 8, 4, 4, 3).astype(np.float32)
    np.testing.assert_array_equal(teachers.fitted(pixels, (8, 4, 4, 3)), pixels)
    np.testing.assert_array_equal(teachers.fitted(pixels, (2, 4, 4, 3)), pixels[:, [2, 6]])
    np.testing.assert_array_equal(teachers.fitted(pixels, (3, 4, 4, 3)), pixels[:, [1, 4, 6]])
    half = teachers.fitted(pixels[:, :, :, :1], (4, 8, 2, 3))
    assert half.shape == (2, 4, 8, 2, 3)
    even = teachers.fitted(np.full((1, 2, 6, 6, 3), 7, np.uint8), (1, 4, 4, 3))
    np.testing.assert_allclose(even, np.full((1, 1, 4, 4, 3), 7), rtol=1e-6)


# ---- runs


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    toy.make(folder, toy.Settings(train=2, test=1, height=48, width=48, frames=(8, 10)))
    for split in ("train", "test"):
        build.build(folder / "videos", folder / f"{split}.csv", folder, workers=1)
    return folder


def save_teacher(folder, **said):
    """A VideoMAE of 4 frames of 16 pixels that is sure of the fourth class."""
    model = zoo.create_model("videomae_test", len(toy.CLASSES))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 16, 16, 3)))
    head = variables["params"]["head"]
    head["kernel"], head["bias"] = 0 * head["kernel"], 9.0 * jnp.eye(len(toy.CLASSES))[3]
    c = config.from_row("videomae_test")
    c.test.update({"crop": 16, "short_side": 16})
    c.test.sampling.clip_len = 4
    meta = {"row": "videomae_test", "classes": list(toy.CLASSES), "test": c.test.to_dict()}
    meta |= {"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]}
    checkpoint.save(folder, variables, meta | said)
    return str(folder)


def make_config(records, teacher):
    c = config.from_row("tsm_r50_8f", dataset="mini", data_dir=str(records), runlocal=True)
    c.model.overrides = {"blocks": (1, 1, 1), "width": 8}
    c.data.crop = c.test.crop = c.test.short_side = 32
    c.train.update({"batch_size": 8, "epochs": 12.0, "eval_epochs": 12.0, "log_steps": 6})
    c.train.update({"teacher": teacher, "teacher_weight": 1.0, "teacher_temperature": 2.0})
    c.optim.update({"lr": 0.01, "schedule": "constant", "warmup_epochs": 0.0})
    return c


def test_a_student_of_another_family_learns_what_its_teacher_answers(records, tmp_path, capsys):
    c = make_config(records, save_teacher(tmp_path / "teacher"))
    loop.train(c, tmp_path / "run")
    assert f"learning what {tmp_path}/teacher answers" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    fallen = [line["loss"] for line in lines if "loss" in line]
    assert len(fallen) == 4 and fallen[-1] < 0.5 * fallen[0], fallen
    # Whatever the labels, the answer is the teacher's.
    scores = np.load(tmp_path / "run" / "eval" / "scores.npz")["scores"]
    assert (scores.argmax(-1) == 3).all()


@pytest.mark.parametrize(
    "said, words",
    [
        ({"classes": list("abcdefgh")}, r"has other classes.*converters --classes-to"),
        ({"loss": "sigmoid"}, "was trained with train.loss='sigmoid', but this run has 'softmax'"),
        ({"row": "videomae_pretrain_test"}, "which has no classes"),
        ({"row": "timesformer_test"}, r"is missing|is too many"),
        ({"test": {"sampling": {"clip_len": 9}}}, "takes 9 frames, and clips of this run have 8"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(said, words, records, tmp_path):
    c = make_config(records, save_teacher(tmp_path / "teacher", **said))
    with pytest.raises(JaxvidError, match=words):
        teachers.teaching(fields.freeze(c), toy.CLASSES).load()
