"""Score files of several tests of the same videos, as of two streams, fused into one result.

python -m jaxvid.fuse runs/rgb/eval/scores.npz runs/flow/eval/scores.npz=1.5 --out=runs/both
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxvid.base import arrays, locks, paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import normal, say
from jaxvid.rows import UNKNOWN

_MOST = 2 << 30  # bytes of a file of scores


@dataclasses.dataclass(frozen=True)
class Scores:
    """A test's probabilities [N, classes], labels [N] and paths [N], and its class names.

    Labels are [N, classes] where a video may have several.
    """

    scores: np.ndarray
    labels: np.ndarray
    paths: np.ndarray
    classes: np.ndarray


def read(path: str | pathlib.Path) -> Scores:
    """Reads a `scores.npz` that a test wrote, of at most 2 GiB.

    Raises:
      JaxvidError: there is no such file, or it is something else, or it contradicts itself.
    """
    path = paths.anywhere(path, "FILE")
    try:
        found = arrays.read_npz(path, _MOST)
        test = Scores(*(found[field.name] for field in dataclasses.fields(Scores)))
    except FileNotFoundError:
        raise JaxvidError(f"{path} does not exist: name the scores.npz of a test") from None
    except KeyError as error:
        raise JaxvidError(f"{path} is not the scores.npz of a test: it has no {error}") from None
    except ValueError as error:
        raise JaxvidError(f"{path} is not the scores.npz of a test: {error}") from None
    problem = _problem(test)
    if problem:
        raise JaxvidError(f"{path} is not the scores.npz of a test: {problem}")
    classes = np.array([normal(name) for name in test.classes.tolist()], np.str_)
    return dataclasses.replace(test, classes=classes)


def _problem(test: Scores) -> str | None:
    """What is wrong with arrays that a file calls a test's, if anything."""
    if test.scores.ndim != 2 or test.scores.dtype.kind != "f":
        return f"its scores are {_kind(test.scores)}, not a row of numbers for each video"
    count, classes = test.scores.shape
    if not count or not classes:
        return f"it has {count} videos and {classes} classes"
    for name, length in (("paths", count), ("classes", classes)):
        array = getattr(test, name)
        if array.dtype.kind != "U" or array.shape != (length,):
            return f"its {name} are {_kind(array)}, not {length} texts: its arrays differ in length"
    if test.labels.dtype.kind not in "iub":
        return f"its labels are {_kind(test.labels)}, not whole numbers"
    if test.labels.shape not in ((count,), (count, classes)):
        return f"its labels are {_kind(test.labels)}, not {count}: its arrays differ in length"
    several = test.labels.ndim == 2
    outside = (test.labels < 0) | (test.labels >= (UNKNOWN + 1 if several else classes))
    bad = np.flatnonzero(outside.reshape(count, -1).any(1))
    if bad.size:
        known = f"0, 1 or {UNKNOWN} for each class" if several else f"one of the {classes} classes"
        return f"the label of its video {bad[0]} is not {known}"
    bad = np.flatnonzero(~np.isfinite(test.scores).all(1))
    if bad.size:
        return (
            f"the scores of {bad.size} of its videos, the first of them video {bad[0]}, are "
            "not finite numbers; test again with sound weights"
        )
    return None


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name} {list(array.shape)}"


def fuse(
    tests: Sequence[Scores],
    weights: Sequence[float],
    average: str = "prob",
    names: Sequence[str | pathlib.Path] = (),
) -> Scores:
    """The weighted mean of several tests' scores, video by video, in the first one's order.

    Args:
      tests: of the same videos and classes, in any order of videos.
      weights: one a test, their sum not 0; only their ratios matter.
      average: `prob` for the mean of the probabilities, `score` for that of the logits: the softmax
        of the mean of log-probabilities, which differ from the logits by a constant per video; or
        the sigmoid, where a video may have several labels.
      names: what to call the tests in errors.

    Raises:
      JaxvidError: the videos, labels or classes of two tests differ; the first path is named.
    """
    if average not in ("prob", "score"):
        raise JaxvidError(f"average={average!r} is unknown: take prob or score")
    share = np.asarray(weights, np.float64)
    if not np.isfinite(share).all() or not share.sum():
        raise JaxvidError(f"the weights {list(weights)} have no sum to divide by: change one")
    share = share / share.sum()
    names = names or [f"test {number}" for number in range(1, len(tests) + 1)]
    first = tests[0]
    total = np.zeros(first.scores.shape)
    several = first.labels.ndim == 2
    for test, weight, name in zip(tests, share, names, strict=True):
        place = _aligned(first, test, names[0], name)
        scores = test.scores[place].astype(np.float64)
        if average == "score":
            # The smallest float32 stands for what was rounded to 0.
            tiny = np.finfo(np.float32).tiny
            others = np.log(np.maximum(1 - scores, tiny)) if several else 0.0
            scores = np.log(np.maximum(scores, tiny)) - others
        total += weight * scores
    if average == "score":
        if several:
            total = 1 / (1 + np.exp(-total))
        else:
            total = np.exp(total - total.max(1, keepdims=True))
            total /= total.sum(1, keepdims=True)
    return dataclasses.replace(first, scores=total.astype(np.float32))


def _aligned(
    first: Scores, other: Scores, name: str | pathlib.Path, other_name: str | pathlib.Path
) -> np.ndarray:
    """Places [N] in `other` of the videos of `first`."""
    if list(first.classes) != list(other.classes):
        raise JaxvidError(
            f"{name} and {other_name} answer different classes: fuse tests of one dataset"
        )
    for scores, known_as in ((first, name), (other, other_name)):
        paths, counts = np.unique(scores.paths, return_counts=True)
        if (counts > 1).any():
            raise JaxvidError(f"{known_as} has {paths[counts.argmax()]} more than once")
    places = {path: number for number, path in enumerate(other.paths.tolist())}
    for here, there, known_as in (
        (first.paths, places, other_name),
        (other.paths, set(first.paths.tolist()), name),
    ):
        missing = next((path for path in here.tolist() if path not in there), None)
        if missing is not None:
            raise JaxvidError(f"{known_as} has no scores of {missing}: fuse tests of one split")
    place = np.array([places[path] for path in first.paths.tolist()], np.int64)
    if first.labels.shape != other.labels.shape:
        raise JaxvidError(
            f"in one of {name} and {other_name} a video may have several labels: fuse tests of one "
            "split"
        )
    unequal = first.labels != other.labels[place]
    differs = np.flatnonzero(unequal.reshape(len(unequal), -1).any(1))
    if differs.size:
        raise JaxvidError(
            f"{name} and {other_name} have different labels for {first.paths[differs[0]]}: fuse "
            "tests of one split"
        )
    return place


def _file_and_weight(text: str) -> tuple[str, float]:
    """Reads `FILE=WEIGHT`; a file alone has weight 1."""
    file, _, weight = text.rpartition("=")
    try:
        return (file, float(weight)) if file else (text, 1.0)
    except ValueError:  # an equals sign that belongs to the name
        return text, 1.0


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags, fuses, and writes what a test writes; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.fuse",
        description="Fuse the scores of several tests of the same videos.",
        epilog="Videos are matched by path; a video that is not in all files is an error.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE[=WEIGHT]", help="scores.npz of a test, weight 1 if unsaid"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the fused result")
    parser.add_argument(
        "--average",
        choices=("prob", "score"),
        default="prob",
        help="whether probabilities or logits are averaged (default prob)",
    )
    args = parser.parse_args(argv)
    files, weights = zip(*map(_file_and_weight, args.files), strict=True)
    out = paths.writable(args.out, "--out")
    fused = fuse([read(file) for file in files], weights, args.average, files)

    from jaxvid.reports.results import write_scores

    with locks.hold(out, "--out"), paths.writing(out, "--out"):
        result = write_scores(
            out,
            fused.classes.tolist(),
            fused.paths.tolist(),
            fused.scores,
            fused.labels,
            {"fused": dict(zip(files, weights, strict=True)), "average": args.average},
        )
    say(f"{len(files)} tests fused: {result}")
    say(f"scores, answers and pictures are in {out}")


if __name__ == "__main__":
    with exit_on_error():
        main()
