"""Processor time of training clips from records on one core, beside MMAction2's from the files.

    taskset -c 0 python -m tests.bench_loader --mmaction-python=PYTHON --folder=DIR [--before=DIR]

Clips are 16 frames of 224 x 224 or 8 segments, a random area and a flip, in batches of 8. Files are
H.264 of 340 x 256 as `tests.bench_decode` makes them in `--folder`, where their records are built,
too, or those of `--videos`. `--mmaction-python` names one that has MMAction2 with decord; its own
transforms are timed, clip by clip, and no batches are made of them. `--before` is another checkout,
as `git worktree add DIR COMMIT` makes it, whose records take turns too. The ratio is to MMAction2
in the same round, over 1 where jaxvid is faster; the median of the rounds, the lowest and highest.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence

from tests.bench_decode import KINDS, encode

ROOT = pathlib.Path(__file__).parent.parent
VIDEOS = 4
BATCH = 8


def ours(folder: pathlib.Path, dataset: str, kind: str) -> Callable[[], int]:
    """Takes a batch out of the pipeline of training; gives how many clips that is."""
    from jaxvid.config import fields, loading
    from jaxvid.data import datasets, pipeline

    config = loading.load(f"configs/slowonly_r50.py:dataset={dataset}")
    config.data.data_dir = str(folder)
    length, clips = KINDS[kind]
    config.data.sampling.clip_len, config.data.sampling.num_clips = length, clips
    config.data.sampling.frame_interval = 2 if length > 1 else 1
    config.data.workers, config.train.batch_size = 1, BATCH
    c = fields.freeze(config)
    batches = pipeline.train_batches(
        datasets.open_split(c.data, "train"), c.data, batch_size=BATCH, loss=c.train.loss, seed=0
    )
    return lambda: len(next(batches)["video"])


def mmaction(folder: pathlib.Path, kind: str) -> Callable[[], int]:
    """Makes a clip by the transforms of MMAction2's configs of Kinetics."""
    # A module that its wheel lacks and that nothing here needs.
    for name in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["mmaction.models.localizers.drn.drn"].DRN = None
    import cv2
    import mmaction.datasets.transforms  # noqa: F401 - it registers them
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    cv2.setNumThreads(1)
    init_default_scope("mmaction")
    length, clips = KINDS[kind]
    interval = 2 if length > 1 else 1
    make = Compose(
        [
            {"type": "DecordInit"},
            {
                "type": "SampleFrames",
                "clip_len": length,
                "frame_interval": interval,
                "num_clips": clips,
            },
            {"type": "DecordDecode"},
            {"type": "Resize", "scale": (-1, 256)},
            {"type": "RandomResizedCrop"},
            {"type": "Resize", "scale": (224, 224), "keep_ratio": False},
            {"type": "Flip", "flip_ratio": 0.5},
            {"type": "FormatShape", "input_format": "NCTHW" if length > 1 else "NCHW"},
            {"type": "PackActionInputs"},
        ]
    )
    paths = [str(path) for path in sorted(folder.glob("*.mp4"))]

    def one() -> int:
        paths.append(paths.pop(0))
        make({"filename": paths[0], "label": 0, "start_index": 0, "modality": "RGB"})
        return 1

    return one


def serve(way: str, folder: pathlib.Path, kind: str) -> None:
    """Answers each line, a number of clips, with the processor's seconds for one of them."""
    if way == "mmaction":
        take = mmaction(folder, kind)
    else:
        take = ours(folder / "records" if way == "mine" else folder, way, kind)
    for line in sys.stdin:
        for _ in range(4):  # of which as many are made ahead before as after
            take()
        made, began = 0, time.process_time()
        while made < int(line):
            made += take()
        os.write(3, f"{(time.process_time() - began) / made}\n".encode())


class Server:
    """A process that makes clips in one way."""

    def __init__(self, python: str, tree: pathlib.Path, way: str, folder: pathlib.Path, kind: str):
        asked, answered = os.pipe()
        self._answers = open(asked)  # noqa: SIM115 - as long as it lives
        code = (
            "import os, pathlib, sys; os.dup2(int(sys.argv[1]), 3); "
            "from tests.bench_loader import serve; "
            "serve(sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4])"
        )
        self._process = subprocess.Popen(
            [python, "-c", code, str(answered), way, str(folder), kind],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[answered],
            text=True,
        )
        os.close(answered)

    def seconds(self, clips: int) -> float:
        """Processor time of a clip, of so many."""
        assert self._process.stdin
        self._process.stdin.write(f"{clips}\n")
        self._process.stdin.flush()
        return float(self._answers.readline())

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()


def prepare(folder: pathlib.Path, videos: Sequence[pathlib.Path], seconds: int) -> None:
    """Copies of the videos, or files of so many seconds, with their list and records of them."""
    from jaxvid.data import build

    if (folder / "records").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not videos:
        encode(folder / "0.mp4", seconds)
        videos = [folder / "0.mp4"] * VIDEOS
    for number, video in enumerate(videos):
        with contextlib.suppress(shutil.SameFileError):
            shutil.copy(video, folder / f"{number}.mp4")
    lines = [f"{number}.mp4,{'ab'[number % 2]}\n" for number in range(len(videos))]
    (folder / "train.csv").write_text("path,label\n" + "".join(lines))
    build.build(folder, folder / "train.csv", folder / "records", workers=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for what is made")
    parser.add_argument("--mmaction-python", required=True, help="one that has MMAction2")
    parser.add_argument("--before", type=pathlib.Path, help="another checkout")
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 60], help="of the files")
    parser.add_argument("--videos", type=pathlib.Path, nargs="+", default=[], help="instead")
    parser.add_argument("--clips", type=int, default=64, help="of each turn (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default 5)")
    args = parser.parse_args()
    ways = {
        "MMAction2": (args.mmaction_python, ROOT, "mmaction"),
        "records": (sys.executable, ROOT, "mine"),
        "files": (sys.executable, ROOT, "files"),
    }
    if args.before:
        ways["records before"] = (sys.executable, args.before.absolute(), "mine")
    kinds = ["given"] if args.videos else [f"{seconds} s" for seconds in args.seconds]
    for number, videos in enumerate(kinds):
        folder = args.folder.absolute() / videos.replace(" ", "")
        prepare(folder, args.videos, args.seconds[number])
        for kind in KINDS:
            with contextlib.ExitStack() as stack:
                servers = {}
                for name, (python, tree, way) in ways.items():
                    servers[name] = Server(python, tree, way, folder, kind)
                    stack.callback(servers[name].end)
                spent: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(args.rounds):
                    for name, server in servers.items():
                        spent[name].append(server.seconds(args.clips))
            for name, values in spent.items():
                ratios = [b / a for a, b in zip(values, spent["MMAction2"], strict=True)]
                sys.stdout.write(
                    f"{videos}, {kind}, {name}: {1000 * statistics.median(values):.1f} ms, "
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
