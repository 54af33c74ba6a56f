"""Pictures of results. matplotlib is imported only when one is drawn."""

import pathlib
from collections.abc import Sequence

import numpy as np


def confusion_matrix(confusion: np.ndarray, classes: Sequence[str], path: pathlib.Path) -> None:
    """Draws counts [classes, classes] (label by answer) to a PNG.

    Colours are shares of each label's videos; counts are written in where there is room.
    """
    figure, axes = _figure(len(classes))
    totals = np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(confusion / totals, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the label's videos")
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    correct = np.trace(confusion)
    axes.set_title(f"{correct} of {confusion.sum()} videos correct")
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            shade = "white" if confusion[i, j] > totals[i, 0] / 2 else "black"
            axes.text(j, i, confusion[i, j], ha="center", va="center", color=shade, fontsize=8)
    figure.savefig(path, dpi=110)


def _figure(classes: int):
    # The object interface, not pyplot: no global state and no display needed.
    from matplotlib.figure import Figure

    side = min(max(5.0, 1.5 + 0.4 * classes), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    return figure, figure.add_subplot()
