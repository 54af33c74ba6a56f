"""Charts of what a dataset holds, as PNGs. matplotlib is imported only when one is drawn."""

from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from jaxvid.base.text import shown

_DPI, _WIDTH = 110, 6.4
_COLORS = ("#2b6cb0", "#dd6b20", "#2f855a")
_NAMED = 40
"""As many classes are named; of more the sizes are drawn, from the largest down."""


def classes(names: Sequence[str], counts: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    """Draws how many clips each class has, a bar or a curve for each entry of `counts`."""
    few = len(names) <= _NAMED
    bars = len(counts)
    height = 1.1 + len(names) * (0.13 + 0.13 * bars) if few else 4.0
    figure, axes = _figure(height)
    for place, (label, each) in enumerate(counts.items()):
        color = _COLORS[place % len(_COLORS)]
        if few:
            at = np.arange(len(names)) + (place - (bars - 1) / 2) * 0.8 / bars
            axes.barh(at, each, 0.8 / bars, color=color, label=label)
        else:
            axes.plot(np.sort(each)[::-1], color=color, label=label, linewidth=1.8)
    if few:
        axes.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("videos")
        axes.grid(axis="x", alpha=0.25)
        axes.locator_params(axis="x", integer=True)
    else:
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(0)
        axes.set_xlabel("classes, the largest first")
        axes.set_ylabel("videos")
        axes.grid(alpha=0.25)
    _finish(figure, file)


def histogram(
    values: Mapping[str, np.ndarray], what: str, file: IO[bytes], mark: float = 0
) -> None:
    """Draws how values are spread, as shares of each entry; a dashed line marks a value."""
    figure, axes = _figure(3.4)
    every = np.concatenate([each[np.isfinite(each)] for each in values.values()])
    # The longest of all would press the others into one bar.
    high = max(float(np.quantile(every, 0.99)) * 1.05, mark * 1.1) if len(every) else 1.0
    low = min(float(every.min()) if len(every) else 0.0, mark or np.inf)
    low = 0.0 if low < high / 2 else low * 0.95
    edges = np.linspace(low, max(high, low + 1), 31)
    for place, (label, each) in enumerate(values.items()):
        each = np.clip(each[np.isfinite(each)], edges[0], edges[-1])
        weights = np.full(len(each), 100 / max(len(each), 1))
        color = _COLORS[place % len(_COLORS)]
        axes.hist(each, edges, weights=weights, color=color, alpha=0.55, label=label)
    if mark:
        axes.axvline(mark, color="#1a1a1a", linestyle="--", linewidth=1.2, label="a clip spans")
    if len(every) and every.max() > edges[-1]:
        what += f" (the last bar: and up to {every.max():.4g})"
    axes.set_xlabel(what)
    axes.set_ylabel("% of videos")
    axes.grid(axis="y", alpha=0.25)
    _finish(figure, file)


def sizes(
    widths: Mapping[str, np.ndarray], heights: Mapping[str, np.ndarray], file: IO[bytes]
) -> None:
    """Draws which widths and heights there are; the area of a dot is the share that has them."""
    figure, axes = _figure(3.8)
    for place, label in enumerate(widths):
        pairs = np.stack([widths[label], heights[label]], 1)
        each, counts = np.unique(pairs, axis=0, return_counts=True)
        area = 30 + 400 * counts / counts.sum()
        color = _COLORS[place % len(_COLORS)]
        axes.scatter(*each.T, area, color=color, alpha=0.5, label=label, linewidths=0)
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.margins(0.15)
    axes.grid(alpha=0.25)
    _finish(figure, file)


def _short(name: str, most: int = 28) -> str:
    name = shown(" ".join(name.split()))
    return name if len(name) <= most else name[: most - 1] + "…"


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure: Any, file: IO[bytes]) -> None:
    (axes,) = figure.axes
    # Above, where it hides nothing.
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", frameon=False, ncols=3
    )
    figure.savefig(file, dpi=_DPI, format="png")
