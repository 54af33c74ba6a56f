"""Two processes write a checkpoint to a store, each its own part; one reads it, on any devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxvid import checkpoint
from jaxvid.base import paths, stores
from jaxvid.base.errors import JaxvidError
from tests import store

pytest.importorskip("s3fs", reason="object stores need s3fs: pip install 'jaxvid[stores]'")

WRITE = """
import jax
import numpy as np
from jaxvid import checkpoint
from jaxvid.base import paths
from jaxvid.devices import processes
from tests.checkpoint.test_parts import ARRAYS, PLACE
processes.join_processes()
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("fsdp",))
def over(name, *axes):
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    array = ARRAYS[name]
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
state = ARRAYS | {"rows": over("rows", "fsdp"), "whole": over("whole")}
state |= {"columns": over("columns", None, "fsdp")}
with checkpoint.Checkpoints(paths.anywhere(PLACE, "--out")) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, state, {"said": "both"})
"""
PLACE = "s3://bucket/checkpoints"
ARRAYS = {
    "rows": np.arange(48, dtype=np.float32).reshape(8, 6),
    "columns": np.arange(60).reshape(6, 10).astype(jax.numpy.bfloat16),
    "whole": np.arange(12, dtype=np.float32),
    "number": np.float32(3),
    "none": np.zeros((0, 2)),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with (
        store.running(errors=0.02, stalls=0.005, seed=1) as address,
        pytest.MonkeyPatch.context() as m,
    ):
        for name, value in store.environment(address).items():
            m.setenv(name, value)
        m.setattr(stores, "_STALL", 1.0)
        stores._client_of.cache_clear()
        peers = {"JAXVID_COORDINATOR": "127.0.0.1:28477", "JAXVID_PROCESSES": "2"}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE],
                env=os.environ | peers | {"JAXVID_PROCESS": str(number), "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(2)
        ]
        for process in running:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
        yield paths.anywhere(PLACE, "--checkpoint")
        stores._client_of.cache_clear()


def as_numpy(checkpoints, step=2):
    return checkpoints.restore(step, ARRAYS)


def test_one_process_reads_what_two_wrote(written):
    checkpoints = checkpoint.Checkpoints(written)
    assert checkpoints.steps() == [2]
    restored = as_numpy(checkpoints)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(restored[name], array)
        assert restored[name].dtype == array.dtype
    # And only once: half of the rows and columns, and what both have in the first alone.
    sizes = [stores.below(written)[f"step_00000002/arrays-0/process-{n}.bin"].size for n in (0, 1)]
    assert sizes == [96 + 60 + 48 + 4, 96 + 60]


def test_it_may_be_copied_to_a_disk_and_damage_is_seen(written, tmp_path):
    stores.download_folder(written, tmp_path)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    np.testing.assert_array_equal(as_numpy(checkpoints)["columns"], ARRAYS["columns"])
    part = tmp_path / "step_00000002" / "arrays-0" / "process-1.bin"
    data = bytearray(part.read_bytes())
    part.write_bytes(data[:-1])
    with pytest.raises(JaxvidError, match=r"cannot be read \(process-1.bin is too short\)"):
        as_numpy(checkpoints)
    data[0] ^= 1
    part.write_bytes(data)
    with pytest.raises(JaxvidError, match="is damaged, as its checksum says"):
        as_numpy(checkpoints)
    part.with_suffix(".json").unlink()
    with pytest.raises(JaxvidError, match=r"cannot be read \(pieces are missing\)"):
        as_numpy(checkpoints)
