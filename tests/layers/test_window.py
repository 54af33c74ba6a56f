"""Windows against what they are by definition, token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers import window

GRIDS = [((4, 6, 6), (2, 3, 3)), ((2, 6, 9), (2, 3, 3)), ((3, 8, 4), (1, 4, 2))]


def places(size):
    """Coordinates of every token of a grid: [1, T, H, W, 3]."""
    return np.moveaxis(np.indices(size), 0, -1)[None]


def test_windows_shrink_to_small_grids_and_do_not_shift_there():
    assert window.fit_window((16, 56, 56), (8, 7, 7)) == ((8, 7, 7), (4, 3, 3))
    assert window.fit_window((8, 7, 6), (8, 7, 7)) == ((8, 7, 6), (0, 0, 0))
    assert window.fit_window((3, 8, 2), (1, 7, 7)) == ((1, 7, 2), (0, 3, 0))


def test_padding_fills_up_the_end():
    padded = window.pad_to_multiples(jnp.ones((1, 3, 4, 7, 2)), (2, 4, 4))
    assert padded.shape == (1, 4, 4, 8, 2)
    assert padded[:, :3, :, :7].all() and not padded[:, 3:].any() and not padded[..., 7:, :].any()


@pytest.mark.parametrize("size, fitted", GRIDS)
def test_a_window_is_a_box_of_the_grid_and_joins_to_it_again(size, fitted):
    grid = np.concatenate([places(size), places(size) + 100])
    cut = np.asarray(window.partition(jnp.asarray(grid), fitted))
    boxes = cut.reshape(2, -1, *fitted, 3)
    np.testing.assert_array_equal(
        boxes[0] - boxes[0, :, :1, :1, :1], boxes[1] - boxes[1, :, :1, :1, :1]
    )
    np.testing.assert_array_equal(boxes[0, -1] - boxes[0, -1, 0, 0, 0], places(fitted)[0])
    corners = boxes[0, :, 0, 0, 0].tolist()
    assert len(set(map(tuple, corners))) == len(corners) and corners == sorted(corners)
    np.testing.assert_array_equal(window.join(jnp.asarray(cut), fitted, size), grid)


@pytest.mark.parametrize("size, fitted", GRIDS)
def test_rolled_tokens_see_those_that_are_near_in_the_grid(size, fitted):
    _, shift = window.fit_window(size, fitted)
    assert any(shift)
    rolled = np.roll(places(size), [-s for s in shift], (1, 2, 3))
    cut = np.asarray(window.partition(jnp.asarray(rolled), fitted))
    near = (np.abs(cut[:, :, None] - cut[:, None]) < fitted).all(-1)
    np.testing.assert_array_equal(window.shift_mask(size, fitted, shift), near)
    assert not near.all()


@pytest.mark.parametrize("full", [(2, 3, 4), (1, 3, 3)])
def test_a_bias_is_looked_up_by_distance(full):
    lengths = [2 * w - 1 for w in full]
    table = np.random.default_rng(0).normal(size=(window.table_rows(full), 2))
    at = places(full).reshape(-1, 3)
    distances = at[:, None] - at[None] + np.array(full) - 1
    wanted = table.reshape(*lengths, 2)[tuple(np.moveaxis(distances, -1, 0))]
    found = window.window_bias(table.astype(np.float32), full, len(at))
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), wanted, rtol=1e-6)


def test_a_shrunk_window_reads_the_corner_of_the_whole_one():
    table = jnp.arange(window.table_rows((2, 3, 3)), dtype=jnp.float32)[:, None]
    whole = window.window_bias(table, (2, 3, 3), 18)
    np.testing.assert_array_equal(window.window_bias(table, (2, 3, 3), 8), whole[:, :8, :8])
