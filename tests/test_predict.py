"""Prediction: the same scores as evaluation, every file answered or named, output to rely on."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import threading
import time

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvid import checkpoint, predict, zoo
from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.data import build, datasets, decode, pipeline, views
from jaxvid.devices import placement
from jaxvid.inference import evaluate, scoring
from jaxvid.inference import predictor as predictor_room
from jaxvid.predict import files
from jaxvid.rows import CROP_COUNTS, RECORD_SIDE, Protocol, Sampling
from jaxvid.training import resume
from tests import handed

CLASSES = ["left", "right", "up"]
CLIPS = ("a.mp4", "b.mp4", "inner/c.avi")


def encode(path, seed, frames=20):
    """Writes a clip of a bright square that moves over a smooth background."""
    rng = np.random.default_rng(seed)
    background = Image.fromarray(rng.integers(60, 200, (3, 4, 3), np.uint8)).resize((64, 48))
    start, speed = rng.uniform(0, 20, 2), rng.uniform(-1, 1, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(frames):
            picture = np.array(background)
            y, x = np.clip(start + number * speed, 0, 30).astype(int)
            picture[y : y + 16, x : x + 16] = rng.integers(0, 256, 3) // 8 * 8
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(CLIPS):
        encode(folder / name, seed)
    return folder


def make_config():
    """A protocol with several clips and crops, at a size for tests."""
    config = configs.from_row("tsm_test")
    config.test.update(
        {"short_side": 32, "crops": "three", "crop": 32, "batch_size": 2, "views_per_step": 2}
    )
    config.test.sampling.update({"num_clips": 4, "twice_sample": True})
    config.data.mean = (100.0, 110.0, 120.0)
    return config


def save_network(path, model, shape, meta):
    """Saves random weights whose answers differ from video to video."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    rng = np.random.default_rng(0)

    def fill(key_path, leaf):
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        if name.endswith("kernel"):
            return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype("float32")
        constant = np.ones if name.endswith(("scale", "var")) else np.zeros
        return constant(leaf.shape, np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    variables["params"]["head"]["fc"]["kernel"] *= 10
    checkpoint.save(path, variables, meta)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as training leaves it."""
    config = make_config()
    model = zoo.create_model("tsm_test", len(CLASSES))
    path = tmp_path_factory.mktemp("trained") / "best"
    return save_network(
        path, model, (1, 4, 32, 32, 3), resume.describe(handed.frozen(config), CLASSES, 320)
    )


@pytest.fixture(scope="module")
def predictor(trained):
    return predict.Predictor(trained)


@pytest.fixture(scope="module")
def evaluation(videos, trained, tmp_path_factory):
    """Scores of all clips by way of records, as evaluation computes them, and the records."""
    out = tmp_path_factory.mktemp("records")
    table = out / "test.csv"
    table.write_text("path,label\n" + "".join(f"{name},up\n" for name in CLIPS))
    (out / "names.txt").write_text("\n".join(CLASSES) + "\n")
    build.build(videos, table, out, classes=out / "names.txt", workers=1)
    config = make_config()
    config.data.update({"dataset": "mine", "data_dir": str(out)})
    split = datasets.open_split(config.data, "test")
    mesh = placement.make_mesh(jax.devices()[:1])
    model = zoo.create_model("tsm_test", len(CLASSES))
    scores, _ = scoring.score_batches(
        handed.make_scorer(model, config),
        checkpoint.load(trained),
        handed.test_batches(split, config),
        len(split),
        mesh,
    )
    return scores, split


def test_files_score_as_in_evaluation(predictor, videos, evaluation):
    scores, split = evaluation
    for expected, path in zip(scores, split.paths, strict=True):
        # The records' JPEGs are all that lies between the two.
        np.testing.assert_allclose(predictor.scores(videos / path), expected, atol=0.01)
    assert np.abs(scores[0] - scores[1]).max() > 0.05, "the clips are too alike to tell"


def test_the_records_own_frames_score_exactly_as_in_evaluation(predictor, evaluation):
    scores, split = evaluation
    for number, expected in enumerate(scores):
        count = int(split.source.num_frames[number])
        jpegs = split.source.frames(number, np.arange(count))
        frames = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
        ours = predictor.scores(frames, fps=float(split.source.fps[number]))
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("average", ["prob", "score"])
def test_untrimmed_videos_score_as_in_evaluation(evaluation, tmp_path, monkeypatch, average):
    monkeypatch.setattr(views, "PIECE", 8)  # videos are of 20 frames
    _, split = evaluation
    config = make_config()
    config.test.update({"average": average, "batch_size": 8})
    config.test.sampling.update({"sampler": "untrimmed", "clip_len": 2, "clip_interval": 1})
    config.data.update({"dataset": "mine", "data_dir": str(split.source.folder)})
    model = zoo.create_model("tsm_test", len(CLASSES))
    meta = resume.describe(handed.frozen(config), CLASSES, 320)
    config.init = str(save_network(tmp_path / "best", model, (1, 2, 32, 32, 3), meta))
    evaluate.evaluate(config, tmp_path / "run")
    with np.load(tmp_path / "run" / "eval" / "scores.npz") as file:
        scores = file["scores"]
    untrimmed = predict.Predictor(tmp_path / "best")
    for number, expected in enumerate(scores):
        frames = split.source.frames(number, np.arange(split.source.num_frames[number]))
        frames = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in frames])
        np.testing.assert_allclose(untrimmed.scores(frames), expected, atol=1e-6)
    assert np.abs(scores[0] - scores[1]).max() > 0.01, "the clips are too alike to tell"
    result = json.loads((tmp_path / "run" / "eval" / "result.json").read_text())
    assert result["views"] == "every 1 frames x3"


def test_a_file_scores_as_its_frames(predictor, videos):
    path = videos / CLIPS[0]
    frames = np.stack(list(decode.read_frames(path)))
    np.testing.assert_array_equal(predictor.scores(path), predictor.scores(frames, fps=10))


def test_a_folder_of_frames_scores_as_its_video(predictor, trained, videos, tmp_path, capsys):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(decode.read_frames(videos / CLIPS[0])):
        Image.fromarray(frame).save(folder / f"img_{number:05d}.png")
    expected = predictor.predict(videos / CLIPS[0]).scores
    np.testing.assert_array_equal(predictor.predict(folder).scores, expected)
    run(f"--checkpoint={trained}", f"--video={folder}", f"--out={tmp_path / 'out'}")
    assert f"{folder}  (20 frames)" in capsys.readouterr().out
    assert (tmp_path / "out" / "frames.png").is_file()


def test_only_sampled_frames_are_taken(predictor, videos, monkeypatch):
    asked = []
    frames_at = decode.frames_at

    def watch(path, numbers, short_side=None):
        asked.append((list(numbers), short_side))
        return frames_at(path, numbers, short_side)

    monkeypatch.setattr(decode, "frames_at", watch)
    prediction = predictor.predict(videos / CLIPS[0])
    # 20 frames: the middles and the beginnings of 4 parts.
    assert asked == [([0, 2, 5, 7, 10, 12, 15, 17], RECORD_SIDE)]
    assert prediction.num_frames == 20 and prediction.fps == 10 and prediction.seconds == 2
    np.testing.assert_array_equal(prediction.numbers, [2, 7, 12, 17])


def test_files_are_shrunk_as_the_records_of_training_were(tmp_path, videos, monkeypatch):
    model = zoo.create_model("tsm_test", len(CLASSES))
    meta = resume.describe(handed.frozen(make_config()), CLASSES, 24)
    small = predict.Predictor(save_network(tmp_path / "small", model, (1, 4, 32, 32, 3), meta))
    asked = []
    frames_at = decode.frames_at
    monkeypatch.setattr(
        decode, "frames_at", lambda *args: asked.append(args[2]) or frames_at(*args)
    )
    small.predict(videos / CLIPS[0])
    assert asked == [24]


def test_a_protocol_with_a_target_rate_follows_the_files_own(trained, videos):
    predictor = predict.Predictor(trained)
    settings = {"clip_len": 4, "frame_interval": 1, "num_clips": 2, "twice_sample": False}
    sampling = dataclasses.replace(predictor.protocol.sampling, **settings, target_fps=5.0)
    predictor.protocol = dataclasses.replace(predictor.protocol, sampling=sampling)
    # The file has 10 frames a second: 4 frames at 5 a second span 8 of them.
    numbers = predictor.predict(videos / CLIPS[0]).numbers
    np.testing.assert_array_equal(numbers, [0, 2, 4, 7])


def test_answers_are_named_and_sorted(predictor, videos):
    prediction = predictor.predict(videos / CLIPS[0])
    names, scores = zip(*prediction.top(2), strict=True)
    assert len(names) == 2 and scores[0] >= scores[1]
    assert names[0] == CLASSES[prediction.scores.argmax()]
    assert len(prediction.top(50)) == 3
    assert sum(score for _, score in prediction.top(50)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("crops", CROP_COUNTS)
def test_the_shown_view_is_the_central_one(trained, videos, crops):
    predictor = predict.Predictor(trained)
    predictor.protocol = dataclasses.replace(
        predictor.protocol, short_side=40, crops=crops, crop=32
    )
    path = videos / CLIPS[0]
    prediction = predictor.predict(path)
    frames = decode.frames_at(path, prediction.numbers)
    central = Protocol(Sampling(), 40, crops if CROP_COUNTS[crops] == 1 else "center", 32)
    expected = pipeline.make_views(frames, np.arange(4)[None], central)[0]
    np.testing.assert_array_equal(prediction.view, expected)


@pytest.mark.parametrize("crops", CROP_COUNTS)
def test_one_view_keeps_the_only_crop(crops):
    config = make_config()
    config.test.crops = crops
    config = predictor_room.one_view(handed.frozen(config))
    assert config.test.crops == (crops if CROP_COUNTS[crops] == 1 else "center")


def test_one_view_is_the_shown_view_alone(trained, predictor, videos):
    one = predict.Predictor(trained, views="one").predict(videos / CLIPS[0])
    whole = predictor.predict(videos / CLIPS[0])
    np.testing.assert_array_equal(one.numbers, whole.numbers)
    np.testing.assert_array_equal(one.view, whole.view)
    config = make_config()
    scorer = handed.make_scorer(zoo.create_model("tsm_test", 3), config)
    expected = scorer(checkpoint.load(trained), one.view[None, None])[0]
    np.testing.assert_allclose(one.scores, expected, atol=1e-6)
    assert np.abs(one.scores - whole.scores).max() > 1e-4


@pytest.mark.parametrize(
    "sampling, numbers",
    [
        ({"clip_len": 4, "frame_interval": 2, "num_clips": 10}, [46, 48, 50, 52]),
        ({"sampler": "uniform", "clip_len": 4, "num_clips": 4}, [12, 37, 62, 86]),
        ({"sampler": "dense", "num_clips": 4}, [16, 32, 48, 64]),
        ({"sampler": "untrimmed", "clip_len": 4}, [38, 39, 40, 41]),
    ],
)
def test_one_view_of_every_sampler_is_a_middle_one(trained, sampling, numbers):
    config = predict.make_config(checkpoint.load_meta(trained), None, trained)
    sampling = Sampling(
        **dataclasses.asdict(config.test.sampling) | {"twice_sample": False} | sampling
    )
    test = dataclasses.replace(config.test, sampling=sampling)
    config = predictor_room.one_view(dataclasses.replace(config, test=test))
    plan = pipeline.plan_test(pipeline.make_protocol(handed.frozen(config).test), 100, 25.0)
    found, clips = predictor_room._middle_clip(*plan)
    assert clips.shape == (1, 4)
    np.testing.assert_array_equal(found[clips[0]], numbers)


# ---- what a checkpoint says of itself


TINY = {"depth": 18, "blocks": (1, 1, 1, 1), "width": 16}


def save_converted(path, **meta):
    """A checkpoint as the converter leaves it, of a published row on a tiny network."""
    row = zoo.get_row("tsm_r50_1x1x8_k400")
    model = zoo.create_model(row.name, **TINY)
    said = {"row": row.name, "variant": row.variant, "num_classes": 400, "overrides": TINY}
    said = {name: value for name, value in (said | meta).items() if value is not None}
    return save_network(path, model, (1, 8, 32, 32, 3), said)


def test_a_converted_checkpoint_is_tested_as_its_row(tmp_path):
    path = save_converted(tmp_path / "converted")
    predictor = predict.Predictor(path)
    row = zoo.get_row("tsm_r50_1x1x8_k400")
    assert predictor.protocol == row.test
    assert tuple(predictor.config.data.mean) == row.mean
    assert predictor.classes[:2] == ("abseiling", "air drumming") and len(predictor.classes) == 400


def test_a_trained_checkpoint_is_tested_as_it_was_in_training(predictor):
    assert predictor.protocol == pipeline.make_protocol(handed.frozen(make_config()).test)
    assert tuple(predictor.config.data.mean) == (100.0, 110.0, 120.0)
    assert predictor.classes == tuple(CLASSES)


def test_the_training_runs_folder_will_do(trained, videos, predictor, tmp_path):
    state = {**checkpoint.load(trained), "step": np.int32(3)}
    with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(
            3, state, resume.describe(handed.frozen(make_config()), CLASSES, 320), metric=0.5
        )
    scores = predict.Predictor(tmp_path / "run").scores(videos / CLIPS[1])
    np.testing.assert_array_equal(scores, predictor.scores(videos / CLIPS[1]))


@pytest.mark.parametrize(
    "model", ["tsm_r50_1x1x8_k400", "tsm_r50_8f", zoo.get_row("tsm_r50_1x1x8_k400").upstream]
)
def test_model_may_repeat_what_the_checkpoint_says(tmp_path, model):
    path = save_converted(tmp_path / "converted")
    assert predict.Predictor(path, model).config.model.name == "tsm_r50_1x1x8_k400"


def test_model_contradicting_the_checkpoint_is_refused(trained):
    with pytest.raises(JaxvidError, match="--model=tsn_test contradicts .* of tsm_test"):
        predict.Predictor(trained, "tsn_test")


def test_model_is_needed_where_the_checkpoint_does_not_say(tmp_path):
    path = save_converted(tmp_path / "bare", row=None, variant=None)
    with pytest.raises(JaxvidError, match="add --model=NAME"):
        predict.Predictor(path)
    assert predict.Predictor(path, "tsm_r50_1x1x8_k400").protocol.crops == "ten"


def test_another_networks_weights_are_refused(tmp_path):
    path = save_converted(tmp_path / "other", overrides={})
    with pytest.raises(JaxvidError, match="not a checkpoint of this network.* more$"):
        predict.Predictor(path)


def test_classes_without_names_are_numbered(tmp_path):
    model = zoo.create_model("tsm_test", 3)
    meta = {"row": "tsm_test", "num_classes": 3}
    path = save_network(tmp_path / "bare", model, (1, 4, 32, 32, 3), meta)
    assert predict.Predictor(path).classes == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8, 8, 1), "u1")]
)
def test_arrays_that_are_no_video_are_refused(predictor, frames):
    with pytest.raises(JaxvidError, match=r"give uint8 RGB \[N, H, W, 3\]"):
        predictor.scores(frames)


# ---- the command


@pytest.mark.parametrize("views", ["protocol", "one"])
def test_what_is_compiled_ahead_answers_the_same(trained, videos, views, monkeypatch):
    usual = predict.Predictor(trained, views=views)
    ahead = predict.Predictor(trained, views=views, ahead=True)
    expected = usual.scores(videos / CLIPS[0])
    monkeypatch.setattr(ahead, "_score", None)  # Nothing is compiled again.
    np.testing.assert_array_equal(ahead.scores(videos / CLIPS[0]), expected)
    np.testing.assert_array_equal(ahead.scores(videos / CLIPS[1]), usual.scores(videos / CLIPS[1]))


@pytest.fixture
def mixed(videos, tmp_path):
    """A folder of good and bad videos and other files."""
    folder = tmp_path / "mixed"
    for name in CLIPS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((videos / name).read_bytes())
    (folder / "aa_broken.MP4").write_bytes(b"not a video")
    (folder / "notes.txt").write_text("not one either")
    (folder / "._a.mp4").write_bytes(b"a system's note")
    return folder


def run(*arguments):
    with exit_on_error():
        predict.main([str(argument) for argument in arguments])


def names_below(folder):
    found, others = predict.find_videos(folder)
    return [os.path.relpath(path, folder) for path in found], others


def test_links_to_folders_are_followed_and_each_folder_read_once(tmp_path):
    real, top = tmp_path / "real", tmp_path / "top"
    (real / "inner").mkdir(parents=True)
    (top / "own").mkdir(parents=True)
    for path in (real / "v.mp4", real / "inner/w.mp4", top / "own.mp4", top / "own/x.mp4"):
        path.write_text("")
    (top / "a_wave").symlink_to(real)
    (top / "z_wave").symlink_to(real / "inner")
    (top / "a_link").symlink_to(top / "own")
    (real / "loop").symlink_to(top)
    (real / "itself").symlink_to(real / "itself")
    (top / "file.mp4").symlink_to(top / "own.mp4")
    names = ["a_wave/inner/w.mp4", "a_wave/v.mp4", "file.mp4", "own/x.mp4", "own.mp4"]
    assert names_below(top) == (names, 1)
    (top / "own.mp4").unlink(), (top / "file.mp4").unlink(), (top / "own/x.mp4").unlink()
    assert names_below(top) == (["a_wave/inner/w.mp4", "a_wave/v.mp4"], 1)
    (tmp_path / "link").symlink_to(top)
    assert names_below(tmp_path / "link")[0] == ["a_wave/inner/w.mp4", "a_wave/v.mp4"]


def test_a_folder_that_cannot_be_read_is_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "inner\x1b").mkdir()
    (tmp_path / "a.mp4").write_text("")
    scandir = os.scandir

    def refuse(path):
        if "inner" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names_below(tmp_path) == (["a.mp4"], 0)
    said = f"warning: {tmp_path}/inner\\x1b is left out (Permission denied)\n"
    assert capsys.readouterr().err == said


ODD = ["a\nb\x1b[31m.mp4", "caf\udce9.mp4", "$1_\u202e.mp4", "=x\u2028.mp4"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_name_of_a_file_or_class_reaches_the_console_as_it_is(
    trained, videos, tmp_path, encoding
):
    """Names that move a cursor, break a line or are not UTF-8 are answered and shown escaped.

    Class names of that kind are refused; what may be in one must come through as it is.
    """
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD:
        (folder / name).write_bytes((videos / "a.mp4").read_bytes())
    (folder / "no\x1b.mp4").write_text("no video")
    meta = {
        **checkpoint.load_meta(trained),
        "classes": ["=\u013a", "_r", "$\\frac{$"],
    }
    checkpoint.save(tmp_path / "named", checkpoint.load(trained), meta)
    for options in ([f"--out={tmp_path / 'pictures'}"], ["--json"], ["--window=1"]):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with (
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
            contextlib.chdir(tmp_path),
            pytest.raises(SystemExit),
        ):
            run(f"--checkpoint={tmp_path / 'named'}", f"--video={folder}", *options)
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
        for line in (out + err).split("\n"):
            assert line.isprintable(), line
        assert "no\\x1b.mp4" in err and "1 of 5 videos have no answer" in err
        if options == ["--json"]:
            answers = [json.loads(line) for line in out.splitlines()]
            paths = [str(folder / name) for name in sorted([*ODD, "no\x1b.mp4"])]
            assert [answer["path"] for answer in answers] == paths
            labels = {each["label"] for each in answers[0]["answers"]}
            assert labels == set(meta["classes"])
        else:
            assert out.count("picture: ") == len(ODD)


def test_json_is_one_line_a_video_and_nothing_else(trained, mixed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run(f"--checkpoint={trained}", f"--video={mixed}", "--json", "--top=2")
    assert end.value.code == 1
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    names = ["a.mp4", "aa_broken.MP4", "b.mp4", "inner/c.avi"]
    assert [line["path"] for line in lines] == [str(mixed / name) for name in names]
    assert "cannot be opened" in lines[1]["error"]
    for line in (lines[0], *lines[2:]):
        assert line["frames"] == 20 and line["fps"] == 10 and line["duration"] == 2
        assert [answer.keys() for answer in line["answers"]] == [{"label", "score"}] * 2
        assert line["milliseconds"] > 0 and line["damaged"] == 0 and "picture" not in line
    assert "1 of 4 videos have no answer" in err and "aa_broken.MP4" in err
    assert "files left out as no videos: 2" in err
    assert "predict: 100% 4/4" in err
    assert not (tmp_path / "predictions").exists()


def test_text_names_every_video_and_its_picture(trained, mixed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(f"--checkpoint={trained}", f"--video={mixed}")
    out, _ = capsys.readouterr()
    pictures = ["a.png", "b.png", "inner/c.png"]
    for name in (*CLIPS, "aa_broken.MP4"):
        assert str(mixed / name) in out
    assert all(f"picture: predictions/{name}" in out for name in pictures)
    assert out.count("no answer:") == 1
    columns = {
        line.index(name) for line in out.splitlines() for name in CLASSES if f" {name} " in line
    }
    assert len(columns) == 1, "the labels are not aligned"
    for name in pictures:
        with Image.open(tmp_path / "predictions" / name) as image:
            assert image.size[0] > 600


def test_one_video_and_a_picture_where_it_was_asked(trained, videos, capsys, tmp_path):
    picture = tmp_path / "new" / "seen.png"
    run(f"--checkpoint={trained}", f"--video={videos / 'a.mp4'}", f"--picture={picture}")
    out, err = capsys.readouterr()
    assert f"{videos / 'a.mp4'}  (20 frames, 10 fps, 2.0 s)" in out
    assert picture.exists() and f"picture: {picture}" in out
    assert "predict" not in err


def test_a_damaged_video_is_answered_and_said_so(trained, videos, tmp_path, capsys):
    data = bytearray((videos / "inner/c.avi").read_bytes())
    starts = [at for at in range(len(data)) if data.startswith(b"00dc", at)][:20]
    data[starts[5] + 8 : starts[6]] = bytes(starts[6] - starts[5] - 8)
    (tmp_path / "hurt.avi").write_bytes(data)
    run(f"--checkpoint={trained}", f"--video={tmp_path / 'hurt.avi'}", f"--out={tmp_path}")
    assert "; damaged or missing packets: 1)" in capsys.readouterr().out


def test_a_picture_that_cannot_be_written_ends_the_run(trained, videos, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as end:
        run(f"--checkpoint={trained}", f"--video={videos}", f"--out={tmp_path / 'file' / 'in'}")
    err = capsys.readouterr().err
    assert end.value.code == 1 and "cannot write --out=" in err


def test_a_single_unreadable_video_is_one_error(trained, mixed, capsys):
    with pytest.raises(SystemExit) as end:
        run(f"--checkpoint={trained}", f"--video={mixed / 'aa_broken.MP4'}")
    out, err = capsys.readouterr()
    assert end.value.code == 1 and out == ""
    assert err.startswith("error: ") and err.count("aa_broken.MP4") == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--video=/nowhere.mp4"], "/nowhere.mp4 does not exist"),
        (["--video={videos}", "--picture=one.png"], "--out"),
        (["--video={videos}/a.mp4", "--picture=one.jpg"], "must end in .png"),
        (["--video={videos}", "--top=0"], "--top=0"),
        (["--video={empty}"], "holds no file"),
    ],
)
def test_bad_arguments_are_one_sentence(trained, videos, tmp_path, capsys, arguments, words):
    filled = [argument.format(videos=videos, empty=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as end:
        run(f"--checkpoint={trained}", *filled)
    out, err = capsys.readouterr()
    assert end.value.code == 1 and out == ""
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_pictures_of_videos_with_the_same_stem_stay_apart(tmp_path):
    names = ["x.avi", "x.mp4", "y.mp4", "in/x.mp4"]
    paths = files.inner_places(tmp_path, [tmp_path / name for name in names], ".png")
    assert [str(path) for path in paths] == ["x.avi.png", "x.mp4.png", "y.png", "in/x.png"]


def test_pictures_show_at_most_eight_frames_with_their_times(monkeypatch, tmp_path):
    shown = {}

    def strip(frames, answers, path, title, captions):
        shown.update(frames=frames, captions=captions, title=title, path=path)

    monkeypatch.setattr(files.draw, "strip", strip)
    view = np.arange(32, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    prediction = predict.Prediction(64, 10.0, np.ones(1), ("a",), view, np.arange(32) * 2)
    files.write_picture(prediction, "clip.mp4", 5, tmp_path / "deep" / "clip.png")
    np.testing.assert_array_equal(shown["frames"][:, 0, 0, 0], [0, 4, 9, 13, 18, 22, 27, 31])
    assert shown["captions"][1] == "0.80 s" and shown["captions"][-1] == "6.20 s"
    assert shown["title"] == "clip.mp4: 64 frames, 10 fps, 6.4 s"


# ---- windows, streams, features, explanations


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_window_as_long_as_the_video_is_the_video(trained, videos, predictor, capsys):
    path = videos / CLIPS[0]
    run(f"--checkpoint={trained}", f"--video={path}", "--json", "--window=9", "--top=3")
    [line] = lines(capsys)
    assert (line["start"], line["end"], line["frames"]) == (0, 2, 20)
    expected = predictor.predict(path).top(3)
    assert [(each["label"], each["score"]) for each in line["answers"]] == expected


def test_every_window_is_answered_as_a_video_of_its_frames(trained, videos, predictor, capsys):
    path = videos / CLIPS[1]
    arguments = [f"--checkpoint={trained}", f"--video={path}", "--window=1", "--stride=0.5"]
    run(*arguments, "--json", "--top=1")
    found = lines(capsys)
    assert [(line["start"], line["end"]) for line in found] == [(0, 1), (0.5, 1.5), (1, 2)]
    frames = np.stack(list(decode.read_frames(path)))
    for line, first in zip(found, (0, 5, 10), strict=True):
        expected = predictor.predict(frames[first : first + 10], 10).top(1)
        assert [(each["label"], each["score"]) for each in line["answers"]] == expected
        assert line["path"] == str(path) and line["milliseconds"] > 0 and "latency" not in line


def test_windows_of_a_folder_have_a_timeline_each(trained, mixed, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(f"--checkpoint={trained}", f"--video={mixed}", "--window=1", f"--out={tmp_path}/seen")
    out, err = capsys.readouterr()
    assert out.count("picture: ") == 3 and out.count(" s  ") == 6
    assert (tmp_path / "seen" / "inner" / "c.png").exists()
    assert "1 of 4 videos have no answer" in err


def paced(path, pipe, rate):
    """Writes a file's packets to a pipe as Matroska, at `rate` a second."""
    with (
        av.open(str(path)) as file,
        open(pipe, "wb", buffering=0) as raw,
        av.open(raw, "w", format="matroska", options={"flush_packets": "1"}) as out,
    ):
        stream = out.add_stream_from_template(file.streams.video[0])
        began, written = time.monotonic(), 0
        for packet in file.demux(video=0):
            if packet.dts is not None:
                time.sleep(max(0.0, began + written / rate - time.monotonic()))
                packet.stream = stream
                out.mux(packet)
                written += 1


@pytest.mark.parametrize("slow", [False, True])
def test_a_pipe_is_answered_without_lag(trained, tmp_path, predictor, monkeypatch, capfd, slow):
    encode(tmp_path / "long.avi", 3, frames=60)
    answering = 0.8 if slow else 0.0

    class Shown(predict.Predictor):
        short_side, classes, _carries = predictor.short_side, predictor.classes, False

        def __init__(self, *_):
            pass

        def require_classifier(self):
            pass

        def predict(self, frames, fps=None):
            answer = predictor.predict(frames, fps)
            time.sleep(answering)
            return answer

    predictor.predict(np.zeros((10, 48, 64, 3), np.uint8), 10)
    monkeypatch.setattr(predictor_room, "Predictor", Shown)
    reading, writing = os.pipe()
    stdin = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)
    # Twice as fast as its clock: 6 seconds of video in 3, a window every quarter of a second.
    writer = threading.Thread(target=paced, args=(tmp_path / "long.avi", writing, 20))
    writer.start()
    try:
        run(f"--checkpoint={trained}", "--video=-", "--window=1", "--stride=0.5", "--json")
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        writer.join(10)
    out, err = capfd.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    ends = [line["end"] for line in found]
    assert found[0]["path"] == "-" and ends == sorted(ends) and ends[-1] == pytest.approx(6)
    passed = sum(line["skipped"] for line in found)
    assert len(found) + passed == 11
    if slow:
        # It falls behind by one answer and no more, however long the stream is.
        assert passed >= 3 and f"windows passed over to keep up: {passed}" in err
        assert max(line["latency"] for line in found) < 2 * answering + 2
    else:
        assert max(line["latency"] for line in found) < 2


def test_a_stream_that_is_none_is_one_sentence(trained, tmp_path, capfd):
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    stdin = os.dup(0)
    with open(tmp_path / "no.mp4", "rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        with pytest.raises(SystemExit):
            run(f"--checkpoint={trained}", "--video=-", "--json")
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
    assert "error: standard input is no video stream" in capfd.readouterr().err


def test_a_camera_that_is_not_there_is_one_sentence(trained, capsys):
    with pytest.raises(SystemExit):
        run(f"--checkpoint={trained}", "--video=99")
    assert "error: the camera /dev/video99 cannot be opened" in capsys.readouterr().err


def test_features_are_those_of_the_network(trained, videos, predictor, tmp_path, capsys):
    out = tmp_path / "features"
    arguments = [f"--checkpoint={trained}", f"--video={videos}", f"--out={out}", "--json"]
    run(*arguments, "--features=stage3,pre_logits:full")
    shapes = lines(capsys)[0]["shapes"]
    assert shapes == {"stage3": [6, 4, 2, 2, 64], "pre_logits": [6, 128]}
    with np.load(out / "inner" / "c.npz") as file:
        full = dict(file)
    model = zoo.create_model("tsm_test", len(CLASSES))
    clip = predictor.predict(videos / CLIPS[2]).view
    clip = (clip - np.float32(predictor.config.data.mean)) / np.float32(predictor.config.data.std)
    _, expected = jax.jit(lambda v, x: model.apply(v, x, train=False))(
        checkpoint.load(trained), clip[None]
    )
    # Views are crop after crop; the central one is the first of the last crop's two.
    np.testing.assert_allclose(full["stage3"][4], expected["stage3"][0], atol=1e-4)
    pooled = predictor.extractor(["stage3"])(videos / CLIPS[2])["stage3"]
    np.testing.assert_allclose(pooled, full["stage3"].mean((0, 1, 2, 3)), atol=1e-5)


def test_features_of_windows_have_their_times(trained, videos, predictor, tmp_path, capsys):
    path = videos / CLIPS[0]
    arguments = [f"--checkpoint={trained}", f"--video={path}", f"--out={tmp_path}"]
    run(*arguments, "--features=stage4", "--window=1")
    with np.load(tmp_path / "a.npz") as file:
        assert file["stage4"].shape == (2, 128)
        np.testing.assert_array_equal(file["start"], [0, 1])
        np.testing.assert_array_equal(file["end"], [1, 2])
        frames = np.stack(list(decode.read_frames(path)))[10:]
        expected = predictor.extractor(["stage4"])(frames, 10)["stage4"]
        np.testing.assert_allclose(file["stage4"][1], expected, atol=1e-5)
    assert "features: " in capsys.readouterr().out


def test_an_unknown_feature_lists_those_there_are(trained, videos, capsys):
    with pytest.raises(SystemExit):
        run(f"--checkpoint={trained}", f"--video={videos}", "--features=stage9")
    err = capsys.readouterr().err
    assert "no intermediate 'stage9'" in err and "stage4 [4, 1, 1, 128]" in err and "stem" in err


def test_the_best_class_is_explained_in_the_view_that_was_seen(
    trained, videos, predictor, tmp_path, capsys
):
    path = tmp_path / "new" / "seen.gif"
    run(f"--checkpoint={trained}", f"--video={videos / 'a.mp4'}", "--json", f"--explain={path}")
    [line] = lines(capsys)
    assert line["explanation"] == str(path) and "picture" not in line
    with Image.open(path) as image:
        assert image.n_frames == 4
    prediction = predictor.predict(videos / "a.mp4")
    heat, at = predictor.explain(prediction)
    assert at == "stage4" and heat.shape == prediction.view.shape[:3]
    assert predictor.explain(prediction, "stage2")[1] == "stage2"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--stride=1"], "add --window"),
        (["--explain=a.png"], ".gif or .mp4"),
        (["--explain=a.gif", "--window=1"], "whole video"),
        (["--features=stage4", "--explain=a.gif"], "--features"),
        (["--features=stage4:full", "--window=1"], "leave out :full"),
    ],
)
def test_flags_that_do_not_go_together(trained, videos, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        run(f"--checkpoint={trained}", f"--video={videos / 'a.mp4'}", *arguments)
    err = capsys.readouterr().err
    assert end.value.code == 1 and words in err and err.count("\n") == 1
