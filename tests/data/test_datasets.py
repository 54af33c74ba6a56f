"""From a dataset's name to its videos, and what is refused on the way."""

import pathlib

import ml_collections
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import datasets, toy


class Fake:
    """Three videos without pixels."""

    def __init__(self, label=(0, 2, 1), num_frames=(5, 6, 7), classes=("a", "b", "c")):
        self.labels = [each if isinstance(each, tuple) else (each,) for each in label]
        self.num_frames = np.array(num_frames)
        self.path, self.classes = np.array(["x", "y", "z"][: len(label)]), classes

    def __len__(self):
        return len(self.labels)

    def name(self, number):
        return f"video {self.path[number]}"


def test_classes_and_paths():
    split = datasets.check_split(Fake(), "train")
    assert (len(split), split.classes, split.paths) == (3, ("a", "b", "c"), ["x", "y", "z"])
    assert datasets.check_split(Fake(classes=()), "train").classes == ("0", "1", "2")


@pytest.mark.parametrize(
    "source, words",
    [
        (Fake(label=(), num_frames=()), "split 'train' holds no videos"),
        (Fake(label=(0, -1, 1)), "video y has no label"),
        (Fake(label=(0, (), 1)), "video y has no label"),
        (Fake(label=(0, 1, (2, 3))), "video z has label 3, but labels.txt names only 3"),
        (Fake(label=(0, 2**40, 1), classes=()), "video y has label .*at most 100000 classes"),
        (Fake(num_frames=(5, 6, 0)), "video z has no frames"),
        (Fake(classes=("a", "b")), "video y has label 2, but labels.txt names only 2"),
    ],
)
def test_refused(source, words):
    with pytest.raises(JaxvidError, match=words):
        datasets.check_split(source, "train")


def test_videos_need_no_labels_where_nothing_asks_for_them():
    split = datasets.check_split(Fake(label=((), (), ()), classes=()), "train", labelled=False)
    assert len(split) == 3 and split.classes == ()


@pytest.mark.parametrize("inner", [False, True])
def test_where_records_are_looked_for(tmp_path, monkeypatch, inner):
    opened = []

    def records(folder, split):
        opened.append((folder, split))
        return Fake()

    monkeypatch.setattr(datasets, "Records", records)
    folder = tmp_path / "mine"
    if inner:
        folder.mkdir()
    data = ml_collections.ConfigDict(
        {"dataset": "mine", "data_dir": str(tmp_path), "flow": "", "category": "", "mixture": ()}
    )
    datasets.open_split(data, "val")
    assert opened == [(folder if inner else tmp_path, "val")]


def test_toy_is_made_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "ensure", lambda cache, flow: pathlib.Path(cache, "made"))
    monkeypatch.setattr(datasets, "Records", lambda folder, split: Fake(classes=(folder,) * 3))
    data = ml_collections.ConfigDict(
        {"dataset": "toy", "data_dir": str(tmp_path), "flow": "", "category": "", "mixture": ()}
    )
    assert datasets.open_split(data, "test").classes[0] == tmp_path / "made"


def test_a_dataset_needs_its_folder():
    data = ml_collections.ConfigDict(
        {"dataset": "mine", "data_dir": "", "flow": "", "category": "", "mixture": ()}
    )
    with pytest.raises(JaxvidError, match="needs data_dir"):
        datasets.open_split(data, "train")
