"""Tables of positions against values that PyTorch computed."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.position import (
    axis_one_hots,
    nearest_rows,
    relative_embeddings,
    relative_index,
    resize_clip,
    resize_grid,
    resize_table,
    sinusoids,
)

# Bicubic, of [[0, 10, 40], [20, -10, 30]].
GROWN = [
    [-2.70311, 3.68084, 23.71396, 42.95908],
    [10.71777, -0.2417, 11.51367, 37.51221],
    [24.13866, -4.16424, -0.68661, 32.06535],
]
SHRUNK = [[6.50391, 26.71875]]


@pytest.mark.parametrize(
    ("rows", "length", "expected"),
    [
        ([0, 10, 40], 5, [0, 4, 10, 28, 40]),
        ([0, 10, 40, 20, 30], 3, [10 / 3, 40, 80 / 3]),
        ([0, 10, 40], 3, [0, 10, 40]),
        ([7], 3, [7, 7, 7]),
    ],
)
def test_tables_are_resized_as_pytorch_does(rows, length, expected):
    table = jnp.asarray(rows, jnp.float32)[:, None] * jnp.asarray([1.0, -2.0])
    resized = resize_table(table, length)
    np.testing.assert_allclose(resized[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(resized[:, 1], -2 * np.asarray(expected), rtol=1e-6)


@pytest.mark.parametrize(("size", "expected"), [((3, 4), GROWN), ((1, 2), SHRUNK)])
def test_grids_are_resized_as_pytorch_does_and_the_log_says_so(size, expected, caplog):
    table = jnp.asarray([[0, 10, 40], [20, -10, 30]], jnp.float32)[..., None] * jnp.array([1, -2])
    with caplog.at_level(logging.INFO):
        resized = resize_grid(table, size)
        assert resize_grid(table, (2, 3)) is table
    np.testing.assert_allclose(resized[..., 0], expected, atol=1e-4)
    np.testing.assert_allclose(resized[..., 1], -2 * np.asarray(expected), atol=1e-4)
    said = f"the table of 2 x 3 positions is interpolated to {size[0]} x {size[1]}"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_moments_are_spread_as_pytorch_does_and_the_log_says_so(caplog):
    table = np.arange(8)[:, None] * [1, -2]
    with caplog.at_level(logging.INFO):
        assert nearest_rows(table, 12)[:, 0].tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
        assert nearest_rows(table, 3).tolist() == [[0, 0], [2, -4], [5, -10]]
        assert nearest_rows(table, 8) is table
    assert caplog.messages == [f"the table of 8 moments is spread over {n}" for n in (12, 3)]


def test_sinusoids_alternate_sine_and_cosine():
    table = sinusoids(2000, 6)
    assert table.dtype == np.float32
    for position in (0, 1, 1999):
        angles = [position / 10000 ** (k / 3) for k in range(3)]
        np.testing.assert_allclose(table[position, 0::2], np.sin(angles), atol=1e-7)
        np.testing.assert_allclose(table[position, 1::2], np.cos(angles), atol=1e-7)


@pytest.mark.parametrize(
    ("queries", "keys", "expected"),
    [
        (3, 3, [[2, 1, 0], [3, 2, 1], [4, 3, 2]]),
        (3, 7, [[6, 5, 4, 3, 2, 1, 0], [8, 7, 6, 5, 4, 3, 2], [10, 9, 8, 7, 6, 5, 4]]),
        (
            6,
            4,
            [[4, 3, 1, 0], [5, 4, 2, 1], [6, 5, 3, 2], [7, 6, 4, 3], [8, 7, 5, 4], [9, 8, 6, 5]],
        ),
    ],
)
def test_index_of_each_pair(queries, keys, expected):
    np.testing.assert_array_equal(relative_index(queries, keys), expected)


@pytest.mark.parametrize("queries", range(1, 25))
def test_index_stays_inside_the_table(queries):
    for keys in range(1, 25):
        index = relative_index(queries, keys)
        assert index.min() == 0
        assert index.max() <= 2 * max(queries, keys) - 2


def test_uneven_ratios_round_as_float32_does():
    # What PyTorch gives. In float64 the last of the second row would be 1.
    expected = [[6, 5, 3, 2, 1, 0], [7, 6, 5, 3, 2, 0], [8, 7, 6, 4, 3, 1]]
    np.testing.assert_array_equal(relative_index(8, 6)[:3], expected)


def test_a_table_of_another_size_is_interpolated_before_it_is_read():
    table = jnp.arange(5.0)[:, None]
    np.testing.assert_array_equal(relative_embeddings(table, 3, 3)[..., 0], relative_index(3, 3))
    other = relative_embeddings(table, 2, 4)
    np.testing.assert_allclose(other, resize_table(table, 7)[relative_index(2, 4)])


def test_one_hots_mark_every_axis_row_major():
    marks = axis_one_hots((2, 3))
    assert marks.shape == (6, 5)
    np.testing.assert_array_equal(marks[3], [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(marks.sum(1), np.full(6, 2))


def test_tables_are_interpolated_along_time_and_space():
    table = np.random.default_rng(0).normal(size=(2, 8, 16, 5)).astype(np.float32)
    np.testing.assert_array_equal(resize_clip(table, (2, 8, 16)), table)
    longer = resize_clip(table, (4, 8, 16))
    np.testing.assert_allclose(longer[::3], table, rtol=1e-6)
    between = 0.75 * table[0] + 0.25 * table[1]
    np.testing.assert_allclose(longer[1], between, rtol=1e-4, atol=1e-6)
    larger = resize_clip(table, (2, 4, 32))
    np.testing.assert_array_equal(larger, resize_grid(jnp.asarray(table), (4, 32)))
