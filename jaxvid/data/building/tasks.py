"""One shard of a build: its videos into JPEGs, and these into records."""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, decode, shards, table, windows
from jaxvid.data.windows import Window


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to encode, with its classes; `number` is its place among the records.

    It is the `window` of the `file`, and `path` is what it is called; `annotated` are the
    categories of labels that were looked for.
    """

    number: int
    path: str
    labels: tuple[int, ...]
    texts: tuple[str, ...]
    # The path says both already: they are no other build's.
    file: str = dataclasses.field(repr=False)
    window: Window = dataclasses.field(default=windows.WHOLE, repr=False)
    annotated: tuple[str, ...] = dataclasses.field(default=(), repr=False)


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
    written: dict[int, shards.Entry] = dataclasses.field(default_factory=dict)
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
            entry["annotated"] = tuple(entry["annotated"])
        entries = {number: shards.Entry(**entry) for number, entry in written.items()}
        return cls(fields["shard"], entries, bad, damaged)


def encode_video(
    path: pathlib.Path, short_side: int, quality: int, window: Window
) -> tuple[list[bytes], decode.Info]:
    """Decodes all frames of a window into JPEGs.

    Raises `JaxvidError` where it cannot be read, or is too long for one record.
    """
    from PIL import Image

    images, size = [], 0
    with decode.Video(path, short_side, window=window) as video:
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
            path = table.locate(task.videos, job.file)
            try:
                images, info = encode_video(path, task.short_side, task.quality, job.window)
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
                fps=info.fps,
                height=info.height,
                width=info.width,
                annotated=job.annotated,
            )
            if info.damaged:
                result.damaged[job.number] = f"{info.damaged} damaged or missing packets"
            elif info.cut:
                result.damaged[job.number] = f"the video ends {info.cut:.2f} s before its window"
            tell(job.number)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, workplace / task.file)
    whole.text(workplace / f"{task.file}.json", result.to_json())
    return result
