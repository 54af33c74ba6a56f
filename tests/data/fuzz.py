"""Mutated and hostile records, videos, streams, lists and scores, under watch.

`python -m tests.data.fuzz records 2000` makes and reads that many; so do `videos`, `streams`,
`lists` and `scores`. Each must give what it held or one sentence of the program's own, run nothing,
and stay within limits of time and memory; the first that does not is kept and named, and the exit
code is 1. Where a checksum covers what was damaged, an answer that differs is wrong.

Records go through the batches of training and test; videos through a build, through batches of
files, and through prediction, which must agree on how many frames there are; streams through
standard input into windows; lists, with the notes beside them, through the opening of their videos;
scores through fusion. `--seeds=DIR` takes that folder's videos as well as those that are made here.
"""

import argparse
import collections
import contextlib
import faulthandler
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid import checkpoint, config, fuse, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, datasets, decode, records, sequence_example, toy
from jaxvid.data.crc32c import masked
from jaxvid.inference import predictor, stream
from tests import handed
from tests.data import clips

NETWORK = "tsm_test"
# What nothing that is read may lead to: programs, modules, code, connections.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.startfile",
    "subprocess.Popen",
    "pickle.find_class",
    "marshal.loads",
    "ctypes.dlopen",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "urllib.Request",
)
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/")


class _Late(BaseException):
    """Reading took too long."""


class _Watch:
    """Notes what the interpreter is asked to do while files are read in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.on = str(folder), False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.on:
            return
        outside = False
        if event == "open" and isinstance(arguments[0], str):
            path, mode = os.path.abspath(arguments[0]), arguments[1] or "r"
            writes = any(letter in mode for letter in "wxa+")
            inside = path.startswith((self.folder, *SYSTEM))
            outside = not inside and (writes or not path.endswith((".py", ".pyc", ".so", ".json")))
        if event in FORBIDDEN or outside:
            self.seen.append(f"{event} {arguments!r:.200}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("records", "videos", "streams", "lists", "scores"))
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=60, help="seconds for one of them")
    parser.add_argument("--seeds", type=Path, help="folder of videos to mutate, read in place")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jaxvid-fuzz-")).resolve()
    tempfile.tempdir = str(folder)  # TensorFlow keeps what it compiles in passing there
    makers = {
        "records": lambda: _records(folder),
        "videos": lambda: _videos(folder, args.seeds),
        "streams": lambda: _streams(folder, args.seeds),
        "lists": lambda: _lists(folder),
        "scores": lambda: _scores(folder),
    }
    trial, check = makers[args.what]()
    watch = _Watch(folder)
    signal.signal(signal.SIGALRM, _raise_late)
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = (0.0, "")
    before = _peak()
    for number in range(args.count):
        draw = random.Random(f"{args.what} {args.seed} {number}")
        kind, where = trial(draw)
        began, problem = time.perf_counter(), None
        watch.on = True
        try:
            signal.alarm(args.limit)
            # Code that no signal reaches is ended with a traceback.
            faulthandler.dump_traceback_later(2 * args.limit, exit=True)
            with _quiet():
                outcome = check(draw)
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            watch.on = False
        if watch.seen:
            problem = f"it acted: {watch.seen[:3]}"
        if _peak() - before > 1024:
            problem = problem or f"it took {_peak() - before} MiB"
        if problem:
            sys.exit(f"{kind}, number {number} of seed {args.seed}, kept as {where}: {problem}")
        slowest = max(slowest, (time.perf_counter() - began, f"{kind} {number}"))
        outcomes[f"{kind}: {outcome}"] += 1
        if number % 100 == 99:
            print(f"{number + 1} {args.what} read or refused", file=sys.stderr, flush=True)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    grown = f"peak {_peak()} MiB of which {_peak() - before} for them"
    print(f"{args.count} {args.what}, slowest {slowest[0]:.1f} s ({slowest[1]}), {grown}")
    shutil.rmtree(folder)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sends progress and warnings nowhere."""
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _sentence(error: JaxvidError) -> str:
    """Its kind of outcome; anything but a sentence is a fault."""
    text = str(error)
    if "\n" in text or not text.strip():
        raise AssertionError(f"more than a sentence: {text}")
    return "refused"


def _settings() -> ml_collections.ConfigDict:
    """Training and test of four frames of 32 pixels."""
    settings = config.from_row(NETWORK)
    settings.data.update({"crop": 32, "workers": 1, "max_bad_records": 1})
    settings.data.sampling.update({"clip_len": 1, "num_clips": 4})
    settings.train.batch_size = settings.test.batch_size = 2
    settings.test.sampling.update({"clip_len": 1, "num_clips": 4})
    settings.test.update({"crop": 32, "short_side": 32})
    return settings


def _read_batches(split: datasets.Split, settings: ml_collections.ConfigDict) -> None:
    """A batch of training, as it is met, and the whole test."""
    settings.train.loss = "sigmoid"
    with contextlib.closing(handed.train_batches(split, settings)) as batches:
        next(batches)
    for batch in handed.test_batches(split, settings):
        assert batch["video"].shape[2:] == (4, 32, 32, 3)


# ---- records


def _records(folder: Path) -> tuple[Callable, Callable]:
    """How records are made hostile, and how they are read."""
    whole, trial = folder / "whole", folder / "trial"
    rng = np.random.default_rng(0)
    whole.mkdir()
    videos = [toy.draw(name, rng, toy.Settings(frames=(4, 6), height=48, width=48)) for name in
              ("left", "up", "grow")]  # fmt: skip
    for number, frames in enumerate(videos):
        toy.write_clip(whole / f"{number}.mp4", frames, 25)
    (whole / "train.csv").write_text("path,label\n0.mp4,a\n1.mp4,b|a\n2.mp4,b\n")
    build.build(whole, whole / "train.csv", whole, shards=1, workers=1)
    shard, index = "train-00000-of-00001.tfrecord", "train.index.npz"
    names = (shard, index, "train.frames.npy", "labels.txt")
    data = {name: (whole / name).read_bytes() for name in names}
    split = records.Records(whole, "train")
    payloads = [split.read(number) for number in range(3)]
    images = [split.frames(n, np.arange(split.num_frames[n])) for n in range(3)]
    with np.load(whole / index) as file:
        arrays = {name: file[name] for name in file}
    settings, made = _settings(), {"kind": ""}

    def make(draw: random.Random) -> tuple[str, Path]:
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        kinds = ("shard", "shard and index", *names[1:], "payload", "picture", "context", "arrays")
        kind = made["kind"] = draw.choice(kinds)
        files = dict(data)
        if kind in data or kind.startswith("shard"):
            name = shard if kind.startswith("shard") else kind
            files[name] = mutate(draw, data[name], list(data.values()))
        elif kind == "arrays":
            _write_arrays(draw, arrays, trial / index)
            del files[index]
        else:
            record = _hostile_record(draw, kind, payloads, images)
            files[shard] = b"".join(map(_framed, [*payloads[:2], record]))
        if kind in ("shard", "payload", "picture", "context"):  # as records of others come
            del files[index], files["train.frames.npy"]
        for name, content in files.items():
            (trial / name).write_bytes(content)
        return kind, trial

    def check(draw: random.Random) -> str:
        data = ml_collections.ConfigDict(
            {"dataset": "x", "data_dir": str(trial), "flow": "", "category": "", "mixture": ()}
        )
        try:
            split = datasets.open_split(data, "train")
            for number in range(len(split)):
                with contextlib.suppress(JaxvidError):
                    payload = split.source.read(number)
                    if made["kind"] in ("shard", *names) and payload not in payloads:
                        raise AssertionError(f"record {number} is another than was written")
                with contextlib.suppress(JaxvidError):
                    found = split.source.frames(number, range(split.source.num_frames[number]))
                    if made["kind"] in ("shard", *names) and found not in images:
                        raise AssertionError(f"frames of record {number} are not those written")
            _read_batches(split, settings)
        except JaxvidError as error:
            return _sentence(error)
        return "read"

    trial.mkdir()
    for name, content in data.items():
        (trial / name).write_bytes(content)
    assert check(random.Random()) == "read"
    return make, check


def _framed(payload: bytes) -> bytes:
    """A TFRecord with the right checksums."""
    size = struct.pack("<Q", len(payload))
    return size + struct.pack("<I", masked(size)) + payload + struct.pack("<I", masked(payload))


def _hostile_record(
    draw: random.Random, kind: str, payloads: list[bytes], images: list[list[bytes]]
) -> bytes:
    if kind == "payload":
        return mutate(draw, payloads[2], payloads)
    frames, context = list(images[2]), {"clip/label/index": 1, "video/filename": b"2.mp4"}
    if kind == "picture":
        for _ in range(draw.choice((1, 1, len(frames)))):
            place = draw.randrange(len(frames))
            frames[place] = mutate(draw, frames[place], images[0])
        return sequence_example.encode(context, frames)
    extreme = (0, -1, 1, 2**15, 2**31, 2**40, 2**63 - 1, -(2**63), 0.0, -1.0, 1e30, float("nan"),
               float("inf"), b"", b"\xff\xfe\n\x00", b"../../x", ())  # fmt: skip
    keys = [sequence_example.LABEL_INDEX, sequence_example.FILENAME, sequence_example.START,
            sequence_example.END, sequence_example.FRAME_RATE, sequence_example.HEIGHT,
            sequence_example.WIDTH]  # fmt: skip
    for key in draw.sample(keys, draw.randrange(1, 5)):
        context[key] = draw.choice(extreme)
        if isinstance(context[key], int) and draw.random() < 0.3:
            context[key] = (draw.randrange(2), context[key])
    return sequence_example.encode(context, frames[: draw.choice((0, 1, len(frames)))])


def _write_arrays(draw: random.Random, arrays: dict[str, np.ndarray], path: Path) -> None:
    """An index whose arrays are sound files, but not sound."""
    changed = dict(arrays)
    for name in draw.sample(sorted(arrays), draw.choice((1, 1, 2))):
        array = arrays[name]
        match draw.randrange(6):
            case 0:
                changed[name] = array[..., :-1] if array.ndim else np.array(draw.randrange(9))
            case 1:
                changed[name] = np.array([print, {"a": 1}], object)  # a pickle
            case 2:
                changed[name] = np.array(["x\n", "../../etc/passwd", "-1"])
            case 3:
                del changed[name]
            case _ if array.dtype.kind in "if" and array.size:
                wild = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
                extreme = draw.choice((-1, 0, 1, 2**31, 2**40, 2**62, -(2**62)))
                wild.flat[draw.randrange(array.size)] = extreme
                changed[name] = wild
            case _:
                changed[name] = np.repeat(array, 2, axis=0) if array.ndim else array
    np.savez(path, **changed)


# ---- videos


def _videos(folder: Path, more: Path | None) -> tuple[Callable, Callable]:
    """How videos are made hostile, and how they are read."""
    seeds = _seed_videos(folder / "seeds")
    if more:
        seeds |= {path.name: path.read_bytes() for path in more.iterdir() if path.is_file()}
        seeds = {name: data for name, data in seeds.items() if len(data) < 400_000}
    answers = make_predictor(folder / "network")
    trial, settings = folder / "trial", _settings()

    def make(draw: random.Random) -> tuple[str, Path]:
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        name = draw.choice(sorted(seeds))
        path = trial / f"a{Path(name).suffix}"
        path.write_bytes(mutate(draw, seeds[name], list(seeds.values())))
        (trial / "train.csv").write_text(f"path,label\n{path.name},x\n")
        return Path(name).suffix, trial

    def check(draw: random.Random) -> str:
        csv_file = trial / "train.csv"
        path = next(path for path in trial.iterdir() if path != csv_file)
        counts = [
            _count(lambda: build.build(trial, csv_file, trial / "out", workers=1).num_frames),
            _count(lambda: _train_on_files(trial, settings)),
            _count(lambda: answers.predict(path).num_frames),
        ]
        if len(set(counts)) > 1:
            raise AssertionError(f"built, as a file, predicted: {counts} frames")
        return "refused" if counts[0] is None else "read"

    for number, name in enumerate(sorted(seeds)):
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        (trial / name).write_bytes(seeds[name])
        (trial / "train.csv").write_text(f"path,label\n{name},x\n")
        with _quiet():
            outcome = check(random.Random(number))
        assert outcome == "read" or more, name
    return make, check


def _streams(folder: Path, more: Path | None) -> tuple[Callable, Callable]:
    """How streams are made hostile, and how they are read."""
    seeds = _seed_videos(folder / "seeds", stream=True)
    if more:
        seeds |= {path.name: path.read_bytes() for path in more.iterdir() if path.is_file()}
        seeds = {name: data for name, data in seeds.items() if len(data) < 400_000}
    trial, source = folder / "trial", decode._Input

    def make(draw: random.Random) -> tuple[str, Path]:
        name = draw.choice(sorted(seeds))
        data = mutate(draw, seeds[name], list(seeds.values()))
        trial.write_bytes(data * draw.choice((1, 1, 1, 50)))
        return Path(name).suffix, trial

    def check(draw: random.Random) -> str:
        ends, endless = os.pipe(), draw.choice((b"", b"", bytes(1 << 16), draw.randbytes(1 << 16)))
        decode._Input = lambda _: source(ends[0])
        sender = threading.Thread(target=_send, args=(ends[1], trial.read_bytes(), endless))
        sender.start()
        try:
            with decode.Video("-", 32, live=True) as video:
                for number, window in enumerate(stream.windows(video, 1.0, 0.5, live=True)):
                    assert window.frames and window.end > window.start
                    if number > 50:
                        break
        except JaxvidError as error:
            return _sentence(error)
        finally:
            os.close(ends[0])
            sender.join()
        return "read"

    return make, check


def _send(pipe: int, data: bytes, endless: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(pipe, data) :] or endless
    os.close(pipe)


# ---- lists and scores


def _lists(folder: Path) -> tuple[Callable, Callable]:
    """How lists of videos and the notes beside them are made hostile, and how they are read."""
    whole, trial = folder / "whole", folder / "trial"
    whole.mkdir()
    trial.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        frames = toy.draw("up", rng, toy.Settings(frames=(4, 4), height=32, width=32))
        toy.write_clip(trial / f"{name}.mp4", frames, 25)
    lines = ["path,label", "a.mp4,up", '"b.mp4",down', "./a.mp4,up", ""]
    listed, noted = trial / "train.csv", trial / "train.csv.probed"
    listed.write_text("\n".join(lines))
    data = ml_collections.ConfigDict(
        {"dataset": "files", "data_dir": str(trial), "flow": "", "train_split": "train",
         "test_split": "", "max_bad_records": 5, "workers": 1, "category": "", "mixture": ()}
    )  # fmt: skip
    with _quiet():
        datasets.open_split(data, "train")
    seeds = {listed: listed.read_bytes(), noted: noted.read_bytes()}
    labels = trial / "labels.txt"
    pieces = [b'"', b",", b"\n", b"\r", b"|", b"../", b"\0", b"[" * 5000, b"9" * 5000,
              b"a.mp4,up\n" * 999, b"x" * 300, b"\xef\xbb\xbf", b"\xff\xfe",
              "\u2028\x85\u202e".encode()]  # fmt: skip

    def make(draw: random.Random) -> tuple[str, Path]:
        kind = draw.choice(("list", "notes", "both", "names"))
        labels.unlink(missing_ok=True)
        for path, content in seeds.items():
            path.write_bytes(content)
        for path in {"list": [listed], "notes": [noted], "names": [labels]}.get(kind, [*seeds]):
            content = seeds.get(path, b"down\nup\n")
            if draw.random() < 0.5:
                where = draw.randrange(len(content) + 1)
                content = content[:where] + draw.choice(pieces) + content[where:]
            path.write_bytes(mutate(draw, content, [*seeds.values(), *pieces]))
        return kind, trial

    def check(draw: random.Random) -> str:
        try:
            split = datasets.open_split(data, "train")
            for number in range(min(len(split), 3)):
                with contextlib.suppress(JaxvidError):
                    split.source.frames(number, np.array([0]))
                    if split.paths[number] not in ("a.mp4", "b.mp4"):
                        continue
                    if noted.read_bytes().startswith(seeds[noted]) and (
                        split.source.num_frames[number] != 4
                    ):
                        raise AssertionError("another number of frames than was noted")
        except JaxvidError as error:
            return _sentence(error)
        return "read"

    return make, check


def _scores(folder: Path) -> tuple[Callable, Callable]:
    """How files of scores are made hostile, and how they are read."""
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 30).astype(np.float32)
    arrays = {"scores": scores, "labels": rng.integers(0, 4, 30),
              "paths": np.array([f"clips/{n}.mp4" for n in range(30)]),
              "classes": np.array(["a", "b", "c", "d"])}  # fmt: skip
    path, sound = folder / "scores.npz", fuse.Scores(**arrays)
    seeds = []
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        seeds.append(path.read_bytes())

    def make(draw: random.Random) -> tuple[str, Path]:
        kind = draw.choice(("bytes", "bytes", "arrays"))
        if kind == "bytes":
            path.write_bytes(mutate(draw, draw.choice(seeds), seeds))
        else:
            _write_arrays(draw, arrays, path)
        made["kind"] = kind
        return kind, path

    made = {"kind": ""}

    def check(draw: random.Random) -> str:
        try:
            found = fuse.read(path)
            fused = fuse.fuse([found, sound], [1, 2], draw.choice(("prob", "score")))
        except JaxvidError as error:
            return _sentence(error)
        assert np.isfinite(fused.scores).all()
        if made["kind"] == "bytes":
            for name, array in arrays.items():
                if not np.array_equal(getattr(found, name), array):
                    raise AssertionError(f"{name} are not those that were written")
        return "read"

    # Which also loads what reading headers needs.
    assert check(random.Random(0)) == "read"
    _write_arrays(random.Random(0), arrays, path)
    check(random.Random(0))
    return make, check


def _count(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except JaxvidError as error:
        _sentence(error)
        return None


def _train_on_files(folder: Path, settings: ml_collections.ConfigDict) -> int:
    data = ml_collections.ConfigDict(
        {"dataset": "files", "data_dir": str(folder), "flow": "", "train_split": "train",
         "test_split": "", "max_bad_records": 0, "workers": 1, "category": "", "mixture": ()}
    )  # fmt: skip
    split = datasets.open_split(data, "train")
    _read_batches(split, settings)
    return int(split.source.num_frames[0])


def _seed_videos(folder: Path, stream: bool = False) -> dict[str, bytes]:
    """Small clips in the containers and codecs that people have."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    frames = toy.draw("up", rng, toy.Settings(frames=(9, 9), height=48, width=48))
    toy.write_clip(folder / "toy.mp4", frames, 25)
    clips.encode(folder / "fast.mp4", frames=9, container={"movflags": "faststart"})
    clips.encode(folder / "turned.mov", frames=5)
    clips.set_matrix(folder / "turned.mov", 0, 1, -1, 0)
    clips.encode(folder / "a.mkv", frames=9, times=[0, 4, 30, 34, 38, 90, 94, 98, 99])
    clips.encode(folder / "a.webm", frames=9, codec="libvpx")
    clips.encode(folder / "b.webm", frames=9, codec="libvpx-vp9")
    clips.encode(folder / "a.avi", frames=9, codec="mpeg4")
    clips.encode(folder / "b.avi", frames=5, codec="mjpeg", pixels="yuvj420p")
    clips.encode(folder / "a.gif", frames=5, codec="gif", pixels="rgb8")
    clips.encode(folder / "hevc.mp4", frames=5, codec="libx265")
    if stream:
        clips.encode(folder / "a.ts", frames=24, codec="mpeg2video")
        clips.encode(folder / "a.mpg", frames=24, codec="mpeg2video")
        clips.encode(folder / "a.flv", frames=24, codec="flv")
        clips.encode(folder / "a.nut", frames=24, codec="mpeg4")
        clips.encode(folder / "a.y4m", frames=24, codec="wrapped_avframe")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_predictor(folder: Path) -> predictor.Predictor:
    """A tiny network of random weights, saved in `folder`."""
    settings = _settings()
    model = zoo.create_model(NETWORK, 3)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    meta = {"row": NETWORK, "num_classes": 3, "classes": ["a", "b", "c"]}
    checkpoint.save(folder, variables, meta | {"test": settings.test.to_dict()})
    return predictor.Predictor(folder)


# ---- what is done to bytes


def mutate(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Changes a file in one to eight places, of which a few are at its beginning or end."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        data = data or bytearray(b"x")
        reach = draw.choice((len(data), min(len(data), 400)))
        where = draw.randrange(reach)
        where = draw.choice((where, len(data) - 1 - where))
        match draw.randrange(9):
            case 0 | 1:
                data[where] = draw.randrange(256)
            case 2:
                data[where] ^= 1 << draw.randrange(8)
            case 3:
                del data[where : where + draw.randrange(1, 9)]
            case 4:
                data[where:where] = draw.randbytes(draw.randrange(1, 9))
            case 5:
                extreme = draw.choice((b"\xff" * 8, bytes(8), b"\x7f" * 4, b"\x80" + bytes(7)))
                data[where : where + len(extreme)] = extreme
            case 6:
                del data[where:]
            case 7:  # another file's header, or a piece of it
                other = draw.choice(others)
                length = draw.choice((16, 64, 400, len(other)))
                start = draw.choice((0, draw.randrange(max(len(other), 1))))
                place = draw.choice((0, where))
                data[place : place + length] = other[start : start + length]
            case _:
                piece = bytes(data[where : where + draw.randrange(1, 40)])
                data[where:where] = piece * draw.choice((2, 100, 1000))
    return bytes(data)


def _raise_late(*_) -> None:
    raise _Late("still reading at the time limit")


if __name__ == "__main__":
    main()
