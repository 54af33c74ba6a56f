"""Shards that are written by the workers of an Apache Beam pipeline, on as many machines as it has.

An element is a task, which is a shard, and no worker needs another. A task may come to a worker
again, after a kill or since its runner wants to be sure: what is whole is then left as it is, and
what two write at a time has the same bytes. The results lie beside the shards, where the process
that began the pipeline reads them; so the working folder must be one that all machines reach, as a
bucket or a shared disk is.
"""

import importlib.util
import pathlib
from collections.abc import Sequence

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data.building.tasks import Task
from jaxvid.data.building.workers import in_processes


def check() -> None:
    """Raises `JaxvidError` where Beam is not installed."""
    if importlib.util.find_spec("apache_beam") is None:
        raise JaxvidError(
            "--runner needs Apache Beam: pip install 'jaxvid[beam]', in an environment without "
            "TensorFlow, as the two ask for different versions of protobuf"
        )


def write_shards(tasks: Sequence[Task], workplace: pathlib.Path, flags: Sequence[str]) -> None:
    """Writes the shards of `tasks` and their notes; `flags` are those of a pipeline.

    Raises:
      JaxvidError: the pipeline ends with an error.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    place = str(workplace if isinstance(workplace, stores.StorePath) else workplace.absolute())
    pipeline = beam.Pipeline(options=PipelineOptions(list(flags)))
    # Without the reshuffle all tasks would be one bundle, of one worker.
    _ = pipeline | beam.Create(list(tasks)) | beam.Reshuffle() | beam.Map(_write, place)
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # Runners raise what they like.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise JaxvidError(
            f"the pipeline failed ({reason}): what its workers have finished is kept, run the same "
            "command again to go on"
        ) from error


def _write(task: Task, place: str) -> str:
    """Writes one shard, in a process of its own, which a video may kill."""
    workplace = stores.path_of(place)
    if not (workplace / f"{task.file}.json").exists():
        progress = Progress(len(task.jobs), f"building {task.file}", "videos")
        for _ in in_processes([task], workplace, 1, progress):
            pass
        progress.close()
    return task.file
