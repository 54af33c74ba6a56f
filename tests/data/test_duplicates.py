"""Near copies: what is re-encoded or resized is found, and what only looks alike is not."""

import io

import numpy as np
from PIL import Image

from jaxvid.base.errors import JaxvidError
from jaxvid.data import duplicates


class Pictures:
    """A source of JPEGs or pixels that are made here."""

    def __init__(self, videos, encoded=True):
        self.encoded, self._videos = encoded, videos
        self.num_frames = [len(video) for video in videos]
        self.height, self.width = ([video.shape[axis] for video in videos] for axis in (1, 2))

    def __len__(self):
        return len(self._videos)

    def name(self, number):
        return f"{number}.mp4"

    def frames(self, number, indices):
        frames = self._videos[number][indices]
        return [jpeg(frame) for frame in frames] if self.encoded else frames


def jpeg(frame, quality=70):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return file.getvalue()


def film(seed, scene=None, frames=30, still=False, contrast=120, blots=3):
    """Blots that move over a scene, uint8 `[T, 96, 128, 3]`."""
    rng = np.random.default_rng(seed)
    scene = rng if scene is None else np.random.default_rng(scene)
    small = Image.fromarray(scene.integers(40, 216, (5, 6, 3), np.uint8))
    behind = np.asarray(small.resize((128, 96), Image.BICUBIC), float)
    y, x = np.mgrid[:96, :128]
    at, speed = rng.uniform((20, 20), (76, 108), (blots, 2)), rng.uniform(-2, 2, (blots, 2))
    shades = rng.choice((-contrast, contrast), blots)
    video = []
    for number in range(frames):
        picture = behind.copy()
        for place, move, shade in zip(at, speed, shades, strict=True):
            top, left = place + move * number * (not still)
            near = np.exp(-((y - top) ** 2 + (x - left) ** 2) / 200)
            picture += shade * near[..., None]
        video.append(np.clip(picture, 0, 255).astype(np.uint8))
    return np.stack(video)


def resized(video, width, height):
    return np.stack([np.asarray(Image.fromarray(each).resize((width, height))) for each in video])


def hashed(*videos, **how):
    found, bad = duplicates.hashes(Pictures(videos, **how), "test")
    assert not bad
    return found


def numbers(pairs):
    return [(pair.one, pair.other) for pair in pairs]


def test_copies_are_found_and_clips_of_the_same_scene_are_not():
    train = hashed(*(film(seed, scene=seed // 4) for seed in range(12)))
    copies = [resized(film(7, scene=1), 200, 160), film(2, scene=0)[::2], film(99, scene=0)]
    test = hashed(*copies, encoded=False)
    found = duplicates.pairs(train, test)
    assert sorted(numbers(found)) == [(2, 1), (7, 0)]
    assert all(pair.bits < 5 for pair in found)
    assert numbers(duplicates.pairs(train)) == []
    twice = hashed(film(1), film(2), resized(film(1), 64, 48))
    assert numbers(duplicates.pairs(twice)) == [(0, 2)]


def test_what_moves_a_little_tells_clips_of_one_scene_apart():
    faint = [film(seed, scene=5, contrast=24, blots=1) for seed in range(6)]
    assert numbers(duplicates.pairs(hashed(*faint))) == []
    copy = resized(faint[3], 160, 120)
    assert numbers(duplicates.pairs(hashed(*faint), hashed(copy))) == [(3, 0)]


def test_still_videos_are_compared_by_what_is_seen():
    still = [film(seed, still=True) for seed in range(4)]
    found = duplicates.pairs(hashed(*still), hashed(resized(still[2], 100, 80), film(2)))
    assert numbers(found) == [(2, 0)]


def test_videos_that_cannot_be_read_are_named_and_like_no_other():
    class Bad(Pictures):
        def frames(self, number, indices):
            if number:
                raise JaxvidError(f"{number}.mp4 is gone")
            return super().frames(number, indices)

    found, bad = duplicates.hashes(Bad([film(0), film(1), film(2)]), "test")
    assert bad == {1: "1.mp4 is gone", 2: "2.mp4 is gone"}
    assert numbers(duplicates.pairs(found)) == []


def test_blocks_do_not_change_what_is_found(monkeypatch):
    one = hashed(*(film(seed) for seed in range(5)))
    other = hashed(*(film(seed) for seed in (3, 8, 1)))
    whole = duplicates.pairs(one, other)
    assert sorted(numbers(whole)) == [(1, 2), (3, 0)]
    monkeypatch.setattr(duplicates, "_BLOCK", 1)
    assert duplicates.pairs(one, other) == whole
