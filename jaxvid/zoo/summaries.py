"""What a table says of a row."""

from typing import Any

from jaxvid.zoo.costs import cost
from jaxvid.zoo.index import family_name, get_row


def summary(name: str) -> dict[str, Any]:
    """What a table says of a row, by column: plain values, None where nothing is published.

    `gflops` are 10**9 multiply-accumulates of one view, `total_gflops` those of a video's test.
    `weights` are `Row.weights`, or `members` where those of other rows are tested.

    Raises:
      JaxvidError: no row has that name.
    """
    row = get_row(name)
    taken = cost(row.name)
    modalities = {get_row(member).modality for member in row.members}
    return {
        "name": row.name,
        "family": family_name(row.variant),
        "variant": row.variant,
        "dataset": row.dataset,
        "classes": row.num_classes,
        "modality": "two-stream" if len(modalities) > 1 else row.modality,
        "frames": row.train.frames,
        "test": row.test.views,
        "views": row.num_views,
        "side": row.test.crop,
        "gflops": round(taken.macs / 1e9, 2),
        "total_gflops": round(taken.total_macs / 1e9, 1),
        "params": round(taken.params / 1e6, 2),
        "top1": row.top1,
        "top5": row.top5,
        "map": row.mean_ap,
        "weights": "members" if row.members else row.weights,
        "source": row.source,
        "config": row.config,
        "pretrained": row.pretrained,
        "note": row.note,
    }


def percent(value: float | None) -> str:
    """A published accuracy as tables print it, and nothing where there is none."""
    return "" if value is None else f"{value:.2f}"
