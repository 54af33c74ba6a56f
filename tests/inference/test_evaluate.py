"""Testing: views averaged as a plain loop does, and what is written of a test."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import config as configs
from jaxvid import rows, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.devices import placement
from jaxvid.inference import evaluate, scoring
from jaxvid.layers.preprocess import normalize
from jaxvid.reports import metrics, results
from tests import compiling, handed

CLASSES = ["left", "right", "up"]


@pytest.fixture(scope="module")
def network():
    model = zoo.create_model("tsm_test", len(CLASSES))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 32, 32, 3)))
    variables["params"]["head"]["fc"]["kernel"] *= 1000
    return model, variables


@pytest.mark.parametrize("average", ["prob", "score"])
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_views_are_averaged_as_a_plain_loop_does(network, average, at_once):
    model, variables = network
    config = configs.from_row("tsm_test")
    config.test.update({"average": average, "views_per_step": at_once})
    video = np.random.default_rng(0).integers(0, 256, (2, 6, 2, 32, 32, 3), np.uint8)
    scores = handed.make_scorer(model, config)(variables, jnp.asarray(video))
    apply = jax.jit(lambda clip: model.apply(variables, clip, train=False)[0])
    for number in range(2):
        answers = []
        for view in range(6):
            clip = normalize(video[number, view][None], config.data.mean, config.data.std)
            answers.append(apply(clip)[0])
        if average == "prob":
            expected = sum(jax.nn.softmax(answer) for answer in answers) / 6
        else:
            expected = jax.nn.softmax(sum(answers) / 6)
        np.testing.assert_allclose(scores[number], expected, atol=1e-5)
    spread = jnp.stack(answers).std(0).max()
    assert spread > 0.1, "the views are too alike to tell the averages apart"


def test_other_averages_are_refused(network):
    config = configs.from_row("tsm_test")
    config.test.average = "max"
    with pytest.raises(JaxvidError, match="'max' is unknown: take prob or score"):
        handed.make_scorer(network[0], config)


SCORES = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7]])
LABELS = np.array([0, 0, 0, 2])
PATHS = ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    results.write_scores(folder, CLASSES, PATHS, SCORES, LABELS, {"model": "m"})
    return folder


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_every_class_has_a_line(written):
    assert read(written / "classes.csv") == [
        ["class", "videos", "correct", "accuracy", "taken_for", "times"],
        ["left", "3", "1", "0.3333", "right", "2"],
        ["right", "0", "0", "", "", "0"],
        ["up", "1", "1", "1.0000", "", "0"],
    ]


def test_all_that_is_written_counts_the_same_answers_right(written):
    lines = read(written / "predictions.csv")[1:]
    assert [line[2] for line in lines] == ["left", "right", "right", "up"]
    result = json.loads((written / "result.json").read_text())
    assert result["model"] == "m" and result["videos"] == 4
    assert result["top1"] == sum(int(line[4]) for line in lines) / 4 == 0.5
    expected = metrics.mean_average_precision(SCORES, np.eye(3)[LABELS])
    assert result["mean_average_precision"] == pytest.approx(expected)
    with np.load(written / "scores.npz") as file:
        np.testing.assert_array_equal(file["scores"], SCORES)
        assert file["paths"].tolist() == PATHS and file["classes"].tolist() == CLASSES


def test_a_test_set_that_is_not_whole_is_said(capsys):
    evaluate.check_count("kinetics400", 19_796)
    evaluate.check_count("mine", 3)
    assert capsys.readouterr().err == ""
    evaluate.check_count("kinetics400", 19_404)
    err = capsys.readouterr().err
    assert err.startswith("warning: kinetics400 has 19404 videos here") and "19796" in err


def test_published_counts_are_of_datasets_that_rows_name():
    assert set(rows.TEST_VIDEOS) <= set(rows.CLASS_COUNTS)


def test_several_labels_of_a_video_are_written_as_such(tmp_path):
    targets = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]], np.uint8)
    result = results.write_scores(tmp_path, CLASSES, PATHS, SCORES, targets, {"model": "m"})
    assert read(tmp_path / "predictions.csv")[1:] == [
        ["a.mp4", "left|right", "left", "0.7000", "1"],
        ["b.mp4", "up", "left", "0.4000", "0"],
        ["c.mp4", "right", "right", "0.6000", "1"],
        ["d.mp4", "", "up", "0.7000", "0"],
    ]
    each = metrics.average_precisions(SCORES, targets)
    assert read(tmp_path / "classes.csv") == [
        ["class", "videos", "average_precision"],
        ["left", "1", "1.0000"],
        ["right", "2", f"{each[1]:.4f}"],
        ["up", "1", f"{each[2]:.4f}"],
    ]
    figures = json.loads((tmp_path / "result.json").read_text())
    assert figures["mean_average_precision"] == result.mean_ap and figures["hit1"] == 0.5
    assert not (tmp_path / "confusion.png").exists()
    with np.load(tmp_path / "scores.npz") as file:
        np.testing.assert_array_equal(file["labels"], targets)


@pytest.mark.parametrize("average", ["prob", "score"])
def test_scores_of_the_sigmoid_loss_are_each_classs_own(network, average):
    model, variables = network
    config = configs.from_row("tsm_test")
    config.train.loss = "sigmoid"
    config.test.average = average
    video = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 32, 32, 3), np.uint8)
    scores = handed.make_scorer(model, config)(variables, jnp.asarray(video))
    logits = [
        model.apply(variables, normalize(view[None], config.data.mean, config.data.std))[0][0]
        for view in video[0]
    ]
    expected = jax.nn.sigmoid(sum(logits) / 2)
    if average == "prob":
        expected = sum(map(jax.nn.sigmoid, logits)) / 2
    np.testing.assert_allclose(scores[0], expected, atol=1e-5)


class Logged:
    """Batches of one video each and their scorer, which note what is done with them when."""

    def __init__(self, count):
        self.count, self.log = count, []

    def batches(self):
        for number in range(self.count):
            self.log.append(f"draw {number}")
            yield {
                "video": np.full((1, 1, 1, 1, 1, 3), number, np.uint8),
                "label": np.array([number % 3], np.int32),
                "index": np.array([number]),
                "weight": np.ones(1, np.float32),
            }

    def __call__(self, variables, video):
        self.log.append(f"score {self.log[-1].split()[1]}")
        return jax.nn.one_hot(video[:, 0, 0, 0, 0, 0] % 3, 3)


def test_answers_are_fetched_when_the_next_batch_is_under_way(monkeypatch):
    logged = Logged(3)
    fetch = jax.device_get

    def fetched(answer):
        answer = fetch(answer)
        logged.log.append(f"fetch {answer['index'][0]}")
        return answer

    monkeypatch.setattr(jax, "device_get", fetched)
    mesh = placement.make_mesh(jax.devices()[:1])
    scores, labels = scoring.score_batches(logged, {}, logged.batches(), 3, mesh)
    np.testing.assert_array_equal(scores, np.eye(3))
    np.testing.assert_array_equal(labels, [0, 1, 2])
    assert logged.log == [
        *("draw 0", "score 0", "draw 1", "score 1", "fetch 0"),
        *("draw 2", "score 2", "fetch 1", "fetch 2"),
    ]


def test_a_test_is_compiled_once_however_often_it_is_made(network, tmp_path):
    model, variables = network
    config = handed.frozen(configs.from_row("tsm_test"))
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.integers(0, 256, (2, 1, 2, 32, 32, 3), np.uint8),
        "label": np.array([0, 2], np.int32),
        "index": np.array([1, 0]),
        "weight": np.ones(2, np.float32),
    }

    class Two:
        classes, paths, categories = tuple(CLASSES), ("a.mp4", "b.mp4"), ()

        def __len__(self):
            return 2

    mesh = placement.make_mesh(jax.devices()[:1])
    test = evaluate.make_test(model, config, Two(), mesh)
    variables = jax.device_put(variables, placement.replicated(mesh))
    with compiling.counting() as first:
        test(variables, iter([batch]), "first")
    with compiling.counting() as again:
        test(variables, iter([batch]), "again")
    assert len(first) > 0 and again == []
