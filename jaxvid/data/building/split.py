"""One split from its CSV on: planned, written by workers, published when it is whole."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

from jaxvid.base import csvs, locks, paths, stores, text, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import Progress
from jaxvid.data import categories, index, manifest, records, table
from jaxvid.data import flow as flows
from jaxvid.data.building import pipeline
from jaxvid.data.building.tasks import Job, Result, Task, write_shard
from jaxvid.data.building.workers import in_processes
from jaxvid.data.cores import usable_cores
from jaxvid.data.shards import Entry
from jaxvid.data.shards import names as shard_names
from jaxvid.rows import FLOWS, RECORD_SIDE

MAX_SHARDS = 1024


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
    flow: str = "",
    quality: int = 95,
    workers: int | None = None,
    classes: str | os.PathLike | None = None,
    names: tuple[str, ...] = (),
    overwrite: bool = False,
    strict: bool = False,
    beam: Sequence[str] | None = None,
) -> Summary:
    """Builds one split; the arguments are the command's.

    `split` defaults to the name of the CSV, `shards` to the square root of the number of videos,
    `workers` to the number of cores. `flow` is one of `FLOW_WAYS`, or "" for pictures. `classes`
    is a file of class names; without one the names in an existing `labels.txt` of `out` hold, else
    `names`, else those in the CSV, sorted. With `beam`, the flags of a pipeline of Apache Beam, the
    shards are written by its workers. Raises `JaxvidError` where nothing sensible can be built, and
    with `strict` also for a single unreadable video.
    """
    if beam is not None:
        pipeline.check()
    videos, labels = paths.anywhere(videos, "--videos"), paths.anywhere(labels, "--labels")
    out = paths.writable(out, "--out")
    if classes is not None:
        classes = paths.anywhere(classes, "--classes")
    split = labels.stem if split is None else split
    _check(videos, split, shards, short_side, quality, workers)
    if flow:
        split = index.stem(split, "flow")
        if flow in FLOWS:
            flows.estimator(flow)  # Says now what is not installed.
    with locks.hold(out, "--out"):  # No other process builds in the same folder.
        rows = table.read(labels)
        names = _class_names(out, classes) or names
        plan = plan_split(
            rows, names, videos, labels, out, split, shards, short_side, quality, flow
        )
        workplace = out / f".build-{split}"
        if not overwrite and _exists(out, split, workplace, plan.origin):
            whole.remove_folder(workplace)
            text.say(f"{split}: these records are already built")
            summary = _summarise(out, split)
            _refuse(summary.bad, strict, out)
            return summary
        with paths.writing(out, "--out"):
            done = _prepare(workplace, plan.origin)
        results = _run(plan, workplace, done, workers or usable_cores(), beam)
        bad, damaged = plan.wrong(results)
        with paths.writing(out, "--out"):
            _write_bad(out, split, bad, damaged)
        _refuse(bad, strict, out)
        if not any(result.written for result in results):
            raise JaxvidError(
                f"none of the {len(rows)} videos of {labels} can be read below {videos}; the "
                f"reasons are in {out / 'bad_videos.csv'}"
            )
        with paths.writing(out, "--out"):
            _publish(out, workplace, plan, results)
        return _summarise(out, split)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be built: a task a shard, the names of the classes, and their categories if any.

    `origin` tells builds apart, `repeated` maps the path of a line that was left out to the reason,
    and `flow` is that of the tasks.
    """

    split: str
    names: tuple[str, ...]
    categories: tuple[str, ...]
    jobs: Sequence[Job]
    tasks: Sequence[Task]
    repeated: dict[str, str]
    origin: str
    flow: str

    def wrong(self, results: Sequence[Result]) -> tuple[dict[str, str], dict[str, str]]:
        """The paths of videos that were left out, and of those kept though damaged, and why."""
        bad = dict(self.repeated)
        damaged: dict[str, str] = {}
        for result in results:
            bad |= {self.jobs[number].path: reason for number, reason in result.bad.items()}
            damaged |= {self.jobs[number].path: why for number, why in result.damaged.items()}
        return bad, damaged


def plan_split(
    rows: Sequence[table.Row],
    names: tuple[str, ...],
    videos: pathlib.Path,
    labels: pathlib.Path,
    out: pathlib.Path,
    split: str,
    count: int | None,
    short_side: int,
    quality: int,
    flow: str,
) -> Plan:
    """Shares the videos of a CSV's rows out among `count` shards."""
    names, numbers = table.number_labels(
        rows,
        names,
        labels,
        "correct it, or give all classes with --classes=FILE and a new --out",
    )
    kept, repeated = table.without_repeats(rows, labels)
    table.say_oddities(videos, kept, names, labels)
    found = categories.of_rows(kept, numbers, names, out, labels)
    count = min(MAX_SHARDS, max(1, round(len(kept) ** 0.5))) if count is None else count
    count = min(count, len(kept))
    jobs = [
        Job(
            number,
            row.name,
            numbers[row.label],
            tuple(names[i] for i in numbers[row.label]),
            row.path,
            row.window,
            row.annotated,
            row.fps,
        )
        for number, row in enumerate(kept)
    ]
    tasks = [
        Task(
            number,
            file,
            os.fspath(videos),
            tuple(jobs[number::count]),
            short_side,
            quality,
            flow=flow,
        )
        for number, file in enumerate(shard_names(split, count))
    ]
    origin = _fingerprint(tasks, names, flow)
    return Plan(split, names, found, jobs, tasks, repeated, origin, flow)


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


def _fingerprint(tasks: Sequence[Task], names: tuple[str, ...], flow: str) -> str:
    """Digests all that decides the bytes of a build, so that only the same one is continued."""
    there = {
        videos: stores.below(stores.StorePath(videos))
        for videos in {task.videos for task in tasks}
        if isinstance(stores.path_of(videos), stores.StorePath)
    }
    digest = hashlib.sha256(repr((names, *manifest.libraries().values())).encode())
    if flow:
        digest.update(repr((flow, flows.version() if flow in FLOWS else "")).encode())
    for task in tasks:
        digest.update(repr(task).encode())
        for job in task.jobs:
            if task.videos in there:
                digest.update(repr((there[task.videos].get(job.file), job.annotated)).encode())
                continue
            path = table.locate(task.videos, job.file)
            stat = path.stat() if table.is_there(path) else None
            digest.update(repr(stat and (stat.st_size, stat.st_mtime_ns)).encode())
            if job.annotated:
                digest.update(repr(job.annotated).encode())
            digest.update(repr(job.fps).encode() if job.fps else b"")
    return digest.hexdigest()


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


def _prepare(workplace: pathlib.Path, fingerprint: str) -> dict[int, Result]:
    """Opens the working folder; returns the shards that an interrupted build left whole there."""
    plan = workplace / "plan"
    if workplace.exists() and not (plan.is_file() and plan.read_text() == fingerprint):
        whole.remove_folder(workplace, strict=True)
    workplace.mkdir(parents=True, exist_ok=True)
    whole.text(plan, fingerprint)
    for partial in workplace.glob("*.part"):
        partial.unlink()
    return _written(workplace)


def _written(workplace: pathlib.Path) -> dict[int, Result]:
    """The shards that are whole in a working folder."""
    done = {}
    for note in workplace.glob("*.json"):
        if note.with_suffix("").is_file():
            result = Result.from_json(note.read_text())
            if result.digest:  # Older versions noted none.
                done[result.shard] = result
    return done


def _run(
    plan: Plan,
    workplace: pathlib.Path,
    done: dict[int, Result],
    count: int,
    beam: Sequence[str] | None,
) -> list[Result]:
    """Writes the shards that are missing, in this process, up to `count`, or those of a pipeline.

    Returns all results.
    """
    left = [task for task in plan.tasks if task.shard not in done]
    if done:
        have = f"{len(done)} of {len(plan.tasks)} shards"
        text.say(f"{plan.split}: going on with a build that has {have}")
    if beam is not None:
        pipeline.write_shards(left, workplace, beam)
        results = _written(workplace)
    else:
        results = done | {each.shard: each for each in write_shards(plan, left, workplace, count)}
    missing = [task.file for task in plan.tasks if task.shard not in results]
    if missing:
        raise JaxvidError(
            f"the pipeline has ended without {listed(missing, 3)}: see what its workers say, and "
            "run the same command again to go on"
        )
    return [results[task.shard] for task in plan.tasks]


def write_shards(
    plan: Plan, tasks: Sequence[Task], workplace: pathlib.Path, count: int
) -> list[Result]:
    """Writes shards of a plan into a folder, in this process or up to `count`."""
    progress = Progress(sum(len(task.jobs) for task in tasks), f"building {plan.split}", "videos")
    results: list[Result] = []
    try:
        if min(count, len(plan.tasks)) == 1:
            for task in tasks:
                results.append(write_shard(task, workplace, lambda number: progress.update()))
        else:
            for result in in_processes(tasks, workplace, count, progress):
                results.append(result)
    except OSError as error:
        done = len(plan.tasks) - len(tasks) + len(results)
        raise JaxvidError(
            f"{workplace.parent} cannot be written: {error.strerror or error}; {done} of "
            f"{len(plan.tasks)} shards are done and kept, run the same command again to go on"
        ) from None
    progress.close()
    return results


def _refuse(bad: dict[str, str], strict: bool, out: pathlib.Path) -> None:
    if bad and strict:
        path, reason = next(iter(bad.items()))
        raise JaxvidError(
            f"{len(bad)} of the videos cannot be used ({path}: {reason}); mend or remove those in "
            f"{out / 'bad_videos.csv'}, or leave out --strict"
        )


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


def _publish(
    out: pathlib.Path, workplace: pathlib.Path, plan: Plan, results: Sequence[Result]
) -> None:
    """Moves the shards to where they are looked for, the index last."""
    (out / f"{plan.split}.index.npz").unlink(missing_ok=True)
    manifest.remove(out, plan.split)
    for old in out.glob(f"{plan.split}-?????-of-?????*"):
        old.unlink()
    whole.text(out / "labels.txt", "".join(f"{name}\n" for name in plan.names))
    if plan.categories:
        whole.text(out / categories.FILE, "".join(f"{name}\n" for name in plan.categories))
    found: dict[int, Entry] = {}
    files = [task.file for task in plan.tasks]
    for result, file in zip(results, files, strict=True):
        (workplace / file).replace(out / file)
        found |= result.written
    entries = [found[number] for number in sorted(found)]
    digests = {file: result.digest for file, result in zip(files, results, strict=True)}
    left_out = [job.number for job in plan.jobs if job.number not in found]
    manifest.write(
        out,
        plan.split,
        manifest.Manifest(
            plan.origin,
            plan.tasks[0].short_side,
            plan.tasks[0].quality,
            manifest.libraries(plan.flow),
            left_out,
            digests | {"labels.txt": manifest.digest(out / "labels.txt")},
            plan.flow,
        ),
    )
    index.write(out, plan.split, files, entries, plan.origin, plan.flow)
    whole.remove_folder(workplace, strict=True)


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
