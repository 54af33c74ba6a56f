"""Batches: their contents against frames decoded apart, their order against (seed, step)."""

import dataclasses
import gc
import io
import itertools
import pathlib
import subprocess
import sys
import weakref

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.data import augment, clips, datasets, pipeline, rand_augment, sampling
from jaxvid.data.cpu_tf import tf
from jaxvid.rows import Protocol, Sampling
from tests import handed

JITTER = (0.4, 0.4, 0.4, 0.1)
CLASSES = ("left", "right", "up")
LENGTHS = (20, 3, 31, 12, 9, 40, 17)


def picture(rng, height, width):
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize((width, height), Image.BILINEAR)


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def feature(*values):
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def record(rng, number):
    """A SequenceExample as DMVR's tools write it, made by TensorFlow."""
    height, width = ((36, 52), (60, 40))[number % 2]
    context = {
        "clip/label/index": feature(number % len(CLASSES)),
        "clip/label/text": feature(CLASSES[number % len(CLASSES)].encode()),
        "video/filename": feature(f"clips/{number}.mp4".encode()),
    }
    if number:
        context["image/frame_rate"] = feature(25.0)
    frames = [feature(jpeg(picture(rng, height, width))) for _ in range(LENGTHS[number])]
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(
            feature_list={"image/encoded": tf.train.FeatureList(feature=frames)}
        ),
    ).SerializeToString()


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Seven small videos of odd lengths and shapes in two shards."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"train-0000{shard}-of-00002")) as writer:
            for number in range(shard, len(LENGTHS), 2):
                writer.write(record(rng, number))
    (folder / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    data = ml_collections.ConfigDict(
        {"dataset": "mine", "data_dir": str(folder), "flow": "", "category": "", "mixture": ()}
    )
    return datasets.open_split(data, "train")


def make_config(batch=4, seed=1, **data):
    config = configs.from_row("tsm_test")
    config.seed = seed
    settings = {
        "sampling": {"clip_len": 4, "frame_interval": 2},
        "crop": 24,
        "crop_mode": "random_resized",
        "crop_scales": (1.0, 0.8),
        "crop_scale_gap": 1,
        "fixed_crops": 5,
        "area": (0.3, 1.0),
        "flip": 0.5,
        "workers": 2,
    } | data
    sampling = Sampling(**settings.pop("sampling"))
    config.data.update(settings)
    config.data.sampling = dataclasses.asdict(sampling)
    config.train.batch_size = batch
    config.test = {
        "sampling": dataclasses.asdict(Sampling(clip_len=4, frame_interval=2, num_clips=2)),
        "short_side": 32,
        "crops": "three",
        "crop": 32,
        "average": "prob",
        "weights": "ema",
        "batch_size": batch,
        "views_per_step": 1,
    }
    return config


def take(batches, count):
    result = list(itertools.islice(batches, count))
    batches.close()
    return result


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def decoded(split, number):
    images = split.source.frames(number, np.arange(split.source.num_frames[number]))
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])


def test_split(split):
    assert len(split) == 7
    assert split.classes == CLASSES
    assert sorted(split.paths) == [f"clips/{number}.mp4" for number in range(7)]


def test_shapes_and_types(split):
    config = make_config()
    (batch,) = take(handed.train_batches(split, config), 1)
    assert pipeline.clip_shape(handed.frozen(config).data) == (4, 24, 24, 3)
    kinds = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert kinds == {
        "video": ("uint8", (4, 4, 24, 24, 3)),
        "label": ("int32", (4,)),
        "index": ("int64", (4,)),
    }
    np.testing.assert_array_equal(batch["label"], split.source.label[batch["index"]])


def test_training_pixels_are_those_of_the_plan(split):
    config = make_config(color_jitter=JITTER)
    batches = take(handed.train_batches(split, config), 3)
    how = Sampling(clip_len=4, frame_interval=2)
    augmentation = pipeline.make_augmentation(handed.frozen(config).data)
    for example in range(12):
        step, place = divmod(example, 4)
        number = batches[step]["index"][place]
        assert number == pipeline.epoch_order(1, example // 7, 7)[example % 7]
        rng = pipeline.generator(1, example)
        frames = decoded(split, number)
        picked = sampling.sample(how, len(frames), test=False, rng=rng)[0]
        drawn = augment.draw(augmentation, *frames.shape[1:3], rng)
        top, left, height, width = drawn.box
        crop = frames[picked, top : top + height, left : left + width]
        want = augment.finish(
            crop, drawn.flip, np.float32(drawn.jitter), np.int32(drawn.order), augmentation
        )
        np.testing.assert_array_equal(batches[step]["video"][place], want)


EVERYTHING = {
    "color_jitter": JITTER,
    "rand_augment": "m7-n4",
    "random_erasing": 0.5,
    "repeats": 2,
}


AS_PUBLISHED = EVERYTHING | {
    "rand_augment_fill": 0,
    "rand_augment_after_crop": True,
    "repeats_share_frames": False,
    "crop_mode": "square",
    "even_sides": True,
    "hue_bytes": True,
}


@pytest.mark.parametrize("changes", [EVERYTHING, AS_PUBLISHED])
def test_augmented_pixels_are_those_of_the_plan(split, changes):
    config = make_config(**changes)
    after = config.data.rand_augment_after_crop
    batches = take(handed.train_batches(split, config), 4)
    how = Sampling(clip_len=4, frame_interval=2)
    augmentation = pipeline.make_augmentation(handed.frozen(config).data)
    erased = operations = 0
    for clip in range(16):
        step, place = divmod(clip, 4)
        number, repeat = divmod(clip, 2)
        video = batches[step]["index"][place]
        assert video == pipeline.epoch_order(1, number // 7, 7)[number % 7]
        rng = pipeline.generator(1, number)
        own = np.random.Generator(rng.bit_generator.jumped(repeat)) if repeat else rng
        frames = decoded(split, video)
        shared = config.data.repeats_share_frames
        picked = sampling.sample(how, len(frames), test=False, rng=rng if shared else own)[0]
        if shared and repeat:
            own = np.random.Generator(rng.bit_generator.jumped(repeat))
        rng = own
        drawn = augment.draw(augmentation, *frames.shape[1:3], rng)
        kinds = np.array([kind for kind, _ in drawn.operations], np.int32)
        values = np.array([value for _, value in drawn.operations], np.float32)
        operations_of = tf.constant(kinds), tf.constant(values), config.data.rand_augment_fill
        want = tf.constant(frames[picked])
        if not after:
            want = rand_augment.apply(want, *operations_of)
        top, left, height, width = drawn.box
        want = want[:, top : top + height, left : left + width]
        colors = np.float32(drawn.jitter), np.int32(drawn.order)
        want = augment.finish(want, drawn.flip, *colors, augmentation)
        if after:
            want = rand_augment.apply(want, *operations_of)
        want = augment.erase(want, np.int32(drawn.erased), np.int32(drawn.noise))
        np.testing.assert_array_equal(batches[step]["video"][place], want)
        erased += any(drawn.erased)
        operations += len(drawn.operations)
    assert 0 < erased < 16 and operations > 16


def test_repeats_are_the_same_frames_changed_in_other_ways(split):
    batches = take(handed.train_batches(split, make_config(batch=6, repeats=3)), 7)
    index = np.concatenate([batch["index"] for batch in batches]).reshape(-1, 3)
    assert (index == index[:, :1]).all()
    assert sorted(index[:7, 0]) == sorted(index[7:, 0]) == list(range(7))
    video = np.concatenate([batch["video"] for batch in batches]).reshape(14, 3, -1)
    assert (video[:, 0] != video[:, 1]).any(1).all() and (video[:, 1] != video[:, 2]).any(1).all()
    # The first is what it would be without repeats.
    plain = take(handed.train_batches(split, make_config(batch=2)), 7)
    np.testing.assert_array_equal(
        video[:, 0], np.concatenate([batch["video"] for batch in plain]).reshape(14, -1)
    )
    still = make_config(batch=6, repeats=3, crop_mode="center", flip=0.0)
    (batch,) = take(handed.train_batches(split, still), 1)
    video = batch["video"].reshape(2, 3, -1)
    np.testing.assert_array_equal(video, np.repeat(video[:, :1], 3, 1))


def test_repeats_may_draw_frames_of_their_own(split):
    how = {"batch": 6, "crop_mode": "center", "flip": 0.0, "trim": 0.2}
    own = make_config(repeats=3, repeats_share_frames=False, **how)
    batches = take(handed.train_batches(split, own), 14)
    index = np.concatenate([batch["index"] for batch in batches]).reshape(-1, 3)
    assert (index == index[:, :1]).all()
    video = np.concatenate([batch["video"] for batch in batches]).reshape(28, 3, -1)
    # Videos that are hardly longer than a clip have few other frames to draw.
    long = split.source.num_frames[index[:, 0]] >= 12
    pairs = ((0, 1), (0, 2), (1, 2))
    differ = np.stack([(video[:, a] != video[:, b]).any(1) for a, b in pairs], 1)
    assert long.sum() >= 4 and differ[long].mean() > 0.5
    shared = make_config(repeats=3, **how)
    other = take(handed.train_batches(split, shared), 14)
    other = np.concatenate([batch["video"] for batch in other]).reshape(28, 3, -1)
    np.testing.assert_array_equal(other, np.repeat(video[:, :1], 3, 1))


def test_an_epoch_with_repeats_has_each_video_once():
    assert pipeline.steps_per_epoch(7, 4, 2) == 3
    assert pipeline.steps_per_epoch(240, 16, 2) == 30 == pipeline.steps_per_epoch(240, 8)


@pytest.mark.parametrize("changes", [{"color_jitter": JITTER}, EVERYTHING, AS_PUBLISHED])
def test_batches_are_functions_of_seed_and_step(split, changes):
    config = make_config(**changes)
    first = take(handed.train_batches(split, config), 6)
    assert_same(first[4:], take(handed.train_batches(split, config, start_step=4), 2))
    config.data.workers = 1
    assert_same(first, take(handed.train_batches(split, config), 6))
    config.seed = 2
    other = take(handed.train_batches(split, config), 1)
    assert (first[0]["video"] != other[0]["video"]).any()


def joined_parts(split, config, processes, count, start_step=0):
    """The batches of several processes, put together."""
    parts = [
        take(
            handed.train_batches(
                split, config, start_step=start_step, process=process, processes=processes
            ),
            count,
        )
        for process in range(processes)
    ]
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]


# With 4 processes, the repeats of a video are in different ones.
@pytest.mark.parametrize("changes, processes", [({}, 2), (EVERYTHING, 2), (AS_PUBLISHED, 4)])
def test_processes_share_the_same_batches(split, changes, processes):
    config = make_config(**changes)
    whole = take(handed.train_batches(split, config, start_step=1), 3)
    assert_same(whole, joined_parts(split, config, processes, 3, start_step=1))


def test_every_epoch_sees_every_video_in_a_new_order(split):
    batches = take(handed.train_batches(split, make_config(batch=2)), 7)
    seen = np.concatenate([batch["index"] for batch in batches])
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert (seen[:7] != seen[7:]).any()


def test_every_epoch_has_its_own_order():
    orders = {tuple(pipeline.epoch_order(1, epoch, 7)) for epoch in range(50)}
    assert len(orders) > 40


def test_fewer_videos_than_a_batch(split):
    (batch,) = take(handed.train_batches(split, make_config(batch=16)), 1)
    counts = np.bincount(batch["index"], minlength=7)
    assert counts.sum() == 16 and set(counts) == {2, 3}
    assert pipeline.steps_per_epoch(7, 16) == 1
    assert pipeline.steps_per_epoch(7, 2) == 3


def test_segments_of_a_frame_net(split):
    config = make_config(sampling={"clip_len": 1, "num_clips": 5})
    config.test.sampling = {"clip_len": 1, "num_clips": 5, "twice_sample": True}
    assert pipeline.clip_shape(handed.frozen(config).data) == (5, 24, 24, 3)
    (batch,) = take(handed.train_batches(split, config), 1)
    assert batch["video"].shape == (4, 5, 24, 24, 3)
    batch = next(handed.test_batches(split, config))
    assert batch["video"].shape == (4, 6, 5, 32, 32, 3)


def test_test_batches_hold_each_video_once(split):
    batches = list(handed.test_batches(split, make_config()))
    assert [batch["video"].shape for batch in batches] == [(4, 6, 4, 32, 32, 3)] * 2
    index = np.concatenate([batch["index"] for batch in batches])
    weight = np.concatenate([batch["weight"] for batch in batches])
    np.testing.assert_array_equal(index, [0, 1, 2, 3, 4, 5, 6, -1])
    np.testing.assert_array_equal(weight, [1, 1, 1, 1, 1, 1, 1, 0])
    assert weight.dtype == np.float32
    assert not batches[1]["video"][-1].any()


def test_views_of_decoded_frames_equal_those_of_records(split):
    config = make_config()
    batches = list(handed.test_batches(split, config))
    protocol = pipeline.make_protocol(handed.frozen(config).test)
    for number in range(7):
        frames = decoded(split, number)
        needed, clips = pipeline.plan_test(protocol, len(frames), None)
        assert needed.size <= 8
        views = pipeline.make_views(frames[needed], clips, protocol)
        np.testing.assert_array_equal(views, batches[number // 4]["video"][number % 4])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_test(split, processes):
    whole = list(handed.test_batches(split, make_config(batch=8)))
    parts = [
        list(handed.test_batches(split, make_config(batch=8), process=process, processes=processes))
        for process in range(processes)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_a_process_without_videos_still_gets_its_batches(split):
    parts = handed.test_batches(split, make_config(batch=32), process=3, processes=4)
    (batch,) = parts
    assert batch["video"].shape == (8, 6, 4, 32, 32, 3)
    assert (batch["index"] == -1).all() and not batch["weight"].any()


def untrimmed_config(batch=4):
    config = make_config(batch=batch)
    sampling = Sampling(sampler="untrimmed", clip_len=2, clip_interval=1)
    config.test.sampling = dataclasses.asdict(sampling)
    config.test.crops = "three"
    return config


def test_untrimmed_videos_are_there_in_pieces(split):
    config = untrimmed_config()
    protocol = pipeline.make_protocol(handed.frozen(config).test)
    batches = list(handed.test_batches(split, config))
    pieces = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    assert pieces["video"].shape[1:] == (30, 2, 32, 32, 3)
    assert (pieces["index"] >= 0).sum() > len(split), "no video is long enough to be cut"
    for number in range(len(split)):
        frames = decoded(split, number)
        needed, clips = pipeline.plan_test(protocol, len(frames), None)
        own = pieces["index"] == number
        assert pieces["weight"][own].sum() == pytest.approx(1)
        views = pieces["video"][own].reshape(-1, 3, 10, *pieces["video"].shape[2:])
        shown = pieces["shown"][own].reshape(-1, 3, 10) > 0
        for crop in range(3):
            expected = pipeline.make_views(frames[needed], clips, protocol)
            seen = views[:, crop][shown[:, crop]]
            np.testing.assert_array_equal(seen, expected[crop * len(clips) :][: len(clips)])
    fill = pieces["index"] < 0
    assert not pieces["weight"][fill].any() and not pieces["shown"][fill].any()


def test_processes_share_pieces(split):
    whole = list(handed.test_batches(split, untrimmed_config(8)))
    parts = [
        list(handed.test_batches(split, untrimmed_config(8), process=process, processes=2))
        for process in range(2)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_a_process_ends_while_batches_are_made(split):
    code = f"""
import sys, time
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import test_pipeline as t
from jaxvid.data.records import Records

class Slow(Records):
    def frames(self, number, indices):
        time.sleep(0.2)
        return super().frames(number, indices)

split = t.datasets.check_split(Slow({str(split.source.folder)!r}, "train"), "train")
train = t.handed.train_batches(split, t.make_config(workers=4))
test = t.handed.test_batches(split, t.make_config(workers=4))
next(train), next(test)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], timeout=300, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


class Broken:
    """A split whose fourth video is no JPEG, or cannot be read."""

    def __init__(self, source, unreadable):
        self._source, self._unreadable = source, unreadable

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def frames(self, number, indices):
        if number != 3:
            return self._source.frames(number, indices)
        if self._unreadable:
            raise JaxvidError("shard 1 is gone: build the records again")
        return [b"this is no picture"] * len(indices)


@pytest.mark.parametrize("unreadable, words", [(True, "shard 1 is gone"), (False, "cannot be dec")])
def test_errors_name_the_video(split, unreadable, words):
    name = "" if unreadable else split.paths[3]
    with pytest.raises(JaxvidError, match=f"{name}.*{words}"):
        list(handed.test_batches(broken(split, unreadable), make_config(batch=2)))
    with pytest.raises(JaxvidError, match=f"{name}.*{words}"):
        take(handed.train_batches(broken(split, unreadable), make_config(batch=2)), 4)


def broken(split, unreadable=True):
    return datasets.Split(Broken(split.source, unreadable), split.classes)


@pytest.mark.parametrize(
    "unreadable, words, changes",
    [(True, "shard 1 is gone", {}), (False, "cannot be decoded", {"rand_augment": "m7-n4"})],
)
def test_a_bad_record_is_named_and_another_takes_its_place(
    split, unreadable, words, changes, capfd
):
    config = make_config(max_bad_records=1, **changes)
    good = take(handed.train_batches(split, config), 6)
    batches = handed.train_batches(broken(split, unreadable), config)
    bad = take(batches, 6)
    assert list(batches.bad) == [3] and words in batches.bad[3]
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.count("warning: ") == 1 and words in said and "bad video 1 of at most 1" in said
    replaced = 0
    for one, other in zip(good, bad, strict=True):
        assert 3 not in other["index"]
        for i, video in enumerate(one["index"]):
            if video == 3:
                replaced += 1
                assert other["label"][i] == split.source.label[other["index"][i]]
            else:
                assert other["index"][i] == video
                np.testing.assert_array_equal(other["video"][i], one["video"][i])
    assert replaced == 3
    assert_same(bad[2:], take(handed.train_batches(broken(split), config, start_step=2), 4))
    assert_same(bad, joined_parts(broken(split), config, 2, 6))


class Flawed(Broken):
    """A split where frames from the tenth on cannot be read."""

    def frames(self, number, indices):
        if max(indices) >= 10:
            raise JaxvidError(f"video {number} is corrupt: build the records again")
        return self._source.frames(number, indices)


def test_replacements_do_not_depend_on_what_was_met_before(split):
    flawed = datasets.Split(Flawed(split.source, True), split.classes)
    config = make_config(max_bad_records=6, repeats=2)
    batches = handed.train_batches(flawed, config)
    whole = take(batches, 10)
    long = {number for number in range(7) if split.source.num_frames[number] > 10}
    assert len(batches.bad) >= 2 and set(batches.bad) <= long
    seen = {int(video) for batch in whole for video in batch["index"]}
    assert seen & set(batches.bad), "none of them was met at its first frames"
    for start in (3, 7):
        assert_same(
            whole[start:],
            take(handed.train_batches(flawed, config, start_step=start), 10 - start),
        )


def test_an_iterator_that_failed_is_not_left_to_the_garbage_collector(split, monkeypatch):
    """It would end it in any thread: see `batches._let_go`."""
    batches = handed.train_batches(broken(split, True), make_config(max_bad_records=1))
    held, failure = [], type(batches)._failure

    def failure_held(*args):
        try:
            raise ValueError
        except ValueError as error:  # in the context of what failed, and kept, as by tasks
            held.append(error)
        return failure(*args)

    monkeypatch.setattr(type(batches), "_failure", failure_held)
    gc.collect()
    gc.disable()
    try:
        first = weakref.ref(batches._running[0]._iterator)
        take(batches, 6)
        assert batches.bad and held and first() is None
    finally:
        gc.enable()
        batches.close()


def test_too_many_bad_records_stop_the_run(split):
    flawed = datasets.Split(Flawed(split.source, True), split.classes)
    with pytest.raises(JaxvidError, match=r"corrupt.* \(2 bad videos; .*max_bad_records is 1\)"):
        take(handed.train_batches(flawed, make_config(max_bad_records=1)), 20)


def test_nothing_but_bad_records_stops_the_run(split):
    class Empty(Broken):
        def frames(self, number, indices):
            raise JaxvidError(f"video {number} is gone")

    empty = datasets.Split(Empty(split.source, True), split.classes)
    with pytest.raises(JaxvidError, match="is gone .7 bad videos"):
        take(handed.train_batches(empty, make_config(max_bad_records=100)), 1)


def test_a_bad_record_of_the_test_stops_it(split):
    with pytest.raises(JaxvidError, match="shard 1 is gone: build the records again$"):
        list(handed.test_batches(broken(split), make_config(max_bad_records=5)))


def test_settings_that_make_no_sense(split):
    with pytest.raises(JaxvidError, match="does not divide over 3 processes"):
        handed.train_batches(split, make_config(), process=0, processes=3)
    with pytest.raises(JaxvidError, match="4 clips, but config.data.repeats is 3"):
        handed.train_batches(split, make_config(repeats=3))
    with pytest.raises(JaxvidError, match="gives 2 clips"):
        handed.train_batches(split, make_config(sampling={"clip_len": 4, "num_clips": 2}))
    with pytest.raises(JaxvidError, match="seed is -1"):
        handed.train_batches(split, make_config(seed=-1))


def test_views_refuse_a_crop_that_does_not_fit():
    protocol = Protocol(Sampling(), short_side=32, crop=40)
    with pytest.raises(JaxvidError, match="larger than short_side"):
        pipeline.make_views(np.zeros((1, 50, 50, 3), np.uint8), np.array([[0]]), protocol)


def test_flipped_clips_change_places_in_mirrored_labels(split):
    plain = next(handed.train_batches(split, make_config(batch=14, flip=1.0)))
    swapped = make_config(batch=14, flip=1.0, mirrored_labels=((0, 1),))
    mirrored = next(handed.train_batches(split, swapped))
    assert set(plain["label"]) == {0, 1, 2}
    np.testing.assert_array_equal(np.array([1, 0, 2])[plain["label"]], mirrored["label"])
    still = make_config(batch=14, flip=0.0, mirrored_labels=((0, 1),))
    np.testing.assert_array_equal(next(handed.train_batches(split, still))["label"], plain["label"])


def test_trimmed_videos_lose_at_most_their_share():
    rng = np.random.default_rng(0)
    cuts = [clips._trim(100, 0.2, rng) for _ in range(300)]
    before = np.array([first for first, _ in cuts])
    after = 100 - np.array([first + total for first, total in cuts])
    for cut in (before, after):
        assert cut.min() == 0 and cut.max() == 19 and 8 < cut.mean() < 11
    assert clips._trim(1, 0.4, rng) == (0, 1)


class Several:
    """The split's frames, with labels that a video may have several of."""

    def __init__(self, source):
        self._source = source
        self.labels = [(0,), (1, 2), (2,), (0, 1, 2), (1,), (2, 0), (1,)]

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self.labels)


def test_videos_may_have_several_labels(split):
    several = datasets.Split(Several(split.source), split.classes)
    config = make_config(batch=14, flip=1.0, mirrored_labels=((0, 1),))
    with pytest.raises(JaxvidError, match="2.mp4.* has 2 labels: set config.train.loss=sigmoid"):
        handed.train_batches(several, config)
    with pytest.raises(JaxvidError, match="has 2 labels"):
        handed.test_batches(several, config)
    config.train.loss = "sigmoid"
    want = np.zeros((7, 3), np.uint8)
    for number, labels in enumerate(several.source.labels):
        want[number, list(labels)] = 1
    (batch,) = take(handed.train_batches(several, config), 1)
    assert batch["label"].dtype == np.uint8
    np.testing.assert_array_equal(batch["label"], want[batch["index"]][:, [1, 0, 2]])
    config.test.batch_size = 4
    first, last = handed.test_batches(several, config)
    np.testing.assert_array_equal(first["label"], want[:4])
    np.testing.assert_array_equal(last["label"], [*want[4:], [0, 0, 0]])
