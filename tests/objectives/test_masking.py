"""Masked cubes: which are hidden, what should be answered, and what an answer costs."""

import jax
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.objectives import masking
from jaxvid.rows import Cubes

GRID, CUBE = (4, 6, 4), (2, 3, 5)
CUBES = Cubes(CUBE, CUBE)
CLIP = (8, 18, 20, 3)
CELLS = 4 * 6 * 4
SCALE = ((110.0, 120.0, 100.0), (60.0, 50.0, 55.0))


def keys(count=8, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def video(batch=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, *CLIP)).astype(np.uint8)


def hidden(masks):
    """Whether each cube is hidden from the encoder: [B, T', H', W']."""
    seen = np.zeros((len(masks.visible), CELLS), bool)
    np.put_along_axis(seen, np.asarray(masks.visible), True, axis=1)
    return ~seen.reshape(-1, *GRID)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_tubes_hide_the_same_places_at_all_times_and_all_that_is_hidden_is_asked_for(ratio):
    masks = masking.draw(keys(), GRID, ratio)
    mask = hidden(masks)
    assert (mask == mask[:, :1]).all()
    assert (mask[:, 0].sum((1, 2)) == int(ratio * 24)).all()
    assert len(np.unique(mask[:, 0].reshape(8, -1), axis=0)) > 1
    assert masks.counted.all()
    both = np.sort(np.concatenate([masks.visible, masks.decoded], 1))
    np.testing.assert_array_equal(both, np.broadcast_to(np.arange(CELLS), (8, CELLS)))
    assert (np.diff(masks.visible) > 0).all() and (np.diff(masks.decoded) > 0).all()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_cells_run_and_only_what_the_encoder_did_not_see_counts(ratio):
    masks = masking.draw(keys(32), GRID, 0.75, ratio)
    asked = np.zeros((32, CELLS), bool)
    np.put_along_axis(asked, np.asarray(masks.decoded), True, axis=1)
    asked = asked.reshape(-1, *GRID)
    # Of four neighbours as many at each time, of four times as many at each place.
    cells = asked.reshape(32, 4, 3, 2, 2, 2).sum((3, 5))
    assert (cells == 4 * (1 - ratio)).all()
    assert (asked.sum(1) == 4 * (1 - ratio)).all()
    assert (asked[:, :, ::2, ::2] == asked[:, :, :1, :1]).all()
    assert len(np.unique(asked.reshape(32, -1), axis=0)) == 4
    counted = np.asarray(masks.counted)
    expected = np.take_along_axis(hidden(masks).reshape(32, -1), np.asarray(masks.decoded), 1)
    np.testing.assert_array_equal(counted, expected)
    assert (counted.sum(1) == 18 * 4 * (1 - ratio)).all()


def test_the_first_published_mask_of_cells():
    """As the authors' generator has it from place 0: its cell, row by row, moves on before use."""
    kept = {tuple(np.asarray(row)) for row in masking._running_cells((2, 2, 2), 0.5)}
    # Cells left out at the two times, from each of four starts.
    starts = [
        ([1, 0, 0, 1], [0, 0, 1, 1]),
        ([0, 0, 1, 1], [0, 1, 1, 0]),
        ([0, 1, 1, 0], [1, 1, 0, 0]),
        ([1, 1, 0, 0], [1, 0, 0, 1]),
    ]
    assert kept == {tuple(np.flatnonzero(1 - np.array(a + b))) for a, b in starts}


def test_a_mask_is_a_function_of_its_key():
    one, same = (masking.draw(keys(), GRID, 0.75, 0.5) for _ in range(2))
    alone = masking.draw(keys()[3:4], GRID, 0.75, 0.5)
    for a, b, c in zip(one, same, alone, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[3:4], c)
    other = masking.draw(keys(seed=1), GRID, 0.75, 0.5)
    assert (np.asarray(one.visible) != np.asarray(other.visible)).any()


@pytest.mark.parametrize(
    "grid, ratio, decoder_ratio, words",
    [
        ((2, 2, 2), 0.2, 0.0, "mask_ratio=0.2 hides 0 of 2 x 2 cubes"),
        ((2, 3, 2), 0.75, 0.5, "decoder_mask_ratio=0.5 needs an even number of cubes.*not 3 x 2"),
    ],
)
def test_masks_that_cannot_be_are_refused(grid, ratio, decoder_ratio, words):
    with pytest.raises(JaxvidError, match=words):
        masking.draw(keys(1), grid, ratio, decoder_ratio)


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_cubes_hidden_each_by_itself_are_asked_for_in_parts(ratio):
    asked = (4, 12, 8)
    masks = masking.draw_apart(keys(), GRID, asked, ratio)
    mask = hidden(masks)
    assert (mask.reshape(8, -1).sum(1) == CELLS - int(CELLS * (1 - ratio))).all()
    assert len(np.unique(mask.reshape(8, -1), axis=0)) == 8 and (mask != mask[:, :1]).any()
    parts = mask.repeat(2, 2).repeat(2, 3).reshape(8, -1)
    for clip, decoded in zip(parts, masks.decoded, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(clip), decoded)
    assert masks.counted.shape == masks.decoded.shape and masks.counted.all()


@pytest.mark.parametrize(
    "ratio, grid, words",
    [(0.9, (1, 2, 4), "0.9 shows 0 of 1 x 2 x 4 cubes"), (0.0, GRID, "0.0 shows 96 of 4 x 6 x 4")],
)
def test_apart_too_something_is_hidden_and_something_seen(ratio, grid, words):
    with pytest.raises(JaxvidError, match=words):
        masking.draw_apart(keys(1), grid, grid, ratio)


def test_a_task_draws_tubes_or_cubes_apart():
    apart = Cubes((2, 6, 10), (1, 3, 5), every=2, tubes=False)
    tubes = masking.Task(CUBES, 0.75, 0.5, None)
    for one, other in (
        (masking.masks_of(tubes, keys(), CLIP), masking.draw(keys(), GRID, 0.75, 0.5)),
        (
            masking.masks_of(tubes._replace(cubes=apart, decoder_ratio=0.0), keys(), CLIP),
            masking.draw_apart(keys(), (4, 3, 2), (4, 6, 4), 0.75),
        ),
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    with pytest.raises(JaxvidError, match="decoder_mask_ratio=0.5 is for networks that hide tubes"):
        masking.masks_of(tubes._replace(cubes=apart), keys(), CLIP)


def test_a_clip_that_is_not_made_of_cubes_is_refused():
    with pytest.raises(JaxvidError, match="8 frames of 18 x 20 pixels is not .* 2 x 4 x 5"):
        masking.cut(video(), (2, 4, 5))


def test_cubes_stand_in_their_places_and_join_again():
    clips = video()
    cubes = masking.cut(clips, CUBE)
    assert cubes.shape == (2, CELLS, 30, 3)
    t, h, w = 2, 4, 1
    expected = clips[1, 4:6, 12:15, 5:10].reshape(30, 3)
    np.testing.assert_array_equal(cubes[1, (t * 6 + h) * 4 + w], expected)
    np.testing.assert_array_equal(masking.join(cubes, GRID, CUBE), clips)


def test_targets_are_normalised_cube_by_cube_or_by_a_scale_and_channel_by_channel():
    clips = video()
    clips[0, :2, :3, :5] = 77
    masks = masking.draw(keys(2), GRID, 0.75)
    masks = masks._replace(decoded=masks.decoded.at[:, 0].set(0))
    wanted = np.asarray(masking.targets(clips, masks, CUBES))
    cube = np.asarray(masking.cut(clips, CUBE))[1, masks.decoded[1, 5]] / 255
    expected = (cube - cube.mean(0)) / (cube.std(0, ddof=1) + 1e-6)
    np.testing.assert_allclose(wanted[1, 5], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted[0, 0]).max() < 0.2  # One colour: nothing but rounding.
    scaled = masking.targets(clips, masks, CUBES, SCALE)
    expected = (255 * cube - SCALE[0]) / SCALE[1]
    np.testing.assert_allclose(scaled[1, 5], expected, rtol=1e-4, atol=1e-5)


def test_targets_are_of_the_first_frame_of_each_two_and_of_all_channels_together():
    cubes = Cubes((2, 6, 10), (1, 3, 5), every=2, tubes=False, joint=True)
    clips = video()
    masks = masking.draw_apart(keys(2), (4, 3, 2), (4, 6, 4), 0.5)
    wanted = np.asarray(masking.targets(clips, masks, cubes))
    time, row, column = np.unravel_index(int(masks.decoded[1, 7]), (4, 6, 4))
    patch = clips[1, 2 * time, 3 * row : 3 * row + 3, 5 * column : 5 * column + 5] / 255
    expected = (patch - patch.mean()) / patch.std(ddof=1)
    np.testing.assert_allclose(wanted[1, 7], expected.reshape(15, 3), rtol=1e-3, atol=1e-4)
    flat = masking.targets(np.full_like(clips, 77), masks, cubes)
    assert np.abs(flat).max() < 1e-2
    # A little unevenness is not blown up: it is of the order of what is added to the variance.
    cubes_of_pixels = np.zeros((1, 1, 15, 3), np.float32)
    cubes_of_pixels[..., :7, :] = 0.225e-3
    _, deviation = masking.statistics(cubes_of_pixels, joint=True)
    variance = cubes_of_pixels.var(ddof=1) + 1e-6 * 0.225**2
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-4)


def test_only_cubes_that_count_cost():
    masks = masking.draw(keys(2), GRID, 0.75, 0.5)
    counted = np.asarray(masks.counted)
    assert not counted.all()
    answer = np.where(counted[..., None, None], 2.0, 100.0) * np.ones((30, 3), np.float32)
    black = np.zeros_like(video())  # All its targets are zero.
    sums, counts = masking.errors(black, answer, masks, CUBES)
    np.testing.assert_array_equal(counts, counted.sum(1))
    np.testing.assert_allclose(sums / counts, 4.0)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_an_answer_costs_as_far_as_it_is_from_the_target(scale):
    clips, masks = video(), masking.draw(keys(2), GRID, 0.75)
    answer = masking.targets(clips, masks, CUBES, scale) + 2
    sums, counts = masking.errors(clips, answer, masks, CUBES, scale)
    np.testing.assert_allclose(sums / counts, 4.0, rtol=1e-5)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_filled_in_clips_show_the_clip_where_the_answer_is_right(scale):
    clips = video()
    masks = masking.draw(keys(2), GRID, 0.5)
    answers = masking.targets(clips, masks, CUBES, scale)
    pictures = masking.fill_in(clips, answers, masks, CUBES, scale)
    assert pictures.shape == (2, 3, *CLIP) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures[:, 0], clips)
    np.testing.assert_array_equal(pictures[:, 2], clips)
    seen = np.asarray(masking.cut(pictures[:, 1], CUBE))
    whole = np.asarray(masking.cut(clips, CUBE))
    for clip in range(2):
        np.testing.assert_array_equal(
            seen[clip, masks.visible[clip]], whole[clip, masks.visible[clip]]
        )
        assert (seen[clip, masks.decoded[clip]] == 128).all()


def test_filled_in_clips_have_the_frames_that_are_asked_for():
    cubes = Cubes((2, 6, 10), (1, 3, 5), every=2, tubes=False, joint=True)
    clips = video()
    masks = masking.draw_apart(keys(2), (4, 3, 2), (4, 6, 4), 0.5)
    pictures = np.asarray(
        masking.fill_in(clips, masking.targets(clips, masks, cubes), masks, cubes)
    )
    np.testing.assert_array_equal(pictures[:, 0], clips[:, ::2])
    np.testing.assert_array_equal(pictures[:, 2], clips[:, ::2])
    grey = np.asarray(masking.cut(pictures[:, 1], (1, 6, 10)) == 128).all((2, 3))
    hidden = np.ones((2, 24), bool)
    np.put_along_axis(hidden, np.asarray(masks.visible), False, axis=1)
    np.testing.assert_array_equal(grey, hidden)
