"""Videos with several labels, from a CSV and files to answers, at the smallest size."""

import json

import numpy as np
import pytest

from jaxvid import checkpoint, config, predict
from jaxvid.base.errors import JaxvidError
from jaxvid.data import toy
from jaxvid.inference import evaluate
from jaxvid.reports import metrics
from jaxvid.rows import UNKNOWN
from jaxvid.training import loop

SETTINGS = toy.Settings(train=2, test=1, height=48, width=48, frames=(8, 10))
TAGS = {"left": "left|sideways", "right": "right|sideways", "up": "up", "down": "down"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Toy clips, of which some have two labels."""
    folder = tmp_path_factory.mktemp("tagged")
    toy.make(folder, SETTINGS)
    for split in ("train", "test"):
        lines = (folder / f"{split}.csv").read_text().splitlines()
        rows = [line.rpartition(",") for line in lines[1:]]
        tagged = [f"{path},{TAGS[name]}" for path, _, name in rows if name in TAGS]
        (folder / "videos" / f"{split}.csv").write_text("\n".join(["path,label", *tagged]) + "\n")
    return folder / "videos"


def make_config(folder, **arguments):
    c = config.from_row(
        "tsm_r50_8f", dataset="files", data_dir=str(folder), runlocal=True, **arguments
    )
    c.data.update({"crop": 32, "max_bad_records": 1})
    c.data.sampling.num_clips = 4
    c.test.update({"crop": 32, "short_side": 32, "batch_size": 4})
    c.test.sampling.num_clips = 4
    c.train.update({"batch_size": 4, "epochs": 6.0, "eval_epochs": 3.0, "log_steps": 2})
    c.train.update({"loss": "sigmoid", "label_smoothing": 0.05})
    c.data.balance = 0.5
    c.optim.lr = 1e-2
    return c


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    result = loop.train(make_config(folder), workdir)
    return workdir, result


def test_training_says_what_it_measures(trained, folder):
    workdir, result = trained
    assert isinstance(result, metrics.MultiLabel) and result.count == 4
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    # Five classes of which one or two are there: below what knowing nothing gives.
    assert losses[-1] < losses[0] and losses[-1] < np.log(2)
    assert [line["step"] for line in lines if "test_mean_ap" in line] == [6, 12]
    written = json.loads((workdir / "eval" / "result.json").read_text())
    assert written["mean_average_precision"] == result.mean_ap
    with np.load(workdir / "eval" / "scores.npz") as file:
        assert file["classes"].tolist() == ["down", "left", "right", "sideways", "up"]
        assert file["labels"].sum(1).tolist() == [1, 2, 2, 1]
        assert metrics.mean_average_precision(file["scores"], file["labels"]) == result.mean_ap
    assert checkpoint.load_meta(workdir)["metric"] >= result.mean_ap


def test_the_test_alone_gives_the_same(trained, folder, tmp_path):
    workdir, result = trained
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    last = str(checkpoints.folder(checkpoints.latest_step()))
    c = make_config(folder, init=last)
    c.test.batch_size = 3  # the last batch is filled up, which must not count
    assert evaluate.evaluate(c, tmp_path).mean_ap == pytest.approx(result.mean_ap)
    c.train.loss = "softmax"
    with pytest.raises(JaxvidError, match="add --config.train.loss=sigmoid"):
        evaluate.evaluate(c, tmp_path)


def test_several_labels_are_predicted(trained, folder, capsys):
    workdir, _ = trained
    with np.load(workdir / "eval" / "scores.npz") as file:
        path, scores = str(file["paths"][0]), file["scores"][0]
    predictor = predict.Predictor(workdir)
    if checkpoint.load_meta(workdir)["step"] == 12:
        np.testing.assert_allclose(predictor.scores(folder / path), scores, atol=1e-5)
    found = predictor.scores(folder / path)
    assert abs(found.sum() - 1) > 1e-3, "these are shares of one"
    predict.main([f"--checkpoint={workdir}", f"--video={folder / path}", "--json", "--top=5"])
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert {each["label"]: each["score"] for each in answers} == pytest.approx(
        dict(zip(predictor.classes, found.tolist(), strict=True))
    )


@pytest.fixture(scope="module")
def annotated(folder, tmp_path_factory):
    """The same clips, of which not all were annotated for both categories of their labels."""
    out = tmp_path_factory.mktemp("annotated")
    (out / "labels.txt").write_text("down\nleft\nright\nup\nsideways\n")
    (out / "categories.txt").write_text("way\nway\nway\nway\naxis\n")
    for split in ("train", "test"):
        lines = (folder / f"{split}.csv").read_text().splitlines()[1:]
        rows = [line.rpartition(",")[::2] for line in lines]
        told = [f"{path},{label},{'way|axis' if '|' in label else 'way'}" for path, label in rows]
        (out / f"{split}.csv").write_text("\n".join(["path,label,annotated", *told]) + "\n")
    for path in folder.rglob("*.mp4"):
        target = out / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True, parents=True)
        target.symlink_to(path)
    return out


def test_categories_are_learnt_and_measured_where_they_were_annotated(annotated, tmp_path):
    c = make_config(annotated)
    c.train.update({"epochs": 1.0, "category_weights": (("axis", 2.0),), "mixup": 0.2})
    result = loop.train(c, tmp_path / "run")
    assert set(result.categories) == {"way", "axis"}
    # All that were annotated for it have the one class.
    assert result.categories["axis"] == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert losses and np.isfinite(losses).all()
    with np.load(tmp_path / "run" / "eval" / "scores.npz") as file:
        assert (file["labels"] == UNKNOWN).sum() == 2
    lines = (tmp_path / "run" / "eval" / "classes.csv").read_text().splitlines()
    assert lines[0].endswith(",category") and lines[-1].startswith("sideways,2,1.0000,axis")
    c.train.category_weights = (("color", 1.0),)
    with pytest.raises(JaxvidError, match="category_weights has 'color'.*: axis, way"):
        loop.train(c, tmp_path / "other")


def test_the_softmax_is_refused_for_them(folder, tmp_path):
    c = make_config(folder)
    c.train.loss = "softmax"
    with pytest.raises(JaxvidError, match="left_.* has 2 labels: set config.train.loss=sigmoid"):
        loop.train(c, tmp_path)
