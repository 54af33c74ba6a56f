"""From the name of a dataset to its videos: what `config.data` points at."""

import dataclasses
import pathlib
from typing import Any, cast

import numpy as np

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.config.parts import Data
from jaxvid.data import mixture, subset, table
from jaxvid.data.records import Records
from jaxvid.data.sources import Source as Source
from jaxvid.data.sources import Split as Split
from jaxvid.rows import FLOWS


def open_split(data: Data, split: str, *, labelled: bool = True) -> Split:
    """Opens a split of the dataset that `data.dataset` and `data.data_dir` name.

    The dataset `toy` is generated where it is missing. `files` are the video files of `data_dir`
    that `<split>.csv` in there lists, or, where the split's name ends in .csv, that file. A name
    with a colon, `module:function` or `tfds:name`, is imported into `data_dir` on first use; see
    `jaxvid.data.imports`. Any other lies in `data_dir`, or in the folder of its name in there, as
    `python -m jaxvid.data.build` wrote it. Unless the videos are to be `labelled`, they need no
    labels. With `data.flow`, their optical flow is opened. With `data.mixture` the videos are those
    of all datasets in it, and `data.dataset` says what their classes are. With `data.category` they
    are those that were annotated for that, and the classes its own.
    """
    if data.mixture:
        return _mixed(data, split, labelled)
    folder = paths.anywhere(data.data_dir, "config.data.data_dir") if data.data_dir else None
    if data.dataset == "files":
        source = _files(data, folder, split)
    elif ":" in data.dataset:
        source = _imported(data.dataset, split, folder, data.flow)
    else:
        source = _records(_folder(data.dataset, folder, data.flow), split, data.flow)
    found = check_split(source, split, labelled=labelled)
    if not data.category:
        return found
    return subset.of_category(found, data.category, split)


def _mixed(data: Data, split: str, labelled: bool) -> Split:
    """Opens the same split of all datasets of `data.mixture`."""
    weights = dict(data.mixture)
    if len(weights) < len(data.mixture):
        raise JaxvidError("config.data.mixture names a dataset twice: add up its weights")
    found = {
        name: open_split(
            dataclasses.replace(data, dataset=name, mixture=()), split, labelled=labelled
        )
        for name in weights
    }
    return mixture.mixed(found, weights, data.dataset)


def check_split(source: Source, split: str, *, labelled: bool = True) -> Split:
    """Refuses a source that cannot be trained or tested on, and names its classes."""
    where = f"split {split!r}"
    if not len(source):
        raise JaxvidError(f"{where} holds no videos: build the records again")
    for number, labels in enumerate(source.labels):
        if labelled and not labels or min(labels, default=0) < 0:
            raise JaxvidError(f"{where}: {source.name(number)} has no label: build with labels")
    if (np.asarray(source.num_frames) < 1).any():
        number = int(np.argmax(np.asarray(source.num_frames) < 1))
        raise JaxvidError(f"{where}: {source.name(number)} has no frames: leave it out")
    largest = [max(labels, default=-1) for labels in source.labels]
    number = int(np.argmax(largest))
    limit = len(source.classes) or table.MAX_CLASSES
    if largest[number] >= limit:
        known = f"labels.txt names only {limit} classes"
        raise JaxvidError(
            f"{where}: {source.name(number)} has label {largest[number]}, but "
            + (known if source.classes else f"there are at most {limit} classes")
        )
    classes = tuple(source.classes) or tuple(str(i) for i in range(largest[number] + 1))
    number = int(np.argmax([len(labels) for labels in source.labels]))
    if len(source.labels[number]) > len(classes):
        raise JaxvidError(
            f"{where}: {source.name(number)} has {len(source.labels[number])} labels, more than"
            f" there are classes ({len(classes)}): build the records again"
        )
    if not getattr(source, "categories", ()):
        return Split(source, classes)
    annotated = cast(Any, source)
    return Split(source, classes, annotated.categories, annotated.annotated)


def _files(data: Data, folder: pathlib.Path | None, split: str) -> Source:
    """Opens video files; refuses more that cannot be read than a run may meet."""
    from jaxvid.data.files import Files

    if folder is None or not folder.is_dir():
        raise JaxvidError(
            f"dataset files needs data_dir, the folder of the videos, and {data.data_dir!r} is"
            " none: add data_dir=FOLDER to the config argument"
        )
    paths.local(folder, "config.data.data_dir")
    csv_file = _list_of(folder, split)
    first = _list_of(folder, data.train_split)
    source = Files(folder, csv_file, first, data.workers, data.flow)
    # The test is over all videos that are listed, as it is over all records.
    limit = 0 if split == data.test_split else data.max_bad_records
    if len(source.bad) > limit:
        raise JaxvidError(
            f"{len(source.bad)} of the {len(source)} videos of {csv_file} cannot be used, the first"
            f" of them as {next(iter(source.bad.values()))}: remove them from the list"
            + (f" (config.data.max_bad_records is {limit})" if split != data.test_split else "")
        )
    for reason in source.bad.values():
        say(f"warning: {reason}; other videos take its place", error=True)
    for path, reason in source.repeated.items():
        say(f"warning: {csv_file}: {path} is {reason}", error=True)
    if source.cut:
        say(
            f"note: {csv_file}: windows that reach beyond their videos, and end with them: "
            f"{len(source.cut)}, the first {source.path[source.cut[0]]}",
            error=True,
        )
    return source


def _records(folder: pathlib.Path, split: str, flow: str) -> Source:
    """Opens records of pictures, or those of flow, which was computed as `flow` says."""
    if not flow:
        return Records(folder, split)
    source = Records(folder, split, "flow")
    if source.flow in FLOWS and source.flow != flow:
        raise JaxvidError(
            f"the optical flow of {split!r} in {folder} was computed by {source.flow}: add "
            f"--config.data.flow={source.flow}, or build it by {flow} into another folder"
        )
    return source


def _imported(dataset: str, split: str, data_dir: pathlib.Path | None, flow: str) -> Source:
    """Opens the records of another library's dataset."""
    from jaxvid.data import imports

    if flow:
        raise JaxvidError(
            f"dataset {dataset} is read as RGB only: build records of its videos' optical flow with"
            f" `python -m jaxvid.data.build --flow={flow}`"
        )
    if not data_dir:
        raise JaxvidError(
            f"dataset {dataset} needs data_dir, the folder into which it is copied once: add"
            " data_dir=FOLDER to the config argument"
        )
    return imports.import_split(dataset, split, data_dir)


def _list_of(folder: pathlib.Path, split: str) -> pathlib.Path:
    """The CSV of a split of video files."""
    if not split.endswith(".csv"):
        return folder / f"{split}.csv"
    given = paths.anywhere(split, "the list of a split")
    return given if given.is_file() else folder / given


def _folder(dataset: str, data_dir: pathlib.Path | None, flow: str) -> pathlib.Path:
    if dataset == "toy":
        from jaxvid.data import toy

        return toy.ensure(data_dir or "", flow=flow)
    if not data_dir:
        raise JaxvidError(
            f"dataset {dataset!r} needs data_dir, the folder that `python -m jaxvid.data.build`"
            " wrote: add data_dir=FOLDER to the config argument"
        )
    inner = data_dir / dataset
    return inner if inner.is_dir() else data_dir
