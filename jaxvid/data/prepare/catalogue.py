"""The datasets that can be prepared: how their annotations are read, and what their media are.

Their names are those of `jaxvid.rows`, so that a row's dataset says what to prepare; HVU's six
categories are one dataset of which one may be chosen.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

from jaxvid.base import text
from jaxvid.data.prepare import (
    activitynet,
    formats,
    hvu,
    kinetics,
    moments,
    something,
    splits,
    web,
)
from jaxvid.data.prepare.annotations import Annotations
from jaxvid.data.prepare.entries import Listing
from jaxvid.data.prepare.options import Options


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What there is to know of a dataset beside its annotations.

    `labels` are the lists of classes that `parse` takes, as `jaxvid/labels` has them. Names of
    media are `exact` where their case counts, as in ids of YouTube, and go `by_path` where only
    their folders tell them apart. Single `pictures` are media of their own. `fps` is the rate of
    its frames where it is published as these. `options` are the fields of `Options` that it has.
    """

    title: str
    read: Callable[..., Listing]
    labels: tuple[str, ...] = ()
    exact: bool = True
    by_path: bool = False
    pictures: bool = False
    fps: float | None = None
    options: tuple[str, ...] = ()

    def parse(self, files: Annotations, options: Options) -> Listing:
        """Reads the annotations.

        Raises:
          JaxvidError: they are missing, or not the official ones.
        """
        lists = {name: text.read_names(pathlib.Path(name)) for name in self.labels}
        if not lists:
            return self.read(files, options)
        if len(lists) == 1:
            return self.read(*lists.values(), files, options)
        return self.read({_last(name): tags for name, tags in lists.items()}, files, options)


def _last(name: str) -> str:
    return name.rpartition("_")[2]


def _kinetics(number: int) -> Dataset:
    return Dataset(
        f"Kinetics-{number}",
        functools.partial(kinetics.parse, number),
        (f"kinetics{number}",),
    )


_HVU = tuple(
    f"hvu_{name}" for name in ("action", "attribute", "concept", "event", "object", "scene")
)
DATASETS = {
    "activitynet": Dataset(
        "ActivityNet 1.3", activitynet.parse, ("activitynet",), options=("clips",)
    ),
    "diving48": Dataset("Diving48 V2", moments.parse_diving48, ("diving48",)),
    "hmdb51": Dataset("HMDB51", splits.parse_hmdb51, ("hmdb51",), exact=False, options=("fold",)),
    "hvu": Dataset("HVU", hvu.parse, _HVU, options=("category",)),
    "jester": Dataset(
        "Jester", functools.partial(something.parse_csv, "jester-v1"), ("jester",), fps=12
    ),
    "kinetics400": _kinetics(400),
    "kinetics600": _kinetics(600),
    "kinetics700": _kinetics(700),
    "kinetics710": Dataset("Kinetics-710", kinetics.parse_710, ("kinetics710",)),
    "mit": Dataset("Moments in Time", moments.parse_mit, ("mit",), exact=False),
    "mmit": Dataset("Multi-Moments in Time", moments.parse_mmit, ("mmit",), exact=False),
    "omnisource": Dataset("OmniSource", web.parse_omnisource, by_path=True, pictures=True),
    "sports1m": Dataset("Sports-1M", web.parse_sports1m),
    "sthv1": Dataset(
        "Something-Something v1",
        functools.partial(something.parse_csv, "something-something-v1"),
        ("sthv1",),
        fps=12,
    ),
    "sthv2": Dataset("Something-Something v2", something.parse_json, ("sthv2",)),
    "ucf101": Dataset("UCF101", splits.parse_ucf101, ("ucf101",), exact=False, options=("fold",)),
    "mmaction2": Dataset(
        "lists of MMAction2", formats.parse_mmaction2, by_path=True, options=("classes",)
    ),
    "pyslowfast": Dataset(
        "lists of PySlowFast", formats.parse_pyslowfast, by_path=True, options=("classes",)
    ),
    "videomae": Dataset(
        "lists of VideoMAE", formats.parse_videomae, by_path=True, options=("classes",)
    ),
    "videomae_pretrain": Dataset(
        "lists to pretrain VideoMAE", formats.parse_videomae_pretrain, by_path=True
    ),
    "vjepa": Dataset("lists of V-JEPA", formats.parse_vjepa, by_path=True, options=("classes",)),
}
"""By the name that the command takes."""
