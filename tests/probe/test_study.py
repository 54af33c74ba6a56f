"""Studies of a tiny encoder: features once, in shards, and errors in one sentence."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import checkpoint, predict, zoo
from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.data import pipeline
from jaxvid.inference.predictor import one_view
from jaxvid.probe import encoder, fit, report, store
from jaxvid.probe.study import Asked, study
from jaxvid.training import resume
from tests import handed
from tests.data.clips import encode

ROOT = pathlib.Path(__file__).parents[2]
COLORS = {"blue": (30, 60, 200), "red": (210, 40, 40)}
ASKED = Asked(
    features="",
    random=False,
    views="one",
    probes=("linear", "attentive", "knn", "retrieval", "clusters"),
    choose="0.25",
    rates=(1e-2, 1e-4),
    decays=(0.1,),
    seeds=2,
    depth=1,
    neighbours=(1, 3),
    plan=fit.Plan(4, 8, 0),
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """16 clips to train on and 6 to test, of two colours that differ a little from clip to clip."""
    folder = tmp_path_factory.mktemp("clips")
    lists = {"train": 16, "test": 6, "val": 4}
    for split, count in lists.items():
        lines = ["path,label"]
        for number in range(count):
            name = list(COLORS)[number % 2]
            path = f"{split}{number}.mp4"
            color = tuple(value + 5 * (number // 2) for value in COLORS[name])
            encode(folder / path, 4, color=color)
            lines.append(f"{path},{name}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_config(clips, init=""):
    config = configs.from_row("tsm_test", dataset="files", data_dir=str(clips), init=str(init))
    config.data.workers = 1
    config.test.update({"short_side": 32, "crops": "three", "crop": 32, "batch_size": 4})
    config.test.sampling.update({"num_clips": 4})
    return config


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """A checkpoint with other classes than those of the clips."""
    path = tmp_path_factory.mktemp("trained") / "best"
    model = zoo.create_model("tsm_test", 5)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros([1, 4, 32, 32, 3]))
    config = handed.frozen(make_config(clips))
    checkpoint.save(path, variables, resume.describe(config, list("abcde"), 320))
    return path


@pytest.fixture
def seen(monkeypatch):
    """How many videos the encoder was shown, call by call; shards are of 5 videos."""
    counts, test_batches = [], pipeline.test_batches

    def counting(split, *args, **how):
        counts.append(len(split))
        return test_batches(split, *args, **how)

    monkeypatch.setattr(pipeline, "test_batches", counting)
    monkeypatch.setattr(store, "SHARD", 5)
    return counts


def test_a_study_writes_its_figures(clips, trained, tmp_path, seen):
    found = study(make_config(clips, trained), tmp_path, ASKED)
    assert seen == [16, 6]
    names = [f"{each.probe} {each.figure}" for each in found.figures]
    assert names == [
        *("linear top-1", "attentive top-1", "knn top-1", "retrieval recall@1"),
        *("retrieval recall@3", "retrieval mAP", "clusters ARI", "clusters NMI"),
    ]
    values = {name: each.value for name, each in zip(names, found.figures, strict=True)}
    # Colours are seen by any weights.
    assert values["linear top-1"] == values["knn top-1"] == values["retrieval recall@1"] == 1
    linear, attentive = found.figures[:2]
    assert "best of 2 x 2" in linear.how and linear.seeds_error == 0 and linear.chosen == 1
    assert attentive.error is not None and 0 <= attentive.value <= 1
    assert len(found.trials) == 8 and {trial.seed for trial in found.trials} == {0, 1}
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written == json.loads(json.dumps(found.json))
    assert written["videos"] == {"train": 16, "test": 6} and written["features"] == "stage4"
    assert len((tmp_path / "probes.csv").read_text().splitlines()) == 9
    assert (tmp_path / "figures.png").stat().st_size > 1000
    assert len({len(line) for line in report.table(found)}) == 1


def test_features_that_are_there_are_taken(clips, trained, tmp_path, seen):
    config, asked = make_config(clips, trained), dataclasses.replace(ASKED, probes=("knn",))
    first = study(config, tmp_path, asked)
    assert seen == [16, 6]
    assert not list(tmp_path.glob("features/*.tokens.npy"))  # Which none of the probes looks at.
    again = study(config, tmp_path, asked)
    assert seen == [16, 6]
    assert [each.value for each in again.figures] == [each.value for each in first.figures]
    # After a kill: what lacks is made, the last shard being short, and to the same numbers.
    shards = sorted(tmp_path.glob("features/train-*.npy"))
    before = [np.load(shard) for shard in shards]
    assert [len(array) for array in before] == [5, 5, 5, 1]
    shards[1].unlink(), shards[3].unlink()
    study(config, tmp_path, asked)
    assert seen == [16, 6, 6]
    for shard, array in zip(shards, before, strict=True):
        np.testing.assert_allclose(np.load(shard), array, rtol=1e-5, atol=1e-6)
    study(config, tmp_path, dataclasses.replace(asked, probes=("attentive",), choose="val"))
    assert seen == [16, 6, 6, 16, 6, 4]
    for content, words in ((b"none", "cannot be read"), (None, "is of 5 videos, not 1")):
        shards[3].write_bytes(content or shards[0].read_bytes())
        with pytest.raises(JaxvidError, match=f"00003-of-00004.means.npy {words}.*: remove it"):
            study(config, tmp_path, asked)


@pytest.mark.parametrize("views", ["one", "protocol"])
def test_means_are_the_features_that_predict_writes(views, clips, trained, tmp_path):
    from jaxvid.data import datasets

    config = handed.frozen(make_config(clips, trained))
    config = one_view(config) if views == "one" else config
    split = datasets.open_split(config.data, "test")
    frozen = encoder.load(config, "stage3", False)
    found = store.extract(frozen, split, "test", tmp_path, True)
    extract = predict.Predictor(trained, views=views).extractor(["stage3"])
    for number, path in enumerate(split.paths):
        expected = extract(clips / path)["stage3"]
        np.testing.assert_allclose(found.means[number], expected, rtol=1e-4, atol=1e-5)
    tokens = found.tokens(np.array([5, 0]))
    assert tokens.dtype == np.float16
    np.testing.assert_allclose(
        tokens.astype(np.float32).mean(1), found.means[[5, 0]], rtol=2e-3, atol=2e-3
    )


def test_tokens_beyond_half_precision_stay_whole(clips, tmp_path, monkeypatch):
    from jaxvid.data import datasets

    config = one_view(handed.frozen(make_config(clips)))
    rows = iter(np.full((6, 2, 3), 1e6, np.float32))
    monkeypatch.setattr(store, "_rows", lambda *_: rows)
    split = datasets.open_split(config.data, "test")
    found = store.extract(encoder.load(config, "", True), split, "test", tmp_path, True)
    assert found.tokens(np.array([1])).max() == 1e6


def test_random_weights_are_a_baseline(clips, tmp_path):
    asked = dataclasses.replace(ASKED, random=True, probes=("retrieval",))
    found = study(make_config(clips), tmp_path, asked)
    assert found.json["init"] == "random"
    with pytest.raises(JaxvidError, match="made with other weights: choose another --workdir"):
        config = make_config(clips)
        config.seed = 1
        study(config, tmp_path, asked)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"random": True}, "or --random for random ones, and not both"),
        ({"features": "stage9"}, "the network has no intermediate 'stage9': it has"),
        ({"choose": "1.5"}, "--choose=1.5 must be a share between 0 and 1, or a split"),
        ({"choose": "0.01"}, "leaves 16 to learn from and 0 to choose on"),
        ({"choose": "train"}, "is the split that probes learn from"),
        ({"choose": "lost"}, "lost.csv"),
    ],
)
def test_what_cannot_be_asked(change, words, clips, trained, tmp_path):
    asked = dataclasses.replace(ASKED, probes=("knn",), **change)
    with pytest.raises(JaxvidError, match=words):
        study(make_config(clips, trained), tmp_path, asked)


def test_a_choice_on_the_test_videos_is_said(clips, trained, tmp_path, capsys):
    asked = dataclasses.replace(ASKED, probes=("linear",), choose="test")
    found = study(make_config(clips, trained), tmp_path, asked)
    assert "chosen on the test videos themselves" in capsys.readouterr().err
    [figure] = found.figures
    assert figure.chosen == figure.value


def test_encoders_that_have_no_test_of_classes(clips, tmp_path):
    config = configs.from_row("videomae_pretrain_test", dataset="files", data_dir=str(clips))
    with pytest.raises(JaxvidError, match="give the name of one that classifies"):
        study(config, tmp_path, dataclasses.replace(ASKED, random=True))


def test_several_labels_are_refused(clips, tmp_path):
    (clips / "both.csv").write_text("path,label\ntrain0.mp4,blue|red\ntrain1.mp4,red\n")
    config = make_config(clips)
    config.data.train_split = "both"
    with pytest.raises(JaxvidError, match="train0.mp4 has 2 labels"):
        study(config, tmp_path, dataclasses.replace(ASKED, random=True))


def run(clips, workdir, *words):
    config = f"--config=configs/zoo_row.py:name=tsm_test,runlocal,dataset=files,data_dir={clips}"
    command = [sys.executable, "-m", "jaxvid.probe", config, f"--workdir={workdir}", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command_prints_one_object(clips, tmp_path):
    done = run(clips, tmp_path, "--random", "--probes=knn", "--neighbours=1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["figure"] for each in found["figures"]] == ["top-1"]


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--probes=linear,trees", "must be some of linear, attentive, knn, retrieval, clusters"),
        ("--lr=fast", "--lr=fast must be numbers from 0 with commas between"),
        ("--neighbours=0", "--neighbours=0 must be 1 or more each"),
    ],
)
def test_flags_that_are_wrong(flag, words, clips, tmp_path):
    done = run(clips, tmp_path / "new", "--random", flag)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
