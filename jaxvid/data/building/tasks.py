"""One shard of a build: its videos into JPEGs, and these into records."""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from jaxvid.base import stores, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, decode, flow, manifest, pictures, sequence_example, shards, table
from jaxvid.data.info import Info, shrunk
from jaxvid.data.windows import WHOLE, Window
from jaxvid.rows import FLOWS

FLOW_WAYS = (*FLOWS, flow.PICTURES)
"""How optical flow is had: computed, or read from pictures."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to encode, with its classes; `number` is its place among the records.

    It is the `window` of the `file`, and `path` is what it is called; `annotated` are the
    categories of labels that were looked for. `fps` is the rate where the list gives one.
    """

    number: int
    path: str
    labels: tuple[int, ...]
    texts: tuple[str, ...]
    # The path says both already: they are no other build's.
    file: str = dataclasses.field(repr=False)
    window: Window = dataclasses.field(default=WHOLE, repr=False)
    annotated: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    fps: float | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to write, `file` within the working folder, with the videos that go into it.

    `skip` maps the number of a job that is not to be tried to the reason. `flow` is one of
    `FLOW_WAYS`, or "" for pictures.
    """

    shard: int
    file: str
    videos: str
    jobs: tuple[Job, ...]
    short_side: int
    quality: int
    skip: dict[int, str] = dataclasses.field(default_factory=dict)
    # Not in what tells builds apart where there is none, as there once was none.
    flow: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass
class Result:
    """What became of a task: what was written, and what is wrong with which video.

    `written` maps the number of a job to its line of the index. `bad` maps the number of a job
    that was left out to the reason, `damaged` that of one that was kept to what is wrong with it.
    `digest` is the SHA-256 of the shard.
    """

    shard: int
    written: dict[int, shards.Entry] = dataclasses.field(default_factory=dict)
    bad: dict[int, str] = dataclasses.field(default_factory=dict)
    damaged: dict[int, str] = dataclasses.field(default_factory=dict)
    digest: str = ""

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
            entry["annotated"] = tuple(entry["annotated"])
        entries = {number: shards.Entry(**entry) for number, entry in written.items()}
        return cls(fields["shard"], entries, bad, damaged, fields.get("digest", ""))


def encode_video(
    path: pathlib.Path, short_side: int, quality: int, window: Window
) -> tuple[list[bytes], Info]:
    """Decodes all frames of a window into JPEGs; of a folder those that are small enough stay.

    Raises `JaxvidError` where it cannot be read, or is too long for one record.
    """
    with decode.opened(path, short_side, window) as video:
        images = _held(_jpegs(video, quality), path)
        return images, video.info()


def encode_flow(
    path: pathlib.Path, way: str, short_side: int, quality: int, window: Window
) -> tuple[list[bytes], Info]:
    """The optical flow of a window, by one of `FLOW_WAYS`, as JPEGs; see `jaxvid.data.flow`.

    Raises `JaxvidError` where it cannot be read, has one frame, or is too long for one record.
    """
    if way == flow.PICTURES:
        if window != WHOLE:
            raise JaxvidError(f"{path}: pictures tell no times, so leave start and end out")
        read = list(flow.read_pictures(path, short_side))
        height, width, _ = read[0].shape
        info = Info(len(read), math.nan, height, width, "", 0)
        return _held((flow.to_jpeg(pair, quality) for pair in read), path), info
    flow.use_one_thread()
    with decode.opened(path, window=window) as video:
        pairs = flow.between(video.frames(), way, short_side)
        images = _held((flow.to_jpeg(pair, quality) for pair in pairs), path)
        info = video.info()
    if not images:
        raise JaxvidError(f"{path} has one frame, and optical flow is between two")
    height, width = shrunk(info.height, info.width, short_side)
    return images, dataclasses.replace(info, height=height, width=width)


def _held(images: Iterable[bytes], path: pathlib.Path) -> list[bytes]:
    """The JPEGs of a video, as many as a record may hold."""
    held, size = [], 0
    for image in images:
        held.append(image)
        size += len(image) + 32  # what surrounds a frame in its record
        if size > bounds.MAX_RECORD - 65536:
            raise JaxvidError(
                f"{path} is larger than 2 GiB as JPEGs, more than a record may hold: "
                "cut it into clips, or lower --short-side or --quality"
            )
    return held


def _jpegs(video: decode.Video | pictures.Pictures, quality: int) -> Iterator[bytes]:
    from PIL import Image

    if isinstance(video, pictures.Pictures):
        yield from video.jpegs(quality)
    else:
        for frame in video.frames():
            yield pictures.to_jpeg(Image.fromarray(frame), quality)


def encode(path: pathlib.Path, task: Task, window: Window) -> tuple[list[bytes], Info]:
    """What a task makes of a video, wherever it lies; what a store says is an `OSError`."""
    with contextlib.ExitStack() as stack:
        local = path
        if isinstance(path, stores.StorePath):
            try:
                local = stack.enter_context(stores.at_hand(path))
            except FileNotFoundError:
                raise JaxvidError(f"{path} does not exist") from None
        try:
            if task.flow:
                return encode_flow(local, task.flow, task.short_side, task.quality, window)
            return encode_video(local, task.short_side, task.quality, window)
        except JaxvidError as error:
            raise JaxvidError(str(error).replace(str(local), str(path))) from None


def write_shard(task: Task, workplace: pathlib.Path, tell: Callable[[int], None]) -> Result:
    """Writes one shard and, when it is whole, the note that says so.

    `tell` is called with the number of each video when it is done with.
    """
    result = Result(task.shard)
    with whole.file(workplace / task.file, durable=True) as file:
        for job in task.jobs:
            if job.number in task.skip:
                result.bad[job.number] = task.skip[job.number]
                continue
            path = table.locate(task.videos, job.file)
            try:
                images, info = encode(path, task, job.window)
            except JaxvidError as error:
                result.bad[job.number] = str(error).removeprefix(f"{path} ")
                tell(job.number)
                continue
            result.written[job.number] = shards.append(
                file,
                images,
                shard=task.shard,
                labels=job.labels,
                texts=job.texts,
                path=job.path,
                fps=job.fps or info.fps,
                height=info.height,
                width=info.width,
                annotated=job.annotated,
                feature=sequence_example.FLOW if task.flow else sequence_example.FRAMES,
            )
            if info.damaged:
                what = "missing frames" if path.is_dir() else "damaged or missing packets"
                result.damaged[job.number] = f"{info.damaged} {what}"
            elif info.cut:
                result.damaged[job.number] = f"the video ends {info.cut:.2f} s before its window"
            tell(job.number)
        file.seek(0)
        result.digest = manifest.digest_of(file)
    whole.text(workplace / f"{task.file}.json", result.to_json())
    return result
