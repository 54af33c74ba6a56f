"""Pixels of tests against the reference's; random changes against what they promise."""

import colorsys
import dataclasses
import pathlib

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import augment
from jaxvid.data.augment import Augmentation
from jaxvid.data.cpu_tf import tf
from jaxvid.rows import Protocol, Sampling
from tests.data import golden_data

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "preprocess.npz"
PLAIN = ((1.0, 1.0, 1.0, 0.0), (0, 1, 2, 3))


def finish(frames, how, flip=False, jitter=PLAIN[0], order=PLAIN[1]):
    arrays = np.float32(jitter), np.int32(order)
    return augment.finish(tf.constant(frames), tf.constant(flip), *arrays, how).numpy()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_reference_pixels():
    assert golden_data.check_preprocess(GOLDEN) == 12


def test_no_gpu_for_tensorflow():
    assert not tf.config.get_visible_devices("GPU")


@pytest.mark.parametrize("height, width", [(40, 60), (60, 40)])
def test_three_crops_smaller_than_the_short_side(height, width):
    frames = noise(1, height, width, 3)
    protocol = Protocol(Sampling(), short_side=40, crops="three", crop=30)
    views = augment.make_views(frames, np.array([[0]]), protocol).numpy()[:, 0]
    if height > width:
        frames, views = frames.swapaxes(1, 2), views.swapaxes(1, 2)
    for view, left in zip(views, (0, 30, 15), strict=True):
        np.testing.assert_array_equal(view, frames[0, 5:35, left : left + 30])


@pytest.mark.parametrize("height, width", [(40, 60), (60, 40), (40, 40)])
@pytest.mark.parametrize("crop", [40, 30])
def test_the_left_crop_is_the_first_of_three(height, width, crop):
    frames = noise(1, height, width, 3)
    three, left = (
        augment.make_views(frames, [[0]], Protocol(Sampling(), 40, crops, crop)).numpy()
        for crops in ("three", "left")
    )
    np.testing.assert_array_equal(left, three[:1])
    room = (40 - crop) // 2
    top, start = (0, room) if height > width else (room, 0)
    np.testing.assert_array_equal(left[0, 0], frames[0, top : top + crop, start : start + crop])


def test_views_are_crop_major():
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 12, 3), np.uint8)
    frames[:, :, 6:] += 100
    protocol = Protocol(Sampling(), short_side=8, crops="three", crop=8)
    views = augment.make_views(frames, np.array([[0, 1], [2, 3]]), protocol).numpy()
    np.testing.assert_array_equal(
        views[..., 0, 0, 0], [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1], [2, 3]]
    )
    np.testing.assert_array_equal(views[2, :, 0, -1, 0], [100, 101])


def test_crop_must_fit():
    with pytest.raises(JaxvidError, match="larger than short_side"):
        augment.check_protocol(Protocol(Sampling(), short_side=64, crop=65))
    with pytest.raises(JaxvidError, match="choose one of whole, center, left, three, ten"):
        augment.check_protocol(Protocol(Sampling(), crops="five"))


@pytest.mark.parametrize("mode", (*augment.CROP_MODES, "even_sides"))
@pytest.mark.parametrize("size", [(240, 320), (33, 17), (1, 9), (1, 1)])
def test_boxes_lie_inside_the_picture(mode, size):
    rng = np.random.default_rng(0)
    even = mode == "even_sides"
    how = Augmentation(crop_mode="square" if even else mode, even_sides=even)
    for _ in range(300):
        top, left, height, width = augment.draw(how, *size, rng).box
        assert top >= 0 and left >= 0 and height >= 1 and width >= 1
        assert top + height <= size[0] and left + width <= size[1]


def test_random_resized_boxes_cover_area_and_aspect():
    rng = np.random.default_rng(0)
    how = Augmentation(area=(0.2, 0.6), aspect=(0.5, 2.0))
    boxes = np.array([augment.draw(how, 400, 400, rng).box for _ in range(3000)])
    area = boxes[:, 2] * boxes[:, 3] / 400**2
    aspect = np.log2(boxes[:, 3] / boxes[:, 2])
    assert 0.195 < area.min() < 0.21 and 0.58 < area.max() < 0.605
    assert -1.02 < aspect.min() < -0.9 and 0.9 < aspect.max() < 1.02
    # Uniform in area and in log aspect; only boxes larger than the picture are drawn again.
    assert abs(area.mean() - 0.4) < 0.02 and abs(aspect.mean()) < 0.05
    assert boxes[:, 0].min() == 0 and (boxes[:, 0] + boxes[:, 2]).max() == 400


def test_squares_lie_anywhere_and_are_uniform_in_scale():
    rng = np.random.default_rng(0)
    how = Augmentation(crop_mode="square", crop_scales=(0.9, 0.5))
    boxes = np.array([augment.draw(how, 400, 600, rng).box for _ in range(3000)])
    top, left, height, width = boxes.T
    assert (height == width).all() and height.min() == 200 and height.max() == 360
    assert abs(height.mean() - 280) < 3
    assert top.min() == left.min() == 0
    assert (top + height).max() == 400 and (left + width).max() == 600
    middle = left / (600 - width)
    assert abs(middle.mean() - 0.5) < 0.02 and abs(middle.std() - 12**-0.5) < 0.02


def published_squares(height, width, low, high, size, rng, count):
    """Shares and places of squares cut from a picture resized first, as PySlowFast has them."""
    sides = np.round(rng.uniform(low, high, count)).astype(int)
    boxes = []
    for side in sides:
        resized = [
            side if length <= min(height, width) else length * side // min(height, width)
            for length in (height, width)
        ]
        start = [rng.integers(max(length - size, 1)) for length in resized]
        boxes.append([start[0] / resized[0], start[1] / resized[1], size / side])
    return np.array(boxes)


def distance(one, other):
    """How far the distributions of two samples lie apart (Kolmogorov and Smirnov)."""
    values = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(a), values, "right") / len(a) for a in (one, other)]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize("height, width", [(256, 340), (320, 568), (480, 272), (720, 1280)])
@pytest.mark.parametrize("size, low, high", [(224, 256, 320), (160, 182, 228), (312, 356, 446)])
def test_squares_of_evenly_drawn_sides_are_the_published_ones(height, width, size, low, high):
    rng = np.random.default_rng(0)
    how = Augmentation(
        size=size, crop_mode="square", crop_scales=(size / high, size / low), even_sides=True
    )
    boxes = np.array([augment.draw(how, height, width, rng).box for _ in range(3000)])
    assert (boxes[:, 2] == boxes[:, 3]).all()
    ours = boxes[:, :3] / (height, width, min(height, width))
    theirs = published_squares(height, width, low, high, size, rng, 3000)
    # Of the same distribution, but for one in 100,000 and for stored pixels being whole.
    for a, b in zip(ours.T, theirs.T, strict=True):
        rounding = 0.5 / min(height, width) / np.ptp(b)
        assert distance(a, b) < 2.47 * (2 / 3000) ** 0.5 + rounding
    error = (high - low) / 12**0.5 / 3000**0.5
    assert abs((size / ours[:, 2]).mean() - (low + high) / 2) < 5 * error
    shares = Augmentation(size=size, crop_mode="square", crop_scales=how.crop_scales)
    boxes = np.array([augment.draw(shares, height, width, rng).box for _ in range(3000)])
    sides = size / boxes[:, 2] * min(height, width)
    assert sides.mean() < (low + high) / 2 - 5 * error


def test_box_falls_back_to_the_central_square():
    how = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert augment.draw(how, 30, 50, np.random.default_rng(0)).box == (0, 10, 30, 30)


def published_boxes(height, width, scales, gap, places):
    """Every box of the multi-scale crop (Wang et al., 2016), counted out."""
    sizes = [int(min(height, width) * scale) for scale in scales]
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    if places == 13:
        quarters += [(2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return {
        (y * ((height - h) // 4), x * ((width - w) // 4), h, w)
        for i, h in enumerate(sizes)
        for j, w in enumerate(sizes)
        if abs(i - j) <= gap
        for y, x in quarters
    }


@pytest.mark.parametrize(
    "scales, gap, places",
    [
        ((1.0, 0.875, 0.75, 0.66), 1, 13),
        ((1.0, 0.875, 0.75, 0.66), 1, 5),
        ((1.0, 0.8), 0, 5),
        ((1.0, 0.5, 0.25), 2, 13),
    ],
)
def test_multi_scale_boxes_are_the_published_ones(scales, gap, places):
    rng = np.random.default_rng(0)
    how = Augmentation(
        crop_mode="multi_scale", crop_scales=scales, crop_scale_gap=gap, fixed_crops=places
    )
    boxes = {augment.draw(how, 256, 340, rng).box for _ in range(3000)}
    assert boxes == published_boxes(256, 340, scales, gap, places)


def test_draws_follow_the_generator():
    how = Augmentation(color_jitter=(0.4, 0.4, 0.4, 0.1))
    first, again, other = (
        augment.draw(how, 99, 120, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first == again != other


def test_flip_happens_as_often_as_asked():
    rng = np.random.default_rng(0)
    flips = [augment.draw(Augmentation(flip=0.3), 9, 9, rng).flip for _ in range(2000)]
    assert abs(np.mean(flips) - 0.3) < 0.05
    assert not any(augment.draw(Augmentation(flip=0.0), 9, 9, rng).flip for _ in range(200))


def test_flip_mirrors_every_frame():
    frames, how = noise(3, 16, 16, 3), Augmentation(size=16)
    np.testing.assert_array_equal(finish(frames, how), frames)
    np.testing.assert_array_equal(finish(frames, how, flip=True), frames[:, :, ::-1])


@pytest.mark.parametrize(
    "channels, jitter", [(2, (0.0,) * 4), (3, (0.0,) * 4), (3, (0.4, 0.4, 0.4, 0.0))]
)
def test_frame_by_frame_gives_the_pixels_of_the_whole_clip(channels, jitter):
    how = Augmentation(size=40, color_jitter=jitter)
    frames = noise(3, 20, 31, channels)
    drawn = (0.8, 1.3, 1.2, 0.0), (2, 0, 3, 1)
    # In rows twice as far apart many values are halves, which a mirror of flow rounds otherwise.
    pixels = tf.image.resize(frames, (40, 40))[:, :, ::-1]
    if channels == 2:
        pixels = tf.stack([255 - pixels[..., 0], pixels[..., 1]], -1)
    if any(jitter):
        pixels = augment._recolor(pixels, *map(tf.constant, drawn), hue=False)
    want = np.rint(pixels).astype(np.uint8)
    np.testing.assert_array_equal(finish(frames, how, True, *drawn), want)


def test_colours_change_alike_in_all_frames():
    frame = noise(1, 12, 12, 3)
    how = Augmentation(size=12, color_jitter=(0.5, 0.5, 0.5, 0.2))
    out = finish(np.repeat(frame, 4, 0), how, jitter=(1.3, 0.6, 1.4, 0.1), order=(3, 1, 0, 2))
    np.testing.assert_array_equal(out, np.repeat(out[:1], 4, 0))
    assert np.abs(out.astype(int) - frame).mean() > 10


def test_hue_in_bytes_turns_by_whole_parts_of_a_circle_of_180():
    plain = Augmentation(color_jitter=(0.5, 0.5, 0.5, 0.1))
    bytewise = Augmentation(color_jitter=(0.5, 0.5, 0.5, 0.1), hue_bytes=True)
    turns = []
    for seed in range(2000):
        one, other = (
            augment.draw(how, 9, 9, np.random.default_rng(seed)) for how in (plain, bytewise)
        )
        assert other.jitter[3] == int(one.jitter[3] * 255) / 180
        assert one == dataclasses.replace(other, jitter=one.jitter)
        assert one.jitter[:3] == other.jitter[:3]
        turns.append(round(other.jitter[3] * 180))
    # From -25 to 25: more than a tenth of the circle, and 0 twice as often as the others.
    assert sorted(set(turns)) == list(range(-25, 26))
    assert 1.2 < turns.count(0) / (2000 / 51) < 2.8
    how = Augmentation(size=16, color_jitter=(0.0, 0.0, 0.0, 0.1), hue_bytes=True)
    red = np.full((1, 16, 16, 3), (200, 20, 20), np.uint8)
    turned = finish(red, how, jitter=(1.0, 1.0, 1.0, 25 / 180))[0, 0, 0] / 255
    assert colorsys.rgb_to_hsv(*turned)[0] == pytest.approx(25 / 180, abs=0.002)


@pytest.mark.parametrize("which", range(4))
def test_each_colour_change(which):
    frames = noise(2, 10, 10, 3)
    real = frames.astype(np.float64)
    gray = (real * (0.2989, 0.587, 0.114)).sum(-1, keepdims=True)
    jitter = [1.0, 1.0, 1.0, 0.0]
    jitter[which] = (0.7, 1.4, 0.3, 1 / 3)[which]
    want = (
        real * 0.7,
        1.4 * real - 0.4 * gray.mean((1, 2, 3), keepdims=True),
        0.3 * real + 0.7 * gray,
        np.roll(real, 1, -1),  # a third of the circle: red becomes green
    )[which]
    how = Augmentation(size=10, color_jitter=(0.5, 0.5, 1.0, 0.5))
    out = finish(frames, how, jitter=jitter)
    assert np.abs(out - np.clip(want, 0, 255)).max() <= 1


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"crop_mode": "some"}, "crop_mode is 'some'"),
        ({"area": (0.5, 0.1)}, "area"),
        ({"aspect": (0.0, 1.0)}, "aspect"),
        ({"flip": 1.5}, "flip"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.9)}, "color_jitter"),
        ({"crop_scales": ()}, "crop_scales"),
        ({"crop_scales": (1.0, 1.2)}, "crop_scales"),
        ({"crop_scale_gap": -1}, "crop_scale_gap"),
        ({"fixed_crops": 9}, "fixed_crops is 9: give 5 or 13"),
        ({"random_erasing": 1.5}, "random_erasing"),
        ({"rand_augment": "m7"}, "rand_augment is 'm7'.* such as m7-n4"),
        ({"rand_augment_fill": 256}, "rand_augment_fill is 256: give a grey level from 0 to 255"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(JaxvidError, match=words):
        Augmentation(**settings)


def test_a_whole_view_is_the_squashed_picture():
    frames = np.zeros((2, 30, 60, 3), np.uint8)
    frames[:, :, 30:] = 200  # the right half
    protocol = Protocol(Sampling(), crops="whole", crop=20)
    (view,) = augment.make_views(frames, np.array([[1, 0]]), protocol).numpy()
    assert view.shape == (2, 20, 20, 3)
    np.testing.assert_array_equal(view[:, :, :9], 0)
    np.testing.assert_array_equal(view[:, :, 11:], 200)


def test_whole_boxes_keep_about_the_aspect_of_the_picture():
    how = Augmentation(size=20, crop_mode="whole", area=(0.5, 1.0), aspect=(0.9, 1.1))
    rng = np.random.default_rng(0)
    boxes = np.array([augment.draw(how, 100, 300, rng).box for _ in range(200)])
    top, left, height, width = boxes.T
    assert (top + height <= 100).all() and (left + width <= 300).all()
    assert 2.6 < (width / height).min() < 2.75 and 3.25 < (width / height).max() < 3.4
    assert (height * width).min() / 30000 > 0.48
    full = Augmentation(crop_mode="whole", area=(1.0, 1.0), aspect=(2.0, 2.0))
    assert augment.draw(full, 100, 300, rng).box == (0, 0, 100, 300)


def test_erasing_covers_one_box_of_all_frames_with_noise():
    frames = noise(4, 40, 30, 3)
    box, seed = np.int32((7, 4, 20, 25)), np.int32((3, 4))
    out = augment.erase(tf.constant(frames), tf.constant(box), tf.constant(seed)).numpy()
    inside = np.zeros((40, 30), bool)
    inside[7:27, 4:29] = True
    np.testing.assert_array_equal(out[:, ~inside], frames[:, ~inside])
    covered = out[:, inside].astype(float)
    assert covered.min() == 0 and covered.max() == 255
    assert abs(covered.mean() - 127.5) < 3 and abs(covered.std() - 73.9) < 2
    assert abs(np.corrcoef(covered[0].ravel(), covered[1].ravel())[0, 1]) < 0.1
    again = augment.erase(tf.constant(frames), tf.constant(box), tf.constant(seed)).numpy()
    np.testing.assert_array_equal(out, again)
    other = augment.erase(tf.constant(frames), tf.constant(box), tf.constant(seed + 1)).numpy()
    assert (other[:, inside] != out[:, inside]).mean() > 0.9


def test_nothing_is_erased_by_an_empty_box():
    frames = noise(2, 8, 8, 3)
    none = augment.Draw((0, 0, 1, 1), False, *PLAIN)
    boxes = tf.constant(none.erased), tf.constant(none.noise)
    np.testing.assert_array_equal(augment.erase(tf.constant(frames), *boxes).numpy(), frames)


def test_erased_boxes_are_the_published_ones():
    how, rng = Augmentation(size=100, random_erasing=0.25), np.random.default_rng(0)
    drawn = [augment.draw(how, 120, 160, rng) for _ in range(4000)]
    erased = np.array([draw.erased for draw in drawn if any(draw.erased)])
    assert abs(len(erased) / 4000 - 0.25) < 0.03
    top, left, height, width = erased.T
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 100 and (left + width).max() == 100
    area = height * width / 100**2
    assert 0.018 < area.min() < 0.025 and 0.3 < area.max() < 0.345
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.012
    aspect = np.log(height / width)
    assert abs(aspect.mean()) < 0.07 and np.exp(np.abs(aspect).max()) < 3.6
    assert len({draw.noise for draw in drawn if any(draw.erased)}) == len(erased)
    assert {draw.noise for draw in drawn if not any(draw.erased)} == {(0, 0)}


def test_new_changes_leave_the_other_draws_as_they_were():
    plain = augment.draw(Augmentation(), 90, 120, np.random.default_rng(1))
    how = Augmentation(rand_augment="m7-n4", random_erasing=1.0)
    drawn = augment.draw(how, 90, 120, np.random.default_rng(1))
    assert (drawn.box, drawn.flip, drawn.jitter) == (plain.box, plain.flip, plain.jitter)
    assert plain.operations == () and any(drawn.erased)
