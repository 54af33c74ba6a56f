"""Building records: what is written, refused, left out and said, and what a kill leaves."""

import dataclasses
import errno
import io
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jaxvid.base import csvs
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build as command
from jaxvid.data import decode, index, records, sequence_example, shards
from jaxvid.data.building import build, split, tasks, workers
from jaxvid.data.table import read
from tests.data import clips

LABELS = ("wave", "clap", "wave", "nod", "clap")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> pathlib.Path:
    """Five clips of 3, 4, ... frames, of which 3.mp4 is 80 high."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        size = (80, 112) if number == 3 else (48, 64)
        clips.encode(folder / f"{number}.mp4", frames=3 + number, size=size, gop=1)
    return folder


def write_csv(path: pathlib.Path, *lines: str) -> pathlib.Path:
    path.write_text("\n".join(("path,label", *lines)) + "\n")
    return path


@pytest.fixture
def table(tmp_path) -> pathlib.Path:
    lines = (f"{number}.mp4,{label}" for number, label in enumerate(LABELS))
    return write_csv(tmp_path / "train.csv", *lines)


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def content_of_files(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def decoded(split: records.Records, number: int) -> np.ndarray:
    images = split.frames(number, np.arange(split.num_frames[number]))
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])


def test_records_hold_the_videos(videos, table, tmp_path):
    summary = build(videos, table, tmp_path / "out", short_side=60, workers=1)
    assert (summary.num_videos, summary.num_frames, summary.num_shards) == (5, 25, 2)
    assert summary.classes == ("clap", "nod", "wave")
    assert not summary.bad and not summary.damaged and not summary.empty_classes
    split = records.Records(tmp_path / "out", "train")
    assert split.classes == ("clap", "nod", "wave")
    assert split.path.tolist() == [f"{number}.mp4" for number in range(5)]
    assert [split.classes[label] for label in split.label] == list(LABELS)
    assert split.num_frames.tolist() == [3, 4, 5, 6, 7]
    assert split.fps.tolist() == [25] * 5
    assert split.height.tolist() == [48, 48, 48, 60, 48]
    assert split.width.tolist() == [64, 64, 64, 84, 64]
    for number in range(5):
        frames = np.stack(list(decode.read_frames(videos / f"{number}.mp4", short_side=60)))
        error = np.abs(decoded(split, number).astype(int) - frames)
        assert error.mean() < 1 and error.max() < 40  # JPEG rings at the edge of the corner
    files = sorted(path.name for path in (tmp_path / "out").glob("*.tfrecord"))
    assert files == shards.names("train", 2)
    assert not list((tmp_path / "out").glob(".*"))
    # Neighbours in the CSV, often of one class, go to different shards.
    assert "train-00000-of-00002.tfrecord record 1 (2.mp4)" in split.name(2)
    assert "train-00001-of-00002.tfrecord record 1 (3.mp4)" in split.name(3)


def test_colours_are_those_of_the_video(tmp_path):
    orange = (230, 120, 30)
    clips.encode(tmp_path / "0.mp4", frames=3, color=orange)
    frames = np.stack(list(decode.read_frames(tmp_path / "0.mp4", short_side=48)))
    assert np.abs(frames.astype(int) - orange).max() < 12
    build(tmp_path, write_csv(tmp_path / "train.csv", "0.mp4,a"), tmp_path / "out", workers=1)
    stored = decoded(records.Records(tmp_path / "out", "train"), 0)
    assert np.abs(stored.astype(int) - orange).max() < 12


def test_bytes_do_not_depend_on_the_number_of_processes(videos, table, tmp_path):
    for number in (1, 2):
        build(videos, table, tmp_path / str(number), shards=3, workers=number)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    assert "train-00002-of-00003.tfrecord" in content(tmp_path / "1")


def test_chroma_is_kept_whole(videos, table, tmp_path):
    build(videos, table, tmp_path / "out", workers=1)
    image = records.Records(tmp_path / "out", "train").frames(0, [0])[0]
    assert {sampling for *_, sampling in _components(image)} == {0x11}


def _components(jpeg: bytes) -> list[tuple[int, int]]:
    at = jpeg.index(b"\xff\xc0") + 9  # baseline frame header: number of components, then each
    return [(jpeg[at + 1 + 3 * i], jpeg[at + 2 + 3 * i]) for i in range(jpeg[at])]


def test_what_cannot_be_read_is_listed_with_its_reason(videos, table, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in videos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    os.truncate(folder / "1.mp4", 900)
    (folder / "2.mp4").write_text("no video")
    (folder / "3.mp4").unlink()
    lines = table.read_text().splitlines()[1:]
    write_csv(table, *lines, "./0.mp4,wave")
    with pytest.raises(JaxvidError, match=r"4 of the videos cannot be used.*--strict"):
        build(folder, table, tmp_path / "strict", workers=1, strict=True)
    assert not (tmp_path / "strict" / "train.index.npz").exists()
    summary = build(folder, table, tmp_path / "out", workers=1)
    assert summary.num_videos == 2
    listed = (tmp_path / "out" / "bad_videos.csv").read_text()
    assert listed.splitlines()[0] == "split,path,kept,reason"
    for path, reason in {
        "./0.mp4": "repeated in line 7; line 2 was kept",
        "1.mp4": "has no video stream (no stream at all: truncated or damaged)",
        "2.mp4": "cannot be opened as a video",
        "3.mp4": "is not a file",
    }.items():
        assert reason in summary.bad[path]
        assert f"train,{path},no,{reason}" in listed.replace('"', "")
    assert summary.empty_classes == ("nod",)
    assert records.Records(tmp_path / "out", "train").path.tolist() == ["0.mp4", "4.mp4"]
    build(videos, write_csv(tmp_path / "test.csv", "0.mp4,nod"), tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "bad_videos.csv").read_text() == listed  # of another split: kept


def test_a_damaged_video_is_kept_and_said(videos, table, tmp_path, monkeypatch):
    def damaged(path, *how, encode=tasks.encode_video):
        images, info = encode(path, *how)
        return images, dataclasses.replace(info, damaged=2 * (path.name == "4.mp4"))

    monkeypatch.setattr(tasks, "encode_video", damaged)
    summary = build(videos, table, tmp_path / "out", workers=1)
    assert summary.num_videos == 5
    assert summary.damaged == {"4.mp4": "2 damaged or missing packets"}
    listed = (tmp_path / "out" / "bad_videos.csv").read_text()
    assert "train,4.mp4,yes,2 damaged or missing packets" in listed


def test_nothing_readable_builds_nothing(tmp_path):
    table = write_csv(tmp_path / "train.csv", "a.mp4,x", "b.mp4,x")
    with pytest.raises(JaxvidError, match="none of the 2 videos"):
        build(tmp_path, table, tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "train.index.npz").exists()


def test_later_splits_use_the_same_classes(videos, table, tmp_path):
    out = tmp_path / "out"
    build(videos, table, out, workers=1)
    test = write_csv(tmp_path / "test.csv", "0.mp4,wave", "1.mp4,nod")
    summary = build(videos, test, out, workers=1)
    assert records.Records(out, "test").label.tolist() == [2, 1]
    assert summary.empty_classes == ("clap",)
    write_csv(tmp_path / "more.csv", "0.mp4,wave", "1.mp4,jump")
    with pytest.raises(JaxvidError, match="more.csv line 3: the label 'jump' .* --classes=FILE"):
        build(videos, tmp_path / "more.csv", out, workers=1)
    names = tmp_path / "names.txt"
    names.write_text("wave\nclap\nnod\n")
    with pytest.raises(JaxvidError, match="differs from .*labels.txt"):
        build(videos, test, out, split="other", classes=names, workers=1)
    build(videos, test, tmp_path / "given", classes=names, workers=1)
    assert records.Records(tmp_path / "given", "test").label.tolist() == [0, 2]


def test_labels_may_be_numbers(videos, tmp_path):
    table = write_csv(tmp_path / "train.csv", "0.mp4,10", "1.mp4,2")
    summary = build(videos, table, tmp_path / "out", workers=1)
    assert records.Records(tmp_path / "out", "train").label.tolist() == [10, 2]
    assert summary.classes == tuple(str(number) for number in range(11))
    names = tmp_path / "names.txt"
    names.write_text("zero\none\ntwo\n")
    with pytest.raises(JaxvidError, match="line 2: the label '10' is not one of the 3"):
        build(videos, table, tmp_path / "named", classes=names, workers=1)
    write_csv(table, "0.mp4,1", "1.mp4,2")
    build(videos, table, tmp_path / "named", classes=names, workers=1)
    assert records.Records(tmp_path / "named", "train").label.tolist() == [1, 2]


def test_a_video_may_have_several_labels(videos, tmp_path):
    out = tmp_path / "out"
    table = write_csv(tmp_path / "train.csv", "0.mp4,wave|nod", "1.mp4,clap", "2.mp4,nod | wave")
    summary = build(videos, table, out, shards=1, workers=1)
    assert summary.classes == ("clap", "nod", "wave") and not summary.empty_classes
    split = records.Records(out, "train")
    assert split.labels == [(2, 1), (0,), (1, 2)] and split.label.tolist() == [2, 0, 1]
    context = sequence_example.decode(split.read(0)).context
    assert context["clip/label/index"] == [2, 1]
    assert context["clip/label/text"] == [b"wave", b"nod"]
    (out / "train.index.npz").unlink()  # as records of others come
    assert records.Records(out, "train").labels == split.labels
    write_csv(table, "0.mp4,2|0|2", "1.mp4,1")
    build(videos, table, tmp_path / "numbers", workers=1)
    assert records.Records(tmp_path / "numbers", "train").labels == [(2, 0), (1,)]
    write_csv(table, "0.mp4,wave|", "1.mp4,clap")
    with pytest.raises(JaxvidError, match="line 2: 'wave.' has an empty label beside a bar"):
        build(videos, table, tmp_path / "wrong", workers=1)


def test_a_bar_may_be_part_of_a_class_name(videos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a|b\na\nb\n")
    table = write_csv(tmp_path / "train.csv", "0.mp4,a|b", "1.mp4,b|a")
    build(videos, table, tmp_path / "out", classes=names, workers=1)
    assert records.Records(tmp_path / "out", "train").labels == [(0,), (2, 1)]


def test_a_list_of_paths_alone_gives_videos_without_labels(videos, tmp_path):
    table = tmp_path / "train.csv"
    table.write_text("path\n0.mp4\n1.mp4\n")
    build(videos, table, tmp_path / "out", workers=1)
    built = records.Records(tmp_path / "out", "train")
    assert built.labels == [(), ()] and built.classes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column path and no column label"),
        ("path,class\n0.mp4,wave\n", "has no column label"),
        ("0.mp4,wave\n1.mp4,clap\n", "header path,label"),
        ("path,label\n", "lists no video"),
        ("path,label\n0.mp4,wave\n1.mp4\n", "line 3 has no label: it has 1 cell, the header 2"),
        ("path,label\n,wave\n", "line 2 has no path"),
        ("path,label\n0.mp4,wave\n./0.mp4,clap\n", "lines 2 and 3 label ./0.mp4 both"),
        ("path,label\n0.mp4,99999999\n", "too large for a class"),
        ('path,label\n"0.mp4,wave\n', "not a CSV"),
        ("path,label\n0.mp4,caf\xe9\n", "not a CSV in UTF-8 .line 2"),
    ],
)
def test_a_wrong_table_is_refused(videos, tmp_path, content, message):
    table = tmp_path / "train.csv"
    table.write_bytes(content.encode("latin1"))
    with pytest.raises(JaxvidError, match=message):
        build(videos, table, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_blank_lines_and_other_columns_are_fine(videos, tmp_path):
    table = tmp_path / "train.csv"
    table.write_text("﻿Label, path ,fold\nwave,0.mp4,1\n\nclap,1.mp4,2\n", encoding="utf-8")
    rows = read(table)
    assert [(row.line, row.path, row.label) for row in rows] == [
        (2, "0.mp4", "wave"),
        (4, "1.mp4", "clap"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "a/b"}, "--split=a/b"),
        ({"shards": 0}, "--shards=0"),
        ({"quality": 101}, "--quality=101"),
        ({"short_side": 2}, "--short-side=2"),
        ({"classes": "missing.txt"}, "missing.txt is not a file"),
    ],
)
def test_a_wrong_option_is_refused(videos, table, tmp_path, options, message):
    with pytest.raises(JaxvidError, match=message):
        build(videos, table, tmp_path / "out", **{"workers": 1, **options})


def test_existing_records_are_replaced_only_on_request(videos, table, tmp_path):
    out = tmp_path / "out"
    build(videos, table, out, shards=3, workers=1)
    with pytest.raises(JaxvidError, match="already holds other records of 'train'; add --over"):
        build(videos, table, out, workers=1)
    build(videos, table, out, shards=2, quality=50, workers=1, overwrite=True)
    assert sorted(p.name for p in out.glob("*.tfrecord")) == shards.names("train", 2)
    assert len(records.Records(out, "train").read(4)) > 0


def test_the_same_build_again_is_done_already(videos, table, tmp_path, monkeypatch):
    def removed(path, **options):
        raise KeyboardInterrupt

    write_csv(table, *table.read_text().splitlines()[1:], "none.mp4,nod")
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", removed)  # the last step
        build(videos, table, out, workers=1)
    before = content_of_files(out)
    monkeypatch.setattr(tasks, "encode_video", None)
    summary = build(videos, table, out, workers=1)
    assert content(out) == before
    assert (summary.num_videos, summary.num_frames) == (5, 25)
    assert summary.bad == {"none.mp4": "is not a file"}
    with pytest.raises(JaxvidError, match="1 of the videos cannot be used"):
        build(videos, table, out, workers=1, strict=True)


def test_a_killed_build_looks_unfinished_and_goes_on(videos, table, tmp_path, monkeypatch):
    build(videos, table, tmp_path / "whole", shards=5, workers=1)
    seen = []

    def killed(path, *how, encode=tasks.encode_video):
        seen.append(path.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return encode(path, *how)

    monkeypatch.setattr(tasks, "encode_video", killed)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build(videos, table, out, shards=5, workers=1)
    with pytest.raises(JaxvidError, match="no train-"):
        records.Records(out, "train")
    build(videos, table, out, shards=5, workers=1)
    assert seen == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "3.mp4", "4.mp4"]
    assert content(out) == content(tmp_path / "whole")


def test_a_kill_while_publishing_looks_unfinished(videos, table, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    build(videos, table, out, workers=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index, "write", killed)
        build(videos, table, out, quality=50, workers=1, overwrite=True)
    with pytest.raises(JaxvidError, match="was interrupted; run it again"):
        records.Records(out, "train")
    build(videos, table, out, quality=50, workers=1)
    build(videos, table, tmp_path / "whole", quality=50, workers=1)
    assert content(out) == content(tmp_path / "whole")


def test_other_settings_begin_anew(videos, table, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(split, "_publish", killed)
        build(videos, table, out, workers=1)
    build(videos, table, out, quality=50, workers=1)
    build(videos, table, tmp_path / "whole", quality=50, workers=1)
    assert content(out) == content(tmp_path / "whole")


def test_a_full_disk_is_said_and_survived(videos, table, tmp_path, monkeypatch):
    def full(file, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shards, "append", full)
        with pytest.raises(JaxvidError, match="No space left on device; 0 of 2 shards"):
            build(videos, table, tmp_path / "out", workers=1)
    assert build(videos, table, tmp_path / "out", workers=1).num_videos == 5


def dying_work(pipe, workplace):
    """A worker that dies at 2.mp4, as one does whose decoder writes where it must not."""

    def encode(path, *how, encode=tasks.encode_video):
        if path.name == "2.mp4":
            os._exit(11)
        return encode(path, *how)

    tasks.encode_video = encode
    work(pipe, workplace)


work = workers._work


def test_a_video_that_kills_its_process_is_left_out(videos, table, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_work", dying_work)
    summary = build(videos, table, tmp_path / "out", shards=2, workers=2)
    assert summary.bad == {"2.mp4": "the process that decoded it died with exit code 11"}
    assert summary.num_videos == 4


def test_the_command_says_errors_in_one_line(videos, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([f"--videos={videos}", "--labels=none.csv", f"--out={tmp_path / 'out'}"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("error: none.csv is not a file")


def test_workers_do_not_import_tensorflow():
    import subprocess

    code = "import sys, jaxvid.data.build; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_and_paths_come_back_as_they_were(videos, tmp_path, capsys):
    """Every class and file that may be called so is found again under that name."""
    names = ("_x", "$1 to $2", "=1+1", "so, it falls", "Größe 走る", "-w")
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.mp4").write_bytes((videos / "0.mp4").read_bytes())
    (folder / "=bad.mp4").write_text("no video")
    csv_file = tmp_path / "train.csv"
    csvs.write(csv_file, ["path", "label"], [])
    with open(csv_file, "a", encoding="utf-8") as file:
        file.writelines(f'"{name}.mp4","{name}"\n' for name in names)
        file.write("=bad.mp4,_x\n" + "x" * 300 + ".mp4,_x\n")
    summary = build(folder, csv_file, out, workers=1)
    split = records.Records(out, "train")
    assert split.classes == tuple(sorted(names)) == summary.classes
    assert split.path.tolist() == [f"{name}.mp4" for name in names]
    assert [split.classes[label] for label in split.label] == list(names)
    assert list(summary.bad) == ["=bad.mp4", "x" * 300 + ".mp4"]
    assert "\r\ntrain,'=bad.mp4,no," in (out / "bad_videos.csv").read_bytes().decode()
    # The class list may be given, with what Notepad puts before it.
    (tmp_path / "bom.txt").write_text("\ufeff" + "\r\n".join(names), encoding="utf-8")
    build(folder, csv_file, tmp_path / "given", classes=tmp_path / "bom.txt", workers=1)
    assert records.Records(tmp_path / "given", "train").classes == names


def test_a_label_of_several_lines_builds_nothing(videos, tmp_path):
    table = write_csv(tmp_path / "train.csv", "0.mp4,a\u2028b", "1.mp4,zebra")
    with pytest.raises(JaxvidError, match=r"train.csv line 2: .*'a\\u2028b' holds a line break"):
        build(videos, table, tmp_path / "out", workers=1)
    write_csv(table, "0.mp4,a", "1.mp4,zebra")
    (tmp_path / "names.txt").write_text("a\nb\u2028c\nzebra\n", encoding="utf-8")
    with pytest.raises(JaxvidError, match=r"names.txt line 2: .*'b\\u2028c' holds a line break"):
        build(videos, table, tmp_path / "out", classes=tmp_path / "names.txt", workers=1)
    build(videos, table, tmp_path / "out", workers=1)
    (tmp_path / "out" / "labels.txt").write_text("a\u2028b\nzebra\n", encoding="utf-8")
    with pytest.raises(JaxvidError, match=r"labels.txt line 1: .*'a\\u2028b' holds a line break"):
        records.Records(tmp_path / "out", "train")


def test_a_file_is_found_in_the_other_normal_form(videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "Gro\u0308\u00dfe.mp4").write_bytes((videos / "0.mp4").read_bytes())
    table = write_csv(tmp_path / "train.csv", "Gr\u00f6\u00dfe.mp4,wave")
    assert build(folder, table, tmp_path / "out", workers=1).num_videos == 1
    assert records.Records(tmp_path / "out", "train").path.tolist() == ["Gr\u00f6\u00dfe.mp4"]
    assert "another Unicode form, and were found: 1" in capsys.readouterr().err
