"""What is shown is what training and tests are fed, and the page holds all of it."""

import csv
import dataclasses
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxvid import config as configs
from jaxvid.config import fields
from jaxvid.data import build, datasets, toy
from jaxvid.data.viewing import facts, looks
from jaxvid.objectives import mixing
from tests import handed


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of 8 classes, of which a test clip is one of training in another size."""
    folder = tmp_path_factory.mktemp("mini")
    toy.make(folder, toy.Settings(train=2, test=1, height=48, width=64, frames=(8, 20)))
    with open(folder / "train.csv") as file:
        copied, *_ = csv.DictReader(file)
    with open(folder / "test.csv", "a") as file:
        file.write(f"{copied['path']},{copied['label']}\n")
    build.build(folder / "videos", folder / "train.csv", folder, workers=1)
    build.build(folder / "videos", folder / "test.csv", folder, workers=1, short_side=40)
    return folder, copied["path"]


def make_config(folder, **train):
    c = configs.from_row("tsm_r50_8f", dataset="mini", data_dir=str(folder), runlocal=True)
    c.data.flip = 0.5
    c.train.update({"batch_size": 4, **train})
    return fields.freeze(c)


def test_flow_is_shown_in_colours(tmp_path):
    toy.make(tmp_path, toy.Settings(train=1, test=1, height=48, width=64, frames=(9, 12)))
    for split in ("train", "test"):
        lists = tmp_path / f"{split}.csv"
        build.build(tmp_path / "videos", lists, tmp_path, workers=1, flow="farneback")
    config = configs.from_row(
        "tsn_r50_flow_5x1x3_k400", runlocal=True, dataset="mine", data_dir=str(tmp_path)
    )
    config.data.flow = "farneback"
    config = fields.freeze(config)
    split = datasets.open_split(config.data, "train")
    (look,) = looks.of_training(config, split, 0, 1)
    assert look.pixels.shape[-1] == 10 and look.picture.mode == "RGB"
    (tested,) = looks.of_test(config, split, 1)
    assert tested.pixels.shape[-1] == 10 and tested.picture.mode == "RGB"


def test_clips_are_those_of_the_batches(records):
    config = make_config(records[0])
    split = datasets.open_split(config.data, "train")
    shown = list(looks.of_training(config, split, 3, 6))
    batches = handed.train_batches(split, config, start_step=3)
    fed = [clip for _ in range(2) for clip in next(batches)["video"]]
    batches.close()
    for look, clip in zip(shown, fed[:6], strict=True):
        np.testing.assert_array_equal(look.pixels, clip)
    flipped = [look for look in shown if look.marks == ("flipped",)]
    assert 0 < len(flipped) < 6
    # The last pictures of the row are the clip's frames.
    look = shown[0]
    last = Image.fromarray(look.pixels[-1]).resize((112, 112), Image.LANCZOS)
    tile = look.picture.crop((look.picture.width - 112, 0, look.picture.width, 112))
    np.testing.assert_array_equal(np.asarray(tile), np.asarray(last))
    assert re.search(r"8 frames from \d+ to \d+ of \d+", look.details)


def test_blends_are_those_of_the_step(records):
    config = make_config(records[0], mixup=0.8, cutmix=1.0)
    split = datasets.open_split(config.data, "train")
    shown = list(looks.of_training(config, split, 2, 4))
    batches = handed.train_batches(split, config, start_step=2)
    batch = next(batches)
    batches.close()
    how = mixing.Mixing(0.8, 1.0, config.train.mixup_switch_prob, config.data.repeats)
    key = mixing.key_of(config.seed, 2)
    video, labels = jax.jit(mixing.mix, static_argnums=(0, 4))(
        how, key, batch["video"], batch["label"], 8
    )
    for look, clip, label in zip(shown, np.asarray(video), np.asarray(labels), strict=True):
        np.testing.assert_allclose(look.pixels, clip, atol=0.51)
        if label.max() < 0.99:
            share = f"{100 * label.max():.0f} % {split.classes[label.argmax()]}"
            assert share in look.labels and any(" with " in mark for mark in look.marks)


def test_views_are_those_of_the_test(records):
    config = make_config(records[0])
    many = dataclasses.replace(config.test.sampling, clip_len=4, num_clips=5)
    test = dataclasses.replace(config.test, sampling=many, crops="three", batch_size=3)
    config = dataclasses.replace(config, test=test)
    split = datasets.open_split(config.data, "test")
    shown = list(looks.of_test(config, split, 3))
    fed = {
        int(number): views
        for batch in handed.test_batches(split, config)
        for number, views in zip(batch["index"], batch["video"], strict=True)
    }
    for look, number in zip(shown, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(look.pixels, fed[number])
    assert "5 clips of 4 frames x 3 crops of 64 pixels" in shown[0].details
    assert shown[0].picture.size == (5 * 112 + 4 * 3, 3 * 112 + 2 * 3)


def test_several_labels_are_shown_and_those_of_pretraining_are_not(records):
    config = make_config(records[0], loss="sigmoid")
    split = datasets.open_split(config.data, "train")
    labels, split.source.labels = split.source.labels, [(0, 3)] * len(split)
    (look,) = looks.of_training(config, split, 0, 1)
    assert look.labels == f"{split.classes[0]} | {split.classes[3]}"
    assert facts.class_counts(split).tolist() == [16, 0, 0, 16, 0, 0, 0, 0]
    split.source.labels = labels
    pretrain = dataclasses.replace(config, train=dataclasses.replace(config.train, loss="pixels"))
    (look,) = looks.of_training(pretrain, split, 0, 1)
    assert look.labels == ""


def test_what_may_go_wrong_is_said(records):
    folder, _ = records
    config = make_config(folder)
    splits = {name: datasets.open_split(config.data, name) for name in ("train", "test")}
    said = " ".join(facts.warnings(config, splits))
    assert "Classes are called left or right" in said  # those of the toy are, and flip is on
    data = dataclasses.replace(
        config.data, flip=0.0, sampling=dataclasses.replace(config.data.sampling, clip_len=19)
    )
    config = dataclasses.replace(config, data=data)
    few = dataclasses.replace(splits["train"])
    labels = list(few.source.labels)
    few.source.labels = [(0,)] * 9 + [(1,), (2,)] + [(3,)] * (len(labels) - 11)
    said = " ".join(facts.warnings(config, {"train": few, "test": splits["test"]}))
    few.source.labels = labels
    assert "called left" not in said
    assert re.search(r"\d of 16 videos of train are shorter than the 19 frames", said)
    assert (
        f"{few.classes[0]} has 9 videos in train, {few.classes[1]} 1: config.data.balance" in said
    )
    assert "train has no video of" in said


def test_the_command_writes_one_page_that_needs_nothing(records, tmp_path):
    folder, copied = records
    command = [sys.executable, "-m", "jaxvid.data.view", f"--out={tmp_path}", "--clips=3"]
    command += [f"--config=configs/tsm_r50.py:dataset=mini,data_dir={folder},runlocal"]
    done = subprocess.run(
        [*command, "--config.data.balance=0.5"], capture_output=True, text=True, check=True
    )
    assert "1 near copies between train and test" in done.stdout
    with open(tmp_path / "copies.csv") as file:
        (line,) = csv.DictReader(file)
    assert line["path"] == line["other_path"] == copied
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "$" not in page
    assert page.count('class="look"') == 3 + 3 + 1
    names = {"classes", "frames", "seconds", "rates", "sizes", "train", "test", "copies"}
    assert {path.stem for path in tmp_path.glob("*.png")} == names
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 300 and picture.getextrema()[0][0] < 128
