"""Video files as a source of frames, without records: a folder, and a CSV of what is in it.

Frames are the same as in records of the same files, but for the noise of their JPEGs, and so is
everything that is drawn. Each clip is decoded from the key frames before its frames, so records
are faster, and worth their disk for more than a few epochs.

How many frames a file has, and which are key frames, is known once all of it was decoded. That is
done on first use and noted in `<csv>.probed` beside the CSV, a line a file, so that it is done
once, and goes on after a kill. Files whose key frames cannot be trusted are named then; their clips
are decoded from the start.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.base.text import say
from jaxvid.data import bounds, categories, decode, flow, records, table
from jaxvid.data.cores import usable_cores
from jaxvid.data.keyframes import Keyframes
from jaxvid.data.windows import WHOLE, Window
from jaxvid.rows import RECORD_SIDE

_MAX_LINE, _MAX_NOTES = 1 << 20, 1 << 30  # bytes of the notes that are read
_VERSION = f"probed by jaxvid, version 3, frames of at most {RECORD_SIDE} pixels"
_Key = tuple[str | int | float, ...]
"""Path as written, size, time of the last change; and start and end of a window."""
_Found = decode.Info | str  # or why it cannot be read


class Files:
    """The videos that a CSV lists, decoded as they are asked for.

    Arrays over the videos as those of `Records`. `bad` maps the numbers of files that cannot be
    read to the reason: they have a frame that cannot be had, so that they count as bad records do.
    `cut` are the numbers of those whose window reaches beyond them. Reading is thread safe.
    """

    encoded = False
    remote = False

    def __init__(
        self,
        folder: pathlib.Path,
        csv_file: pathlib.Path,
        first_csv: pathlib.Path,
        workers: int,
        method: str = "",
    ):
        """Probes what is not noted yet.

        Args:
            folder: from which the CSV's paths start.
            csv_file: the list, with the columns `path` and `label`.
            first_csv: the list whose labels, sorted, are the classes, where no `labels.txt` in the
                folder or beside that list names them.
            workers: how many files are decoded at a time; 0 means one for each core.
            method: how optical flow is computed of the frames that are asked for; "" gives RGB.
        """
        if method:
            flow.estimator(method)  # Says now what is not installed.
        self._method, self.channels = method, 2 if method else 3
        self._folder, self._csv = folder, csv_file
        places = (folder / "labels.txt", first_csv.parent / "labels.txt")
        names = next(filter(None, map(records.read_classes, places)), ())
        way_out = f"correct it, or list all class names, one a line, in {folder / 'labels.txt'}"
        if not names:
            names, _ = table.number_labels(table.read(first_csv), (), first_csv, way_out)
        rows = table.read(csv_file)
        self.classes, numbers = table.number_labels(rows, names, csv_file, way_out)
        rows, self.repeated = table.without_repeats(rows, csv_file)
        names = self.classes if csv_file == first_csv else ()  # said once for both splits
        table.say_oddities(folder, rows, names, csv_file)
        # Objects, not padded to the longest.
        self.path = np.array([row.name for row in rows], object)
        self.labels = [numbers[row.label] for row in rows]
        self._rows = rows
        self.annotated = [row.annotated for row in rows]
        self.categories = categories.of_rows(rows, numbers, self.classes, folder, csv_file)
        self._keys = [_key(folder, row) for row in rows]
        found = _probe_all(folder, csv_file, rows, self._keys, workers)
        if method:
            found = [
                _without_last(info, table.locate(folder, row.path))
                for info, row in zip(found, rows, strict=True)
            ]
        self.bad = {n: reason for n, reason in enumerate(found) if isinstance(reason, str)}
        if len(self.bad) == len(rows):
            raise JaxvidError(f"no video of {csv_file} can be read: {self.bad[0]}")
        some = next(info for info in found if isinstance(info, decode.Info))
        infos = [some if isinstance(info, str) else info for info in found]
        keyframes = [info.keyframes for info in infos]
        self._noted = [each if isinstance(each, Keyframes) else None for each in keyframes]
        self.cut = [n for n, info in enumerate(infos) if info.cut and n not in self.bad]
        readable = np.array([n not in self.bad for n in range(len(rows))])
        self.num_frames = np.where(readable, [info.num_frames for info in infos], 1)
        rates = [row.fps or info.fps for row, info in zip(rows, infos, strict=True)]
        self.fps = np.array(rates, np.float32)
        self.height = np.array([info.height for info in infos], np.int32)
        self.width = np.array([info.width for info in infos], np.int32)

    def __len__(self) -> int:
        return len(self.path)

    def name(self, number: int) -> str:
        """Says where a video lies, for messages."""
        return str(self._folder / self.path[number])

    def frames(self, number: int, indices: np.ndarray) -> np.ndarray:
        """Decodes the frames `indices`: uint8 `[N, H, W, 3]`, or their flow `[N, H, W, 2]`."""
        if number in self.bad:
            raise JaxvidError(self.bad[number])
        row = self._rows[number]
        path, noted = table.locate(self._folder, row.path), self._noted[number]
        if self._method:
            frames = flow.pairs_at(path, indices, self._method, RECORD_SIDE, row.window, noted)
        else:
            frames = decode.frames_at(path, indices, RECORD_SIDE, row.window, noted)
        same = frames.shape[1:3] == (self.height[number], self.width[number])
        if not same or _key(self._folder, row) != self._keys[number]:
            raise JaxvidError(
                f"{self.name(number)} has changed since it was probed: delete {_notes(self._csv)}"
            )
        return frames


def _probe_all(
    folder: pathlib.Path,
    csv_file: pathlib.Path,
    rows: Sequence[table.Row],
    keys: Sequence[_Key],
    workers: int,
) -> list[_Found]:
    """What the video of each row is, from the notes or by decoding it, several at a time."""
    known = _read_notes(_notes(csv_file), frozenset(keys))
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
    if missing:
        progress = Progress(len(missing), f"probing the videos of {csv_file.name}", "videos")
        with _note_writer(_notes(csv_file)) as write, _pool(workers) as pool:
            for key, found in zip(
                missing,
                pool.map(
                    lambda row: _probe(table.locate(folder, row.path), row.window),
                    missing.values(),
                ),
                strict=True,
            ):
                known[key] = found
                write(key, found)
                progress.update()
        progress.close()
        _say_distrust(csv_file, [(row, known[key]) for key, row in missing.items()])
    return [known[key] for key in keys]


def _say_distrust(csv_file: pathlib.Path, found: Sequence[tuple[table.Row, _Found]]) -> None:
    """Says which files have no key frames that can be trusted."""
    reasons = [
        f"{row.name} ({info.keyframes})"
        for row, info in found
        if isinstance(info, decode.Info) and info.keyframes and isinstance(info.keyframes, str)
    ]
    if reasons:
        say(
            f"note: {csv_file}: videos of which each clip is decoded from the start, as their key "
            f"frames cannot be trusted: {len(reasons)}, the first {reasons[0]}"
        )


def _without_last(found: _Found, path: pathlib.Path) -> _Found:
    """What a video is whose frames are pairs, of which there is one less."""
    if isinstance(found, str):
        return found
    if found.num_frames < 2:
        return f"{path} has one frame, and optical flow is between two"
    return dataclasses.replace(found, num_frames=found.num_frames - 1)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Threads, of which none begins another file once an error has come up."""
    pool = concurrent.futures.ThreadPoolExecutor(workers or usable_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _key(folder: pathlib.Path, row: table.Row) -> _Key:
    part = () if row.window == WHOLE else (row.window.start, row.window.end)
    try:
        stat = table.locate(folder, row.path).stat()
    except (OSError, ValueError):  # missing, or no name that a file can have
        return row.path, -1, -1, *part
    return row.path, stat.st_size, stat.st_mtime_ns, *part


def _probe(path: pathlib.Path, window: Window) -> _Found:
    try:
        return decode.probe(path, RECORD_SIDE, window)
    except JaxvidError as error:
        return str(error)


def _notes(csv_file: pathlib.Path) -> pathlib.Path:
    return csv_file.with_name(f"{csv_file.name}.probed")


def _read_notes(path: pathlib.Path, wanted: Collection[_Key]) -> dict[_Key, _Found]:
    """What is noted of the files wanted; the last of several notes of one holds.

    Lines that say nothing, as one that a kill cut short, are passed over, as is what no file is.
    """
    known: dict[_Key, _Found] = {}
    if not os.path.isfile(path):
        return known
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.readline(_MAX_LINE).rstrip(b"\r\n") != _VERSION.encode():
            return known
        while file.tell() < _MAX_NOTES and (line := file.readline(_MAX_LINE)):
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                *said, found = json.loads(line)
                if (key := tuple(said)) in wanted:
                    known[key] = _read_found(found)
    return known


def _read_found(said: str | dict) -> _Found:
    if isinstance(said, str):
        if not said.strip() or not said.isprintable():
            raise ValueError("not a reason")
        return said
    info = decode.Info(**said)
    if isinstance(info.keyframes, dict):
        noted = Keyframes(**info.keyframes)
        noted.read()
        info = dataclasses.replace(info, keyframes=noted)
    counts = (info.num_frames, info.height, info.width, info.damaged + 1)
    if not (
        isinstance(info.fps, float)
        and isinstance(info.codec, str)
        and all(type(count) is int and 0 < count < 2**31 for count in counts)
        and bounds.size_problem(info.height, info.width) is None
        and (math.isnan(info.fps) or 0 < info.fps <= bounds.MAX_FPS)
        and isinstance(info.cut, float)
        and 0 <= info.cut < math.inf
        and isinstance(info.keyframes, Keyframes | str)
        and (isinstance(info.keyframes, Keyframes) or info.keyframes.isprintable())
    ):
        raise ValueError("not what a video is")
    return info


@contextlib.contextmanager
def _note_writer(path: pathlib.Path) -> Iterator[Callable[[_Key, _Found], None]]:
    """A function that notes what a file is, at once; it does nothing where none can be written."""
    try:
        # A pipe in its place would be waited for.
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, "it is no file")
        start = b""
        if os.path.isfile(path):
            with open(path, "rb") as old:
                start = old.read(len(_VERSION))
        if start and start != _VERSION.encode():
            os.truncate(path, 0)
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below
        if not file.tell():  # Of two processes that both find it empty, one writes a line too many.
            file.write(f"{_VERSION}\n".encode())
    except OSError as error:
        say(f"note: {path} cannot be written ({error.strerror}): every run will probe anew")
        yield lambda key, found: None
        return

    def write(key: _Key, found: _Found) -> None:
        said = found if isinstance(found, str) else dataclasses.asdict(found)
        line = json.dumps([*key, said])
        if len(line) >= _MAX_LINE and isinstance(found, decode.Info):
            found = dataclasses.replace(found, keyframes="its times are too many to note")
            line = json.dumps([*key, dataclasses.asdict(found)])
        # One call a line, so that processes that write at the same time do not mix theirs; and a
        # line break before it ends what a kill may have cut short.
        with contextlib.suppress(OSError):  # a full disk costs the note, not the run
            file.write(b"\n" + line.encode())

    with file:
        yield write
