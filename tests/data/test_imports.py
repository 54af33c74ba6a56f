"""Datasets of DMVR's factories and of TensorFlow Datasets: their very videos, as records."""

import io
import sys
import types

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxvid.base.errors import JaxvidError
from jaxvid.data import datasets, imports
from jaxvid.data.cpu_tf import tf
from tests import handed
from tests.data.test_pipeline import CLASSES, LENGTHS, assert_same, make_config, record, take


def open_split(dataset, folder, split="train"):
    data = ml_collections.ConfigDict(
        {"dataset": dataset, "data_dir": str(folder), "flow": "", "category": "", "mixture": ()}
    )
    return datasets.open_split(data, split)


# ---- DMVR, by a stand-in that is called as it is


class Builder:
    """A phase of DMVR's pipeline: functions of a dictionary of features, in order."""

    def __init__(self):
        self.functions = []

    def reset(self):
        self.functions.clear()

    def __call__(self, features):
        for function in self.functions:
            features = function(features)
        return features


def parse(example):
    kinds = {"clip/label/index": tf.io.VarLenFeature(tf.int64)}
    frames = {"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)}
    context, lists = tf.io.parse_single_sequence_example(example, kinds, frames)
    return {"image": lists["image/encoded"], "label": context["clip/label/index"]}


class Factory:
    """What `dmvr.video_dataset.BaseVideoDatasetFactory` is to its callers."""

    def __init__(self, shards):
        self.shards, self.parse, self.configured = shards, parse, False
        self.sampler_builder, self.decoder_builder = Builder(), Builder()
        self.preprocessor_builder, self.postprocessor_builder = Builder(), Builder()

    def configure(self, num_frames):
        self.configured = True

        def decode(features):
            pixels = tf.map_fn(tf.io.decode_jpeg, features["image"], fn_output_signature=tf.uint8)
            return {"image": pixels, "label": tf.sparse.to_dense(features["label"])}

        self.sampler_builder.functions = [lambda x: x | {"image": x["image"][:num_frames]}]
        self.decoder_builder.functions = [decode]
        self.preprocessor_builder.functions = [lambda x: x | {"image": x["image"] / 255}]
        self.postprocessor_builder.functions = [lambda x: x | {"image": -x["image"]}]
        return self

    def make_dataset(self, shuffle=True, num_epochs=None, batch_size=16):
        if not self.configured:
            raise ValueError("Factory has not been configured.")
        assert not shuffle and num_epochs == 1 and batch_size is None
        made = tf.data.TFRecordDataset(self.shards).map(self.parse)
        for phase in ("sampler", "decoder", "preprocessor", "postprocessor"):
            made = made.map(getattr(self, f"{phase}_builder"))
        return made


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """The videos of the pipeline's tests, in one shard."""
    folder = tmp_path_factory.mktemp("theirs")
    rng = np.random.default_rng(0)
    path = folder / "train-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(len(LENGTHS)):
            writer.write(record(rng, number))
    (folder / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    return path


@pytest.fixture
def module(shard, monkeypatch):
    """A module whose functions return factories, or what is none."""
    made = types.ModuleType("their_data")
    made.videos = lambda split: Factory([str(shard)]).configure(num_frames=2)
    made.raw = lambda split: Factory([str(shard)])
    made.nothing = lambda split: None
    monkeypatch.setitem(sys.modules, "their_data", made)
    return made


def test_a_factory_gives_the_batches_of_its_records(module, shard, tmp_path, monkeypatch):
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    ours = open_split("their_data:videos", tmp_path)
    theirs = open_split("plain", shard.parent)
    assert ours.classes == theirs.classes == CLASSES
    assert ours.source.num_frames.tolist() == list(LENGTHS)
    assert ours.paths[:2] == ["train/000000", "train/000001"]
    config = make_config()
    one, other = (take(handed.train_batches(split, config), 3) for split in (ours, theirs))
    assert_same(one, other)
    # From now on the factory is not asked.
    monkeypatch.setattr(Factory, "make_dataset", None)
    assert len(open_split("their_data:videos", tmp_path)) == len(LENGTHS)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_several_labels_and_filters_of_a_factory_hold(module, tmp_path):
    def two_labels(example):
        features = parse(example)
        label = tf.sparse.to_dense(features["label"])
        return features | {"label": tf.concat([label, [4]], 0)}

    def make(split):
        factory = Factory(module.videos(split).shards).configure(2)
        factory.parse = two_labels
        return factory

    module.several = make
    split = open_split("their_data:several", tmp_path)
    assert split.source.labels == [(number % 3, 4) for number in range(len(LENGTHS))]
    assert split.classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    "dataset, words",
    [
        ("their_data:missing", "'missing' of the Python module 'their_data'"),
        ("no_such_module:videos", "'no_such_module', which cannot be had .No module named"),
        ("their_data:nothing", "returned what is no configured factory .*sampler_builder"),
        ("their_data:raw", "no configured factory of DMVR .Factory has not been configured"),
    ],
)
def test_what_is_no_factory_is_refused(module, tmp_path, dataset, words):
    with pytest.raises(JaxvidError, match=words):
        open_split(dataset, tmp_path)
    assert not list(tmp_path.glob("*.npz"))


def altered(module, change):
    def make(split):
        factory = module.videos(split)
        factory.parse = lambda example: change(parse(example))
        return factory

    module.altered = make
    return "their_data:altered"


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda x: {"image": x["image"]},
            "gives image: let it give image, all frames .* and label",
        ),
        (lambda x: x | {"image": tf.zeros([2, 3])}, "gives float32 .2, 3. as image"),
        (lambda x: x | {"label": tf.constant(0.5)}, "and float32 as label"),
        (lambda x: x | {"image": tf.constant([b"no"])}, "train/000000 has a frame that is no pic"),
        (lambda x: tf.ones([2]), "returned what is no configured factory"),
        (lambda x: x | {"label": tf.gather([1], tf.shape(x["image"])[0])}, "cannot be read"),
    ],
)
def test_what_a_parser_must_give(module, tmp_path, change, words):
    with pytest.raises(JaxvidError, match=words) as caught:
        open_split(altered(module, change), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_folder_holds_one_dataset(module, tmp_path):
    module.other = module.videos
    open_split("their_data:videos", tmp_path)
    with pytest.raises(JaxvidError, match="holds other records of 'train'"):
        open_split("their_data:other", tmp_path)
    with pytest.raises(JaxvidError, match="needs data_dir"):
        open_split("their_data:videos", "")


def test_long_datasets_go_into_several_shards(module, tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "_SHARD_BYTES", 20_000)
    split = open_split("their_data:videos", tmp_path)
    assert split.source.num_shards > 1
    assert split.source.num_frames.tolist() == list(LENGTHS)
    assert all(split.source.frames(n, np.array([0])) for n in range(len(split)))


# ---- TensorFlow Datasets

VIDEOS = {"train": 5, "test": 2}
NAMES = ["clap", "nod", "wave"]


def picture(split, number, frame):
    rng = np.random.default_rng([len(split), number, frame])
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return np.asarray(small.resize((64, 48), Image.BILINEAR))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two prepared datasets: `tiny_videos`, and `tiny_tagged` with several labels a video."""
    import tensorflow_datasets as tfds

    class TinyVideos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        LABEL = tfds.features.ClassLabel(names=NAMES)

        def _info(self):
            video = tfds.features.Video(shape=(None, 48, 64, 3))
            features = tfds.features.FeaturesDict({"video": video, "label": self.LABEL})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in VIDEOS}

        def _generate_examples(self, split):
            for number in range(VIDEOS[split]):
                frames = np.stack([picture(split, number, i) for i in range(9 + number)])
                yield number, {"video": frames, "label": self.label(number)}

        def label(self, number):
            return NAMES[number % 3]

    class TinyTagged(TinyVideos):
        LABEL = tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES))

        def label(self, number):
            return NAMES[number % 3 :]

    folder = tmp_path_factory.mktemp("tfds")
    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    for kind in (TinyVideos, TinyTagged):
        kind(data_dir=folder).download_and_prepare(download_config=offline)
    return folder


@pytest.fixture
def found(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


def test_a_tfds_dataset_gives_its_videos(found, tmp_path):
    split = open_split("tfds:tiny_videos", tmp_path)
    assert split.classes == tuple(NAMES) and len(split) == 5
    seen = set()
    for number in range(5):
        count = int(split.source.num_frames[number])
        clip = count - 9  # of this length there is one
        assert split.source.labels[number] == (clip % 3,)
        for i, image in enumerate(split.source.frames(number, np.arange(count))):
            pixels = np.asarray(Image.open(io.BytesIO(image))).astype(int)
            assert np.abs(pixels - picture("train", clip, i)).mean() < 2
        seen.add(clip)
    assert seen == set(range(5))
    assert len(open_split("tfds:tiny_videos", tmp_path, "test")) == 2
    config = make_config()
    batch = next(handed.train_batches(split, config))
    assert batch["video"].shape == (4, 4, 24, 24, 3)
    assert_same(
        take(handed.train_batches(split, config), 4)[2:],
        take(handed.train_batches(split, config, start_step=2), 2),
    )


def test_slices_and_versions_of_a_tfds_dataset(found, tmp_path):
    most = open_split("tfds:tiny_videos:1.0.0", tmp_path, "train[:60%]")
    rest = open_split("tfds:tiny_videos:1.0.0", tmp_path, "train[60%:]")
    counts = [*most.source.num_frames, *rest.source.num_frames]
    assert (len(most), len(rest)) == (3, 2) and sorted(counts) == [9, 10, 11, 12, 13]


def test_several_labels_of_a_tfds_dataset(found, tmp_path):
    split = open_split("tfds:tiny_tagged", tmp_path)
    for count, labels in zip(split.source.num_frames, split.source.labels, strict=True):
        assert labels == tuple(range(3))[(int(count) - 9) % 3 :]


@pytest.mark.parametrize(
    "dataset, split, words",
    [
        ("tfds:no_such_set", "train", "data.dataset=tfds:no_such_set, split 'train': .*not found"),
        ("tfds:tiny_videos", "val", "split 'val': Unknown split"),
        ("tfds:ucf101", "train", "is not prepared in .*: run `tfds build ucf101`"),
        ("tfds:tiny_videos:9.9.9", "train", "tiny_videos:9.9.9, split 'train'"),
    ],
)
def test_what_tfds_does_not_have_is_refused(found, tmp_path, dataset, split, words):
    with pytest.raises(JaxvidError, match=words) as caught:
        open_split(dataset, tmp_path, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "classes"), [("ucf101/ucf101_2", 101), ("moving_mnist", 0), ("youtube_vis", 0)]
)
def test_datasets_of_tfds_are_read_by_their_names(name, classes, tmp_path):
    """Of the features that TFDS says of each, with random content."""
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=2):
        found = imports.import_split(f"tfds:{name}", "train", tmp_path / "x")
    assert len(found) == 2 and len(found.classes) == classes
    assert all(len(labels) == bool(classes) for labels in found.labels)
    for number in range(2):
        last = int(found.num_frames[number]) - 1
        [image] = found.frames(number, [last])
        assert np.asarray(Image.open(io.BytesIO(image))).ndim == 3
