"""Memory of a long training run, which must not grow: python tests/bench_memory.py --steps=20000

Trains the smallest network on a few toy clips, with saves and tests on the way, and prints the
memory of its process as the steps go by, then its growth over the second half. What grows by a
number a step, or by an array a save, shows there; what is filled once, such as caches, does not.
Every save leaves a little behind (about 0.1 MiB here): TensorStore, up to 0.1.86 at least, never
frees the values of the dictionaries that its `KvStore.Spec.to_json` returns, of which Orbax asks
one for each array. Linux only.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

FIELDS = {
    "data.crop": 16,
    "data.sampling.num_clips": 1,
    "test.crop": 16,
    "test.short_side": 16,
    "test.sampling.num_clips": 1,
    "test.batch_size": 4,
    "train.batch_size": 4,
}


def held(process: int) -> float:
    """MiB that a process allocated and touched, in memory or swapped out."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return sum(int(kib) for kib in re.findall(r"(?:RssAnon|VmSwap):\s+(\d+) kB", status)) / 1024


def measure(
    folder: pathlib.Path, steps: int, every: int, tests: int, saves: int
) -> list[tuple[int, float]]:
    """Trains for `steps` and returns (step, MiB) at `every` so many.

    `tests` and `saves` are how many there are on the way; every test saves, too.
    """
    from jaxvid.data import build, toy

    toy.make(folder, toy.Settings(train=2, test=1, height=48, width=48, frames=(4, 5)))
    for split in ("train", "test"):
        build.build(folder / "videos", folder / f"{split}.csv", folder, workers=1)
    epochs = steps // 4  # of 16 clips
    fields = FIELDS | {
        "train.epochs": epochs,
        "train.eval_epochs": epochs / max(tests, 1),
        "train.checkpoint_steps": steps // max(saves, 1),
        "train.log_steps": every,
    }
    config = f"{ROOT}/configs/tsn_r50.py:runlocal,dataset=mini,data_dir={folder}"
    words = [sys.executable, "-m", "jaxvid.main", f"--config={config}", f"--workdir={folder}/run"]
    words += [f"--config.{name}={value}" for name, value in fields.items()]
    series = []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step "):
                series.append((int(re.match(r"step (\d+)", line)[1]), held(process.pid)))
                print(f"step {series[-1][0]:6d}  {series[-1][1]:7.1f} MiB", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    return series


def main() -> None:
    """Prints the series and the growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--tests", type=int, default=10)
    parser.add_argument("--saves", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = arguments.steps // 40 * 40
        series = measure(pathlib.Path(folder), steps, steps // 40, arguments.tests, arguments.saves)
    step, memory = np.array(series[len(series) // 2 :]).T
    slope = np.polyfit(step, memory, 1)[0]
    print(
        f"second half: {memory[0]:.1f} to {memory[-1]:.1f} MiB, {1000 * slope:+.3f} per 1000 steps"
    )


if __name__ == "__main__":
    main()
