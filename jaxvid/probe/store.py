"""Features of the videos of a split on disk: in shards, each there whole or not at all.

Of a split `train` the shard 3 of 12 is `train-DIGEST-00003-of-00012.means.npy`, float32 [N, C], and
where probes look at them such a file `.tokens.npy` [N, L, C], in float16 unless a value is beyond
that. The digest is that of the videos and their labels. `about.json` says what made them, and
nothing else goes on with them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxvid.base import jsons, paths, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data import pipeline
from jaxvid.data.datasets import Split
from jaxvid.data.subset import Subset
from jaxvid.inference.scoring import check_scores
from jaxvid.probe.encoder import Encoder
from jaxvid.training.resume import fingerprint

SHARD = 64
"""Videos of a shard."""


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of videos: means float32 [N, C] over all tokens, labels [N], and the tokens.

    `shards` [n, L, C] are left on disk until they are asked for; there are none of means alone.
    """

    means: np.ndarray
    labels: np.ndarray
    shards: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self, numbers: np.ndarray) -> np.ndarray:
        """The tokens [B, L, C] of the videos `numbers` [B], as they are stored."""
        return np.stack([self.shards[number // SHARD][number % SHARD] for number in numbers])


def check(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Refuses a folder with features that something else made; says what makes those of a new one.

    Raises:
      JaxvidError: what made the features there differs, or cannot be read.
    """
    path = folder / "about.json"
    if not path.exists():
        with paths.writing(folder, "--workdir"):
            folder.mkdir(parents=True, exist_ok=True)
            whole.text(path, jsons.dump(about, indent=1) + "\n")
        return
    try:
        then = jsons.read(path)
    except (OSError, ValueError) as error:
        raise JaxvidError(f"{path} cannot be read ({error}): remove {folder}") from None
    now = json.loads(jsons.dump(about))
    if not isinstance(then, dict) or then != now:
        other = then if isinstance(then, dict) else {}
        fields = ", ".join(name for name in now if other.get(name) != now[name]) or "fields"
        raise JaxvidError(
            f"{folder} holds features that were made with other {fields}: choose another "
            "--workdir, or remove that folder"
        )


def extract(
    encoder: Encoder, split: Split, name: str, folder: pathlib.Path, tokens: bool
) -> Features:
    """The features of all videos of the split `name`, of which shards that are there are read.

    Raises:
      JaxvidError: a video has several labels, or features are not finite.
    """
    several = [number for number, found in enumerate(split.source.labels) if len(found) != 1]
    if several:
        raise JaxvidError(
            f"split {name!r}: {split.paths[several[0]]} has {len(split.source.labels[several[0]])} "
            "labels, and probes are of one label a video: give another config.data.dataset"
        )
    count = -(-len(split) // SHARD)
    # Of a split that is a list by its path the file's own name; other videos have other files.
    stem = f"{pathlib.PurePath(name).stem}-{fingerprint(split)['digest']}"
    files = [folder / f"{stem}-{number:05d}-of-{count:05d}" for number in range(count)]
    kinds = ["tokens", "means"] if tokens else ["means"]
    lacking = [
        number
        for number, file in enumerate(files)
        if not all(_file(file, kind).exists() for kind in kinds)
    ]
    _make(encoder, split, name, files, lacking, kinds)
    counts = [min(SHARD, len(split) - number * SHARD) for number in range(count)]
    read = {
        kind: [_read(_file(file, kind), n) for file, n in zip(files, counts, strict=True)]
        for kind in kinds
    }
    return Features(
        np.concatenate(read["means"]),
        np.array([found[0] for found in split.source.labels]),
        tuple(read.get("tokens", ())),
    )


def _file(file: pathlib.Path, kind: str) -> pathlib.Path:
    return file.with_name(f"{file.name}.{kind}.npy")


def _read(path: pathlib.Path, count: int) -> np.ndarray:
    """The features of so many videos, which stay on disk until they are looked at."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise JaxvidError(f"{path} cannot be read ({error}): remove it") from None
    if len(found) != count:
        raise JaxvidError(f"{path} is of {len(found)} videos, not {count}: remove it")
    return found


def _make(
    encoder: Encoder,
    split: Split,
    name: str,
    files: list[pathlib.Path],
    lacking: list[int],
    kinds: list[str],
) -> None:
    """Writes the shards that are `lacking`, one after the other."""
    shards = [range(n * SHARD, min((n + 1) * SHARD, len(split))) for n in lacking]
    numbers = [number for shard in shards for number in shard]
    if not numbers:
        return
    progress = Progress(len(split), f"features of {name}", "videos", done=len(split) - len(numbers))
    rows = _rows(encoder, split, numbers, progress)
    for number, shard in zip(lacking, shards, strict=True):
        found = np.stack([next(rows) for _ in shard])
        means = found.mean(1)
        check_scores(means, [split.paths[place] for place in shard], f"features of {name}")
        with np.errstate(over="ignore"):
            half = found.astype(np.float16)
        arrays = {"means": means, "tokens": half if np.isfinite(half).all() else found}
        for kind in kinds:
            path = _file(files[number], kind)
            with paths.writing(path, "--workdir"), whole.file(path) as file:
                np.save(file, arrays[kind])
    progress.close()


def _rows(
    encoder: Encoder, split: Split, numbers: list[int], progress: Progress
) -> Iterator[np.ndarray]:
    """The tokens float32 [L, C] of the videos `numbers`, one after the other."""
    same = {label: label for label in range(len(split.classes))}
    part = Split(Subset(split.source, numbers, split.classes, same), split.classes)
    test, config = encoder.config.test, encoder.config
    batches = pipeline.test_batches(part, test, loss="softmax", workers=config.data.workers)
    for batch in batches:
        views = batch["video"]
        found = encoder.extract(encoder.variables, views.reshape(-1, *views.shape[2:]))
        tokens = found[encoder.name]
        real = int((batch["weight"] > 0).sum())
        # Of all views of a video side by side, as of all clips.
        yield from tokens.reshape(len(views), -1, tokens.shape[-1])[:real]
        progress.update(real)
