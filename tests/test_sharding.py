"""Placing batches, and refusing those that do not divide."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxvid import sharding
from jaxvid.errors import JaxvidError


class Mesh:
    """As much of a mesh as the check looks at."""

    def __init__(self, count):
        self.devices = np.empty(count, object)


@pytest.mark.parametrize(
    "size, count, way_out",
    [(12, 8, "take 8 or 16"), (3, 8, "take 8"), (0, 4, "take 4"), (-8, 8, "take 8")],
)
def test_a_batch_that_does_not_divide_is_refused(size, count, way_out):
    with pytest.raises(JaxvidError) as caught:
        sharding.check_batch("train.batch_size", size, Mesh(count))
    assert str(caught.value) == (
        f"config.train.batch_size={size} is the global batch and must divide over {count} "
        f"devices: {way_out}"
    )


@pytest.mark.parametrize("size, count", [(8, 8), (16, 8), (1, 1), (7, 1)])
def test_a_batch_that_divides_is_taken(size, count):
    sharding.check_batch("train.batch_size", size, Mesh(count))


def test_a_batch_becomes_global_arrays_split_by_their_first_axis():
    mesh = sharding.make_mesh()
    count = mesh.devices.size
    batch = {
        "video": np.random.default_rng(0).integers(0, 256, (2 * count, 3, 4, 4, 3), np.uint8),
        "label": np.arange(2 * count, dtype=np.int32),
    }
    there = sharding.put_batch(batch, mesh)
    assert there.keys() == batch.keys()
    for name, array in there.items():
        assert isinstance(array, jax.Array) and array.dtype == batch[name].dtype
        assert array.sharding == NamedSharding(mesh, PartitionSpec("data"))
        assert array.addressable_shards[0].data.shape[0] == 2
        np.testing.assert_array_equal(array, batch[name])


def test_a_replicated_array_lies_whole_on_every_device():
    mesh = sharding.make_mesh()
    array = jax.device_put(np.arange(5.0), sharding.replicated(mesh))
    assert array.sharding == NamedSharding(mesh, PartitionSpec())
    assert all(shard.data.shape == (5,) for shard in array.addressable_shards)
