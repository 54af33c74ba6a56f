"""A folder of videos and a CSV of labels into sharded DMVR records.

    python -m jaxvid.data.build --videos=clips --labels=train.csv --out=records

Every frame is kept, as a JPEG with its short side at most `--short-side`. Chroma is not subsampled:
next to 4:2:0 that costs a fifth more bytes and a quarter more decoding time, and it keeps frames
closer to what a model with published weights saw (1 to 3 dB at quality 95).

The work is cut into shards, each written by one process from start to end, so the bytes do not
depend on the number of processes. A shard counts once it is whole; a build that was killed goes on
with those that are missing, and the records appear in `--out` only when all are there.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait

import numpy as np

from jaxvid.base import csvs, locks, paths, text, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.exits import exit_on_error
from jaxvid.base.progress import Progress
from jaxvid.data import bounds, decode, records, table
from jaxvid.rows import RECORD_SIDE

MAX_SHARDS = 1024


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to encode, with its classes; `number` is its place among the records."""

    number: int
    path: str
    labels: tuple[int, ...]
    texts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to write, `file` within the working folder, with the videos that go into it.

    `skip` maps the number of a job that is not to be tried to the reason.
    """

    shard: int
    file: str
    videos: str
    jobs: tuple[Job, ...]
    short_side: int
    quality: int
    skip: dict[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
    """What became of a task: what was written, and what is wrong with which video.

    `written` maps the number of a job to its line of the index. `bad` maps the number of a job
    that was left out to the reason, `damaged` that of one that was kept to what is wrong with it.
    """

    shard: int
    written: dict[int, records.Entry] = dataclasses.field(default_factory=dict)
    bad: dict[int, str] = dataclasses.field(default_factory=dict)
    damaged: dict[int, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=np.ndarray.tolist)

    @classmethod
    def from_json(cls, note: str) -> "Result":
        fields = json.loads(note)
        written, bad, damaged = (
            {int(number): value for number, value in fields[name].items()}
            for name in ("written", "bad", "damaged")
        )
        for entry in written.values():
            entry["frames"] = np.array(entry["frames"], np.uint32)
            entry["labels"] = tuple(entry["labels"])
        entries = {number: records.Entry(**entry) for number, entry in written.items()}
        return cls(fields["shard"], entries, bad, damaged)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was built. `bad` and `damaged` map a path to what is wrong with it."""

    folder: pathlib.Path
    split: str
    num_videos: int
    num_frames: int
    num_bytes: int
    num_shards: int
    classes: tuple[str, ...]
    empty_classes: tuple[str, ...]
    bad: dict[str, str]
    damaged: dict[str, str]


def build(
    videos: str | os.PathLike,
    labels: str | os.PathLike,
    out: str | os.PathLike,
    *,
    split: str | None = None,
    shards: int | None = None,
    short_side: int = RECORD_SIDE,
    quality: int = 95,
    workers: int | None = None,
    classes: str | os.PathLike | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> Summary:
    """Builds one split; the arguments are the command's.

    `split` defaults to the name of the CSV, `shards` to the square root of the number of videos,
    `workers` to the number of cores. `classes` is a file of class names; without one the names in
    an existing `labels.txt` of `out` hold, else those in the CSV, sorted. Raises `JaxvidError`
    where nothing sensible can be built, and with `strict` also for a single unreadable video.
    """
    videos, labels = paths.local(videos, "--videos"), paths.local(labels, "--labels")
    out = paths.writable(out, "--out")
    if classes is not None:
        classes = paths.local(classes, "--classes")
    split = labels.stem if split is None else split
    _check(videos, split, shards, short_side, quality, workers)
    with locks.hold(out, "--out"):
        return _build(
            videos, labels, out, split, shards, short_side, quality, workers, classes, overwrite,
            strict,
        )  # fmt: skip


def _build(
    videos: pathlib.Path,
    labels: pathlib.Path,
    out: pathlib.Path,
    split: str,
    shards: int | None,
    short_side: int,
    quality: int,
    workers: int | None,
    classes: str | os.PathLike | None,
    overwrite: bool,
    strict: bool,
) -> Summary:
    """Builds a split in a folder in which no other process does."""
    rows = table.read(labels)
    names = _class_names(out, classes)
    names, numbers = table.number_labels(
        rows,
        names,
        labels,
        "correct it, or give all classes with --classes=FILE and a new --out",
    )
    kept, repeated = table.without_repeats(rows, labels)
    table.say_oddities(videos, kept, names, labels)
    shards = min(MAX_SHARDS, max(1, round(len(kept) ** 0.5))) if shards is None else shards
    shards = min(shards, len(kept))
    jobs = [
        Job(number, row.path, numbers[row.label], tuple(names[i] for i in numbers[row.label]))
        for number, row in enumerate(kept)
    ]
    tasks = [
        Task(shard, file, os.fspath(videos), tuple(jobs[shard::shards]), short_side, quality)
        for shard, file in enumerate(records.shard_names(split, shards))
    ]
    origin = _fingerprint(tasks, names)
    workplace = out / f".build-{split}"
    if not overwrite and _exists(out, split, workplace, origin):
        shutil.rmtree(workplace, ignore_errors=True)
        text.say(f"{split}: these records are already built")
        summary = _summarise(out, split)
        _refuse(summary.bad, strict, out)
        return summary
    with paths.writing(out, "--out"):
        done = _prepare(workplace, origin)
    results = _run(tasks, workplace, done, min(workers or usable_cores(), shards), split)

    bad, damaged = dict(repeated), {}
    for result in results:
        bad |= {jobs[number].path: reason for number, reason in result.bad.items()}
        damaged |= {jobs[number].path: reason for number, reason in result.damaged.items()}
    with paths.writing(out, "--out"):
        _write_bad(out, split, bad, damaged)
    _refuse(bad, strict, out)
    if not any(result.written for result in results):
        raise JaxvidError(
            f"none of the {len(rows)} videos of {labels} can be read below {videos}; the reasons "
            f"are in {out / 'bad_videos.csv'}"
        )
    with paths.writing(out, "--out"):
        _publish(out, workplace, split, [task.file for task in tasks], results, names, origin)
    return _summarise(out, split)


def encode_video(
    path: pathlib.Path, short_side: int, quality: int
) -> tuple[list[bytes], decode.Info]:
    """Decodes a whole video into JPEGs.

    Raises `JaxvidError` where it cannot be read, or is too long for one record.
    """
    from PIL import Image

    images, size = [], 0
    with decode.Video(path, short_side) as video:
        for frame in video.frames():
            out = io.BytesIO()
            Image.fromarray(frame).save(out, "JPEG", quality=quality, subsampling="4:4:4")
            images.append(out.getvalue())
            size += len(images[-1]) + 32  # what surrounds a frame in its record
            if size > bounds.MAX_RECORD - 65536:
                raise JaxvidError(
                    f"{path} is larger than 2 GiB as JPEGs, more than a record may hold: "
                    "cut it into clips, or lower --short-side or --quality"
                )
        return images, video.info()


def write_shard(task: Task, workplace: pathlib.Path, tell: Callable[[int], None]) -> Result:
    """Writes one shard and, when it is whole, the note that says so.

    `tell` is called with the number of each video when it is done with.
    """
    result = Result(task.shard)
    partial = workplace / f"{task.file}.{os.getpid()}.part"
    with open(partial, "wb") as file:
        for job in task.jobs:
            if job.number in task.skip:
                result.bad[job.number] = task.skip[job.number]
                continue
            path = table.locate(task.videos, job.path)
            try:
                images, info = encode_video(path, task.short_side, task.quality)
            except JaxvidError as error:
                result.bad[job.number] = str(error).removeprefix(f"{path} ")
                tell(job.number)
                continue
            result.written[job.number] = records.append(
                file,
                images,
                shard=task.shard,
                labels=job.labels,
                texts=job.texts,
                path=job.path,
                fps=info.fps,
                height=info.height,
                width=info.width,
            )
            if info.damaged:
                result.damaged[job.number] = f"{info.damaged} damaged or missing packets"
            tell(job.number)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, workplace / task.file)
    whole.text(workplace / f"{task.file}.json", result.to_json())
    return result


def _check(
    videos: pathlib.Path,
    split: str,
    shards: int | None,
    short_side: int,
    quality: int,
    workers: int | None,
) -> None:
    if not videos.is_dir():
        raise JaxvidError(f"{videos} is not a folder; --videos names the one that paths start from")
    if not split or split != pathlib.PurePath(split).name or split.startswith("."):
        raise JaxvidError(f"--split={split} cannot name files; use letters, digits, - and _")
    for name, value, low, high in (
        ("shards", shards, 1, 99_999),
        ("short-side", short_side, 8, 8192),
        ("quality", quality, 1, 100),
        ("workers", workers, 1, 1024),
    ):
        if value is not None and not low <= value <= high:
            raise JaxvidError(f"--{name}={value} must be from {low} to {high}")


def _refuse(bad: dict[str, str], strict: bool, out: pathlib.Path) -> None:
    if bad and strict:
        path, reason = next(iter(bad.items()))
        raise JaxvidError(
            f"{len(bad)} of the videos cannot be used ({path}: {reason}); mend or remove those in "
            f"{out / 'bad_videos.csv'}, or leave out --strict"
        )


def _exists(out: pathlib.Path, split: str, workplace: pathlib.Path, origin: str) -> bool:
    """Says whether the very records are there; others in their place are an error."""
    if (out / f"{split}.index.npz").exists():
        if records.Records(out, split).origin == origin:
            return True
    elif workplace.exists() or not any(out.glob(f"{split}-?????-of-?????*")):
        return False
    raise JaxvidError(
        f"{out} already holds other records of {split!r}; add --overwrite to replace them, or "
        "choose another --split or --out"
    )


def _class_names(out: pathlib.Path, path: pathlib.Path | None) -> tuple[str, ...]:
    existing = records.read_classes(out / "labels.txt")
    if path is None:
        return existing
    names = text.read_names(path)
    if not names:
        raise JaxvidError(f"{path} is empty; it must have one class name a line")
    if existing and existing != names:
        raise JaxvidError(
            f"{path} differs from {out / 'labels.txt'}, which other splits there use; leave out "
            "--classes or choose another --out"
        )
    return names


def _fingerprint(tasks: Sequence[Task], names: tuple[str, ...]) -> str:
    """Digests all that decides the bytes of a build, so that only the same one is continued."""
    import av
    import PIL

    digest = hashlib.sha256(repr((names, av.__version__, PIL.__version__)).encode())
    for task in tasks:
        digest.update(repr(task).encode())
        for job in task.jobs:
            path = table.locate(task.videos, job.path)
            stat = path.stat() if table.is_there(path) else None
            digest.update(repr(stat and (stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def _prepare(workplace: pathlib.Path, fingerprint: str) -> dict[int, Result]:
    """Opens the working folder; returns the shards that an interrupted build left whole there."""
    plan = workplace / "plan"
    if workplace.exists() and not (plan.is_file() and plan.read_text() == fingerprint):
        shutil.rmtree(workplace)
    workplace.mkdir(parents=True, exist_ok=True)
    whole.text(plan, fingerprint)
    done = {}
    for note in workplace.glob("*.json"):
        if note.with_suffix("").is_file():
            result = Result.from_json(note.read_text())
            done[result.shard] = result
    for partial in workplace.glob("*.part"):
        partial.unlink()
    return done


def _run(
    tasks: Sequence[Task],
    workplace: pathlib.Path,
    done: dict[int, Result],
    workers: int,
    split: str,
) -> list[Result]:
    """Writes the shards that are missing, in this process or several; returns all results."""
    left = [task for task in tasks if task.shard not in done]
    if done:
        text.say(f"{split}: going on with a build that has {len(done)} of {len(tasks)} shards")
    progress = Progress(sum(len(task.jobs) for task in left), f"building {split}", "videos")
    results = dict(done)
    try:
        if workers == 1:
            for task in left:
                results[task.shard] = write_shard(task, workplace, lambda number: progress.update())
        else:
            for result in _in_processes(left, workplace, workers, progress):
                results[result.shard] = result
    except OSError as error:
        raise JaxvidError(
            f"{workplace.parent} cannot be written: {error.strerror or error}; {len(results)} of "
            f"{len(tasks)} shards are done and kept, run the same command again to go on"
        ) from None
    progress.close()
    return [results[task.shard] for task in tasks]


def _in_processes(
    tasks: Sequence[Task], workplace: pathlib.Path, workers: int, progress: Progress
) -> Iterator[Result]:
    """Yields results as worker processes finish them.

    A video that kills its worker is left out, named, and its shard begun again without it.
    """
    waiting = collections.deque(tasks)
    finished: set[int] = set()
    busy: dict[Connection, _Worker] = {}

    def begin(worker: _Worker, task: Task) -> None:
        worker.begin(task)
        busy[worker.pipe] = worker

    try:
        while waiting and len(busy) < workers:
            begin(_Worker(workplace), waiting.popleft())
        while busy:
            for pipe in wait(list(busy)):
                worker = busy.pop(pipe)
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionError):
                    begin(_Worker(workplace), worker.task_without_killer())
                    continue
                if isinstance(message, Result):
                    yield message
                    if waiting:
                        begin(worker, waiting.popleft())
                    else:
                        worker.stop()
                elif isinstance(message, int | None):
                    busy[pipe] = worker
                    worker.ready = True
                    if message is not None:
                        worker.finished.add(message)
                        progress.update(message not in finished)
                        finished.add(message)
                else:
                    worker.stop()
                    raise message if isinstance(message, OSError) else RuntimeError(message)
    finally:
        for worker in busy.values():
            worker.stop()


class _Worker:
    """A process that writes shards. Its pipe is its own: a shared lock could die with a worker."""

    def __init__(self, workplace: pathlib.Path):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, workplace), daemon=True)
        self._process.start()
        self.ready = False
        theirs.close()

    def begin(self, task: Task) -> None:
        self.task, self.finished = task, set(task.skip)
        with contextlib.suppress(ConnectionError):  # a dead one is noticed when it is read from
            self.pipe.send(task)

    def task_without_killer(self) -> Task:
        """The task of a worker that died, without the video that it died of."""
        self._process.join()
        code = self._process.exitcode
        killer = next((j.number for j in self.task.jobs if j.number not in self.finished), None)
        if not self.ready or killer is None:
            raise JaxvidError(
                f"a worker process ended with exit code {code} outside of any video; call build "
                "below `if __name__ == '__main__':`, or use --workers=1"
            )
        reason = f"the process that decoded it died with exit code {code}"
        return dataclasses.replace(self.task, skip={**self.task.skip, killer: reason})

    def stop(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _work(pipe: Connection, workplace: pathlib.Path) -> None:
    """What a worker process does: one task after the other until its pipe closes."""
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        pipe.send(None)  # it has started: from now on, what ends it is a video
        while True:
            task = pipe.recv()
            try:
                answer = write_shard(task, workplace, pipe.send)
            except ConnectionError:
                raise
            except OSError as error:
                answer = OSError(error.errno, error.strerror)
            except Exception:
                answer = traceback.format_exc()
            pipe.send(answer)


def _write_bad(out: pathlib.Path, split: str, bad: dict[str, str], damaged: dict[str, str]) -> None:
    """Writes what is wrong with this split's videos, beside what other splits have written."""
    lines = [line for line in _read_bad(out) if line[0] != split]
    lines += [[split, name, "no", reason] for name, reason in bad.items()]
    lines += [[split, name, "yes", reason] for name, reason in damaged.items()]
    csvs.write(out / "bad_videos.csv", ["split", "path", "kept", "reason"], lines)


def _read_bad(out: pathlib.Path) -> list[list[str]]:
    path = out / "bad_videos.csv"
    if not path.is_file():
        return []
    return [line for line in csvs.read(path) if len(line) == 4]


def _summarise(out: pathlib.Path, split: str) -> Summary:
    """Says what lies there, from the records themselves."""
    built = records.Records(out, split)
    filled = {label for labels in built.labels for label in labels}
    wrong = [line for line in _read_bad(out) if line[0] == split]
    return Summary(
        folder=out,
        split=split,
        num_videos=len(built),
        num_frames=int(built.num_frames.sum()),
        num_bytes=built.num_bytes,
        num_shards=built.num_shards,
        classes=built.classes,
        empty_classes=tuple(c for number, c in enumerate(built.classes) if number not in filled),
        bad={path: reason for _, path, kept, reason in wrong if kept == "no"},
        damaged={path: reason for _, path, kept, reason in wrong if kept == "yes"},
    )


def _publish(
    out: pathlib.Path,
    workplace: pathlib.Path,
    split: str,
    files: Sequence[str],
    results: Sequence[Result],
    names: tuple[str, ...],
    origin: str,
) -> None:
    """Moves the shards to where they are looked for, the index last."""
    (out / f"{split}.index.npz").unlink(missing_ok=True)
    for old in out.glob(f"{split}-?????-of-?????*"):
        old.unlink()
    whole.text(out / "labels.txt", "".join(f"{name}\n" for name in names))
    found: dict[int, records.Entry] = {}
    for result, file in zip(results, files, strict=True):
        os.replace(workplace / file, out / file)
        found |= result.written
    entries = [found[number] for number in sorted(found)]
    records.write_index(out, split, files, entries, origin)
    shutil.rmtree(workplace)


def usable_cores() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m jaxvid.data.build`."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.data.build",
        description="Turns a folder of videos and a CSV of labels into sharded TFRecords in "
        "DMVR's layout, with an index, frame rates and class names beside them. A build that was "
        "killed goes on where it was when the same command is run again.",
        epilog="The CSV begins with the line path,label, or with path alone for videos without "
        "labels, which pretraining takes; paths start from --videos; labels are "
        "names or class numbers (0, 1, ..., none with leading zeros), several of one video with | "
        "between; what holds a comma stands in quotes. Videos that cannot be read are left out and "
        "listed with the reason in bad_videos.csv in --out.",
    )
    add = parser.add_argument
    add("--videos", required=True, metavar="DIR", help="folder from which the CSV's paths start")
    add("--labels", required=True, metavar="FILE", help="CSV with the columns path and label")
    add("--out", required=True, metavar="DIR", help="folder for the records")
    add("--split", metavar="NAME", help="name of the split (default: that of the CSV)")
    add("--shards", type=int, metavar="N", help="number of files (default: the square root of "
        "the number of videos)")  # fmt: skip
    add("--short-side", type=int, default=RECORD_SIDE, metavar="PIXELS", help="shrink larger "
        "frames to this shorter side; none is enlarged (default: %(default)s)")  # fmt: skip
    add("--quality", type=int, default=95, metavar="1..100", help="of the JPEGs (default: 95)")
    add("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    add("--classes", metavar="FILE", help="class names, one a line, in the order of their numbers, "
        "or a dataset whose list the library brings, such as kinetics400 "
        "(default: labels.txt in --out, or the labels of the CSV, sorted)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing records of this split")
    add("--strict", action="store_true", help="fail if any video cannot be read")
    with exit_on_error():
        show(build(**vars(parser.parse_args(arguments))))


def show(summary: Summary) -> None:
    """Prints what was built and what was left out."""
    text.say(
        f"{summary.split}: {summary.num_videos} videos, {summary.num_frames} frames, "
        f"{len(summary.classes)} classes, {summary.num_bytes / 1e6:.1f} MB in {summary.num_shards} "
        f"shards in {summary.folder}"
    )
    for wrong, what in ((summary.bad, "left out"), (summary.damaged, "kept though damaged")):
        if wrong:
            text.say(f"{len(wrong)} {what}, listed in {summary.folder / 'bad_videos.csv'}:")
            for path, reason in list(wrong.items())[:5]:
                text.say(f"  {path}: {reason}")
            if len(wrong) > 5:
                text.say(f"  and {len(wrong) - 5} more")
    if summary.empty_classes:
        text.say(f"classes without a video: {listed(summary.empty_classes, separator=', ')}")


if __name__ == "__main__":
    main()
