"""Changing the calls of blocks: by path, once each; only arrays become arguments."""

import flax.linen as nn
import jax.numpy as jnp

from jaxvid.layers.blocks import changing


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x, times, train=False):
        return x * times if train else x


class Trunk(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Scaled(name="block0")(x, 2, train=True)
        return Scaled(name="block1")(x, jnp.float32(3), train=True)


def test_a_block_is_changed_once_and_gets_what_it_was_given():
    seen = []

    def change(path, run):
        def call(module, arrays):
            seen.append((path, sorted(arrays)))
            return run(module, {i: array + 1 for i, array in arrays.items()})

        return call

    with changing({"block0", "block1"}, change):
        answer = Trunk().apply({}, jnp.float32(1))
    # Times 2, a plain number, stays; times 3, an array, becomes 4.
    assert answer == ((1 + 1) * 2 + 1) * (3 + 1)
    assert seen == [("block0", [0]), ("block1", [0, 1])]


def test_other_modules_are_called_as_ever():
    with changing({"block1"}, lambda path, run: lambda module, arrays: jnp.float32(7)):
        assert Trunk().apply({}, jnp.float32(1)) == 7
        assert Scaled().apply({}, jnp.float32(1), 2, train=True) == 2
    assert Trunk().apply({}, jnp.float32(1)) == 6
