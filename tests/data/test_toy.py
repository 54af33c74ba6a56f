"""The toy clips: motion tells the classes apart, single frames do not, and the cache is whole."""

import dataclasses
import math

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import decode, records, toy

TINY = toy.Settings(train=2, test=1, height=48, width=64, frames=(5, 9))


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def watch(clip: np.ndarray) -> str:
    """Names the class of a clip from the pixels that change over three frames: around the disc."""
    height, width = clip.shape[1:3]
    change = np.abs(clip[3:].astype(float) - clip[:-3]).sum(3) > 40
    centre, reach = [], []
    for changed in change:
        ys, xs = np.nonzero(changed)
        y = np.angle(np.exp(2j * np.pi * ys / height).mean()) * height / (2 * np.pi)
        x = np.angle(np.exp(2j * np.pi * xs / width).mean()) * width / (2 * np.pi)
        dy = (ys - y + height / 2) % height - height / 2
        dx = (xs - x + width / 2) % width - width / 2
        centre.append((y, x))
        reach.append(np.hypot(dy, dx).mean())
    y, x = np.array(centre).T
    dy = (y[4:] - y[:-4] + height / 2) % height - height / 2  # the shorter way round the torus
    dx = (x[4:] - x[:-4] + width / 2) % width - width / 2
    if np.median(np.hypot(dy, dx)) < 3:
        return "grow" if np.median(np.diff(reach)) > 0 else "shrink"
    heading = np.unwrap(np.angle(dx + 1j * dy))
    turned = np.polyfit(np.arange(len(heading)), heading, 1)[0]
    if abs(turned) > 0.08:
        return "clockwise" if turned > 0 else "counterclockwise"
    if abs(np.median(dx)) > abs(np.median(dy)):
        return "right" if np.median(dx) > 0 else "left"
    return "down" if np.median(dy) > 0 else "up"


@pytest.mark.parametrize("name", toy.CLASSES)
def test_motion_tells_the_class_also_backwards_and_mirrored(name):
    for copy in range(6):
        clip = toy.draw(name, generator(1, copy))
        assert clip.dtype == np.uint8 and clip.shape[1:] == (80, 96, 3)
        assert 24 <= len(clip) <= 48
        assert watch(clip) == name
        assert watch(clip[::-1]) == toy.REVERSED[name]
        assert watch(clip[:, :, ::-1]) == toy.MIRRORED[name]


def test_place_and_size_in_a_frame_are_the_same_in_every_class():
    count = 800
    for name in toy.CLASSES:
        motions = np.array([toy._motion(name, generator(2, i), 24, 80, 96) for i in range(count)])
        for t in (0, 1, 11, 23):
            y, x, radius = motions[:, :, t].T
            size = np.log(radius / 9) / math.log(21 / 9)
            # Each is uniform: the Kolmogorov-Smirnov distance is small.
            for what, value in (("y", y / 80 % 1), ("x", x / 96 % 1), ("size", size)):
                gap = np.abs(np.sort(value) - (np.arange(count) + 0.5) / count).max()
                assert gap < 2 / math.sqrt(count), (name, what, t)
            # And where the disc is says nothing about its size.
            for place in (y / 80, x / 96):
                together = np.exp(2j * np.pi * (place + size)).mean()
                assert abs(together) < 3.5 / math.sqrt(count), (name, t)


def test_all_classes_draw_the_same_first_frame():
    """From one generator: exactly, but for a circle, whose disc begins elsewhere."""
    first = {name: toy.draw(name, generator(5)) for name in toy.CLASSES}
    assert len({len(clip) for clip in first.values()}) == 1
    for name in ("right", "up", "down", "grow", "shrink"):
        assert np.array_equal(first[name][0], first["left"][0])
    for name in ("clockwise", "counterclockwise"):
        assert np.array_equal(first[name][0], first["clockwise"][0])
        same = (first[name][0] == first["left"][0]).all(2)
        assert 0.5 < same.mean() < 1  # the background
        assert abs(int(first[name][0].max()) - int(first["left"][0].max())) <= 3
        radii = [toy._motion(key, generator(5), 9, 80, 96)[2][0] for key in (name, "left")]
        assert radii[0] == radii[1]


def test_single_frames_do_not_tell_the_class():
    settings = dataclasses.replace(toy.DEFAULT, frames=(8, 8))
    features, motion, labels = [], [], []
    for copy in range(90):
        for label, name in enumerate(toy.CLASSES):
            clip = toy.draw(name, generator(3, label, copy), settings).astype(np.float32) / 255
            small = clip.reshape(8, 8, 10, 8, 12, 3).mean((2, 4))
            frame = clip[7 * (copy % 2)]
            levels = np.sort(frame.reshape(-1, 3), 0)[::256]
            bright = np.sort(frame.max(2).ravel())[::128]
            features.append(np.concatenate([small[7 * (copy % 2)].ravel(), levels.ravel(), bright]))
            motion.append(np.abs(small[-1] - small[0]).sum(2).ravel())
            labels.append(label)
    chance = 1 / len(toy.CLASSES)
    spread = math.sqrt(chance * (1 - chance) / (26 * len(toy.CLASSES)))
    assert abs(accuracy(features, labels) - chance) < 4 * spread
    # The same classifier on how much the picture changes sees what a frame does not show.
    assert accuracy(motion, labels) > chance + 5 * spread


def accuracy(features: list, labels: list) -> float:
    """Ridge regression on squares and products, trained on 64 clips a class, tried on 26."""
    features, labels = np.array(features), np.array(labels)
    features = np.concatenate([features, np.sort(features, 1), features.std(1)[:, None]], 1)
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    kernel = (1 + features @ features.T / features.shape[1]) ** 2
    train = 64 * len(toy.CLASSES)
    solution = np.linalg.solve(
        kernel[:train, :train] + np.eye(train), np.eye(len(toy.CLASSES))[labels[:train]]
    )
    return float((np.argmax(kernel[train:, :train] @ solution, 1) == labels[train:]).mean())


def test_the_same_settings_make_the_same_files(tmp_path):
    found = []
    for number, settings in enumerate((TINY, TINY, dataclasses.replace(TINY, seed=1))):
        toy.make(tmp_path / str(number), settings)
        files = sorted(path for path in (tmp_path / str(number)).rglob("*") if path.is_file())
        found.append({str(p.relative_to(tmp_path / str(number))): p.read_bytes() for p in files})
    assert found[0] == found[1]
    assert found[0].keys() == found[2].keys()
    assert found[0]["videos/test/up_0000.mp4"] != found[2]["videos/test/up_0000.mp4"]
    assert len({found[0][name] for name in found[0]}) == len(found[0])
    clip = list(decode.read_frames(tmp_path / "0" / "videos/train/left_0001.mp4"))
    assert 5 <= len(clip) <= 9 and clip[0].shape == (48, 64, 3)


def test_encoding_keeps_the_picture(tmp_path):
    clip = toy.draw("left", generator(4))
    toy.write_clip(tmp_path / "a.mp4", clip, 25)
    read = np.stack(list(decode.read_frames(tmp_path / "a.mp4")))
    assert read.shape == clip.shape
    assert np.abs(read.astype(int) - clip).mean() < 5
    assert watch(read) == "left"


def test_records_are_made_once(tmp_path, monkeypatch):
    folder = toy.ensure(tmp_path, TINY)
    for name, count in (("train", 2), ("test", 1)):
        split = records.Records(folder, name)
        assert len(split) == count * 8
        assert split.classes == toy.CLASSES
        for path, label in zip(split.path, split.label, strict=True):
            assert path.startswith(f"{name}/{toy.CLASSES[label]}_")
            assert (folder / "videos" / path).is_file()
        assert np.bincount(split.label).tolist() == [count] * 8

    def again(*arguments):
        raise AssertionError("made again")

    monkeypatch.setattr(toy, "make", again)
    assert toy.ensure(tmp_path, TINY) == folder
    with pytest.raises(AssertionError, match="made again"):
        toy.ensure(tmp_path, dataclasses.replace(TINY, seed=1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "home/jaxvid" / folder.name).mkdir(parents=True)
    assert toy.ensure("", TINY) == tmp_path / "home/jaxvid" / folder.name


def test_a_kill_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(toy, "build", killed)
        toy.ensure(tmp_path, TINY)
    assert not list(tmp_path.iterdir())
    assert toy.ensure(tmp_path, TINY).is_dir()


def test_the_slower_of_two_processes_takes_the_other_s(tmp_path, monkeypatch):
    folder = toy.ensure(tmp_path, TINY)
    before = (folder / "train.index.npz").stat().st_mtime_ns
    exists = iter([False])
    real = toy.pathlib.Path.is_dir
    monkeypatch.setattr(
        toy.pathlib.Path, "is_dir", lambda p: next(exists, True) if p == folder else real(p)
    )
    assert toy.ensure(tmp_path, TINY) == folder
    assert (folder / "train.index.npz").stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [folder]


def test_wrong_settings_and_folders_are_refused(tmp_path):
    with pytest.raises(JaxvidError, match="even height and width"):
        toy.make(tmp_path, dataclasses.replace(TINY, height=47))
    (tmp_path / "file").touch()
    with pytest.raises(JaxvidError, match="another data_dir"):
        toy.ensure(tmp_path / "file", TINY)
