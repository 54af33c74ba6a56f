"""Placing batches and states, and refusing what does not divide."""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxvid.base.errors import JaxvidError, Stopped
from jaxvid.devices import placement
from jaxvid.layers import spread


class Mesh:
    """As much of a mesh as the check looks at."""

    def __init__(self, count, **shape):
        self.devices = np.empty(count, object)
        self.shape = {"data": count, "fsdp": 1, "model": 1} | shape


@pytest.mark.parametrize(
    "size, count, way_out",
    [(12, 8, "take 8 or 16"), (3, 8, "take 8"), (0, 4, "take 4"), (-8, 8, "take 8")],
)
def test_a_batch_that_does_not_divide_is_refused(size, count, way_out):
    with pytest.raises(JaxvidError) as caught:
        placement.check_batch("train.batch_size", size, Mesh(count))
    assert str(caught.value) == (
        f"config.train.batch_size={size} is the global batch and must divide over {count} "
        f"devices: {way_out}"
    )


@pytest.mark.parametrize("size, count", [(8, 8), (16, 8), (1, 1), (7, 1)])
def test_a_batch_that_divides_is_taken(size, count):
    placement.check_batch("train.batch_size", size, Mesh(count))


def test_a_batch_becomes_global_arrays_split_by_their_first_axis():
    mesh = placement.make_mesh()
    count = mesh.devices.size
    batch = {
        "video": np.random.default_rng(0).integers(0, 256, (2 * count, 3, 4, 4, 3), np.uint8),
        "label": np.arange(2 * count, dtype=np.int32),
    }
    there = placement.put_batch(batch, mesh)
    assert there.keys() == batch.keys()
    for name, array in there.items():
        assert isinstance(array, jax.Array) and array.dtype == batch[name].dtype
        assert array.sharding == NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        assert array.addressable_shards[0].data.shape[0] == 2
        np.testing.assert_array_equal(array, batch[name])


def test_batches_are_placed_ahead_but_no_more_than_asked_for():
    drawn = []

    def batches():
        for number in range(4):
            drawn.append(number)
            yield {"index": np.full(8, number)}

    ahead = placement.Ahead(batches(), placement.make_mesh())
    for number in range(4):
        batch = next(ahead)
        assert drawn[-1] == number
        assert batch.own["index"][0] == number and isinstance(batch.there["index"], jax.Array)
        np.testing.assert_array_equal(batch.there["index"], batch.own["index"])
        ahead.draw()
        ahead.draw()
        assert drawn == list(range(min(number + 2, 4)))
    for _ in range(2):
        assert next(ahead, None) is None


def test_an_error_of_a_batch_ahead_is_raised_where_that_batch_is_due():
    def batches():
        yield {"index": np.zeros(8)}
        raise JaxvidError("too many bad videos")

    ahead = placement.Ahead(batches(), placement.make_mesh())
    next(ahead)
    ahead.draw()
    for _ in range(2):
        with pytest.raises(JaxvidError, match="too many bad"):
            next(ahead)


def test_an_order_to_stop_does_not_wait_for_its_batch():
    def batches():
        yield {"index": np.zeros(8)}
        raise Stopped(143)

    ahead = placement.Ahead(batches(), placement.make_mesh())
    next(ahead)
    with pytest.raises(Stopped):
        ahead.draw()


def test_a_replicated_array_lies_whole_on_every_device():
    mesh = placement.make_mesh()
    array = jax.device_put(np.arange(5.0), placement.replicated(mesh))
    assert array.sharding == NamedSharding(mesh, PartitionSpec())
    assert all(shard.data.shape == (5,) for shard in array.addressable_shards)


@pytest.mark.parametrize(
    "axes, count, shape",
    [
        ("", 8, (8, 1, 1)),
        ("fsdp:-1", 8, (1, 8, 1)),
        ("data:-1,fsdp:4", 8, (2, 4, 1)),
        ("model:2, fsdp:4", 8, (1, 4, 2)),
        ("data:-1,fsdp:8,model:2", 256, (16, 8, 2)),
        ("fsdp:8,data:-1", 8, (1, 8, 1)),
    ],
)
def test_axes_stand_for_all_devices(axes, count, shape):
    assert placement.mesh_shape(axes, count) == shape


@pytest.mark.parametrize(
    "axes, message",
    [
        ("fsdp", "'fsdp' is no axis: give axes such as data:-1,fsdp:8,model:2, one of them -1"),
        ("tensor:2", "'tensor:2' is no axis"),
        ("fsdp:0", "'fsdp:0' is no axis"),
        ("fsdp:2,fsdp:4", "'fsdp:4' is no axis"),
        ("data:-1,fsdp:-1", "leaves data and fsdp open"),
        ("data:-1,fsdp:3", "is for a multiple of 3 devices, but there are 8"),
        ("fsdp:4", "is for 4 devices, but there are 8"),
        ("fsdp:16", "is for 16 devices, but there are 8"),
    ],
)
def test_axes_that_make_no_mesh_are_refused(axes, message):
    with pytest.raises(JaxvidError) as caught:
        placement.mesh_shape(axes, 8)
    assert str(caught.value).startswith(f"config.train.mesh={axes!r}") and message in str(
        caught.value
    )


class Slice(NamedTuple):
    """As much of a TPU of one of several slices as makes a mesh of them."""

    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    process_index: int = 0


class Device(NamedTuple):
    process_index: int


class Rows(NamedTuple):
    devices: np.ndarray


def test_heads_are_split_within_a_process():
    devices = np.empty((2, 1, 2), object)
    for i, place in enumerate(np.ndindex(devices.shape)):
        devices[place] = Device(i // 2)
    placement._check_rows(Rows(devices), "data:2,model:2")
    with pytest.raises(JaxvidError, match="let model divide the 2 devices of one"):
        placement._check_rows(Rows(devices.reshape(1, 1, 4)), "model:4")


def test_axes_that_lie_across_slices_are_refused():
    devices = [Slice(i, i // 4) for i in range(8)]
    with pytest.raises(JaxvidError, match="makes data:1, but there are 2 slices: let data be a"):
        placement.make_mesh(devices, "fsdp:-1")


@pytest.mark.parametrize(
    "shape, split",
    [
        ((3, 3, 16, 32), "(None, None, None, 'fsdp')"),
        ((4096, 10), "('fsdp',)"),
        ((128, 64), "('fsdp',)"),
        ((64, 64), "(None, 'fsdp')"),  # of equals the last
        ((1001, 8), "(None, 'fsdp')"),  # the larger one does not divide
        ((1001, 9), "()"),
        ((8,), "()"),  # too small to be worth it
        ((), "()"),
        ((0, 1024), "()"),
    ],
)
def test_arrays_are_split_along_their_largest_dimension_that_divides(shape, split):
    assert repr(tuple(spread.kept_spec(shape, Mesh(8, data=1, fsdp=8)))) == split
    assert tuple(spread.kept_spec(shape, Mesh(8))) == ()
    both = spread.kept_spec(shape, Mesh(8, data=1, fsdp=4, model=2))
    assert repr(tuple(both)) == split.replace("'fsdp'", "('fsdp', 'model')")


# ---- eight simulated devices


@pytest.fixture(
    scope="module", params=["tsn_test", "tsn_test/4", "videomae_test", "videomae_pretrain_test"]
)
def measured(request, tmp_path_factory):
    root = pathlib.Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(root.parents[1]),
    }
    folder = tmp_path_factory.mktemp("eight")
    words = [sys.executable, root / "eight_devices.py", request.param, folder]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow("devices")
def test_eight_devices_train_as_one_does(measured):
    losses = measured["losses"]
    assert len(losses["one"]) == 4 and losses["one"][0] != losses["one"][3]
    np.testing.assert_allclose(losses["all"], losses["one"], rtol=1e-5)
    np.testing.assert_allclose(losses["split"], losses["one"], rtol=1e-5)
    np.testing.assert_allclose(losses["mixed"], losses["one"], rtol=1e-5)


@pytest.mark.slow("devices")
@pytest.mark.parametrize("measured", ["tsn_test"], indirect=True)  # The other's arrays are tiny.
def test_a_split_state_takes_an_eighth_of_a_devices_memory(measured):
    held = measured["held"]
    assert held["one"] == held["all"]
    assert held["all"] / 8 <= held["split"] < held["all"] / 6
    assert len(measured["specs"]["all"]) == 1
    assert len(measured["specs"]["split"]) > 2


@pytest.mark.slow("devices")
@pytest.mark.parametrize(
    "move",
    [
        "one then split",
        "split then one",
        "split then mixed",
        "mixed then all",
        "all then split",
        "mixed then one",
    ],
)
def test_a_run_goes_on_elsewhere(measured, move):
    expected = measured["losses"]["one"][2:]
    np.testing.assert_allclose(measured["resumed"][move], expected, rtol=1e-5)
