"""Videos that a causal network takes frame by frame: which frames, which answers, and when anew."""

import itertools
import json

import numpy as np
import pytest

from jaxvid import checkpoint, predict
from jaxvid.data import decode, pipeline
from jaxvid.inference.predictor import Predictor
from tests.models.test_families import network
from tests.test_predict import encode

CLASSES = ["jump", "run", "sit", "turn", "wave"]
TEST = {"short_side": 36, "crop": 32, "crops": "three"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of each tiny causal network, and a video of 40 frames, 10 a second."""
    folder = tmp_path_factory.mktemp("carried")
    for name in ("movinet_stream_test", "tsm_online_test"):
        meta = {"row": name, "classes": CLASSES, "num_classes": 5, "test": TEST}
        checkpoint.save(folder / name, network(name)[1], meta)
    encode(folder / "long.avi", 3, frames=40)
    return folder


# At 25 frames a second every fifth is one in 0.2 seconds, so 10 a second give every second one;
# 8 of TSM's in 1.6 seconds do, too.
@pytest.mark.parametrize("name, seconds", [("movinet_stream_test", 2.0), ("tsm_online_test", 1.6)])
def test_answers_are_those_of_the_frames_since_the_state_began(folder, name, seconds):
    predictor = Predictor(folder / name)
    found = list(predictor.stream(folder / "long.avi", seconds, seconds / 2))
    frames = list(decode.read_frames(folder / "long.avi"))[1::2]
    half = round(seconds / 0.4)
    assert [each.frames for each in found[:4]] == [half, 2 * half, half, 2 * half]
    half_seconds = [(0, 1), (0, 2), (2, 3), (2, 4)]
    for each, (first, last) in zip(found, half_seconds, strict=False):
        assert (each.start, each.end) == pytest.approx((first * seconds / 2, last * seconds / 2))
        clip = np.stack(frames[first * half : last * half])
        places = np.arange(len(clip))[None]
        views = pipeline.make_views(clip, places, predictor.protocol)
        wanted = np.asarray(predictor._score(predictor._variables, views[None]))[0]
        np.testing.assert_allclose(each.prediction.scores, wanted, rtol=0, atol=1e-5)
    assert np.abs(found[0].prediction.scores - found[1].prediction.scores).max() > 1e-3


def test_the_command_carries_the_state(folder, capsys):
    arguments = [f"--checkpoint={folder}/movinet_stream_test", f"--video={folder}/long.avi"]
    predict.main([*arguments, "--window=2", "--stride=1", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["start"], line["frames"]) for line in lines] == [(0, 5), (0, 10), (2, 5), (2, 10)]


def test_each_frame_is_given_once_and_windows_apart_are_windows(folder, monkeypatch):
    predictor = Predictor(folder / "movinet_stream_test", views="one")
    given = []
    step = predictor._step

    def counted(state, frame):
        given.append(frame)
        return step(state, frame)

    monkeypatch.setattr(predictor, "_step", counted)
    assert len(list(predictor.stream(folder / "long.avi", 9, 0.4))) == 10
    assert len(given) == 20
    assert all((a != b).any() for a, b in itertools.pairwise(given))
    apart = list(predictor.stream(folder / "long.avi", 0.4, 2))
    assert [each.frames for each in apart] == [4, 4] and len(given) == 20
