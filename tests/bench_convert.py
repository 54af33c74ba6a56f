"""How long converting a checkpoint takes, and what memory, beside PyTorch that loads and copies.

    python tests/bench_convert.py --torch-python=/path/to/python

That Python needs PyTorch only. A file of random weights is made once. Then these take turns, each
in a process of its own on the same cores: `converters.convert`, which reads, checks, rearranges and
copies; `torch.load` and a copy of every tensor; `python -m converters`, which also writes with
Orbax; and PyTorch's with `torch.save` of the copies to disk. Printed are the time by the clock, the
processor time and the peak of resident memory of the whole processes, imports included, their
medians, and each of ours over what PyTorch takes for the same.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from flax import traverse_util

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
CONVERT = """
import sys, converters
variables = converters.convert(*sys.argv[1:])
"""
COPY = """
import os, sys, torch
tensors = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["state_dict"]
copies = {key: tensor.clone() for key, tensor in tensors.items()}
if sys.argv[2:]:
    torch.save(copies, sys.argv[2])
    with open(sys.argv[2], "rb") as file:
        os.fsync(file.fileno())
"""
# What of PyTorch's does the same.
PEERS = {"convert": "load, copy", "convert, save": "load, copy, save"}
FIGURES = ("s", "processor s", "peak MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", required=True, help="a Python that has PyTorch")
    parser.add_argument("--model", default="uniformerv2_l14_336_u32_k400", help="any row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cores", default="0,1", help="the cores that all run on")
    parser.add_argument("--folder", help="where 4 times the size of the file is free")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jaxvid-convert-", dir=args.folder))
    try:
        run(args, folder)
    finally:
        shutil.rmtree(folder)


def run(args: argparse.Namespace, folder: Path) -> None:
    file, out, saved = folder / "net.pth", folder / "out", folder / "saved.pth"
    write_weights(args.model, file)
    with file.open("rb") as opened:
        digits = hashlib.file_digest(opened, "sha256").hexdigest()[:8]
    file = file.rename(folder / f"net-{digits}.pth")  # As published files are called.
    print(f"{args.model}: {file.stat().st_size >> 20} MiB, {args.repeats} turns")
    ours, theirs = [sys.executable], [args.torch_python]
    to_disk = ["-m", "converters", f"--model={args.model}", f"--checkpoint={file}", f"--out={out}"]
    commands = {
        "convert": [*ours, "-c", CONVERT, args.model, str(file)],
        "load, copy": [*theirs, "-c", COPY, str(file)],
        "convert, save": [*ours, *to_disk],
        "load, copy, save": [*theirs, "-c", COPY, str(file), str(saved)],
    }
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in commands}
    for turn in range(args.repeats + 1):
        for name, command in commands.items():
            measured = measure(command, args.cores)
            shutil.rmtree(out, ignore_errors=True)
            saved.unlink(missing_ok=True)
            if turn:  # The first turn fills the caches of the system.
                figures[name].append(measured)
                print(
                    name,
                    *(f"{value:.1f} {unit}" for value, unit in zip(measured, FIGURES, strict=True)),
                    flush=True,
                )
    medians = {
        name: [statistics.median(x) for x in zip(*f, strict=True)] for name, f in figures.items()
    }
    for name, median in medians.items():
        shown = (f"{value:.1f} {unit}" for value, unit in zip(median, FIGURES, strict=True))
        print(f"{name}: median {', '.join(shown)}")
    for name, peer in PEERS.items():
        ratios = (f"{a / b:.2f}" for a, b in zip(medians[name], medians[peer], strict=True))
        print(f"{name} over {peer}: {', '.join(ratios)}")


def write_weights(name: str, path: Path) -> None:
    from converters import checkpoints, networks, torch_write
    from jaxvid import zoo

    row, rng = zoo.get_row(name), np.random.default_rng(0)
    leaves = networks.leaves_of(name, row, row.num_classes, {})
    arrays = {key: rng.standard_normal(leaf.shape, np.float32) for key, leaf in leaves.items()}
    tensors = checkpoints.to_torch(name, traverse_util.unflatten_dict(arrays, sep="/"))
    torch_write.write(path, tensors, {})


def measure(command: list[str], cores: str) -> tuple[float, float, float]:
    """Returns time by the clock and processor time in seconds, and the memory's peak in MiB."""
    begun = time.perf_counter()
    pinned = ["taskset", "-c", cores, *command]
    process = subprocess.Popen(pinned, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[:3]} failed with {os.waitstatus_to_exitcode(status)}")
    clock = time.perf_counter() - begun
    return clock, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
