"""What is too much of a record or of a video: refused in one sentence, soon and cheaply."""

import contextlib
import io
import os
import struct
import time

import numpy as np
import pytest
from PIL import Image

from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, datasets, index, records, sequence_example, shards
from jaxvid.data.crc32c import crc32c, masked
from tests.data.refuse import refusals
from tests.data.test_records import write_split

SHARD = "train-00000-of-00001.tfrecord"
IMPORTS = "from jaxvid.data import records"
LABEL, NAME = sequence_example.LABEL_INDEX, sequence_example.FILENAME


def picture(height=32, width=32, kind="JPEG", **settings) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 60)).save(out, kind, **settings)
    return out.getvalue()


def resized(image: bytes, height: int, width: int) -> bytes:
    """A JPEG that says it has another size."""
    at = max(image.find(b"\xff\xc0"), image.find(b"\xff\xc2"))
    return image[: at + 5] + struct.pack(">HH", height, width) + image[at + 9 :]


def framed(payload: bytes) -> bytes:
    """A TFRecord with the right checksums."""
    size = struct.pack("<Q", len(payload))
    return size + struct.pack("<I", masked(size)) + payload + struct.pack("<I", masked(payload))


def write_shard(folder, *examples: tuple[dict, list[bytes]]):
    data = b"".join(framed(sequence_example.encode(*example)) for example in examples)
    (folder / SHARD).write_bytes(data)
    return folder


def read_all(folder):
    return datasets.check_split(records.Records(folder, "train"), "train")


# ---- pictures


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True, "quality": 50}])
def test_the_size_of_a_picture_is_what_it_says(kind, settings):
    image = picture(30, 44, kind, **settings)
    assert bounds.picture_size(image) == (30, 44)
    assert bounds.picture_problem(image, 30, 44) is None
    assert bounds.picture_problem(image, 44, 30) == "is 44x30, not 30x44"


def test_pictures_that_begin_alike_may_be_of_other_sizes():
    notes = b"\xff\xfe\x10\x00" + bytes(0x0FFE)
    small, large = (picture(side, 44) for side in (30, 60))
    small, large = (image[:2] + notes + image[2:] for image in (small, large))
    assert small[:1000] == large[:1000]
    assert bounds.picture_size(small) == (30, 44) and bounds.picture_size(large) == (60, 44)


def test_the_size_stands_behind_whatever_lies_before_it():
    image = picture(30, 44)
    notes = b"\xff\xe1\x00\x0cExif \xff\xc0 x" + b"\xff\xff\xff\xe2\x00\x02" + b"stray bytes"
    assert bounds.picture_size(image[:2] + notes + image[2:]) == (30, 44)
    for at in range(len(image[:200])):  # cut anywhere, it has a size or none
        assert bounds.picture_size(image[:at]) in (None, (30, 44))


def test_a_picture_without_a_size_is_none_and_soon_known():
    began = time.perf_counter()
    for data in (
        b"",
        b"\xff",
        b"\xff" * (1 << 24),
        b"\xff\xe0\x00\x00" * (1 << 20),
        b"\xff\xda" * 9,
    ):
        assert bounds.picture_size(b"\xff\xd8" + data) is None
    assert bounds.picture_size(b"GIF89a" * 9) is None
    assert time.perf_counter() - began < 1


def test_a_picture_of_a_thousand_passes_is_refused():
    image = picture(16, 16, progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00"
    image = image[:-2] + scan * 1000 + image[-2:]
    assert "scans" in bounds.picture_problem(image, 16, 16)


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [(100_000, 100_000, "pixels of 8K"), (1, 30_000, "over 20 times"), (0, 5, "are 5x0"),
     (-1, 5, "are 5x-1"), (30_000, 1, "over 20 times")],
)  # fmt: skip
def test_sizes_that_no_video_has(height, width, words):
    assert words in bounds.size_problem(height, width)


def test_sizes_that_videos_have():
    for height, width in ((1, 1), (16, 16), (4320, 8192), (4320, 7680), (50, 1000), (1920, 1080)):
        assert bounds.size_problem(height, width) is None


# ---- records


def test_hostile_records_are_refused_soon_and_cheaply(tmp_path):
    image = picture()
    one = ({LABEL: 0, NAME: b"a"}, [image, image])
    pieces = {
        "labels": ([({LABEL: [1] * 1_000_000}, [image])], "has 1000000 labels"),
        "more labels": ([({LABEL: [1] * 3_000_000}, [image])], "more than a record may have"),
        "path": ([({NAME: b"p" * (8 << 20)}, [image]), *[one] * 400], "8388618 bytes of 'video/f"),
        "long path": ([({NAME: b"p" * 5000}, [image]), one], "5000 bytes, more than the 4096 of"),
        "picture": ([({LABEL: 0}, [resized(image, 65535, 65535)])], "65535x65535, more than"),
        "strip": ([({LABEL: 0}, [resized(image, 1, 30_000)])], "30000x1: one side is over 20"),
        "none": ([({LABEL: 0}, [b"no picture"])], "first frame is no image"),
        "name": ([({LABEL: 0, "x" * (1 << 20): 0}, [image])], "a name of 1048576 bytes"),
        "features": ([({f"{n:x}": () for n in range(1 << 17)}, [image])], "10000 features"),
    }
    for name, (examples, _) in pieces.items():
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name, *examples)
    folders = [tmp_path / name for name in (*pieces, "fields", "holes")]
    for folder in folders[-2:]:
        folder.mkdir()
    (tmp_path / "fields" / SHARD).write_bytes(framed(b"\x18\x00" * (5 << 20)))
    size = struct.pack("<Q", (1 << 30) - 5000)
    with open(tmp_path / "holes" / SHARD, "wb") as file:  # a gigabyte of zeros on no disk
        file.write(size + struct.pack("<I", masked(size)))
        file.truncate((1 << 30) + 5000)
    said = refusals(IMPORTS, 'records.Records(path, "train")', *folders)
    words = [words for _, words in pieces.values()] + ["more than 4194304 fields", "is corrupt"]
    for sentence, expected in zip(said, words, strict=True):
        assert expected in sentence and f"{SHARD} record " in sentence, sentence


def test_records_that_lie_about_their_length_are_found_before_any_is_read(tmp_path):
    write_shard(tmp_path, *[({LABEL: 0}, [picture()])] * 3)
    data = (tmp_path / SHARD).read_bytes()
    for length in (2**31, 2**63, 2**64 - 1):
        size = struct.pack("<Q", length)
        (tmp_path / SHARD).write_bytes(data + size + struct.pack("<I", masked(size)) + bytes(99))
        with pytest.raises(JaxvidError, match="record 3 is corrupt or cut short"):
            records.Records(tmp_path, "train")


def test_long_records_are_read_as_short_ones_are(tmp_path, monkeypatch):
    frames = [picture(8 + n, 9) for n in range(3)]
    write_shard(tmp_path, ({LABEL: [2, 1], NAME: b"a.mp4"}, [b"x" * 100, *frames][1:]))
    short = next(shards.scan(tmp_path / SHARD, 0))
    monkeypatch.setattr(shards, "_LONG", 10)
    long = next(shards.scan(tmp_path / SHARD, 0))
    assert long.frames.tolist() == short.frames.tolist() and long.labels == (2, 1)
    assert long.path == "a.mp4" and (long.height, long.width) == (8, 9)
    data = bytearray((tmp_path / SHARD).read_bytes())
    data[-30] ^= 1
    (tmp_path / SHARD).write_bytes(data)
    with pytest.raises(JaxvidError, match="record 0 is corrupt; fetch it again"):
        next(shards.scan(tmp_path / SHARD, 0))


def test_a_checksum_may_be_computed_in_pieces():
    data = np.random.default_rng(0).bytes(10_000)
    for cut in (0, 1, 3, 255, 256, 300, 5000, 9999, 10_000):
        assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_more_records_than_anyone_has_are_refused_by_their_heads(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_RECORDS", 3)
    write_shard(tmp_path, *[({LABEL: 0}, [b"not even looked at"])] * 4)
    with pytest.raises(JaxvidError, match="more than 3 records of 'train'"):
        records.Records(tmp_path, "train")


def test_more_frames_than_a_video_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_FRAMES", 5)
    write_shard(tmp_path, ({LABEL: 0}, [picture()] * 6))
    with pytest.raises(JaxvidError, match="record 0: it has more than 5 frames"):
        records.Records(tmp_path, "train")


def test_more_labels_than_classes_are_refused(tmp_path):
    write_shard(tmp_path, ({LABEL: 0}, [picture()]), ({LABEL: [1, 0, 1]}, [picture()]))
    with pytest.raises(JaxvidError, match="record 1 .* has 3 labels, more than there are classes"):
        read_all(tmp_path)


def test_the_first_frame_tells_the_size_and_the_others_must_have_it(tmp_path):
    odd = picture(20, 24)
    context = {LABEL: 0, "image/height": 480, "image/width": 640}
    write_shard(tmp_path, (context, [picture(), odd, resized(picture(), 60_000, 60_000)]))
    split = records.Records(tmp_path, "train")
    assert (split.height[0], split.width[0]) == (32, 32)
    assert split.frames(0, [0]) == [picture()]
    with pytest.raises(JaxvidError, match="frame 1 is 24x20, not 32x32: leave the record out"):
        split.frames(0, [1])
    with pytest.raises(JaxvidError, match="frame 2 is 60000x60000"):
        split.frames(0, [2])


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e9, float("inf"), float("nan")])
def test_a_rate_that_no_camera_has_tells_nothing(tmp_path, rate):
    write_shard(tmp_path, ({LABEL: 0, sequence_example.FRAME_RATE: rate}, [picture()]))
    assert np.isnan(records.Records(tmp_path, "train").fps[0])
    path = tmp_path / "train.index.npz"
    with np.load(path) as file:
        np.savez(path, **(dict(file) | {"fps": np.array([rate], np.float32)}))
    assert np.isnan(records.Records(tmp_path, "train").fps[0])


def test_one_long_path_costs_no_more_than_itself(tmp_path):
    write_shard(tmp_path, ({NAME: b"p" * 4096}, [picture()]), *[({NAME: b"a"}, [picture()])] * 400)
    for _ in range(2):
        split = records.Records(tmp_path, "train")
        assert split.path.tolist() == ["p" * 4096] + ["a"] * 400
    assert (tmp_path / "train.index.npz").stat().st_size < 80_000


def test_paths_of_any_letters_come_back_from_the_index(tmp_path):
    names = ["", "ä/ö.mp4", "b\udcff.mp4", "😀", "a b"]
    entries = []
    with open(tmp_path / SHARD, "wb") as file:
        for name in names:
            entries.append(
                shards.append(
                    file, [picture()], shard=0, labels=[0], texts=["a"], path=name, fps=25
                )
            )
    index.write(tmp_path, "train", [SHARD], entries)
    assert records.Records(tmp_path, "train").path.tolist() == [e.path for e in entries]


# ---- the index


def test_an_index_from_before_paths_were_joined_is_read(tmp_path):
    write_split(tmp_path)
    before = records.Records(tmp_path, "train").path.tolist()
    with np.load(tmp_path / "train.index.npz") as file:
        arrays = {name: file[name] for name in file if not name.startswith("path")}
    np.savez(tmp_path / "train.index.npz", **arrays, path=np.array(before))
    assert records.Records(tmp_path, "train").path.tolist() == before


def damaged_indices(arrays):
    yield {"path_ends": arrays["path_ends"][::-1]}, "paths do not end where it says"
    yield {"path_ends": arrays["path_ends"] + 1}, "paths do not end where it says"
    yield {"path_ends": arrays["path_ends"][:-1]}, "paths do not end where it says"
    yield {"shards": np.array(["../train-00000-of-00001.tfrecord"])}, "contradicts itself"
    yield {"shards": np.array(["/etc/passwd"])}, "contradicts itself"
    yield {"shards": np.array(["a\0b"])}, "contradicts itself"
    yield {"sizes": np.array([-1])}, "contradicts itself"
    yield {"height": np.full(5, 60_000), "width": np.full(5, 60_000)}, "60000x60000, more than"
    yield {"height": np.zeros(5, int)}, "are 8x0"
    yield {"width": np.full(5, 2**40)}, "numbers that int32 does not hold"
    yield {"offset": arrays["offset"] * 1.0}, "float64 where int64 is expected"
    yield {"fps": np.array(["x"] * 5)}, "where float32 is expected"
    yield {"version": np.array([1, 1])}, "another version"
    yield {"num_frames": np.full(5, 2**31 - 1)}, "does not belong to"
    yield {"label": np.zeros((5, 2), int)}, "contradicts itself"


def test_an_index_that_lies_is_refused(tmp_path):
    write_split(tmp_path, shards=1)
    path = tmp_path / "train.index.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for change, words in damaged_indices(arrays):
        np.savez(path, **(arrays | change))
        with pytest.raises(JaxvidError, match=words):
            records.Records(tmp_path, "train")
    for name in arrays.keys() - {"more_labels", "flow"}:
        np.savez(path, **{key: array for key, array in arrays.items() if key != name})
        with pytest.raises(JaxvidError, match="has no|cannot be read"):
            records.Records(tmp_path, "train")


def test_an_index_that_inflates_is_refused_unread(tmp_path):
    write_split(tmp_path, shards=1)
    path = tmp_path / "train.index.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **(arrays | {"offset": np.zeros(20 << 20, np.int64)}))
    with pytest.raises(JaxvidError, match="train.index.npz cannot be read .*more than may be read"):
        records.Records(tmp_path, "train")


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
def test_a_table_of_frames_whose_head_is_damaged_is_refused(tmp_path):
    write_split(tmp_path, shards=1)
    table = tmp_path / "train.frames.npy"
    whole = table.read_bytes()
    for at in range(10, 128):
        for byte in b'\n\\({"\0':
            table.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            with contextlib.suppress(JaxvidError):
                assert len(records.Records(tmp_path, "train")._frames) == 25


def test_a_table_of_frames_that_is_cut_while_it_is_used_is_named(tmp_path):
    frames = write_split(tmp_path, shards=1)
    split = records.Records(tmp_path, "train")
    os.truncate(tmp_path / "train.frames.npy", 200)
    assert split.frames(0, [2]) == [frames[0][2]]
    with pytest.raises(JaxvidError, match="train.frames.npy has been cut short"):
        split.frames(4, [6])


def test_pipes_and_folders_are_never_waited_for(tmp_path):
    write_split(tmp_path, shards=1)
    for name in (SHARD, "train.index.npz", "train.frames.npy"):
        whole = tmp_path / "whole"
        (tmp_path / name).rename(whole)
        for make in (os.mkfifo, os.mkdir):
            make(tmp_path / name)
            with pytest.raises(JaxvidError, match=name):
                records.Records(tmp_path, "train")
            if name == SHARD:  # as shards of others come, without an index
                (tmp_path / "train.index.npz").rename(tmp_path / "index")
                with pytest.raises(JaxvidError, match=f"{name} is no file"):
                    records.Records(tmp_path, "train")
                (tmp_path / "index").rename(tmp_path / "train.index.npz")
            (tmp_path / name).unlink() if make is os.mkfifo else (tmp_path / name).rmdir()
        whole.rename(tmp_path / name)
    records.Records(tmp_path, "train")
