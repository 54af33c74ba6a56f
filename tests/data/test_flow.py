"""Optical flow: what is computed, how it is kept, and what of it a network is fed."""

import io
import pathlib
import sys
import types

import av
import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jaxvid import config as configs
from jaxvid.base import csvs
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import augment, datasets, flow, index, pipeline, records, sampling
from jaxvid.data import build as command
from jaxvid.data.building import build, split, tasks
from jaxvid.data.windows import Window
from jaxvid.rows import FLOWS, Protocol, Sampling

HEIGHT, WIDTH, SPEED = 48, 64, 3
ROW = "tsn_r50_flow_5x1x3_k400"


def square(count: int = 8, speed: int = SPEED) -> np.ndarray:
    """A textured square that moves to the right over a still texture: RGB [count, H, W, 3]."""
    rng = np.random.default_rng(0)
    background, patch = (
        cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (5, 5), 0)
        for _ in range(2)
    )
    frames = np.repeat(background[None], count, 0)
    for number, frame in enumerate(frames):
        left = 4 + speed * number
        frame[12:36, left : left + 24] = patch[12:36, :24]
    return frames


def write_video(path: pathlib.Path, frames: np.ndarray) -> pathlib.Path:
    """Writes frames without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


def opencv(method: str) -> object:
    if method == "tvl1":
        return cv2.optflow.DualTVL1OpticalFlow.create()
    return cv2.FarnebackOpticalFlow.create()


def pairs_of(frames: np.ndarray, method: str = "farneback") -> np.ndarray:
    return np.stack(list(flow.between(frames, method, None)))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> pathlib.Path:
    """Four videos of 7 to 10 frames with lists of them, and in `one.mkv` a single frame."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["path,label"]
    for number in range(4):
        write_video(folder / f"{number}.mkv", square(7 + number, speed=number))
        lines.append(f"{number}.mkv,{'still' if number < 2 else 'moving'}")
    write_video(folder / "one.mkv", square(1))
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def built(videos, tmp_path_factory) -> pathlib.Path:
    """Records of the flow of both lists, by Farneback."""
    out = tmp_path_factory.mktemp("records")
    for name in ("train", "test"):
        build(videos, videos / f"{name}.csv", out, flow="farneback", workers=1)
    return out


def stored(source: records.Records, number: int) -> np.ndarray:
    images = source.frames(number, np.arange(source.num_frames[number]))
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])


def config_of(dataset: str, folder: pathlib.Path, **fields_: object):
    config = configs.from_row(ROW, runlocal=True, dataset=dataset, data_dir=str(folder))
    config.data.update({"crop": 32, "crop_mode": "center", "flow": "farneback", **fields_})
    config.test.update({"short_side": 32, "crop": 32, "batch_size": 4})
    config.train.batch_size = 4
    return config


# ---- what is computed


@pytest.mark.parametrize("method", FLOWS)
def test_flow_is_opencvs_own_of_the_same_frames(method):
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in square(2))
    want = opencv(method).calc(before, after, None)
    got = flow.estimator(method)(before, after)
    assert np.hypot(*np.moveaxis(got - want, -1, 0)).mean() == 0
    moved = want[18:30, 12:24]
    assert abs(np.median(moved[..., 0]) - SPEED) < 0.5 and abs(np.median(moved[..., 1])) < 0.5
    levels = np.rint((np.clip(want, -20, 20).astype(np.float64) + 20) * 255 / 40)
    [pair] = flow.between(square(2), method, None)
    np.testing.assert_array_equal(pair, levels)


def test_larger_frames_are_shrunk_once_they_are_grey():
    frames = square(2)
    before, after = (
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (32, 24)) for frame in frames
    )
    want = flow.quantise(opencv("farneback").calc(before, after, None))
    [pair] = flow.between(frames, "farneback", 24)
    np.testing.assert_array_equal(pair, want)
    [pair] = flow.between(frames, "farneback", 100)
    assert pair.shape == (HEIGHT, WIDTH, 2)


def test_levels_are_those_of_denseflow():
    motion = np.array([[-25.0, -20.0], [0.0, 20.0], [25.0, 1.0]])
    # Halves go to the even level, as in OpenCV.
    np.testing.assert_array_equal(flow.quantise(motion), [[0, 0], [128, 255], [255, 134]])


def test_single_pairs_are_those_of_the_whole_video(videos):
    frames = square(10, speed=3)
    wanted = np.array([6, 0, 1, 6])
    whole = pairs_of(frames)[wanted]
    np.testing.assert_array_equal(flow.pairs_of(frames, wanted, "farneback", None), whole)
    path = videos / "3.mkv"
    np.testing.assert_array_equal(flow.pairs_at(path, wanted, "farneback", None), whole)
    with pytest.raises(JaxvidError, match="has 10 frames; frame 10 was asked for"):
        flow.pairs_at(path, [9], "farneback", None)
    later = flow.pairs_at(path, [0, 2], "farneback", None, Window(0.12, 0.32))
    np.testing.assert_array_equal(later, pairs_of(frames)[[3, 5]])


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    with pytest.raises(JaxvidError, match=r"extra modules.*pip install 'jaxvid\[flow\]'"):
        flow.estimator("tvl1")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(JaxvidError, match=r"needs OpenCV: pip install 'jaxvid\[flow\]'"):
        flow.estimator("farneback")


# ---- what a network is fed of it


def test_the_flow_of_a_mirrored_video_is_the_mirrored_flow():
    frames = square()
    pairs, mirrored = pairs_of(frames), pairs_of(frames[:, :, ::-1])
    settings = augment.Augmentation(size=32, crop_mode="center")
    jitter, order = np.ones(4, np.float32), np.arange(4, dtype=np.int32)

    def finished(given, flip):
        box = tf.constant(given[:, :, 8:56])
        return augment.finish(box, tf.constant(flip), jitter, order, settings).numpy().astype(int)

    apart = np.abs(finished(pairs, True) - finished(mirrored, False))
    assert apart.mean() < 2
    as_picture = finished(pairs, True)
    as_picture[..., 0] = 255 - as_picture[..., 0]
    assert np.abs(as_picture - finished(mirrored, False))[..., 0].mean() > 4 * apart[..., 0].mean()
    # 255 - x, as the reference inverts it; y stays.
    turned = augment.mirrored(tf.constant(pairs)).numpy()
    np.testing.assert_array_equal(turned[..., 0], 255 - pairs[:, :, ::-1, 0])
    np.testing.assert_array_equal(turned[..., 1], pairs[:, :, ::-1, 1])


@pytest.mark.parametrize("crops", ["ten", "ten_unnegated"])
def test_mirrored_crops_of_a_test_turn_x_around_but_for_the_published_ones(crops):
    pairs = pairs_of(square(6))
    protocol = Protocol(Sampling("stacks", clip_len=5, num_clips=1), HEIGHT, crops, 32)
    views = pipeline.make_views(pairs, np.arange(5)[None], protocol)
    assert views.shape == (10, 1, 32, 32, 10)
    for plain, turned in zip(views[::2], views[1::2], strict=True):
        want = plain[:, :, ::-1].copy()
        if crops == "ten":
            want[..., ::2] = 255 - want[..., ::2]
        np.testing.assert_array_equal(turned, want)


def test_channels_are_x_and_y_of_each_pair_of_a_stack_in_turn():
    how = Sampling("stacks", clip_len=5, num_clips=3)
    numbers = sampling.sample_views(how, 40, test=True)
    segments = sampling.sample(Sampling(clip_len=5, num_clips=3), 40, test=True)
    np.testing.assert_array_equal(numbers, segments.reshape(1, 15))
    assert (np.diff(segments) == 1).all()
    # Pair k is k in x and 100 + k in y, wherever it is.
    pairs = np.broadcast_to(np.arange(40)[:, None, None, None] + [0, 100], (40, 32, 40, 2))
    protocol = Protocol(how, 32, "center", 32)
    views = pipeline.make_views(pairs.astype(np.uint8), numbers, protocol)
    assert views.shape == (1, *protocol.view) == (1, 3, 32, 32, 10)
    want = np.stack([segments, segments + 100], -1).reshape(3, 10)
    assert (views[0] == want[:, None, None]).all()


@pytest.mark.parametrize("dataset", ["mine", "files"])
def test_training_sees_the_stored_pairs(dataset, videos, built):
    folder = built if dataset == "mine" else videos
    config = config_of(dataset, folder, flip=1.0)
    frozen = fields.freeze(config)
    source = datasets.open_split(frozen.data, "train")
    assert source.source.num_frames.tolist() == [6, 7, 8, 9]
    batches = pipeline.train_batches(source, frozen.data, batch_size=4, loss="softmax", seed=0)
    batch = next(batches)
    batches.close()
    assert batch["video"].shape == (4, 3, 32, 32, 10)
    for video, number in zip(batch["video"], batch["index"], strict=True):
        pairs = pairs_of(square(7 + int(number), speed=int(number)))
        # The central square, mirrored, at two thirds of its size.
        seen = augment.mirrored(tf.constant(pairs[:, :, 8:56])).numpy()
        seen = np.rint(tf.image.resize(seen, (32, 32)).numpy()).astype(int)
        candidates = np.stack(
            [seen[start : start + 5].transpose(1, 2, 0, 3).reshape(32, 32, 10)
             for start in range(len(seen) - 4)]
        )  # fmt: skip
        for stack in video.astype(int):
            apart = np.abs(candidates - stack).mean((1, 2, 3))
            assert apart.min() < 1.5
    [tested] = pipeline.test_batches(
        datasets.open_split(frozen.data, "test"), frozen.test, loss="softmax"
    )
    assert tested["video"].shape == (4, 1, 8, 32, 32, 10)


def test_records_and_files_give_the_same_but_for_jpegs(videos, built):
    files, kept = (
        datasets.open_split(fields.freeze(config_of(name, folder)).data, "test").source
        for name, folder in (("files", videos), ("mine", built))
    )
    for number in range(4):
        pairs = files.frames(number, np.arange(6))
        apart = np.abs(pairs.astype(int) - stored(kept, number)[:6, ..., :2])
        assert apart.mean() < 1 and pairs.shape == (6, HEIGHT, WIDTH, 2)
        assert files.fps[number] == kept.fps[number] == 25


def test_networks_are_fed_what_they_take(videos):
    def refusal(row: str, **changes: object) -> str:
        config = configs.from_row(row)
        for field, value in changes.items():
            config.update_from_flattened_dict({field.replace("__", "."): value})
        with pytest.raises(JaxvidError) as caught:
            fields.freeze(config)
        return str(caught.value)

    assert "config.data.flow='' is not for" in refusal(ROW, data__flow="")
    assert "takes RGB" in refusal("tsn_r50_1x1x3_k400", data__flow="tvl1")
    assert "config.data.flow='raft' must be" in refusal(ROW, data__flow="raft")
    assert "sampler='frames' is not for" in refusal(ROW, data__sampling__sampler="frames")
    assert "takes RGB" in refusal("tsm_r50_8f", test__sampling__sampler="stacks")
    assert "color_jitter" in refusal(ROW, data__color_jitter=(0.4, 0.0, 0.0, 0.0))
    assert "rand_augment" in refusal(ROW, data__rand_augment="m9-n2")
    assert "test.sampling.clip_len=3 pairs" in refusal(ROW, test__sampling__clip_len=3)
    config = config_of("tfds:ucf101", videos)
    with pytest.raises(JaxvidError, match="is read as RGB only: build records"):
        datasets.open_split(fields.freeze(config).data, "train")


# ---- how it is kept


def test_records_hold_x_and_y_as_two_grey_pictures_would(videos, built):
    source = records.Records(built, "test", "flow")
    assert source.flow == "farneback" and source.channels == 2
    assert source.classes == ("moving", "still") and source.label.tolist() == [1, 1, 0, 0]
    for number in range(4):
        pairs = pairs_of(square(7 + number, speed=number))
        assert source.num_frames[number] == len(pairs)
        for pair, picture in zip(pairs, stored(source, number), strict=True):
            for axis in (0, 1):
                grey = io.BytesIO()
                Image.fromarray(pair[..., axis]).save(grey, "JPEG", quality=95)
                np.testing.assert_array_equal(picture[..., axis], np.asarray(Image.open(grey)))
            assert not picture[..., 2].any()


def test_records_are_read_as_dmvr_reads_them(built):
    source = records.Records(built, "test", "flow")
    _, lists = tf.io.parse_single_sequence_example(
        source.read(2),
        sequence_features={"flow/encoded": tf.io.FixedLenSequenceFeature((), tf.string)},
    )
    pictures = [tf.image.decode_jpeg(image, channels=3).numpy() for image in lists["flow/encoded"]]
    # Whose decoder is the faster one.
    np.testing.assert_allclose(np.stack(pictures).astype(int), stored(source, 2), atol=3)


def test_flow_stands_beside_pictures_and_its_index_is_made_anew(videos, built, tmp_path):
    for way in ("", "farneback"):
        build(videos, videos / "test.csv", tmp_path, flow=way, workers=1)
    rgb, pairs = records.Records(tmp_path, "test"), records.Records(tmp_path, "test", "flow")
    assert (rgb.num_frames - pairs.num_frames == 1).all()
    before = {path: path.read_bytes() for path in tmp_path.glob("test.flow-*")}
    assert before == {tmp_path / path.name: path.read_bytes() for path in built.glob("test.flow-*")}
    (tmp_path / "test.flow.index.npz").unlink()
    again = records.Records(tmp_path, "test", "flow")
    assert again.flow == ""
    [number] = np.flatnonzero(again.path == "1.mkv")
    assert again.frames(number, [3]) == pairs.frames(1, [3])
    for path in [*before, tmp_path / "test.flow.index.npz"]:
        path.unlink()
    with pytest.raises(JaxvidError, match=r"no optical flow of 'test'.*--flow=tvl1"):
        records.Records(tmp_path, "test", "flow")
    config = config_of("mine", built, flow="tvl1")
    with pytest.raises(JaxvidError, match=r"by farneback: add --config\.data\.flow=farneback"):
        datasets.open_split(fields.freeze(config).data, "test")


def test_records_of_others_may_hold_both(tmp_path):
    pair = pairs_of(square(2))[0]
    picture = io.BytesIO()
    Image.fromarray(square(1)[0]).save(picture, "JPEG")

    def listed(*images: bytes) -> tf.train.FeatureList:
        return tf.train.FeatureList(
            feature=[tf.train.Feature(bytes_list=tf.train.BytesList(value=[i])) for i in images]
        )

    both = tf.train.SequenceExample()
    both.context.feature["clip/label/index"].int64_list.value.append(1)
    jpeg = flow.to_jpeg(pair, 95)
    both.feature_lists.feature_list["image/encoded"].CopyFrom(listed(*[picture.getvalue()] * 3))
    both.feature_lists.feature_list["flow/encoded"].CopyFrom(listed(jpeg, jpeg))
    with tf.io.TFRecordWriter(str(tmp_path / "test-00000-of-00001.tfrecord")) as file:
        file.write(both.SerializeToString())
    rgb, pairs = records.Records(tmp_path, "test"), records.Records(tmp_path, "test", "flow")
    assert rgb.num_frames.tolist() == [3] and pairs.num_frames.tolist() == [2]
    assert rgb.frames(0, [2]) == [picture.getvalue()] and pairs.frames(0, [1]) == [jpeg]


def test_pictures_of_flow_become_the_same_records(videos, tmp_path, capsys):
    raw, lines = tmp_path / "raw", ["path,label"]
    for number, (name, first) in enumerate((("flow_{}_{:05d}.jpg", 1), ("{}_{:05d}.jpg", 0))):
        folder = raw / str(number)
        folder.mkdir(parents=True)
        (folder / "img_00001.jpg").write_bytes(b"no flow")
        for at, pair in enumerate(pairs_of(square(7 + number, speed=number)), first):
            for axis, letter in enumerate("xy"):
                picture = Image.fromarray(pair[..., axis])
                picture.save(folder / name.format(letter, at), quality=95)
        lines.append(f"{number},still")
    (raw / "gap").mkdir()
    for name in ("x_00001", "x_00002", "y_00001"):
        Image.fromarray(pair[..., 0]).save(raw / "gap" / f"flow_{name}.jpg")
    (raw / "none").mkdir()
    table = tmp_path / "test.csv"
    table.write_text("\n".join([*lines, "gap,still", "none,still"]) + "\n")
    out = tmp_path / "records"
    command.main(
        [f"--videos={raw}", f"--labels={table}", f"--out={out}", "--flow=pictures", "--workers=1"]
    )
    assert "test.flow: 2 videos, 13 frames" in capsys.readouterr().out
    reasons = {line[1]: line[3] for line in csvs.read(out / "bad_videos.csv")}
    assert "has no picture flow_y_00002.jpg" in reasons["gap"]
    assert "no folder of flow_x_00001.jpg" in reasons["none"]
    source = records.Records(out, "test", "flow")
    for number in range(2):
        pairs = pairs_of(square(7 + number, speed=number))
        assert np.abs(stored(source, number)[..., :2].astype(int) - pairs).mean() < 1
    # Any way fits to what others have made.
    config = config_of("mine", out, flow="tvl1")
    assert len(datasets.open_split(fields.freeze(config).data, "test")) == 2


def test_a_video_of_one_frame_is_left_out(videos, tmp_path):
    table = tmp_path / "test.csv"
    table.write_text("path,label\n0.mkv,a\none.mkv,a\n")
    summary = build(videos, table, tmp_path, flow="farneback", workers=1)
    assert summary.bad == {"one.mkv": "has one frame, and optical flow is between two"}
    (tmp_path / "train.csv").write_text(table.read_text())
    config = config_of("files", videos, train_split=str(table), test_split=str(table))
    with pytest.raises(JaxvidError, match=r"one\.mkv has one frame"):
        datasets.open_split(fields.freeze(config).data, str(table))


def test_a_build_that_broke_off_goes_on(videos, built, tmp_path, monkeypatch, capsys):
    written = []

    def breaking(task: tasks.Task, workplace: pathlib.Path, tell):
        if written:
            raise OSError(28, "No space left on device")
        written.append(task.shard)
        return tasks.write_shard(task, workplace, tell)

    with monkeypatch.context() as patched:
        patched.setattr(split, "write_shard", breaking)
        with pytest.raises(JaxvidError, match="1 of 2 shards are done and kept"):
            build(videos, videos / "test.csv", tmp_path, flow="farneback", workers=1)
    build(videos, videos / "test.csv", tmp_path, flow="farneback", workers=2)
    assert "test.flow: going on with a build that has 1 of 2 shards" in capsys.readouterr().out
    for path in built.glob("test.flow-*"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    build(videos, videos / "test.csv", tmp_path, flow="farneback", workers=1)
    assert "already built" in capsys.readouterr().out
    with pytest.raises(JaxvidError, match="already holds other records"):
        build(videos, videos / "test.csv", tmp_path, flow="tvl1", workers=1)
    assert index.load(tmp_path, "test", "flow").flow == "farneback"
