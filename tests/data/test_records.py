"""Records: TensorFlow reads what we write and we read what it writes; damage is named."""

import io
import os
import pickle
import struct
import threading

import numpy as np
import pytest
from PIL import Image

from jaxvid.base.errors import JaxvidError
from jaxvid.data import crc32c, index, records, sequence_example
from jaxvid.data.shards import append
from jaxvid.data.shards import names as shard_names


def jpeg(value: int, height: int = 6, width: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def write_split(folder, split="train", videos=5, shards=2):
    """Writes `videos` records of 3, 4, ... frames over `shards` files; returns all frames."""
    names = shard_names(split, shards)
    frames = [[jpeg(20 * i + j) for j in range(3 + i)] for i in range(videos)]
    entries: list = [None] * videos
    for shard, name in enumerate(names):
        with open(folder / name, "wb") as file:
            for i in range(shard, videos, shards):
                entries[i] = append(
                    file, frames[i], shard=shard, labels=[i % 3], texts=[f"class {i % 3}"],
                    path=f"clips/{i}.mp4", fps=25.0 + i, height=6, width=8,
                )  # fmt: skip
    index.write(folder, split, names, entries)
    (folder / "labels.txt").write_text("class 0\nclass 1\nclass 2\n")
    return frames


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_has_the_published_values(data, crc):
    assert crc32c.crc32c(data) == crc32c.crc32c(memoryview(data)) == crc


def test_every_record_is_read_by_its_number(tmp_path):
    frames = write_split(tmp_path)
    split = records.Records(tmp_path, "train")
    assert len(split) == 5
    assert split.num_frames.tolist() == [3, 4, 5, 6, 7]
    assert split.fps.tolist() == [25, 26, 27, 28, 29]
    assert split.label.tolist() == [0, 1, 2, 0, 1]
    assert split.path.tolist() == [f"clips/{i}.mp4" for i in range(5)]
    assert split.height.tolist() == [6] * 5 and split.width.tolist() == [8] * 5
    assert split.classes == ("class 0", "class 1", "class 2")
    for i in (3, 0, 4, 1, 2):
        example = sequence_example.decode(split.read(i))
        assert example.context["clip/label/index"] == [i % 3]
        assert example.context["video/filename"] == [f"clips/{i}.mp4".encode()]
        assert split.frames(i, [2, 0, 2]) == [frames[i][2], frames[i][0], frames[i][2]]
    assert split.frames(0, []) == []


def test_tensorflow_parses_our_records(tmp_path):
    import tensorflow as tf

    frames = write_split(tmp_path)
    shards = sorted(str(path) for path in tmp_path.glob("*.tfrecord"))
    found = {}
    for data in tf.data.TFRecordDataset(shards):
        context, lists = tf.io.parse_single_sequence_example(
            data,
            {
                "clip/label/index": tf.io.FixedLenFeature((), tf.int64),
                "clip/label/text": tf.io.FixedLenFeature((), tf.string),
                "video/filename": tf.io.FixedLenFeature((), tf.string),
                "image/frame_rate": tf.io.FixedLenFeature((), tf.float32),
                "clip/end/timestamp": tf.io.FixedLenFeature((), tf.int64),
            },
            {"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)},
        )
        values = {name: value.numpy() for name, value in context.items()}
        found[values["video/filename"].decode()] = (values, list(lists["image/encoded"].numpy()))
    assert len(found) == 5
    for i in range(5):
        values, images = found[f"clips/{i}.mp4"]
        assert images == frames[i]
        assert values["clip/label/index"] == i % 3
        assert values["clip/label/text"] == f"class {i % 3}".encode()
        assert values["image/frame_rate"] == 25 + i
        assert values["clip/end/timestamp"] == round(1e6 * (3 + i) / (25 + i))


def test_shards_written_by_others_are_indexed_on_first_use(tmp_path):
    import tensorflow as tf

    for shard in range(2):  # named and filled as DMVR's example does: no ending, rate or size
        with tf.io.TFRecordWriter(str(tmp_path / f"test_1-{shard:05d}-of-00002")) as writer:
            for i in range(2):
                example = tf.train.SequenceExample()
                context = example.context.feature
                context["clip/label/index"].int64_list.value[:] = [10 * shard + i]
                context["clip/label/text"].bytes_list.value[:] = [b"wave"]
                context["clip/start/timestamp"].int64_list.value[:] = [500_000]
                context["clip/end/timestamp"].int64_list.value[:] = [1_500_000]
                context["video/filename"].bytes_list.value[:] = [b"a.mp4"]
                lists = example.feature_lists.feature_list
                for j in range(4 + i):
                    lists["image/encoded"].feature.add().bytes_list.value[:] = [jpeg(j)]
                lists["WAVEFORM/feature/floats"].feature.add().float_list.value[:] = [0.5, 1.5]
                writer.write(example.SerializeToString())
    for _ in range(2):  # the second time from the index
        split = records.Records(tmp_path, "test_1")
        assert split.label.tolist() == [0, 1, 10, 11]
        assert split.num_frames.tolist() == [4, 5, 4, 5]
        assert split.fps.tolist() == [4, 5, 4, 5]
        assert split.height.tolist() == [6] * 4 and split.width.tolist() == [8] * 4
        assert split.frames(3, [4]) == [jpeg(4)]
        assert (tmp_path / "test_1.index.npz").exists()


def test_the_index_holds_what_a_scan_finds(tmp_path):
    write_split(tmp_path, shards=1)
    built = records.Records(tmp_path, "train")
    before = {name: column.tolist() for name, column in built._columns.items()}
    table = built._frames[:]
    os.remove(tmp_path / "train.index.npz")
    scanned = records.Records(tmp_path, "train")
    assert {name: column.tolist() for name, column in scanned._columns.items()} == before
    assert np.array_equal(scanned._frames[:], table)


def test_values_of_any_kind_and_packing_are_read():
    def field(number, payload):
        return bytes([number << 3 | 2, len(payload)]) + payload

    def context(feature):
        return field(1, field(1, field(1, b"x") + field(2, feature)))

    unpacked = field(3, bytes([8, 5, 8, 6]))
    packed = field(3, field(1, bytes([5]) + b"\xff" * 9 + b"\x01"))
    floats = field(2, b"\x0d" + struct.pack("<f", 1.5) + field(1, struct.pack("<ff", 2, 3)))
    assert sequence_example.decode(context(unpacked)).context == {"x": [5, 6]}
    assert sequence_example.decode(context(packed)).context == {"x": [5, -1]}
    assert sequence_example.decode(context(floats)).context == {"x": [1.5, 2.0, 3.0]}


def test_hostile_bytes_end_in_our_error_or_an_example():
    good = sequence_example.encode({"clip/label/index": 3, "a": b"text", "b": 0.5}, [jpeg(1)] * 2)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        try:
            sequence_example.decode(bytes(data[: rng.integers(1, len(data) + 1)]))
        except JaxvidError:
            refused += 1
    assert refused > 100


def flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_and_its_record_named(tmp_path):
    write_split(tmp_path, shards=1)
    split = records.Records(tmp_path, "train")
    shard = tmp_path / "train-00000-of-00001.tfrecord"
    start, length = split._columns["offset"][2], split._columns["length"][2]
    flip_byte(shard, start + length - 1)  # the last byte of the last frame
    with pytest.raises(JaxvidError, match=r"train-00000-of-00001.tfrecord record 2 \(clips/2.mp4"):
        split.read(2)
    with pytest.raises(JaxvidError, match="record 2 .* corrupt at frame 4"):
        split.frames(2, [0, 4])
    assert len(split.frames(2, [0, 3])) == 2
    split.read(1), split.read(3)
    for at in (start - 12, start - 1, start + length):  # length, its checksum, the data's
        flip_byte(shard, start + length - 1)
        flip_byte(shard, at)
        with pytest.raises(JaxvidError, match="record 2"):
            split.read(2)
        flip_byte(shard, at)
        flip_byte(shard, start + length - 1)
    os.remove(tmp_path / "train.index.npz")
    with pytest.raises(JaxvidError, match="record 2 is corrupt"):
        records.Records(tmp_path, "train")


def test_frames_outside_the_video_are_refused(tmp_path):
    write_split(tmp_path)
    split = records.Records(tmp_path, "train")
    for wrong in ([3], [-1, 0]):
        with pytest.raises(JaxvidError, match="has 3 frames"):
            split.frames(0, wrong)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(JaxvidError, match="no train-.*no records.*jaxvid.data.build"):
        records.Records(tmp_path, "train")
    write_split(tmp_path, shards=3)
    with pytest.raises(JaxvidError, match="no test-.*has the splits train"):
        records.Records(tmp_path, "test")
    os.truncate(tmp_path / "train-00001-of-00003.tfrecord", 100)
    with pytest.raises(JaxvidError, match="train-00001-of-00003.tfrecord is not the file"):
        records.Records(tmp_path, "train")
    os.remove(tmp_path / "train-00001-of-00003.tfrecord")
    os.remove(tmp_path / "train.index.npz")
    with pytest.raises(JaxvidError, match="2 of the 3 shards"):
        records.Records(tmp_path, "train")
    write_split(tmp_path, shards=3)
    (tmp_path / "train-00000-of-00003").write_bytes(b"")  # the same shard under another name
    os.remove(tmp_path / "train.index.npz")
    with pytest.raises(JaxvidError, match="4 of the 3 shards"):
        records.Records(tmp_path, "train")


def test_an_index_from_before_videos_had_several_labels_is_read(tmp_path):
    write_split(tmp_path)
    with np.load(tmp_path / "train.index.npz") as file:
        arrays = {name: file[name] for name in file if name != "more_labels"}
    np.savez(tmp_path / "train.index.npz", **arrays)
    assert records.Records(tmp_path, "train").labels == [(0,), (1,), (2,), (0,), (1,)]
    for wrong in ([[9, 1]], [[-1, 1]], [1, 2], [["a", "b"]]):
        np.savez(tmp_path / "train.index.npz", **arrays, more_labels=np.array(wrong))
        with pytest.raises(JaxvidError, match="contradicts itself"):
            records.Records(tmp_path, "train")


@pytest.mark.parametrize("name", ["train.index.npz", "train.frames.npy"])
def test_a_damaged_index_is_refused(tmp_path, name):
    write_split(tmp_path)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 60)
    with pytest.raises(JaxvidError, match=name):
        records.Records(tmp_path, "train")


def test_threads_and_pickles_read_the_same(tmp_path):
    frames = write_split(tmp_path, shards=1)
    split = records.Records(tmp_path, "train")
    copy = pickle.loads(pickle.dumps(split))
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            i = int(rng.integers(5))
            j = int(rng.integers(3 + i))
            if copy.frames(i, [j]) != [frames[i][j]] or copy.read(i) != split.read(i):
                wrong.append((i, j))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_shard_that_is_gone_is_named(tmp_path):
    write_split(tmp_path)
    split = records.Records(tmp_path, "train")
    (gone,) = tmp_path.glob("train-00001-of-*")
    gone.unlink()
    assert split.frames(0, [0])
    for read in (lambda: split.read(1), lambda: split.frames(1, [0])):
        with pytest.raises(JaxvidError, match=f"{gone.name} cannot be read .No such file"):
            read()


def test_hostile_values_in_an_index_are_refused(tmp_path):
    write_split(tmp_path, shards=1)
    path = tmp_path / "train.index.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for name, value in {
        "offset": 2**62,
        "length": 2**62,
        "num_frames": -1,
        "shard": 1,
    }.items():
        wrong = arrays[name].astype(np.int64)
        wrong[1] = value
        np.savez(path, **(arrays | {name: wrong}))
        with pytest.raises(JaxvidError, match="contradicts itself"):
            records.Records(tmp_path, "train")
    np.savez(path, **(arrays | {"path": np.array([print] * 5, object)}))
    with pytest.raises(JaxvidError, match="cannot be read .*allow_pickle"):
        records.Records(tmp_path, "train")
    np.savez(path, **arrays)
    (tmp_path / "train.frames.npy").rename(tmp_path / "frames")
    (tmp_path / "train.frames.npy").write_bytes(path.read_bytes())
    with pytest.raises(JaxvidError, match="does not belong to train.index.npz"):
        records.Records(tmp_path, "train")
    (tmp_path / "frames").replace(tmp_path / "train.frames.npy")
    table = np.load(tmp_path / "train.frames.npy")
    table[1, 1] = 2**32 - 1  # a frame of four gigabytes
    np.save(tmp_path / "train.frames.npy", table)
    with pytest.raises(JaxvidError, match="corrupt at frame 1"):
        records.Records(tmp_path, "train").frames(0, [1])


def write_foreign(folder, context):
    """A shard of one record, as others write it."""
    data = sequence_example.encode(context, [jpeg(1)] * 2)
    size = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", crc32c.masked(part)) for part in (size, data)]
    (folder / "train-00000-of-00001").write_bytes(size + sums[0] + data + sums[1])


def test_absurd_values_in_a_record_are_not_believed(tmp_path):
    write_foreign(
        tmp_path,
        {
            "clip/label/index": 1,
            "video/filename": b"a\nerror: b\x1b[2J.mp4",
            "image/height": 2**40,
            "image/width": -1,
        },
    )
    split = records.Records(tmp_path, "train")
    assert (split.height[0], split.width[0]) == (6, 8)
    assert split.name(0).endswith(r"record 0 (a\nerror: b\x1b[2J.mp4)")
