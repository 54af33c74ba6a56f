"""The memory that a conversion takes, next to the tensors that it keeps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

import converters
from converters import networks, torch_write
from jaxvid import zoo

ROOT = Path(converters.__file__).parents[1]
CODE = """
import sys
from pathlib import Path
import jax, numpy as np
from converters import checkpoints
from jaxvid import checkpoint

def memory(line):
    status = Path("/proc/self/status").read_text()
    return int(status.split(line + ":")[1].split()[0]) << 10

name, file, folder = sys.argv[1:]
checkpoint.save(folder + "/warm", {"params": {"a": np.ones(3)}}, {})
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
variables, meta, _ = checkpoints.convert_and_tell(name, file)
checkpoint.save(folder + "/out", variables, meta)
kept = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
print((memory("VmHWM") - before) / kept)
"""


@pytest.mark.slow("memory")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("form", ["pth", "npz"])
def test_converting_and_saving_take_half_as_much_again_as_the_tensors(tmp_path, form):
    name = "mvitv2_b"
    row, rng = zoo.starting_row(name), np.random.default_rng(0)
    leaves = networks.leaves_of(name, row, row.num_classes, {})
    arrays = {path: rng.standard_normal(x.shape, np.float32) for path, x in leaves.items()}
    tensors = converters.to_torch(name, traverse_util.unflatten_dict(arrays, sep="/"))
    if form == "pth":
        torch_write.write(tmp_path / "a.pth", tensors, {})
    else:
        np.savez(tmp_path / "a.npz", **tensors)
    command = [sys.executable, "-c", CODE, name, str(tmp_path / f"a.{form}"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 1.5
