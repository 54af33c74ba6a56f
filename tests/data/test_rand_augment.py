"""RandAugment's operations against Pillow's, its draws against what they promise."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxvid.base.errors import JaxvidError
from jaxvid.data import rand_augment
from jaxvid.data.cpu_tf import tf
from jaxvid.data.rand_augment import KINDS

GRAY = (128, 128, 128)


def pictures(count=3, height=48, width=64, seed=0):
    """Smooth pictures that leave out the darkest and brightest levels, each differently."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(count):
        small = rng.integers(20 + 10 * i, 220 - 15 * i, (6, 8, 3), np.uint8)
        frames.append(np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC)))
    return np.stack(frames)


def apply(frames, *operations, fill=128):
    kinds = np.array([KINDS.index(kind) for kind, _ in operations], np.int32)
    values = np.array([value for _, value in operations], np.float32)
    arrays = map(tf.constant, (frames, kinds, values))
    return rand_augment.apply(*arrays, fill).numpy()


def affine(matrix):
    def change(image):
        return image.transform(image.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=GRAY)

    return change


EXACT = [
    ("equalize", 0.0, ImageOps.equalize),
    ("invert", 0.0, ImageOps.invert),
    ("posterize", 2.0, lambda image: ImageOps.posterize(image, 2)),
    ("posterize", 4.0, lambda image: ImageOps.posterize(image, 4)),
    ("posterize", 0.0, lambda image: Image.new("RGB", image.size)),
    ("solarize", 76.8, lambda image: ImageOps.solarize(image, 77)),
    ("solarize", 256.0, lambda image: image),
]
ROUNDED = [
    ("brightness", 0.37, lambda image: ImageEnhance.Brightness(image).enhance(0.37)),
    ("brightness", 1.63, lambda image: ImageEnhance.Brightness(image).enhance(1.63)),
    ("contrast", 0.4, lambda image: ImageEnhance.Contrast(image).enhance(0.4)),
    ("contrast", 1.9, lambda image: ImageEnhance.Contrast(image).enhance(1.9)),
    ("saturation", 0.1, lambda image: ImageEnhance.Color(image).enhance(0.1)),
    ("saturation", 1.5, lambda image: ImageEnhance.Color(image).enhance(1.5)),
    ("sharpness", 0.2, lambda image: ImageEnhance.Sharpness(image).enhance(0.2)),
    ("sharpness", 1.9, lambda image: ImageEnhance.Sharpness(image).enhance(1.9)),
    ("autocontrast", 0.0, ImageOps.autocontrast),
]
MOVED = [
    ("rotate", 21.0, lambda image: image.rotate(21, Image.BILINEAR, fillcolor=GRAY)),
    ("rotate", -30.0, lambda image: image.rotate(-30, Image.BILINEAR, fillcolor=GRAY)),
    ("shear_x", 0.21, affine((1, 0.21, 0, 0, 1, 0))),
    ("shear_y", -0.3, affine((1, 0, 0, -0.3, 1, 0))),
    ("translate_x", 0.25, affine((1, 0, 16, 0, 1, 0))),
    ("translate_y", -0.31, affine((1, 0, 0, 0, 1, -14.88))),
]


def ids(cases):
    return [f"{kind}({value})" for kind, value, _ in cases]


@pytest.mark.parametrize("kind, value, change", EXACT, ids=ids(EXACT))
def test_operations_on_levels_are_pillows(kind, value, change):
    frames = pictures()
    want = np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames])
    np.testing.assert_array_equal(apply(frames, (kind, value)), want)


@pytest.mark.parametrize("kind, value, change", ROUNDED, ids=ids(ROUNDED))
def test_operations_on_colours_are_pillows_but_for_rounding(kind, value, change):
    frames = pictures()
    want = np.stack([np.asarray(change(Image.fromarray(frame)), int) for frame in frames])
    assert np.abs(apply(frames, (kind, value)) - want).max() <= 2
    assert np.abs(frames - want).mean() > (0.1 if kind == "sharpness" else 3)


@pytest.mark.parametrize("kind, value, change", MOVED, ids=ids(MOVED))
def test_operations_that_move_are_pillows_but_for_the_rim(kind, value, change):
    frames = pictures()
    want = np.stack([np.asarray(change(Image.fromarray(frame)), int) for frame in frames])
    off = np.abs(apply(frames, (kind, value)) - want).max((0, -1))
    assert (off > 2).mean() < 0.06 and np.median(off) <= 1
    assert np.abs(frames - want).mean() > 10
    grey = (want == 128).all((0, -1))
    assert 0.05 < grey.mean() < 0.6


def test_outside_is_grey_and_blends_in():
    frames = np.full((1, 4, 8, 3), 228, np.uint8)
    moved = apply(frames, ("translate_x", 1.5 / 8))[0, :, :, 0]
    np.testing.assert_array_equal(moved, [[228] * 6 + [178, 128]] * 4)


@pytest.mark.parametrize("kind, value", [case[:2] for case in MOVED], ids=ids(MOVED))
def test_outside_is_of_the_colour_asked_for(kind, value):
    grey, black = (apply(pictures(), (kind, value), fill=fill) for fill in (128, 0))
    uncovered = (grey == 128).all((0, -1))
    assert 0.05 < uncovered.mean() < 0.6
    # At the rim the colour is mixed in, elsewhere both are the same.
    assert black[:, uncovered].max() <= 1
    assert (grey != black).any((0, -1)).mean() < uncovered.mean() + 0.06
    flat = np.full((1, 4, 8, 3), 228, np.uint8)
    moved = apply(flat, ("translate_x", 1.5 / 8), fill=0)[0, :, :, 0]
    np.testing.assert_array_equal(moved, [[228] * 6 + [114, 0]] * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_frames_change_alike(kind):
    frame = pictures(1)
    out = apply(np.repeat(frame, 4, 0), (kind, rand_augment.value_of(kind, 9.0, 1.0)))
    np.testing.assert_array_equal(out, np.repeat(out[:1], 4, 0))
    assert (out[0] != frame[0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_small_and_even_pictures_pass(kind, size):
    flat = np.full((2, *size, 3), 90, np.uint8)
    out = apply(flat, (kind, rand_augment.value_of(kind, 7.0, -1.0)))
    assert out.shape == flat.shape
    if kind in ("autocontrast", "equalize", "contrast", "saturation", "sharpness"):
        np.testing.assert_array_equal(out, flat)


def test_operations_follow_one_another():
    frames = pictures()
    both = apply(frames, ("solarize", 100.0), ("posterize", 3.0))
    one_by_one = apply(apply(frames, ("solarize", 100.0)), ("posterize", 3.0))
    np.testing.assert_array_equal(both, one_by_one)
    swapped = apply(frames, ("posterize", 3.0), ("solarize", 100.0))
    assert (both != swapped).any()
    np.testing.assert_array_equal(apply(frames), frames)


@pytest.mark.parametrize(
    "kind, level, sign, value",
    [
        ("brightness", 10, 1, 1.9),
        ("contrast", 10, -1, 0.1),
        ("saturation", 5, -1, 0.55),
        ("sharpness", 0, 1, 1.0),
        ("posterize", 7, 1, 2),
        ("posterize", 0, 1, 4),
        ("posterize", 10, 1, 0),
        ("solarize", 7, 1, 76.8),
        ("rotate", 7, -1, -21),
        ("shear_x", 10, 1, 0.3),
        ("shear_y", 10, -1, -0.3),
        ("translate_x", 10, 1, 0.45),
        ("translate_y", 7, -1, -0.315),
        ("invert", 7, 1, 0),
    ],
)
def test_values_are_the_published_ranges(kind, level, sign, value):
    assert rand_augment.value_of(kind, level, sign) == pytest.approx(value)


def test_draws():
    how = rand_augment.parse("m7-n4")
    rng = np.random.default_rng(0)
    draws = [how.draw(rng) for _ in range(4000)]
    counts = np.bincount([len(draw) for draw in draws], minlength=5)
    np.testing.assert_allclose(counts / 4000, np.array([1, 4, 6, 4, 1]) / 16, atol=0.03)
    assert all(len({kind for kind, _ in draw}) == len(draw) for draw in draws)
    kinds = np.bincount([kind for draw in draws for kind, _ in draw], minlength=len(KINDS))
    np.testing.assert_allclose(kinds / kinds.sum(), 1 / len(KINDS), atol=0.015)
    turns = np.array([v for draw in draws for kind, v in draw if KINDS[kind] == "rotate"])
    assert abs((turns > 0).mean() - 0.5) < 0.06
    assert abs(np.abs(turns).mean() - 21) < 0.3 and abs(np.abs(turns).std() - 1.5) < 0.2


def test_levels_end_at_ten():
    rng = np.random.default_rng(0)
    how = rand_augment.parse("m10-n14")
    values = {v for _ in range(50) for kind, v in how.draw(rng) if KINDS[kind] == "rotate"}
    assert {30.0, -30.0} <= values and max(values) == 30.0


def test_draws_follow_the_generator():
    how = rand_augment.parse("m9.5-n3")
    first, again, other = (how.draw(np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert first == again != other


@pytest.mark.parametrize("text", ["m11-n2", "m7-n0", "m7-n15", "m7", "7-4", "rand-m7-n4"])
def test_settings_that_make_no_sense(text):
    with pytest.raises(JaxvidError, match=f"rand_augment is '{text}'.*such as m7-n4"):
        rand_augment.parse(text)
