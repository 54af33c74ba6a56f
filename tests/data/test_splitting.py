"""One list parted into several: what must stay together, and how near shares come."""

import csv
import random

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, records, splitting, toy


def write(path, rows, header="path,label,group"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def people(count=20, clips=400, classes=5):
    """Clips of people who made many or few, of few classes each."""
    rng = random.Random(0)
    liked = [rng.sample(range(classes), 3) for _ in range(count)]
    made = [int(count * rng.random() ** 2) for _ in range(clips)]
    return [(f"{n}.mp4", f"c{rng.choice(liked[who])}", f"p{who}") for n, who in enumerate(made)]


def counted(lines):
    return {
        name: sum(name in line.labels for line in lines) for line in lines for name in line.labels
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_stay_together_and_shares_are_near(tmp_path, seed):
    rows = people()
    path = write(tmp_path / "all.csv", rows)
    sides, names = splitting.split(path, "group", seed, {"test": 0.25, "val": 0.15})
    assert names == tuple(f"c{n}" for n in range(5))
    assert sorted(line.cells["path"] for side in sides.values() for line in side) == sorted(
        path for path, _, _ in rows
    )
    groups = [{line.group for line in lines} for lines in sides.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    whole = {name: sum(name == row[1] for row in rows) for name in names}
    for side, share in (("train", 0.6), ("test", 0.25), ("val", 0.15)):
        assert len(sides[side]) / len(rows) == pytest.approx(share, abs=0.03)
        for name, count in counted(sides[side]).items():
            assert count / whole[name] == pytest.approx(share, abs=0.1)
    again, _ = splitting.split(path, "group", seed, {"test": 0.25, "val": 0.15})
    assert again == sides
    other, _ = splitting.split(path, "group", seed + 10, {"test": 0.25, "val": 0.15})
    assert other != sides


def test_videos_are_split_within_each_class_and_parts_stay_together(tmp_path):
    rows = [(f"{n // 2}.mp4", "ab"[n % 8 // 6], n) for n in range(160)]
    path = write(tmp_path / "all.csv", rows, "path,label,start")
    # Parts of one video, each with labels of its own, are what lists with `start` are for; that
    # two labels of one path are refused is decided where lists are built.
    sides, _ = splitting.split(path, "video", 0, {"test": 0.2})
    assert counted(sides["test"]) == {"a": 24, "b": 8}
    videos = [{line.cells["path"] for line in lines} for lines in sides.values()]
    assert not videos[0] & videos[1]
    assert set(sides["test"][0].cells) == {"path", "label", "start"}


def test_rare_classes_are_on_both_sides_where_they_can_be(tmp_path, capsys):
    rows = [(f"{n}.mp4", "many", f"p{n % 10}") for n in range(100)]
    rows += [("x.mp4", "rare|many", "p1"), ("y.mp4", "rare", "p2"), ("z.mp4", "once", "p3")]
    sides, names = splitting.split(write(tmp_path / "all.csv", rows), "group", 0, {"test": 0.1})
    found = {side: counted(lines) for side, lines in sides.items()}
    assert found["train"]["rare"] == found["test"]["rare"] == 1
    splitting.show(sides, names, "group")
    assert "has no clip of 1 classes, whose groups are too few: once" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows, header, message",
    [
        ([("a.mp4", "x")], "path,label", "it has no column: name in a column 'group'"),
        ([("a.mp4", "x", "")], "path,label,group", "line 2 has no group"),
        ([("a.mp4", "x", "p"), ("b.mp4", "y", "p")], "path,label,group", "must be two groups"),
        ([("a.mp4", "x", "p"), ("./a.mp4", "x", "q")], "path,label,group", "is of one group"),
        ([("a.mp4",), ("b.mp4",)], "path", "has no column 'label'"),
    ],
)
def test_lists_that_cannot_be_split_are_refused(tmp_path, rows, header, message):
    path = write(tmp_path / "all.csv", rows, header)
    with pytest.raises(JaxvidError, match=message):
        splitting.split(path, "group", 0, {"test": 0.2})


def test_shares_leave_something(tmp_path):
    with pytest.raises(
        JaxvidError, match="--test-share=0.5, --val-share=0.5: shares must be above 0 and leave"
    ):
        splitting.split(tmp_path / "all.csv", "group", 0, {"test": 0.5, "val": 0.5})


def test_one_command_splits_and_builds(tmp_path, capsys):
    toy.make(tmp_path, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    with open(tmp_path / "train.csv") as file:
        rows = [
            (row["path"], row["label"], f"p{n % 4}") for n, row in enumerate(csv.DictReader(file))
        ]
    path = write(tmp_path / "all.csv", rows)
    command = [f"--videos={tmp_path / 'videos'}", f"--labels={path}", f"--out={tmp_path / 'out'}"]
    command += ["--split-by=group", "--test-share=0.25", "--workers=1"]
    build.main(command)
    out = capsys.readouterr().out
    assert "train: 24 clips (75.0 %) of 3 groups" in out and "test: 8 videos" in out
    built = {side: records.Records(tmp_path / "out", side) for side in ("train", "test")}
    assert {side: len(each) for side, each in built.items()} == {"train": 24, "test": 8}
    assert built["train"].classes == built["test"].classes
    assert not set(built["train"].path) & set(built["test"].path)
    with open(tmp_path / "out" / "split.csv") as file:
        counts = list(csv.DictReader(file))
    assert sum(int(line["test_clips"]) for line in counts) == 8
    assert np.array([int(line["test_groups"]) for line in counts]).max() == 1

    build.main(command)
    assert "these records are already built" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        build.main([*command, "--seed=5"])
    assert "lists other clips: add --overwrite" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build.main([*command, "--split=mine"])
    assert "leave one out" in capsys.readouterr().err
