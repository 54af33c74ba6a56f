"""Token labelling: what a teacher asks of each token, and how a network learns it."""

import json
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import converters
from jaxvid import checkpoint, config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, toy
from jaxvid.objectives import losses
from jaxvid.training import loop, step, teachers
from jaxvid.training.descent import Descent
from jaxvid.training.state import make_state
from tests import handed

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = 7
SHALLOW = {"widths": (8,), "depths": (1,)}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def softmax(logits):
    exponents = np.exp(logits)
    return exponents / exponents.sum(-1, keepdims=True)


def labels_of(logits):
    """Softmax of the five best logits of each token and zeros for the others."""
    order = np.argsort(logits, axis=-1)
    kept = logits.copy()
    np.put_along_axis(kept, order[..., :-5], 0, -1)
    return softmax(kept)


class Tokens(nn.Module):
    """A clip's pixels as tokens: a linear head for their mean, another for each."""

    token_labels: bool = True
    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, video, train=False):
        out = {"stage1": video}
        if self.token_labels:
            out["token_logits"] = nn.Dense(self.num_classes, name="token_head")(video)
        return nn.Dense(self.num_classes, name="head")(video.mean((1, 2, 3))), out


def test_labels_are_of_the_five_best_classes():
    logits = draw(0, 2, 3, CLASSES)
    np.testing.assert_allclose(losses.token_labels(logits), labels_of(logits), rtol=1e-5)
    few = draw(0, 4, 3)
    np.testing.assert_allclose(losses.token_labels(few), softmax(few), rtol=1e-5)


def run(model, teacher, variables=None, accumulate=1):
    video, labels = draw(1, 2, 2, 3, 3, 4), np.array([1, 5])
    optimizer = optax.sgd(1.0)
    params = model.init(jax.random.key(0), video)
    lesson = step.Lesson(teacher=teacher, token_weight=0.25)
    update = step.make_update(model, optimizer, lesson, descent=Descent(accumulate=accumulate))
    state = make_state(params, optimizer)
    new, measured = jax.jit(update)(state, video, labels, jax.random.key(0), variables)
    return video, labels, state.params, new.params, measured["loss"]


def test_clips_and_tokens_share_the_loss():
    matrix = draw(2, 4, CLASSES)
    video, labels, old, new, loss = run(Tokens(), lambda matrix, video: video @ matrix, matrix)
    logits = video.mean((1, 2, 3)) @ np.asarray(old["head"]["kernel"])
    tokens = video @ np.asarray(old["token_head"]["kernel"])
    clips = -np.log(softmax(logits))[np.arange(2), labels].mean()
    by_teacher = -(labels_of(video @ matrix) * np.log(softmax(tokens))).sum(-1).mean()
    np.testing.assert_allclose(loss, 0.75 * clips + 0.25 * by_teacher, rtol=1e-5)
    slope = (softmax(tokens) - labels_of(video @ matrix)).reshape(-1, CLASSES)
    slope = 0.25 * video.reshape(-1, 4).T @ slope / len(slope)
    moved = np.asarray(old["token_head"]["kernel"] - new["token_head"]["kernel"])
    np.testing.assert_allclose(moved, slope, rtol=1e-4, atol=1e-6)


def test_a_part_of_the_batch_has_its_own_labels():
    matrix = draw(2, 4, CLASSES)
    one, other = (
        run(Tokens(), lambda matrix, video: video @ matrix, matrix, accumulate=parts)[3]
        for parts in (1, 2)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.parametrize(
    "model, teacher, words",
    [
        (Tokens(), None, "set both or neither"),
        (Tokens(token_labels=False), lambda _, video: video, "set both or neither"),
        (Tokens(), lambda _, video: video[:, :1], r"answers for tokens \(1, 3, 3, 4\)"),
    ],
)
def test_teacher_and_network_must_fit(model, teacher, words):
    with pytest.raises(JaxvidError, match=words):
        run(model, teacher)


# ---- DualFormer


@pytest.fixture(scope="module")
def taught():
    """A config of the tiny DualFormer, and variables of one block of it."""
    c = config.from_row("dualformer_t", runlocal=True)
    model = zoo.create_model("dualformer_test", CLASSES, **SHALLOW)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    rng = np.random.default_rng(1)
    return c, jax.tree.map(lambda a: rng.uniform(-0.5, 0.5, a.shape).astype(a.dtype), shapes)


def meta_of(c, **changed):
    return {
        "row": "dualformer_test",
        "classes": list("abcdefg"),
        "mean": list(c.data.mean),
        "std": list(c.data.std),
        "channel_order": "rgb",
        "overrides": SHALLOW,
    } | changed


def test_a_teacher_answers_for_tokens_by_its_own_head(taught, tmp_path):
    c, variables = taught
    checkpoint.save(tmp_path / "weights", variables, meta_of(c))
    c.train.teacher = str(tmp_path / "weights")
    answer = teachers.make_teacher(teachers.find(handed.frozen(c), list("abcdefg")))
    loaded = teachers.load(c.train.teacher)
    video = draw(3, 1, 4, 32, 32, 3)
    tokens = jax.jit(answer)(loaded, video)
    assert tokens.shape == (1, 2, 8, 8, CLASSES)
    # The head is linear: its answer for the mean token is the mean of its answers.
    model = zoo.create_model("dualformer_test", CLASSES, **SHALLOW)
    logits, _ = jax.jit(model.apply)(loaded, video)
    np.testing.assert_allclose(tokens.mean((1, 2, 3)), logits, rtol=1e-4, atol=1e-5)
    for changed, words in (({"classes": list("gfedcba")}, "classes"), ({"mean": [1.0]}, "mean")):
        checkpoint.save(tmp_path / words, variables, meta_of(c, **changed))
        c.train.teacher = str(tmp_path / words)
        with pytest.raises(JaxvidError, match=f"has other {words} than this run"):
            teachers.find(handed.frozen(c), list("abcdefg"))
    checkpoint.save(tmp_path / "nameless", variables, {})
    c.train.teacher = str(tmp_path / "nameless")
    with pytest.raises(JaxvidError, match="nameless does not say of which model it is"):
        teachers.find(handed.frozen(c), list("abcdefg"))


def test_the_token_head_answers_in_training_and_has_its_keys():
    model = zoo.create_model("dualformer_test", CLASSES, token_labels=True)
    video = jnp.zeros((2, 4, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    (_, out), _ = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, video
    )
    assert out["token_logits"].shape == (2, 2, 2, 2, CLASSES)
    assert "token_logits" not in jax.eval_shape(model.apply, variables, video)[1]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    keys = converters.to_torch("dualformer_test", zeros)
    shapes = [keys[f"cls_head.token_linear.{i}.weight"].shape for i in (0, 3, 6)]
    assert shapes == [(32, 16), (64, 32), (CLASSES, 64)]


def test_a_run_learns_what_its_teacher_says_of_tokens(taught, tmp_path):
    toy.make(tmp_path, toy.Settings(train=2, test=1, height=48, width=48, frames=(4, 6)))
    for split in ("train", "test"):
        build.build(tmp_path / "videos", tmp_path / f"{split}.csv", tmp_path, workers=1)
    config_file = runpy.run_path(str(ROOT / "configs" / "dualformer_tokens.py"))
    arguments = f"runlocal,teacher={tmp_path}/teacher,dataset=mini,data_dir={tmp_path}"
    c = config_file["get_config"](arguments)
    # A teacher that is as sure of every token: of one class alone.
    _, variables = taught
    head = {"kernel": np.zeros((8, 8), np.float32), "bias": np.eye(8, dtype=np.float32)[3] * 20}
    variables = variables | {"params": variables["params"] | {"head": {"fc": head}}}
    checkpoint.save(tmp_path / "teacher", variables, meta_of(c, classes=list(toy.CLASSES)))
    c.model.overrides.update(SHALLOW)
    c.data.update({"crop": 32, "random_erasing": 0.0})
    c.data.sampling.clip_len = 4
    c.test.update({"crop": 32, "short_side": 32, "batch_size": 4})
    c.test.sampling.clip_len = 4
    c.train.update({"batch_size": 8, "epochs": 20.0, "eval_epochs": 20.0, "log_steps": 5})
    c.optim.update({"lr": 0.01, "schedule": "constant", "warmup_epochs": 0.0})
    loop.train(c, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    fallen = [line["loss"] for line in lines if "loss" in line]
    # Half of it is that of tokens, and starts at log(8).
    assert len(fallen) == 8 and fallen[0] > 1.5 and fallen[-1] < fallen[0] - 0.5, fallen
    model = zoo.create_model("dualformer_test", 8, token_labels=True, **SHALLOW)
    variables, video = checkpoint.load(tmp_path / "run"), draw(5, 2, 4, 32, 32, 3)
    rngs = {"dropout": jax.random.key(0)}
    (_, out), _ = model.apply(variables, video, train=True, mutable=["batch_stats"], rngs=rngs)
    assert (out["token_logits"].argmax(-1) == 3).all()
