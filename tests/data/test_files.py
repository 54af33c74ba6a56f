"""Training straight from video files: the same as from records of them, and what is refused."""

import io
import itertools
import json
import os

import ml_collections
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import augment, build, datasets, decode, files, pipeline, sampling
from jaxvid.rows import Sampling
from tests import handed
from tests.data import clips
from tests.data.test_pipeline import EVERYTHING, assert_same, joined_parts, make_config, take

LENGTHS = (12, 3, 15, 9, 20, 6)
SIZES = ((48, 64), (64, 48), (400, 420))
LABELS = ("wave", "clap", "nod")


def write_list(path, count=6, more=()):
    lines = [f"{number}.mp4,{LABELS[number % 3]}" for number in range(count)]
    path.write_text("\n".join(["path,label", *lines, *more]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six clips of odd lengths and shapes, one of them larger than records are, and lists."""
    folder = tmp_path_factory.mktemp("clips")
    for number, frames in enumerate(LENGTHS):
        size = SIZES[2 if number == 1 else number % 2]
        clips.encode(folder / f"{number}.mp4", frames=frames, size=size)
    write_list(folder / "train.csv")
    write_list(folder / "test.csv", count=4)
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    """The same clips in a folder that a test may damage, not probed yet."""
    for path in folder.iterdir():
        if path.suffix != ".probed":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def open_files(folder, split="train", **data):
    base = {"dataset": "files", "data_dir": str(folder), "flow": "", "category": "", "mixture": ()}
    base |= {"max_bad_records": 0, "workers": 2, "train_split": "train", "test_split": "test"}
    return datasets.open_split(ml_collections.ConfigDict(base | data), split)


@pytest.fixture(scope="module")
def split(folder):
    return open_files(folder)


@pytest.fixture(scope="module")
def records(folder, tmp_path_factory):
    """Records of the same clips."""
    out = tmp_path_factory.mktemp("records")
    build.build(folder, folder / "train.csv", out, workers=1)
    data = ml_collections.ConfigDict(
        {"dataset": "mine", "data_dir": str(out), "flow": "", "category": "", "mixture": ()}
    )
    return datasets.open_split(data, "train")


def test_files_are_what_their_records_are(split, records):
    assert split.classes == records.classes == ("clap", "nod", "wave")
    assert split.paths == records.paths and split.source.labels == records.source.labels
    assert split.short_side == records.short_side == 320
    for name in ("num_frames", "fps", "height", "width"):
        np.testing.assert_array_equal(getattr(split.source, name), getattr(records.source, name))


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_batches_are_those_of_records_but_for_the_noise_of_jpegs(split, records, changes):
    config = make_config(**changes)
    ours = take(handed.train_batches(split, config), 4)
    theirs = take(handed.train_batches(records, config), 4)
    for one, other in zip(ours, theirs, strict=True):
        assert one["video"].shape == other["video"].shape
        np.testing.assert_array_equal(one["index"], other["index"])
        np.testing.assert_array_equal(one["label"], other["label"])
        difference = np.abs(one["video"].astype(int) - other["video"])
        # RandAugment may turn a small difference into a large one, as posterizing does.
        assert difference.mean() < (6 if changes else 1)


def test_views_are_those_of_records_but_for_the_noise_of_jpegs(split, records):
    ours = list(handed.test_batches(split, make_config()))
    theirs = list(handed.test_batches(records, make_config()))
    for one, other in zip(ours, theirs, strict=True):
        for name in ("index", "label", "weight"):
            np.testing.assert_array_equal(one[name], other[name])
        assert np.abs(one["video"].astype(int) - other["video"]).mean() < 1


def test_pixels_are_those_of_the_plan(split, folder):
    config = make_config()
    batches = take(handed.train_batches(split, config), 3)
    augmentation = pipeline.make_augmentation(handed.frozen(config).data)
    for example in range(12):
        step, place = divmod(example, 4)
        number = batches[step]["index"][place]
        assert number == pipeline.epoch_order(1, example // 6, 6)[example % 6]
        rng = pipeline.generator(1, example)
        frames = np.stack(list(decode.read_frames(folder / f"{number}.mp4", 320)))
        how = Sampling(clip_len=4, frame_interval=2)
        picked = sampling.sample(how, len(frames), test=False, rng=rng)[0]
        drawn = augment.draw(augmentation, *frames.shape[1:3], rng)
        top, left, height, width = drawn.box
        crop = frames[picked, top : top + height, left : left + width]
        colors = np.float32(drawn.jitter), np.int32(drawn.order)
        want = augment.finish(crop, drawn.flip, *colors, augmentation)
        np.testing.assert_array_equal(batches[step]["video"][place], want)


def test_batches_are_functions_of_seed_and_step(split):
    config = make_config(**EVERYTHING)
    whole = take(handed.train_batches(split, config), 4)
    assert_same(whole[2:], take(handed.train_batches(split, config, start_step=2), 2))
    assert_same(whole, joined_parts(split, config, 2, 4))
    config.data.workers = 1
    assert_same(whole, take(handed.train_batches(split, config), 4))


def damage(folder):
    """A text in place of a clip, and one that is gone."""
    (folder / "2.mp4").write_text("no video")
    (folder / "4.mp4").unlink()


def test_bad_files_are_counted_named_and_replaced(copied, capfd):
    good = take(handed.train_batches(open_files(copied), make_config()), 4)
    damage(copied)
    split = open_files(copied, max_bad_records=2)
    said = capfd.readouterr().err
    assert "2.mp4 cannot be opened as a video" in said and "4.mp4 is not a file" in said
    batches = handed.train_batches(split, make_config(max_bad_records=2))
    bad = take(batches, 4)
    assert set(batches.bad) == {2, 4} and "4.mp4 is not a file" in batches.bad[4]
    assert "bad video 2 of at most 2" in capfd.readouterr().err
    for one, other in zip(good, bad, strict=True):
        assert not set(other["index"]) & {2, 4}
        for place in np.flatnonzero(~np.isin(one["index"], [2, 4])):
            assert one["index"][place] == other["index"][place]
            np.testing.assert_array_equal(one["video"][place], other["video"][place])


def test_too_many_bad_files_are_refused(copied):
    damage(copied)
    with pytest.raises(
        JaxvidError, match="2 of the 6 videos .*2.mp4 cannot .*max_bad_records is 1"
    ):
        open_files(copied, max_bad_records=1)
    with pytest.raises(JaxvidError, match="1 of the 4 videos .*remove them from the list$"):
        open_files(copied, "test", max_bad_records=9)
    for number in range(6):
        (copied / f"{number}.mp4").write_text("no video")
    with pytest.raises(JaxvidError, match="no video of .*train.csv can be read: .*0.mp4"):
        open_files(copied, max_bad_records=9)


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_file_that_changes_while_a_run_reads_it(copied, change):
    split = open_files(copied)
    if change == "gone":
        (copied / "3.mp4").unlink()
    else:
        (copied / "3.mp4").write_bytes((copied / "0.mp4").read_bytes())
    words = (
        "is not a file" if change == "gone" else "has changed since .* delete .*train.csv.probed"
    )
    with pytest.raises(JaxvidError, match=f"3.mp4 {words}"):
        take(handed.train_batches(split, make_config()), 2)
    with pytest.raises(JaxvidError, match=f"3.mp4 {words}"):
        list(handed.test_batches(split, make_config()))
    batches = handed.train_batches(split, make_config(max_bad_records=1))
    take(batches, 3)
    assert list(batches.bad) == [3]


def probed(monkeypatch, folder, **data):
    """Opens the files; returns those that were decoded for it."""
    seen = []

    def probe(path, window, probe=files._probe):
        seen.append(path.name)
        return probe(path, window)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_probe", probe)
        split = open_files(folder, **data)
    assert split.source.num_frames.tolist() == list(LENGTHS)
    return sorted(seen)


def test_files_are_probed_once(copied, monkeypatch):
    assert len(probed(monkeypatch, copied)) == 6
    assert probed(monkeypatch, copied) == []
    notes = copied / "train.csv.probed"
    whole = notes.read_bytes()
    os.utime(copied / "5.mp4", (1, 1))
    assert probed(monkeypatch, copied) == ["5.mp4"]
    notes.write_bytes(whole[:-9])  # as a kill leaves it
    assert probed(monkeypatch, copied) == ["5.mp4"]
    assert probed(monkeypatch, copied) == []
    notes.write_bytes(b"what another program wrote\n" + whole)
    assert len(probed(monkeypatch, copied)) == 6


def test_notes_that_cannot_be_are_passed_over(copied, monkeypatch):
    open_files(copied)
    notes = copied / "train.csv.probed"
    lines = notes.read_text().splitlines()
    for old, new in {
        '"num_frames": 12': '"num_frames": -1',
        '"fps": 25.0': '"fps": "a"',
        '"height": 48': '"high": 48',
    }.items():
        assert sum(old in line for line in lines) >= 1
        notes.write_text("\n".join([*(line.replace(old, new) for line in lines), "[]", "7"]))
        assert probed(monkeypatch, copied), new


def test_a_folder_that_cannot_be_written_is_said(copied, monkeypatch, capsys):
    def refuse(path, mode, **options):
        if mode == "ab":
            raise PermissionError(13, "Permission denied")
        return open(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", refuse, raising=False)
        open_files(copied)
    assert "train.csv.probed cannot be written (Permission denied)" in capsys.readouterr().out
    assert not (copied / "train.csv.probed").exists()


def test_a_list_may_lie_anywhere(copied, tmp_path, monkeypatch):
    write_list(tmp_path / "elsewhere.csv", count=2)
    split = open_files(copied, str(tmp_path / "elsewhere.csv"))
    assert split.paths == ["0.mp4", "1.mp4"]
    # Its classes are those of the training list.
    assert split.classes == ("clap", "nod", "wave") and split.source.labels == [(2,), (0,)]
    monkeypatch.chdir(tmp_path)
    assert len(open_files(copied, "elsewhere.csv", train_split="elsewhere.csv").classes) == 2


def test_classes_may_be_listed(copied):
    (copied / "labels.txt").write_text("nod\nwave\nclap\njump\n")
    split = open_files(copied)
    assert split.classes == ("nod", "wave", "clap", "jump")
    assert split.source.labels[:3] == [(1,), (2,), (0,)]
    (copied / "labels.txt").write_bytes(b"\xef\xbb\xbfnod\r\nwave\r\nclap\r\n")
    assert open_files(copied).classes == ("nod", "wave", "clap")
    (copied / "labels.txt").write_text("nod\nwa\u2028ve\nclap\n", encoding="utf-8")
    with pytest.raises(JaxvidError, match="labels.txt line 2: .* holds a line break"):
        open_files(copied)


def test_a_file_is_found_in_the_other_normal_form(copied, capsys):
    os.rename(copied / "0.mp4", copied / "Gro\u0308\u00dfe.mp4")
    (copied / "train.csv").write_text("path,label\nGr\u00f6\u00dfe.mp4,wave\n1.mp4,Wave\n")
    split = open_files(copied)
    assert split.paths == ["Gr\u00f6\u00dfe.mp4", "1.mp4"]
    assert split.source.frames(0, [0, 3]).shape == (2, *SIZES[0], 3)
    said = capsys.readouterr().err
    assert "another Unicode form, and were found: 1" in said
    assert "train.csv: 'Wave' and 'wave' are two classes" in said


def test_what_is_wrong_with_a_list(copied, capsys):
    write_list(copied / "test.csv", more=["x,y.mp4,wave"])
    with pytest.raises(JaxvidError, match="test.csv line 8 has 3 cells, the header 2: quote what"):
        open_files(copied, "test")
    write_list(copied / "test.csv", more=["0.mp4,fly"])
    with pytest.raises(JaxvidError, match="test.csv line 8: the label 'fly' .*labels.txt"):
        open_files(copied, "test")
    with pytest.raises(JaxvidError, match="val.csv is not a file"):
        open_files(copied, "val")
    with pytest.raises(JaxvidError, match="needs data_dir"):
        open_files(copied / "none")
    write_list(copied / "train.csv", more=["./0.mp4,wave"])
    assert len(open_files(copied)) == 6
    assert "./0.mp4 is repeated in line 8" in capsys.readouterr().err


def test_decoding_overlaps(folder, split, monkeypatch):
    """Several files are decoded at the same time."""
    import threading

    together = threading.Barrier(2, timeout=60)

    def frames_at(*arguments, frames_at=decode.frames_at):
        together.wait()
        return frames_at(*arguments)

    monkeypatch.setattr(decode, "frames_at", frames_at)
    batches = handed.train_batches(split, make_config(batch=2))
    for batch in itertools.islice(batches, 2):
        assert batch["video"].any()
    together.abort()
    batches.close()


def test_jpegs_and_pixels_are_told_apart(split, records):
    assert split.source.frames(0, np.array([0, 2])).dtype == np.uint8
    (image,) = records.source.frames(0, np.array([0]))
    from PIL import Image

    difference = np.asarray(Image.open(io.BytesIO(image))).astype(int)
    assert np.abs(difference - split.source.frames(0, np.array([0]))[0]).mean() < 1


def test_notes_of_any_kind_are_passed_over_or_believed(copied, monkeypatch):
    assert len(probed(monkeypatch, copied)) == 6
    notes = copied / "train.csv.probed"
    head, *lines = [line for line in notes.read_text().splitlines() if line]
    first = json.loads(lines[0])
    hostile = [
        "[" * 100_000,
        "9" * 5000,
        '"' + "x" * 200_000 + '"',
        "\0\xff\x85\u2028",
        json.dumps([["list"], 1, 2, "reason"]),
        json.dumps([*first[:3], "a reason\nerror: forged \x1b[2J"]),
        *(
            json.dumps([*first[:3], first[3] | {field: value}])
            for field, value in (("num_frames", True), ("height", 0), ("width", 90_000),
                                 ("fps", 1e9), ("fps", -1.0), ("damaged", -5), ("codec", 7),
                                 ("damaged", None), ("num_frames", 2**40))
        ),
    ]  # fmt: skip
    for line in hostile:
        notes.write_text("\n".join([head, line, *lines[1:]]))
        assert probed(monkeypatch, copied) == [first[0]], line[:80]
    # A million lines of another list take no memory, and a note may be there twice.
    other = json.dumps(["other.mp4", 1, 2, first[3]])
    notes.write_text("\n".join([head, *[other] * 10_000, *lines, *lines]))
    assert probed(monkeypatch, copied) == []
    assert len(files._read_notes(notes, frozenset(map(tuple, [first[:3]])))) == 1


@pytest.mark.parametrize(
    ("make", "what"), [(os.mkfifo, "not a file"), (os.mkdir, "a folder without pictures")]
)
def test_what_is_no_file_is_never_waited_for(copied, monkeypatch, capsys, make, what):
    make(copied / "train.csv.probed")
    assert len(probed(monkeypatch, copied)) == 6
    assert "train.csv.probed cannot be written (it is no file)" in capsys.readouterr().out
    (copied / "5.mp4").unlink()
    make(copied / "5.mp4")
    split = open_files(copied, max_bad_records=1)
    assert f"5.mp4 is {what}" in split.source.bad[5]


def test_a_video_that_changes_while_it_is_used_is_noticed(copied):
    split = open_files(copied)
    number = split.paths.index("0.mp4")
    assert len(split.source.frames(number, np.array([0]))) == 1
    with open(copied / "0.mp4", "ab") as file:
        file.write(b"more")
    with pytest.raises(JaxvidError, match="0.mp4 has changed since it was probed: delete"):
        split.source.frames(number, np.array([0]))
