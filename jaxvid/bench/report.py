"""What was measured, as an object, in words and as a picture."""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from jaxvid.bench.measure import Machine, Measured
from jaxvid.reports import draw as drawing

GIB = 2**30


def as_json(measured: Measured) -> dict[str, Any]:
    """A measurement as one object; times are in seconds."""
    machine, work, times = measured.machine, measured.work, measured.times
    return {
        "model": measured.model,
        "part": measured.part,
        "dtype": work.dtype,
        "clips": work.clips,
        "shape": list(work.shape),
        "backend": machine.backend,
        "device": machine.device,
        "cores": machine.cores,
        "load_before": machine.load,
        "shared": machine.shared,
        "repeats": len(times.wall),
        "seconds": _spread(times.wall),
        "processor_seconds": _spread(times.processor),
        "clips_per_second": measured.rate,
        "flops": work.flops,
        "share_of_peak": measured.share,
        "needed_bytes": work.needed_bytes,
        "compile_seconds_cold": work.cold,
        "compile_seconds_warm": work.warm,
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}


def about(machine: Machine) -> list[str]:
    """Where the figures are of, in lines."""
    lines = [f"{machine.device} ({machine.backend}), {machine.cores} processor cores"]
    if machine.shared:
        lines.append(
            f"other work is under way here (load {machine.load:.1f}): compare processor time, "
            "which it stretches less, or ratios of what took turns"
        )
    return lines


def as_line(measured: Measured) -> str:
    """A measurement for people."""
    work, times = measured.work, measured.times
    wall, processor = _spread(times.wall), _spread(times.processor)
    clip = " x ".join(map(str, work.shape[:3]))
    said = [
        f"{measured.model} {measured.part} {work.dtype}, {work.clips} x {clip}: "
        f"{_seconds(wall)}, processors {_seconds(processor)}",
        f"{measured.rate:.3g} clips/s",
    ]
    if measured.share is not None:
        said.append(f"{100 * measured.share:.1f} % of the chip's bfloat16 peak")
    if work.needed_bytes is not None:
        said.append(f"{work.needed_bytes / GIB:.2f} GiB")
    if work.cold is not None and work.warm is not None:
        said.append(f"compiled in {work.cold:.1f} s, {work.warm:.1f} s when kept")
    return "; ".join(said)


def _seconds(spread: dict[str, float]) -> str:
    low, median, high = (1000 * spread[name] for name in ("lowest", "median", "highest"))
    return f"{median:.4g} ms ({low:.4g} to {high:.4g})"


def draw(found: Sequence[Measured], path: pathlib.Path) -> None:
    """Draws clips a second, and between which values they lay, to a PNG."""
    groups: dict[str, list[tuple[str, float, float, float]]] = {}
    for measured in found:
        wall = measured.times.wall
        lowest, highest = (measured.work.clips / seconds for seconds in (max(wall), min(wall)))
        name = f"{measured.model}, {measured.work.dtype}"
        row = (name, measured.rate, lowest, highest)
        groups.setdefault(measured.part, []).append(row)
    machine = found[0].machine
    drawing.ranges(groups, path, f"clips a second on {machine.device}")
