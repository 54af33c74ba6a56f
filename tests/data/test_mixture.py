"""Several datasets as one: whose clips come when, and what their classes are."""

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields, from_row
from jaxvid.data import build, datasets, mixture
from jaxvid.data.order import mixed_order
from jaxvid.data.sources import Split
from jaxvid.zoo import classes as known
from tests import handed
from tests.data import clips
from tests.data.test_pipeline import assert_same, joined_parts, make_config, take

WEIGHTS = (("big", 1.0), ("small", 3.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of nine and of three videos, with a class in common."""
    folder = tmp_path_factory.mktemp("mixture")
    for number in range(9):
        clips.encode(folder / f"{number}.mp4", 6, color=(20 * number, 0, 0))
    for name, count, labels in (("big", 9, ("run", "wave")), ("small", 3, ("wave", "sit"))):
        lines = [f"{number}.mp4,{labels[number % 2]}" for number in range(count)]
        for split in ("train", "test"):
            table = folder / f"{split}.csv"
            table.write_text("\n".join(["path,label", *lines]))
            build.build(folder, table, folder / name, workers=1, shards=1)
    return folder


def open_mixture(folder, weights=WEIGHTS, **data):
    config = from_row("tsm_test", dataset="both", data_dir=str(folder))
    config.data.update({"mixture": weights, **data})
    return datasets.open_split(fields.freeze(config).data, "train")


@pytest.fixture(scope="module")
def split(folder):
    return open_mixture(folder)


def test_videos_and_classes_are_those_of_all(split):
    assert split.classes == ("run", "wave", "sit") and len(split) == 12
    assert split.paths[:2] == ["big/0.mp4", "big/1.mp4"] and split.paths[9] == "small/0.mp4"
    assert split.source.labels == [(n % 2,) for n in range(9)] + [(1,), (2,), (1,)]
    assert "small" in split.source.name(10) and "(1.mp4)" in split.source.name(10)
    assert split.source.frames(10, np.arange(6)) == split.source.frames(1, np.arange(6))


def test_each_has_its_share_of_every_epoch_and_its_videos_take_turns():
    shares = ((9, 0.25), (3, 0.75))
    seen = np.concatenate([mixed_order(1, epoch, shares) for epoch in range(9)])
    assert all((seen[12 * epoch :][:12] < 9).sum() == 3 for epoch in range(9))
    # In nine epochs the nine have three turns each, the three 27, and in order of their rounds.
    assert np.bincount(seen).tolist() == [3] * 9 + [27] * 3
    nine = seen[seen < 9]
    assert sorted(nine[:9]) == list(range(9)) and list(nine[:9]) != list(nine[9:18])
    assert not np.array_equal(mixed_order(1, 0, shares), mixed_order(2, 0, shares))


def test_shares_that_do_not_come_out_even_are_rounded():
    for shares in (((5, 0.5), (4, 0.3), (2, 0.2)), ((1, 0.999), (50, 0.001))):
        order = mixed_order(0, 3, shares)
        total = sum(count for count, _ in shares)
        starts = np.cumsum([0, *(count for count, _ in shares)])
        turns = np.histogram(order, starts)[0]
        assert len(order) == total
        assert np.abs(turns - [share * total for _, share in shares]).max() < 1


def test_batches_are_functions_of_seed_and_step(split):
    config = make_config(batch=4)
    whole = take(handed.train_batches(split, config), 6)
    seen = np.concatenate([batch["index"] for batch in whole])
    np.testing.assert_array_equal(seen[:12], mixed_order(1, 0, split.shares))
    for batch in whole:
        assert batch["label"].tolist() == [split.source.labels[n][0] for n in batch["index"]]
    assert_same(whole[4:], take(handed.train_batches(split, config, start_step=4), 2))
    assert_same(whole, joined_parts(split, config, 2, 6))


def test_a_test_has_every_video_once(split):
    config = make_config(batch=4)
    index = np.concatenate([batch["index"] for batch in handed.test_batches(split, config)])
    np.testing.assert_array_equal(index, np.arange(12))


class Named:
    """A source of one video a class, without frames."""

    encoded, channels, remote, categories = True, 3, False, ()

    def __init__(self, names):
        self.classes = tuple(names)
        self.labels = [(number,) for number in range(len(names))]
        self.num_frames = self.height = self.width = np.full(len(names), 8)
        self.fps = np.full(len(names), 25.0)
        self.path = np.array(names, object)

    def __len__(self):
        return len(self.classes)


def test_kinetics_710_has_the_published_classes():
    names = ("k400", "kinetics600", "kinetics700")
    splits = {name: Split(Named(known.labels(name)), tuple(known.labels(name))) for name in names}
    split = mixture.mixed(splits, dict.fromkeys(names, 1.0), "kinetics710")
    assert split.classes == tuple(known.labels("kinetics710")) and len(split) == 1700
    labels = np.array(split.source.labels)[:, 0]
    assert set(labels) == set(range(710))
    own = {name: list(known.labels(name)) for name in names}
    at = own["kinetics700"].index("abseiling")
    assert labels[0] == labels[400 + own["kinetics600"].index("abseiling")] == labels[1000 + at]
    with pytest.raises(JaxvidError, match="kinetics600 has classes that kinetics400 has not"):
        mixture.mixed(splits, dict.fromkeys(names, 1.0), "kinetics400")


def test_what_cannot_be_mixed_is_refused(folder):
    with pytest.raises(JaxvidError, match="names a dataset twice"):
        open_mixture(folder, (("big", 1.0), ("big", 2.0)))
    with pytest.raises(JaxvidError, match="mixture=.* must be a tuple of .name, number above 0"):
        open_mixture(folder, (("big", 0.0),))
    with pytest.raises(JaxvidError, match="big has classes that ucf101 has not .'run'; 'wave'."):
        open_mixture(folder, dataset="ucf101")
