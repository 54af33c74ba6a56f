"""Labels of categories that videos may not be annotated for: lists, records, batches, parts."""

import pathlib

import numpy as np
import pytest

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, categories, datasets, index, records, table
from jaxvid.rows import UNKNOWN
from tests import handed
from tests.data import clips
from tests.data.test_files import open_files
from tests.data.test_pipeline import make_config, take

CLASSES = ("run", "wave", "beach", "forest", "street")
KINDS = ("action", "action", "scene", "scene", "scene")
ROWS = (
    ("0.mp4", "wave|beach", "action|scene"),
    ("1.mp4", "run", "action"),
    ("2.mp4", "forest|street", "scene"),
    ("3.mp4", "wave|forest", ""),
)
SEEN = [(1, 2), (0,), (3, 4), (1, 3)]
LABELS = [[0, 1, 1, 0, 0], [1, 0, 2, 2, 2], [2, 2, 0, 1, 1], [0, 1, 0, 1, 0]]


def write(folder, name="train", rows=ROWS):
    lines = [",".join(row) for row in rows]
    (folder / f"{name}.csv").write_text("\n".join(["path,label,annotated", *lines]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        clips.encode(folder / f"{number}.mp4", 8)
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    (folder / "categories.txt").write_text("\n".join(KINDS))
    write(folder)
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    for name in ("labels.txt", "categories.txt"):
        (out / name).write_bytes((folder / name).read_bytes())
    build.build(folder, folder / "train.csv", out, workers=1, shards=2)
    return out


def open_records(out, category=""):
    config = make_config()
    config.data.update({"dataset": "mine", "data_dir": str(out), "category": category})
    return datasets.open_split(config.data, "train")


def test_batches_say_what_is_not_known(folder, built):
    config = make_config()
    config.train.loss = "sigmoid"
    for split in (open_files(folder), open_records(built)):
        assert split.classes == CLASSES and split.categories == KINDS
        assert split.source.labels == SEEN
        (batch,) = take(handed.train_batches(split, config), 1)
        assert batch["label"].dtype == np.uint8
        np.testing.assert_array_equal(batch["label"], np.array(LABELS)[batch["index"]])
        (batch,) = handed.test_batches(split, config)
        np.testing.assert_array_equal(batch["label"], LABELS)


def test_the_index_is_that_of_the_records_alone(built, tmp_path):
    found = records.Records(built, "train").annotated
    assert found == [("action", "scene"), ("action",), ("scene",), ()]
    for path in built.iterdir():
        if "index" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    # Shard by shard.
    assert records.Records(tmp_path, "train").annotated == [found[n] for n in (0, 2, 1, 3)]


def test_an_index_that_names_other_categories_is_refused(built, tmp_path):
    with np.load(built / "train.index.npz") as file:
        arrays = dict(file)
    for change in ({"annotated": arrays["annotated"] + 4}, {"annotated": np.zeros(3, int)},
                   {"categories": np.zeros(2)}):  # fmt: skip
        for path in built.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        np.savez(tmp_path / "train.index.npz", **arrays | change)
        with pytest.raises(JaxvidError, match="its categories are not those of its records"):
            index.load(tmp_path, "train")


def test_one_category_is_a_dataset_of_its_own(folder, built, capsys):
    splits = open_records(built, "scene"), open_files(folder, category="scene")
    assert capsys.readouterr().out.count("1 of 4 videos are not annotated for scene") == 2
    for split in splits:
        assert split.classes == ("beach", "forest", "street") and split.categories == ()
        assert split.paths == ["0.mp4", "2.mp4", "3.mp4"]
        assert split.source.labels == [(0,), (1, 2), (1,)]
        config = make_config()
        config.train.loss = "sigmoid"
        (batch,) = handed.test_batches(split, config)
        np.testing.assert_array_equal(batch["label"][:3], [[1, 0, 0], [0, 1, 1], [0, 1, 0]])
        frames = split.source.frames(1, np.array([2]))
        whole = open_records(built).source if split.source.encoded else open_files(folder).source
        np.testing.assert_array_equal(frames, whole.frames(2, np.array([2])))
    with pytest.raises(JaxvidError, match="'smell' is no category of .*: it has action, scene"):
        open_records(built, "smell")


def test_hvu_is_known_by_its_classes(folder, tmp_path):
    names = [
        name for kind in categories.HVU for name in text.read_names(pathlib.Path(f"hvu_{kind}"))
    ]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    write(tmp_path, "train", [("0.mp4", "abseiling|abdomen", "action|object")])
    build.build(folder, tmp_path / "train.csv", tmp_path, workers=1)
    split = open_records(tmp_path)
    assert len(split.classes) == 3142 and set(split.categories) == set(categories.HVU)
    known = categories.known(split.categories, split.annotated[0])
    assert known.sum() == 739 + 1678 and UNKNOWN not in known


@pytest.mark.parametrize(
    ("row", "lines", "said"),
    [
        (("0.mp4", "wave", "smell"), KINDS, "line 2: 'smell' is none of the categories action, sc"),
        (("0.mp4", "wave|beach", "scene"), KINDS, "'wave' is of the category action, which is not"),
        (("0.mp4", "wave", "action||"), KINDS, "line 2 is empty: write a category there"),
        (("0.mp4", "wave", "action"), KINDS[:2], "categories.txt has 2 lines for 5 classes"),
        (("0.mp4", "wave", "action"), (), "says what was annotated, but .*categories.txt is miss"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, row, lines, said):
    write(tmp_path, "train", [row])
    if lines:
        (tmp_path / "categories.txt").write_text("\n".join(lines))
    with pytest.raises(JaxvidError, match=said):
        rows = table.read(tmp_path / "train.csv")
        _, numbers = table.number_labels(rows, CLASSES, tmp_path / "train.csv", "")
        categories.of_rows(rows, numbers, CLASSES, tmp_path, tmp_path / "train.csv")
