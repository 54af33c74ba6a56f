"""Videos that another library reads, into records: DMVR's factories and TensorFlow Datasets.

Both are read once, from start to end, on first use. What they hold is copied into records, which
can be read from any place: so frames are sampled, changed and ordered here as those of any other
dataset. JPEGs are copied as they are, other pictures become JPEGs.

- `module:function` is a DMVR factory: `function(split)` returns one that is configured. Its source,
  its parser and the filters behind these hold; what it would do after parsing (sampling, decoding,
  preprocessing) does not. Its parser must give `image`, all frames of a video, and `label`.
- `tfds:name`, also with config and version, is a prepared dataset of TensorFlow Datasets that has
  one `Video` and a `ClassLabel`, a sequence of them, or none, for pretraining. A split may be a
  slice: `train[:90%]`.

Records that DMVR's tools have written need none of this: they are read where they lie.
"""

import dataclasses
import importlib
import io
import math
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxvid.base import locks, paths, text, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data import bounds, index, pictures, records, shards
from jaxvid.data.cpu_tf import tf

_SHARD_BYTES = 256 << 20
_QUALITY = 95  # of pictures that become JPEGs


@dataclasses.dataclass(frozen=True)
class Video:
    """One video: its encoded frames, the numbers of its classes, and what it is called."""

    frames: Sequence[bytes]
    labels: tuple[int, ...]
    path: str


@dataclasses.dataclass(frozen=True)
class Found:
    """A split of another library: its videos, how many (None: unknown), and the class names."""

    videos: Iterator[Video]
    count: int | None
    classes: tuple[str, ...]


def import_split(dataset: str, split: str, folder: str | os.PathLike) -> records.Records:
    """The records of a split, which are made in `folder` where they are missing."""
    folder, origin = paths.anywhere(folder, "data_dir"), f"{dataset} {split}"
    name = re.sub(r"[^\w.+-]", "_", split)
    indexed = folder / f"{name}.index.npz"
    if not indexed.exists():
        found = _tfds(dataset, split) if dataset.startswith("tfds:") else _dmvr(dataset, split)
        try:
            # All processes of one training come here at once: one copies, the others wait.
            with locks.hold(folder, "", wait=True):
                if not indexed.exists():
                    _write(found, folder, name, origin)
        except OSError as error:
            raise JaxvidError(
                f"{folder} cannot be written ({error.strerror}): {dataset} is copied there once, so"
                " give another data_dir"
            ) from None
    imported = records.Records(folder, name)
    if imported.origin != origin:
        raise JaxvidError(
            f"{folder} holds other records of {name!r} than those of {dataset}: give another"
            " data_dir"
        )
    return imported


def _write(found: Found, folder: pathlib.Path, split: str, origin: str) -> None:
    """Writes records beside their place, and moves them there when all are whole."""
    existing = records.read_classes(folder / "labels.txt")
    if found.classes and existing and existing != found.classes:
        raise JaxvidError(
            f"{folder / 'labels.txt'} names other classes than {origin}: give another data_dir"
        )
    names = found.classes or existing
    with whole.workplace(folder / f".import-{split}") as workplace:
        entries: list[shards.Entry] = []
        written: list[pathlib.Path] = []
        progress = Progress(found.count, f"importing {origin}", "videos")
        file = None
        for video in found.videos:
            if file is None or file.tell() > _SHARD_BYTES:
                if file:
                    file.close()
                written.append(workplace / str(len(written)))
                file = open(written[-1], "wb")  # noqa: SIM115 - closed here and below
            frames = [_jpeg(frame, video.path) for frame in video.frames]
            texts = [names[i] if i < len(names) else str(i) for i in video.labels]
            entries.append(
                shards.append(
                    file,
                    frames,
                    shard=len(written) - 1,
                    labels=video.labels,
                    texts=texts,
                    path=video.path,
                    fps=math.nan,
                )
            )
            progress.update()
        progress.close()
        if file is None:
            raise JaxvidError(f"{origin} holds no videos: give another split")
        file.close()
        files = shards.names(split, len(written))
        for path, shard in zip(written, files, strict=True):
            whole.put(path, folder / shard)
        if names and not existing:
            whole.text(folder / "labels.txt", "".join(f"{name}\n" for name in names))
        index.write(folder, split, files, entries, origin)


def _jpeg(image: bytes, path: str) -> bytes:
    """The picture as a JPEG, unless it is one."""
    if image.startswith(b"\xff\xd8"):
        return image
    from PIL import Image

    try:
        # Pillow's other readers are never asked: some of them run programs.
        with Image.open(io.BytesIO(image), formats=("PNG", "BMP", "GIF")) as opened:
            if problem := bounds.size_problem(opened.height, opened.width):
                raise ValueError(problem)
            return pictures.to_jpeg(opened.convert("RGB"), _QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise JaxvidError(
            f"{path} has a frame that is no picture ({error}): leave it out"
        ) from None


def _dmvr(dataset: str, split: str) -> Found:
    """What a DMVR factory's parser gives."""
    module, _, function = dataset.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)(split)
    except (ImportError, AttributeError) as error:
        raise JaxvidError(
            f"data.dataset={dataset} means the function {function!r} of the Python module"
            f" {module!r}, which cannot be had ({_line(error)}): correct the name, or install what"
            " is missing"
        ) from None
    phases = ("sampler", "decoder", "preprocessor", "postprocessor")
    try:
        for phase in phases:
            getattr(factory, f"{phase}_builder").reset()
        examples = factory.make_dataset(shuffle=False, num_epochs=1, batch_size=None)
        given = set(examples.element_spec.keys())
    except (AttributeError, TypeError, ValueError) as error:
        raise JaxvidError(
            f"{dataset} returned what is no configured factory of DMVR ({_line(error)}): let it"
            " return SomeFactory(...).configure(...)"
        ) from None
    if not {"image", "label"} <= given:
        raise JaxvidError(
            f"the parser of {dataset} gives {', '.join(sorted(given))}: let it give image, all"
            " frames of a video, and label"
        )
    return Found(_dmvr_videos(examples, dataset, split), None, ())


def _dmvr_videos(examples: Any, dataset: str, split: str) -> Iterator[Video]:
    for number, example in _numbered(examples, dataset):
        frames, label = example["image"], example["label"]
        labels = np.atleast_1d(label.values if isinstance(label, tf.SparseTensor) else label)
        path = f"{split}/{number:06d}"
        if frames.dtype != tf.string or frames.ndim != 1 or labels.dtype.kind != "i":
            raise JaxvidError(
                f"the parser of {dataset} gives {frames.dtype.name} {list(frames.shape)} as image"
                f" and {labels.dtype} as label: let it give encoded frames and class numbers"
            )
        yield Video(frames.numpy().tolist(), tuple(labels.tolist()), path)


def _tfds(dataset: str, split: str) -> Found:
    """A split of a prepared dataset, its frames as they are stored."""
    import tensorflow_datasets as tfds

    name = dataset.removeprefix("tfds:")
    where = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=where)
        known = builder.info.splits
        count = known[split].num_examples if known else None
    except (ImportError, KeyError, ValueError, AssertionError) as error:
        raise JaxvidError(f"data.dataset={dataset}, split {split!r}: {_line(error)}") from None
    features = builder.info.features
    videos = [key for key, kind in features.items() if isinstance(kind, tfds.features.Video)]
    labels = [key for key, kind in features.items() if _class_label(kind)]
    if len(videos) != 1 or (len(labels) > 1 and "label" not in labels):
        raise JaxvidError(
            f"{dataset} has the features {', '.join(features)}: it needs one Video, and at most"
            " one ClassLabel, or a sequence of them, unless one of several is called label"
        )
    label = "label" if "label" in labels else next(iter(labels), None)
    try:
        examples = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(
                dict.fromkeys(filter(None, (videos[0], label)), True),
                decoders={videos[0]: tfds.decode.SkipDecoding()},
            ),
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
    except (AssertionError, FileNotFoundError):
        raise JaxvidError(
            f"{dataset} is not prepared in {where or tfds.core.constants.DATA_DIR}: run `tfds build"
            f" {name}`, or set TFDS_DATA_DIR to where it is"
        ) from None
    found = _tfds_videos(examples, dataset, split, videos[0], label)
    names = (_class_label(features[label]).names if label else None) or ()
    names = text.check_names(names, lambda number: f"{dataset}: class {number}")
    return Found(found, count, names)


def _class_label(kind: Any) -> Any:
    """The ClassLabel that a feature is, or a sequence of which it is, or None."""
    import tensorflow_datasets as tfds

    kind = getattr(kind, "feature", kind)
    return kind if isinstance(kind, tfds.features.ClassLabel) else None


def _tfds_videos(
    examples: Any, dataset: str, split: str, video: str, label: str | None
) -> Iterator[Video]:
    for number, example in _numbered(examples, dataset):
        labels = np.atleast_1d(example[label].numpy()).tolist() if label else []
        yield Video(example[video].numpy().tolist(), tuple(labels), f"{split}/{number:06d}")


def _numbered(examples: Any, dataset: str) -> Iterator[tuple[int, Any]]:
    """Counts what a tf.data pipeline gives; what stops it is one sentence."""
    try:
        yield from enumerate(examples)
    except tf.errors.OpError as error:
        line = error.message.splitlines()[0]
        raise JaxvidError(f"{dataset} cannot be read ({line}): mend it, or its parser") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
