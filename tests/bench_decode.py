"""Processor time of clips from video files on one core, beside decord, all ways in turns.

    taskset -c 0 python -m tests.bench_decode --decord-python=PYTHON --folder=DIR

Clips of training are 224 x 224, of 16 frames or 8 segments, from H.264 of 340 x 256 that is made in
`--folder` and kept there. Ours come out of the pipeline of training, with the file decoded from the
start, as it was, and from key frames. `--decord-python` names one that has decord and OpenCV: with
them go the steps of MMAction2's pipeline. `frames` are without what is done to pixels, and PyAV is
by hand: sought, decoded to the last frame, those wanted made RGB. The ratio is to decord in the
same round, over 1 where jaxvid is faster; the median of the rounds, and the lowest and highest.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SECONDS = (10, 60, 600)
RATE = 30
KINDS = {"16 frames": (16, 1), "8 segments": (1, 8)}  # frames of a clip, clips


def pictures(count: int) -> Iterator[np.ndarray]:
    """Scenes of ten seconds over which the camera moves, with noise: uint8 [256, 340, 3]."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, (16, 256, 340, 3))
    for number in range(count):
        if number % (10 * RATE) == 0:
            small = rng.integers(0, 256, (40, 50, 3)).astype(np.float32)
            scene = np.kron(small, np.ones((16, 16, 1)))
        top = int(150 + 120 * np.sin(number / 41))
        left = int(200 + 180 * np.cos(number / 67))
        seen = scene[top : top + 256, left : left + 340] + noise[number % 16]
        yield np.clip(seen, 0, 255).astype(np.uint8)


def encode(path: pathlib.Path, seconds: int) -> None:
    """A file as FFmpeg makes one unless told otherwise: x264's medium, key frames 250 apart."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 256, 340, "yuv420p"
        stream.options = {"crf": "23", "preset": "medium"}
        for picture in pictures(seconds * RATE):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def draw(kind: str, total: int, rng: np.random.Generator) -> list[int]:
    """The numbers of a clip's frames."""
    length, clips = KINDS[kind]
    part = total / clips
    if clips > 1:
        return [int(n * part + rng.uniform(0, part)) for n in range(clips)]
    start = int(rng.integers(total - 2 * length))
    return list(range(start, start + 2 * length, 2))


def by_pyav(path: str, numbers: list[int]) -> np.ndarray:
    """Frames by PyAV alone, of a file with a constant rate."""
    import av

    found: list[np.ndarray] = []
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        ticks = round(1 / RATE / stream.time_base)
        for number in numbers:
            if not found or number > reached + RATE:  # noqa: F821 - set with the first
                file.seek(number * ticks, stream=stream)
                frames = file.decode(stream)
            for frame in frames:
                reached = frame.pts // ticks
                if reached == number:
                    found.append(frame.to_ndarray(format="rgb24"))
                    break
    return np.stack(found)


def by_decord(path: str, numbers: list[int]) -> np.ndarray:
    import decord

    return decord.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()


def changed(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The steps of MMAction2's training: short side 256, a random area, 224 x 224, a flip."""
    import cv2

    frames = np.stack([cv2.resize(frame, (340, 256)) for frame in frames])
    area, aspect = rng.uniform(0.08, 1) * 256 * 340, np.exp(rng.uniform(*np.log([3 / 4, 4 / 3])))
    height = min(256, max(8, round((area / aspect) ** 0.5)))
    width = min(340, max(8, round((area * aspect) ** 0.5)))
    top, left = rng.integers(257 - height), rng.integers(341 - width)
    crops = frames[:, top : top + height, left : left + width]
    clip = [cv2.resize(crop, (224, 224)) for crop in crops]
    if rng.random() < 0.5:
        clip = [cv2.flip(frame, 1) for frame in clip]
    return np.ascontiguousarray(np.stack(clip).transpose(3, 0, 1, 2))


def serve() -> None:
    """Measures clips by decord as asked for, line by line."""
    rng = np.random.default_rng(0)
    for line in sys.stdin:
        path, numbers, whole = json.loads(line)
        began = time.process_time()
        frames = by_decord(path, numbers)
        if whole:
            changed(frames, rng)
        sys.stdout.write(f"{time.process_time() - began}\n")
        sys.stdout.flush()


def timed(action: Callable[[], Any]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


class Ours:
    """Clips of jaxvid's pipeline of training, of one file."""

    def __init__(self, folder: pathlib.Path, name: str, kind: str):
        from jaxvid.config import fields, loading
        from jaxvid.data import datasets

        listed = folder / f"{name}.csv"
        listed.write_text(f"path,label\n{name},a\n")
        config = loading.load("configs/slowonly_r50.py:dataset=files")
        config.data.data_dir, config.data.train_split = str(folder), str(listed)
        length, clips = KINDS[kind]
        config.data.sampling.clip_len, config.data.sampling.num_clips = length, clips
        config.data.sampling.frame_interval = 2 if length > 1 else 1
        config.data.workers = 1
        self._config = fields.freeze(config)
        self._split = datasets.open_split(self._config.data, str(listed))
        self.noted = self._split.source._noted[0]

    def seconds(self, keyed: bool, count: int, seed: int) -> float:
        """Processor time of a clip."""
        from jaxvid.data import pipeline

        self._split.source._noted = [self.noted if keyed else None]
        batches = pipeline.train_batches(
            self._split, self._config.data, batch_size=1, loss=self._config.train.loss, seed=seed
        )
        next(batches)  # As many are made ahead before as after.
        spent = timed(lambda: [next(batches) for _ in range(count)])
        batches.close()
        return spent / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--decord-python")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS, help="of the files")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    from jaxvid.data import decode

    command = [args.decord_python, __file__, "--serve"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as decord:
        assert decord.stdin and decord.stdout

        def ask(path: str, numbers: list[int], whole: bool) -> float:
            decord.stdin.write(json.dumps([path, numbers, whole]) + "\n")
            decord.stdin.flush()
            return float(decord.stdout.readline())

        for seconds in args.seconds:
            path = args.folder / f"{seconds}.mp4"
            if not path.exists():
                encode(path, seconds)
            for kind in KINDS:
                ours = Ours(args.folder, path.name, kind)
                spent: dict[str, list[float]] = {}
                for number in range(args.rounds):
                    rng = np.random.default_rng(number)
                    drawn = [draw(kind, seconds * RATE, rng) for _ in range(args.clips)]
                    name = str(path)

                    def mean(way: Callable[[list[int]], float], some: Any = drawn) -> float:
                        return sum(map(way, some)) / len(some)

                    def frames(noted: Any, name: str = name) -> Callable[[list[int]], float]:
                        return lambda n: timed(lambda: decode.frames_at(name, n, None, noted=noted))

                    few = args.clips if seconds < 600 else 2  # of what takes seconds
                    found = {
                        "clips, from the start": ours.seconds(False, few, number),
                        "clips, from key frames": ours.seconds(True, args.clips, number),
                        "clips, decord": mean(lambda n, name=name: ask(name, n, True)),
                        "frames, from the start": mean(frames(None), drawn[:few]),
                        "frames, from key frames": mean(frames(ours.noted)),
                        "frames, PyAV": mean(lambda n, p=name: timed(lambda: by_pyav(p, n))),
                        "frames, decord": mean(lambda n, name=name: ask(name, n, False)),
                    }
                    for way, value in found.items():
                        spent.setdefault(way, []).append(value)
                for way, values in spent.items():
                    other = spent[way.partition(",")[0] + ", decord"]
                    ratios = [b / a for a, b in zip(values, other, strict=True)]
                    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
                    sys.stdout.write(
                        f"{seconds} s, {kind}, {way}: {1000 * statistics.median(values):.1f} ms, "
                        f"{statistics.median(ratios):.2f} {spread}\n"
                    )
                    sys.stdout.flush()
        with contextlib.suppress(OSError):
            decord.stdin.close()


if __name__ == "__main__":
    main()
