"""How many rows the official lists have, and the copies on which published figures were measured.

Each copy has a name and its numbers by split. They are those that the makers of the copies print:
MMAction2's and VideoMAE V2's pages on their data, the configs of Scenic, and the notes of CVDF.
"""

from collections.abc import Mapping

OFFICIAL: Mapping[str, Mapping[str, int]] = {
    "activitynet": {"train": 10_024, "val": 4_926, "test": 5_044},
    "activitynet-clips": {"train": 15_410, "val": 7_654},
    "diving48": {"train": 15_027, "test": 1_970},
    "hmdb51": {"train": 3_570, "test": 1_530},
    "hvu": {"val": 31_171},
    "jester": {"train": 118_562, "val": 14_787, "test": 14_743},
    "kinetics400": {"train": 246_534, "val": 19_906, "test": 38_685},
    "kinetics600": {"val": 30_000, "test": 72_924},
    "kinetics710": {"train": 658_340, "val": 66_803},
    "mit": {"val": 33_900},
    "omnisource": {"train": 76_030, "val": 4_838},
    "sports1m": {"all": 1_133_158},
    "sthv2": {"train": 168_913, "val": 24_777},
    "ucf101-1": {"train": 9_537, "test": 3_783},
    "ucf101-2": {"train": 9_586, "test": 3_734},
    "ucf101-3": {"train": 9_624, "test": 3_696},
}
"""By dataset and split, or `all` together; UCF101's three folds differ, HMDB51's do not.

Each was counted in the file, or read on a page of who made it; what was not is not here.
"""
COPIES: Mapping[str, tuple[tuple[str, Mapping[str, int]], ...]] = {
    "activitynet": (("BSN", {"train": 9_649, "val": 4_728, "test": 4_851}),),
    "kinetics400": (
        ("MMAction2 and VideoMAE V2", {"train": 240_436, "val": 19_796}),
        ("CVDF's archives", {"train": 240_258, "val": 19_881}),
        ("Scenic", {"train": 214_834, "val": 17_637, "test": 34_579}),
        ("PySlowFast's page", {"val": 19_761}),
    ),
    "kinetics600": (
        ("MMAction2", {"train": 383_393, "val": 27_910}),
        ("VideoMAE V2", {"train": 366_006, "val": 27_935}),
        ("Scenic", {"train": 363_213, "val": 27_676, "test": 55_377}),
    ),
    "kinetics700": (("MMAction2", {"train": 542_357, "val": 34_824}),),
    "kinetics710": (("VideoMAE V2", {"train": 658_340, "val": 66_803}),),
    "mit": (("Scenic", {"train": 791_297, "val": 33_900}),),
    "sthv2": (("VideoMAE V2 and Scenic", {"train": 168_913, "val": 24_777}),),
}
"""The figures of a copy's makers are over these videos."""
