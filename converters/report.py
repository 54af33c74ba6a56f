"""What a conversion did with every tensor, for people and for the checkpoint's own record."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxvid.base.errors import listed

STEP_COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Report:
    """Where the tensors of a checkpoint went.

    `dropped` are keys that this network has no use for, kept aside for the way back; so are those
    `beside` it, by whose they are. `cast` maps a type that was not float32 to the number of
    tensors that had it. `remarks` are sentences on what is unusual about the checkpoint.
    """

    tensors: int
    params: int
    values: int
    statistics: int
    dropped: Sequence[str]
    beside: Mapping[str, Sequence[str]]
    cast: dict[str, int]
    remarks: Sequence[str]

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        dropped = len(self.dropped) + sum(map(len, self.beside.values()))
        lines = [
            f"{self.tensors} tensors: {self.params} parameters ({self.values / 1e6:.2f} M values), "
            f"{self.statistics} running statistics, {dropped} dropped"
        ]
        counters = [key for key in self.dropped if key.endswith(STEP_COUNTER)]
        others = [key for key in self.dropped if not key.endswith(STEP_COUNTER)]
        if counters:
            lines.append(
                f"dropped: {len(counters)} {STEP_COUNTER} (BatchNorm's step counters, of no use "
                "here; kept aside for --to=torch)"
            )
        lines += [f"dropped: {key} (recomputed here; kept for --to=torch)" for key in others]
        for owner, keys in self.beside.items():
            lines.append(
                f"dropped: {len(keys)} of {owner}, no part of the network ("
                f"{listed(keys, separator=', ')}; kept for --to=torch)"
            )
        for dtype, count in sorted(self.cast.items()):
            how = "rounded" if dtype == "float64" else "widened, exactly,"
            lines.append(f"{count} tensors of {dtype} {how} to float32")
        return lines + list(self.remarks)
