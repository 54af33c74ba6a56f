"""What a test leaves in a folder: scores, answers, accuracies and pictures, whole or not at all."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxvid.base import csvs, jsons, whole
from jaxvid.reports import draw, metrics


def write_scores(
    folder: pathlib.Path,
    classes: list[str],
    paths: list[str],
    scores: np.ndarray,
    labels: np.ndarray,
    about: dict[str, Any],
    categories: Sequence[str] = (),
) -> metrics.Result:
    """Writes what can be said of scores into `folder`, whatever they come from.

    `scores.npz` holds scores [N, classes], labels [N] (or [N, classes], where a video may have
    several), paths and classes; `predictions.csv` a line per video, `classes.csv` one per class;
    `result.json` the accuracies and what `about` says of where they come from; `confusion.png` the
    picture, where a video has one label. `categories` are those of the classes, if they have any.
    Only process 0 writes.
    """
    result = metrics.measure(scores, labels, categories)
    if jax.process_index() != 0:
        return result
    folder.mkdir(parents=True, exist_ok=True)
    # It is there when all of the others are, and theirs.
    (folder / "result.json").unlink(missing_ok=True)
    whole.arrays(
        folder / "scores.npz",
        scores=scores,
        labels=labels,
        paths=np.array(paths),
        classes=np.array(classes),
    )
    lines = (
        [path, label, classes[answer], f"{row[answer]:.4f}", int(right)]
        for path, row, (label, answer, right) in zip(
            paths, scores, _answered(classes, scores, labels), strict=True
        )
    )
    header = ["path", "label", "answer", "score", "correct"]
    csvs.write(folder / "predictions.csv", header, lines)
    if isinstance(result, metrics.MultiLabel):
        _write_precisions(folder / "classes.csv", classes, labels, result, categories)
    else:
        _write_classes(folder / "classes.csv", classes, result.confusion)
        draw.confusion_matrix(result.confusion, classes, folder / "confusion.png")
    figures = jsons.dump(about | result.figures, indent=1)
    whole.text(folder / "result.json", figures + "\n", durable=True)
    return result


def write_reconstructions(
    folder: pathlib.Path,
    paths: list[str],
    losses: np.ndarray,
    pictures: np.ndarray,
    about: dict[str, Any],
) -> None:
    """Writes what can be said of filled-in videos into `folder`; only process 0 does.

    `losses.csv` holds the loss of each video, `result.json` their mean and what `about` says, and
    `reconstructions.png` some clips, what was seen of them, and what was made of that. Where cubes
    are normalised, the mean colour and contrast of each are the clip's own, as they are no part of
    the answer.
    """
    if jax.process_index() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    lines = ([path, f"{loss:.4f}"] for path, loss in zip(paths, losses, strict=True))
    csvs.write(folder / "losses.csv", ["path", "loss"], lines)
    made = "detail filled in" if about["normalize_cubes"] else "filled in"
    captions = [
        f"{path}: clip, what was seen of it, {made} (loss {loss:.3f})"
        for path, loss in zip(paths, losses, strict=True)
    ]
    draw.reconstructions(pictures, captions[: len(pictures)], folder / "reconstructions.png")
    figures = jsons.dump(about | metrics.reconstruction(losses).figures, indent=1)
    whole.text(folder / "result.json", figures + "\n", durable=True)


def _answered(
    classes: list[str], scores: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, int, bool]]:
    """Yields every video's label, several with `|` between, the best answer, and if it is right."""
    if labels.ndim == 1:
        for label, answer in zip(labels, metrics.answers(scores, labels), strict=True):
            yield classes[label], int(answer), bool(answer == label)
        return
    right = metrics.best_hits(scores, labels)
    answers = metrics.best_answers(scores, labels)
    for row, answer, is_right in zip(labels, answers, right, strict=True):
        named = "|".join(classes[label] for label in np.flatnonzero(row == 1))
        yield named, int(answer), bool(is_right)


def _write_precisions(
    path: pathlib.Path,
    classes: list[str],
    labels: np.ndarray,
    result: metrics.MultiLabel,
    categories: Sequence[str],
) -> None:
    """Writes a line per class: its videos and its average precision, empty for none."""
    counts = (labels == 1).sum(0).tolist()
    header = ["class", "videos", "average_precision"]
    lines = [
        [name, videos, f"{value:.4f}" if videos else ""]
        for name, videos, value in zip(classes, counts, result.average_precisions, strict=True)
    ]
    if categories:
        header.append("category")
        lines = [[*line, name] for line, name in zip(lines, categories, strict=True)]
    csvs.write(path, header, lines)


def _write_classes(path: pathlib.Path, classes: list[str], confusion: np.ndarray) -> None:
    """Writes a line per class: its videos, how many are right, and what it is taken for most."""
    lines = []
    for number, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        videos, correct = int(row.sum()), int(row[number])
        wrong = row.copy()
        wrong[number] = 0
        mistake, times = classes[wrong.argmax()], int(wrong.max())
        share = f"{correct / videos:.4f}" if videos else ""
        lines.append([name, videos, correct, share, mistake if times else "", times])
    header = ["class", "videos", "correct", "accuracy", "taken_for", "times"]
    csvs.write(path, header, lines)
