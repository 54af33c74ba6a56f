"""Verifying records: every kind of damage is named, and made again to the same bytes."""

import csv
import shutil

import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, manifest, records, verify
from tests.data import clips


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Videos, of which one cannot be read, their list, and the records made of them."""
    folder = tmp_path_factory.mktemp("videos")
    with open(folder / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for number in range(11):
            name = f"{number}.mp4"
            if number == 4:
                (folder / name).write_bytes(b"no video")
            else:
                clips.encode(folder / name, frames=3 + number)
            writer.writerow([name, "ab"[number % 2]])
    build.build(folder, folder / "train.csv", folder / "records", shards=3, workers=1)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made / "records", tmp_path / "records")
    return tmp_path / "records"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def said(folder):
    return [str(damage) for damage in verify.verify(folder, "train")]


def repair(made, folder, **more):
    words = {"records": folder, "videos": made, "labels": made / "train.csv", "workers": 1} | more
    verify.main([f"--{name}={value}" for name, value in words.items()])


def place_of(folder, number, frame):
    """Where a frame of a record lies in its shard."""
    opened = records.Records(folder, "train")
    _, offset, _ = opened._place(number)
    return offset + int(opened._frames[int(opened._starts[number]) + frame][0])


SHARD = "train-00001-of-00003.tfrecord"


def damage_frames(folder):
    opened = records.Records(folder, "train")
    number = opened.path.tolist().index("7.mp4")
    for frame in (2, 5):
        flip(folder / SHARD, place_of(folder, number, frame) + 30)


def cut(folder):
    with open(folder / SHARD, "r+b") as file:
        file.truncate(file.seek(0, 2) - 100)


DAMAGES = {
    "frames": (damage_frames, SHARD, "record 1 (7.mp4) is damaged: frames 2, 5"),
    "head": (lambda f: flip(f / SHARD, 0), SHARD, "record 0 (1.mp4) is damaged: no frame"),
    "cut": (cut, SHARD, "has "),
    "missing": (lambda f: (f / SHARD).unlink(), SHARD, "is missing"),
    "others": (
        lambda f: shutil.copy(f / "train-00000-of-00003.tfrecord", f / SHARD),
        SHARD,
        "has other bytes than were built",
    ),
    "index": (
        lambda f: flip(f / "train.index.npz", 300),
        "train.index.npz",
        "cannot be read",
    ),
    "no index": (lambda f: (f / "train.index.npz").unlink(), "train.index.npz", "is missing"),
    "table": (
        lambda f: flip(f / "train.frames.npy", 128 + 12 * 5 + 8),
        "train.frames.npy",
        "says otherwise of 1.mp4 than train-00001-of-00003.tfrecord does",
    ),
    "labels": (
        lambda f: (f / "labels.txt").write_text("a\nc\n"),
        "labels.txt",
        "has other bytes than were built",
    ),
    "no labels": (lambda f: (f / "labels.txt").unlink(), "labels.txt", "is missing"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_named_and_made_again(kind, made, copy, capsys):
    whole = content(copy)
    damage, file, expected = DAMAGES[kind]
    damage(copy)
    assert any(line.startswith(f"{file} {expected}") for line in said(copy))
    assert {line.split(" ")[0] for line in said(copy)} == {file}
    untouched = {
        name: (copy / name).stat().st_mtime_ns
        for name in whole
        if name != file and ".npy" not in name
    }
    repair(made, copy)
    assert content(copy) == whole and said(copy) == []
    for name in untouched.keys() - {"train.index.npz"}:
        assert (copy / name).stat().st_mtime_ns == untouched[name]
    assert "train: all of it is whole" in capsys.readouterr().out


def test_records_of_flow_are_made_again_too(made, tmp_path, capsys):
    pytest.importorskip("cv2")
    out = tmp_path / "records"
    build.build(made, made / "train.csv", out, shards=2, workers=1, flow="farneback")
    whole = content(out)
    flip(out / "train.flow-00001-of-00002.tfrecord", 400)
    (damage,) = verify.verify(out, "train.flow")
    assert str(damage).startswith("train.flow-00001-of-00002.tfrecord record 0")
    repair(made, out)
    assert content(out) == whole
    (out / "train.flow.index.npz").unlink()
    repair(made, out)
    assert records.Records(out, "train", "flow").flow == "farneback"


def test_all_is_found_at_once_and_the_exit_code_says_so(copy, capsys):
    damage_frames(copy)
    (copy / "train-00002-of-00003.tfrecord").unlink()
    with pytest.raises(SystemExit, match="1"):
        verify.main([f"--records={copy}"])
    out = capsys.readouterr()
    assert "train: train-00001-of-00003.tfrecord record 1 (7.mp4) is damaged" in out.out
    assert "train: train-00002-of-00003.tfrecord is missing" in out.out
    assert "2 files are damaged" in out.err


def test_records_without_a_manifest_are_read_and_verified(made, copy):
    manifest.remove(copy, "train")
    assert len(records.Records(copy, "train")) == 10 and said(copy) == []
    damage_frames(copy)
    assert said(copy) == [f"{SHARD} record 1 (7.mp4) is damaged: frames 2, 5"]
    with pytest.raises(SystemExit):
        repair(made, copy)
    for name in ("train.index.npz", "train.frames.npy"):
        (copy / name).unlink()
    assert said(copy) == [f"{SHARD} record 1 is corrupt"]
    assert not (copy / "train.index.npz").exists()


def test_other_videos_do_not_take_the_place_of_what_was_built(made, copy, tmp_path, capsys):
    damage_frames(copy)
    before = content(copy)
    shutil.copytree(made, tmp_path / "others")
    clips.encode(tmp_path / "others" / "7.mp4", frames=4)
    with pytest.raises(SystemExit):
        repair(tmp_path / "others", copy)
    assert (
        "stays as it is, as these videos and this list make other bytes" in capsys.readouterr().err
    )
    assert content(copy) == before


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"version": 2}', '{"version": 1, "origin": 1}', "\x00", "[" * 9999]
)
def test_a_manifest_that_is_none_is_named(copy, text):
    (copy / "train.manifest.json").write_text(text)
    with pytest.raises(JaxvidError, match=r"train.manifest.json is damaged \("):
        manifest.read(copy, "train")
    assert [line.split(" ")[0] for line in said(copy)] == ["train.manifest.json"]
