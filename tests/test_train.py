"""The training loop: what it writes, how it goes on after a kill, how it starts from weights."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import flax
import jax
import numpy as np
import pytest

from jaxvid import checkpoint, config, evaluate, metrics, train, zoo
from jaxvid.data import build, toy
from jaxvid.errors import JaxvidError

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 24


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of 32 toy clips to train on and 8 to test on."""
    folder = tmp_path_factory.mktemp("mini")
    toy.make(folder, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    for split in ("train", "test"):
        build.build(folder / "videos", folder / f"{split}.csv", folder, workers=1)
    return folder


def make_config(records, **arguments):
    c = config.from_row(
        "tsm_r50_8f", dataset="mini", data_dir=str(records), runlocal=True, **arguments
    )
    c.data.update({"crop": 32})
    c.data.sampling.num_clips = 4
    c.test.update({"crop": 32, "short_side": 32, "batch_size": 4})
    c.test.sampling.num_clips = 4
    c.train.update({"batch_size": 8, "epochs": 6.0, "eval_epochs": 3.0, "log_steps": 5})
    c.train.checkpoint_steps = 4
    return c


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """A finished run of 24 steps."""
    workdir = tmp_path_factory.mktemp("trained")
    train.train(make_config(records), workdir)
    return workdir


def flat(path):
    return flax.traverse_util.flatten_dict(checkpoint.load(path), sep="/")


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def last(workdir):
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    return checkpoints.folder(checkpoints.latest_step())


def test_a_run_leaves_everything_it_promises(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15, 20, 24]
    assert [line["step"] for line in lines if "test_top1" in line] == [12, 24]
    assert all(0 <= line["input_wait"] <= 1 for line in lines if "loss" in line)
    result = json.loads((trained / "eval" / "result.json").read_text())
    assert result["videos"] == 8 and result["views"] == 1
    scores = np.load(trained / "eval" / "scores.npz")
    assert scores["scores"].shape == (8, 8) and len(scores["paths"]) == 8
    assert metrics.accuracy(scores["scores"], scores["labels"]).top1 == result["top1"]
    answers = (trained / "eval" / "predictions.csv").read_text().splitlines()
    assert len(answers) == 9 and answers[0] == "path,label,answer,score,correct"
    assert (trained / "eval" / "confusion.png").stat().st_size > 1000
    assert json.loads((trained / "config.json").read_text())["train"]["batch_size"] == 8
    meta = checkpoint.load_meta(trained)
    assert meta["row"] == "tsm_test" and tuple(meta["classes"]) == toy.CLASSES
    assert meta["short_side"] == 48


def test_a_finished_run_is_only_tested_again(trained, records, capsys):
    before = (trained / "metrics.jsonl").read_text()
    train.train(make_config(records), trained)
    assert "resumed from step 24" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_text() == before


def test_evaluation_gives_the_result_of_training(trained, records, tmp_path):
    c = make_config(records, init=str(last(trained)))
    c.test.batch_size = 3  # the last batch is filled up, which must not count
    evaluate.evaluate(c, tmp_path)
    ours, theirs = (np.load(path / "eval" / "scores.npz") for path in (tmp_path, trained))
    np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-5)
    np.testing.assert_array_equal(ours["labels"], theirs["labels"])
    np.testing.assert_array_equal(ours["paths"], theirs["paths"])


def command(records, workdir):
    c = make_config(records)
    flags = [
        f"--config={ROOT}/configs/tsm_r50.py:runlocal,dataset=mini,data_dir={records}",
        f"--workdir={workdir}",
        "--config.data.crop=32",
        "--config.data.sampling.num_clips=4",
        "--config.test.crop=32",
        "--config.test.short_side=32",
        "--config.test.sampling.num_clips=4",
        "--config.test.batch_size=4",
    ]
    flags += [f"--config.train.{name}={value}" for name, value in c.train.items() if value]
    return [sys.executable, "-m", "jaxvid.main", *flags]


def test_a_killed_run_ends_as_an_undisturbed_one(records, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(records, undisturbed), check=True, env=environment, timeout=300)
    process = subprocess.Popen(
        command(records, killed), env=environment, stdout=subprocess.PIPE, text=True
    )
    first = checkpoint.Checkpoints(killed / "checkpoints").folder(4) / checkpoint.RECORD
    end = time.monotonic() + 300
    while not first.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    stopped = checkpoint.Checkpoints(killed / "checkpoints").latest_step()
    assert stopped and stopped < STEPS
    again = subprocess.run(
        command(records, killed), env=environment, timeout=300, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert f"resumed from step {stopped}" in again.stdout
    assert_same(last(killed), last(undisturbed))
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").open()]
    assert steps == sorted(steps) and steps[-1] == STEPS


def test_views_in_chunks_score_as_views_at_once(records, trained):
    model_config = make_config(records)
    model = zoo.create_model("tsm_test", 8)
    variables = checkpoint.load(trained)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (2, 6, 4, 32, 32, 3), np.uint8)
    for average in ("prob", "score"):
        model_config.test.average = average
        answers = []
        for at_once in (1, 3, 4, 6):  # 4 does not divide 6 views: 3 are taken
            model_config.test.views_per_step = at_once
            answers.append(evaluate.make_scorer(model, model_config)(variables, video))
        for answer in answers[1:]:
            np.testing.assert_allclose(answer, answers[0], atol=1e-6)
        single = [model.apply(variables, (video[:, v] - MEAN) / STD)[0] for v in range(6)]
        if average == "prob":
            expected = np.mean([jax.nn.softmax(logits) for logits in single], 0)
        else:
            expected = jax.nn.softmax(np.mean(single, 0))
        np.testing.assert_allclose(answers[0], expected, atol=1e-5)


MEAN = np.array((123.675, 116.28, 103.53), np.float32)
STD = np.array((58.395, 57.12, 57.375), np.float32)


# ---- starting from weights


def test_fine_tuning_takes_all_but_the_classifier(records, trained, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("yes\nno\n")
    rows = (records / "train.csv").read_text().splitlines()[1:]
    for split in ("train", "test"):
        lines = [f"{row.split(',')[0]},{('yes', 'no')[i % 2]}" for i, row in enumerate(rows)]
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
        build.build(records / "videos", tmp_path / f"{split}.csv", tmp_path, workers=1)
    c = make_config(tmp_path, init=str(trained))
    c.train.stop_at_step = 1
    c.optim.lr = 0.0
    train.train(c, tmp_path / "run")
    said = capsys.readouterr().out
    assert "new: params/head/fc/kernel (128, 2)" in said and "2 new" in said
    before, after = flat(trained), flat(tmp_path / "run")
    for name in before:
        if name.startswith("params/") and "head" not in name:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_same_classes_keep_the_classifier(records, trained, tmp_path, capsys):
    c = make_config(records, init=str(trained))
    c.train.stop_at_step = 1
    c.optim.lr = 0.0
    train.train(c, tmp_path)
    assert "0 new" in capsys.readouterr().out
    np.testing.assert_array_equal(
        flat(trained)["params/head/fc/kernel"], flat(tmp_path)["params/head/fc/kernel"]
    )


def test_another_networks_weights_are_refused(records, trained, tmp_path):
    c = make_config(records, init=str(trained))
    c.model.overrides = {"width": 8}
    with pytest.raises(JaxvidError, match="is not a checkpoint of this network: .*conv1"):
        train.train(c, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(records, tmp_path):
    c = make_config(records)
    c.optim.update({"name": "sgd", "lr": 1e9, "clip_norm": 0.0, "warmup_epochs": 0.0})
    with pytest.raises(JaxvidError, match=r"the loss is \S+ at step 5: lower config.optim.lr"):
        train.train(c, tmp_path)


def test_testing_on_other_classes_is_refused(records, trained, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    path = (records / "test.csv").read_text().splitlines()[1].split(",")[0]
    (tmp_path / "test.csv").write_text(f"path,label\n{path},a\n")
    build.build(records / "videos", tmp_path / "test.csv", tmp_path, workers=1)
    with pytest.raises(JaxvidError, match="answers 8 classes that are not those of mini"):
        evaluate.evaluate(make_config(tmp_path, init=str(trained)), tmp_path / "out")
