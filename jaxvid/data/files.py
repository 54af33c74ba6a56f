"""Video files as a source of frames, without records: a folder, and a CSV of what is in it.

Frames are the same as in records of the same files, but for the noise of their JPEGs, and so is
everything that is drawn. Each clip is decoded from the start of its file to its last frame, so
records are several times faster, and worth their disk for more than a few epochs.

How many frames a file has is known once all of it was decoded. That is done on first use and noted
in `<csv>.probed` beside the CSV, a line a file, so that it is done once, and goes on after a kill.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxvid.data import build, decode, records, table
from jaxvid.errors import JaxvidError
from jaxvid.progress import Progress
from jaxvid.rows import RECORD_SIDE

_VERSION = f"probed by jaxvid, version 1, frames of at most {RECORD_SIDE} pixels"
_Key = tuple[str, int, int]  # path as written, size, time of the last change
_Found = decode.Info | str  # or why it cannot be read


class Files:
    """The videos that a CSV lists, decoded as they are asked for.

    Arrays over the videos as those of `Records`. `bad` maps the numbers of files that cannot be
    read to the reason: they have a frame that cannot be had, so that they count as bad records do.
    Reading is thread safe.
    """

    encoded = False

    def __init__(
        self,
        folder: pathlib.Path,
        csv_file: pathlib.Path,
        first_csv: pathlib.Path,
        workers: int,
    ):
        """Probes what is not noted yet.

        Args:
            folder: from which the CSV's paths start.
            csv_file: the list, with the columns `path` and `label`.
            first_csv: the list whose labels, sorted, are the classes, where no `labels.txt` in the
                folder names them.
            workers: how many files are decoded at a time; 0 means one for each core.
        """
        self._folder, self._csv = folder, csv_file
        names = records.read_classes(folder / "labels.txt")
        way_out = f"correct it, or list all class names, one a line, in {folder / 'labels.txt'}"
        if not names:
            names, _ = table.number_labels(table.read(first_csv), (), first_csv, way_out)
        rows = table.read(csv_file)
        self.classes, numbers = table.number_labels(rows, names, csv_file, way_out)
        rows, self.repeated = table.without_repeats(rows, csv_file)
        table.say_oddities(folder, rows, self.classes, csv_file)
        self.path = np.array([row.path for row in rows], np.str_)
        self.labels = [numbers[row.label] for row in rows]
        found = _probe_all(folder, csv_file, self.path.tolist(), workers)
        self.bad = {n: reason for n, reason in enumerate(found) if isinstance(reason, str)}
        if len(self.bad) == len(rows):
            raise JaxvidError(f"no video of {csv_file} can be read: {self.bad[0]}")
        some = next(info for info in found if isinstance(info, decode.Info))
        infos = [some if isinstance(info, str) else info for info in found]
        readable = np.array([n not in self.bad for n in range(len(rows))])
        self.num_frames = np.where(readable, [info.num_frames for info in infos], 1)
        self.fps = np.array([info.fps for info in infos], np.float32)
        self.height = np.array([info.height for info in infos], np.int32)
        self.width = np.array([info.width for info in infos], np.int32)

    def __len__(self) -> int:
        return len(self.path)

    def name(self, number: int) -> str:
        """Says where a video lies, for messages."""
        return str(self._folder / self.path[number])

    def frames(self, number: int, indices: np.ndarray) -> np.ndarray:
        """Decodes the frames `indices`: uint8 `[N, H, W, 3]`."""
        if number in self.bad:
            raise JaxvidError(self.bad[number])
        frames = decode.frames_at(
            table.locate(self._folder, str(self.path[number])), indices, RECORD_SIDE
        )
        if frames.shape[1:3] != (self.height[number], self.width[number]):
            raise JaxvidError(
                f"{self.name(number)} has changed since it was probed: delete {_notes(self._csv)}"
            )
        return frames


def _probe_all(
    folder: pathlib.Path, csv_file: pathlib.Path, paths: Sequence[str], workers: int
) -> list[_Found]:
    """What each file is, from the notes or by decoding it, several at a time."""
    keys = [_key(folder, path) for path in paths]
    known = _read_notes(_notes(csv_file))
    missing = [key for key in keys if key not in known]
    if missing:
        progress = Progress(len(missing), f"probing the videos of {csv_file.name}", "videos")
        with _note_writer(_notes(csv_file)) as write, _pool(workers) as pool:
            for key, found in zip(
                missing,
                pool.map(lambda key: _probe(table.locate(folder, key[0])), missing),
                strict=True,
            ):
                known[key] = found
                write(key, found)
                progress.update()
        progress.close()
    return [known[key] for key in keys]


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Threads, of which none begins another file once an error has come up."""
    pool = concurrent.futures.ThreadPoolExecutor(workers or build.usable_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _key(folder: pathlib.Path, path: str) -> _Key:
    try:
        stat = table.locate(folder, path).stat()
    except (OSError, ValueError):  # missing, or no name that a file can have
        return path, -1, -1
    return path, stat.st_size, stat.st_mtime_ns


def _probe(path: pathlib.Path) -> _Found:
    try:
        with decode.Video(path, RECORD_SIDE) as video:
            for _ in video.frames(wanted=()):
                pass
            return video.info()
    except JaxvidError as error:
        return str(error)


def _notes(csv_file: pathlib.Path) -> pathlib.Path:
    return csv_file.with_name(f"{csv_file.name}.probed")


def _read_notes(path: pathlib.Path) -> dict[_Key, _Found]:
    """What is noted; lines that say nothing, as one that a kill cut short, are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    known: dict[_Key, _Found] = {}
    for line in lines[1:] if lines[:1] == [_VERSION] else ():
        with contextlib.suppress(ValueError, TypeError):
            name, size, time, found = json.loads(line)
            known[name, size, time] = found if isinstance(found, str) else _read_info(found)
    return known


def _read_info(fields: dict) -> decode.Info:
    info = decode.Info(**fields)
    counts = (info.num_frames, info.height, info.width)
    if not isinstance(info.fps, float) or not all(
        isinstance(count, int) and 0 < count < 2**31 for count in counts
    ):
        raise ValueError("not what a video is")
    return info


@contextlib.contextmanager
def _note_writer(path: pathlib.Path) -> Iterator[Callable[[_Key, _Found], None]]:
    """A function that notes what a file is, at once; it does nothing where none can be written."""
    try:
        if not path.is_file() or path.read_bytes()[: len(_VERSION)] != _VERSION.encode():
            path.write_text(_VERSION + "\n", encoding="utf-8")
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        print(f"note: {path} cannot be written ({error.strerror}): every run will probe anew")
        yield lambda key, found: None
        return

    def write(key: _Key, found: _Found) -> None:
        said = found if isinstance(found, str) else dataclasses.asdict(found)
        # One call a line, so that processes that write at the same time do not mix theirs; and a
        # line break before it ends what a kill may have cut short.
        with contextlib.suppress(OSError):  # a full disk costs the note, not the run
            file.write(b"\n" + json.dumps([*key, said]).encode())

    with file:
        yield write
