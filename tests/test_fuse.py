"""Fusion of score files: plain weighted means, videos matched by path, mismatches named."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from jaxvid import fuse
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.reports import results

CLASSES = ["left", "right", "up"]


def make_test(seed, order=(0, 1, 2, 3)):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, 3))[list(order)]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([0, 1, 2, 0])[list(order)]
    paths = np.array(["a.mp4", "b.mp4", "c.mp4", "d.mp4"])[list(order)]
    return fuse.Scores(scores.astype(np.float32), labels, paths, np.array(CLASSES)), logits


def test_probabilities_are_averaged_as_a_plain_loop_does():
    (one, _), (two, _) = make_test(0), make_test(1, order=(2, 0, 3, 1))
    fused = fuse.fuse([one, two], [1, 3])
    for path, label, row in zip(fused.paths, fused.labels, fused.scores, strict=True):
        here = list(one.paths).index(path)
        there = list(two.paths).index(path)
        np.testing.assert_allclose(row, one.scores[here] / 4 + two.scores[there] * 3 / 4, rtol=1e-6)
        assert label == one.labels[here]


def test_score_averaging_is_the_softmax_of_averaged_logits():
    (one, x), (two, y) = make_test(0), make_test(1)
    logits = 0.4 * x + 0.6 * y
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(fuse.fuse([one, two], [2, 3], "score").scores, expected, rtol=1e-5)


def test_a_score_of_zero_stays_finite():
    one, _ = make_test(0)
    one = dataclasses.replace(one, scores=np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])
    assert np.isfinite(fuse.fuse([one, make_test(1)[0]], [1, 1], "score").scores).all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"paths": np.array(["a.mp4", "x.mp4", "c.mp4", "d.mp4"])}, "two has no scores of b.mp4"),
        ({"paths": np.array(["a.mp4", "a.mp4", "c.mp4", "d.mp4"])}, "two has a.mp4 more than once"),
        ({"labels": np.array([0, 1, 1, 0])}, "different labels for c.mp4"),
        ({"classes": np.array(["left", "up", "right"])}, "one and two answer different classes"),
    ],
)
def test_what_does_not_match_is_named(change, words):
    two = dataclasses.replace(make_test(1)[0], **change)
    with pytest.raises(JaxvidError, match=words):
        fuse.fuse([make_test(0)[0], two], [1, 1], names=["one", "two"])


def test_a_video_too_many_is_named():
    one = make_test(0)[0]
    fewer = fuse.Scores(one.scores[:3], one.labels[:3], one.paths[:3], one.classes)
    with pytest.raises(JaxvidError, match="fewer has no scores of d.mp4"):
        fuse.fuse([fewer, one], [1, 1], names=["fewer", "one"])


@pytest.mark.parametrize("weights", [(1, -1), (1, float("nan"))])
def test_weights_without_a_sum_are_refused(weights):
    with pytest.raises(JaxvidError, match="no sum to divide by"):
        fuse.fuse([make_test(0)[0], make_test(1)[0]], weights)


def test_weights_are_read_after_the_last_equals_sign():
    assert fuse._file_and_weight("a/scores.npz") == ("a/scores.npz", 1.0)
    assert fuse._file_and_weight("a/lr=0.1/scores.npz") == ("a/lr=0.1/scores.npz", 1.0)
    assert fuse._file_and_weight("a/lr=0.1/scores.npz=1.5") == ("a/lr=0.1/scores.npz", 1.5)


def write(folder, test):
    results.write_scores(folder, CLASSES, test.paths.tolist(), test.scores, test.labels, {})
    return folder / "scores.npz"


def test_the_command_writes_what_a_test_writes(tmp_path, capsys):
    files = [write(tmp_path / str(seed), make_test(seed)[0]) for seed in (0, 1)]
    fuse.main([str(files[0]), f"{files[1]}=1.5", f"--out={tmp_path / 'both'}"])
    fused = fuse.read(tmp_path / "both" / "scores.npz")
    expected = fuse.fuse([make_test(0)[0], make_test(1)[0]], [1, 1.5])
    np.testing.assert_array_equal(fused.scores, expected.scores)
    result = json.loads((tmp_path / "both" / "result.json").read_text())
    assert result["videos"] == 4 and result["fused"] == {str(files[0]): 1.0, str(files[1]): 1.5}
    assert "2 tests fused: 4 videos, top-1" in capsys.readouterr().out


@pytest.mark.parametrize("content, words", [(None, "does not exist"), (b"no", "is not the scores")])
def test_files_that_are_none_are_one_sentence(tmp_path, capsys, content, words):
    path = tmp_path / "scores.npz"
    if content:
        path.write_bytes(content)
    with pytest.raises(SystemExit), exit_on_error():
        fuse.main([str(path), f"--out={tmp_path}"])
    err = capsys.readouterr().err
    assert words in err and str(path) in err and err.count("\n") == 1


def test_several_labels_of_a_video_are_fused_class_by_class(tmp_path):
    one, other = (make_test(seed)[0] for seed in (0, 1))
    targets = np.eye(one.scores.shape[1], dtype=np.uint8)[one.labels]
    targets[0] = 1
    one, other = (dataclasses.replace(test, labels=targets) for test in (one, other))
    fused = fuse.fuse([one, other], [1, 3], "score")
    logits = [np.log(test.scores) - np.log1p(-test.scores) for test in (one, other)]
    expected = 1 / (1 + np.exp(-(logits[0] + 3 * logits[1]) / 4))
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-4)
    fuse.main([str(write(tmp_path / "one", one)), f"--out={tmp_path / 'out'}"])
    np.testing.assert_array_equal(fuse.read(tmp_path / "out" / "scores.npz").labels, targets)
    wrong = targets.copy()
    wrong[2] = 0
    with pytest.raises(JaxvidError, match="different labels for c.mp4"):
        fuse.fuse([one, dataclasses.replace(other, labels=wrong)], [1, 1])
    with pytest.raises(JaxvidError, match="a video may have several labels"):
        fuse.fuse([one, make_test(1)[0]], [1, 1])


def sound_arrays():
    test = make_test(0)[0]
    return {field.name: getattr(test, field.name) for field in dataclasses.fields(test)}


def damaged_scores():
    """Files that claim to be a test's scores: what each is and what is said of it."""
    scores, labels = sound_arrays()["scores"], sound_arrays()["labels"]
    nan = scores.copy()
    nan[2, 1] = np.nan
    yield "a label past the classes", {"labels": np.array([0, 1, 99, 0])}, "video 2 is not one of"
    yield "a negative label", {"labels": np.array([0, 1, 2, -1])}, "video 3 is not one of the 3"
    yield "labels of parts", {"labels": labels * 1.0}, "float64 .4., not whole numbers"
    yield "labels of another shape", {"labels": labels[:, None]}, "arrays differ in length"
    yield "targets of 3", {"labels": np.full((4, 3), 3)}, "video 0 is not 0, 1 or 2 for each class"
    yield "one label without a shape", {"labels": np.int64(1)}, "int64 .., not 4"
    yield "scores without a shape", {"scores": np.float32(1)}, "float32 .., not a row"
    yield "scores of text", {"scores": np.full((4, 3), "x")}, "not a row of numbers"
    yield "whole scores", {"scores": np.ones((4, 3), int)}, "not a row of numbers"
    yield "not a number", {"scores": nan}, "the first of them video 2, are not finite"
    yield "infinity", {"scores": np.full((4, 3), np.inf)}, "scores of 4 of its videos"
    yield "no videos", {k: v[:0] for k, v in sound_arrays().items() if k != "classes"}, "0 videos"
    yield "fewer classes", {"classes": np.array(["a"])}, "not 3 texts"
    yield "classes of numbers", {"classes": np.arange(3)}, "not 3 texts"
    yield "paths of bytes", {"paths": np.array([b"x"] * 4)}, "kind .S1"
    yield "objects", {"paths": np.array([print] * 4, object)}, "holds Python objects"
    yield "big-endian", {"scores": scores.astype(">f4")}, "of the kind >f4"


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in damaged_scores()],
                         ids=[case[0] for case in damaged_scores()])  # fmt: skip
def test_scores_that_contradict_themselves_are_one_sentence(tmp_path, change, words):
    path = tmp_path / "scores.npz"
    np.savez(path, **(sound_arrays() | change))
    with pytest.raises(JaxvidError, match=f"{path} is not the scores.npz of a test: .*{words}"):
        fuse.read(path)


def test_a_field_that_is_missing_is_named(tmp_path):
    path = tmp_path / "scores.npz"
    for name in sound_arrays():
        np.savez(path, **{k: v for k, v in sound_arrays().items() if k != name})
        with pytest.raises(JaxvidError, match=f"it has no '{name}'"):
            fuse.read(path)


def save(path, test):
    np.savez(path, **dataclasses.asdict(test))
    return path


def test_names_of_any_letters_are_fused_and_written(tmp_path):
    """Formulas, TeX, escapes and half characters, as files of others may hold them."""
    test = dataclasses.replace(
        make_test(0)[0],
        classes=np.array(["$\\frac{$", "=1+1", "_x\x1b"]),
        paths=np.array(["-a.mp4", "b\n.mp4", "c\udcff.mp4", "$1 to $2"]),
    )
    fuse.main([str(save(tmp_path / "one.npz", test)), f"--out={tmp_path / 'out'}"])
    fused = fuse.read(tmp_path / "out" / "scores.npz")
    assert fused.classes.tolist() == test.classes.tolist()
    assert fused.paths.tolist() == test.paths.tolist()
    assert (tmp_path / "out" / "confusion.png").exists()
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    assert [line[0] for line in lines] == ["'-a.mp4", "b\n.mp4", "c\\udcff.mp4", "$1 to $2"]
    assert [line[1] for line in lines] == ["$\\frac{$", "'=1+1", "_x\x1b", "$\\frac{$"]


def test_classes_in_either_normal_form_are_the_same(tmp_path):
    names = [np.array(["a", "b", name]) for name in ("Gr\u00f6\u00dfe", "Gro\u0308\u00dfe")]
    files = [
        save(tmp_path / f"{i}.npz", dataclasses.replace(make_test(0)[0], classes=classes))
        for i, classes in enumerate(names)
    ]
    fuse.main([*map(str, files), f"--out={tmp_path / 'out'}"])
    assert fuse.read(tmp_path / "out" / "scores.npz").classes.tolist() == names[0].tolist()
