"""What was found of a plan, as an object and in words."""

import math
from typing import Any

from jaxvid.plan.measure import Report, Taken

GIB = 2**30


def as_json(report: Report) -> dict[str, Any]:
    """The report as one object; the figures are of one device, those of the test under `test`."""
    step = report.step
    found: dict[str, Any] = {
        "model": report.plan.config.model.name,
        "topology": report.topology.name,
        "devices": report.plan.mesh.size,
        "mesh": dict(report.plan.mesh.shape),
        "clips_per_device": report.clips,
        "fits": report.fits,
        "hbm_bytes": report.topology.memory,
        "argument_bytes": step.argument_bytes,
        "temporary_bytes": step.temporary_bytes,
        "needed_bytes": step.needed_bytes,
        "parameter_bytes": report.params_bytes,
        "optimizer_bytes": report.optimizer_bytes,
        "copy_bytes": report.copy_bytes,
        "flops": report.flops,
        "bytes": _number(step.bytes),
        "compute_seconds": _number(_over(report.flops, report.topology.flops)),
        "memory_seconds": _number(_over(step.bytes, report.topology.bandwidth)),
        "cycles": step.cycles,
        "collectives": step.collectives,
        "attention": report.picked.get("attention", {}),
        "lowerings": {what: ways for what, ways in report.picked.items() if what != "attention"},
        "compile_seconds": round(step.seconds, 1),
        "error": step.error,
        "ways_out": ways_out(report),
    }
    if report.test:
        found["test"] = {
            "fits": report.test.fits,
            "needed_bytes": report.test.needed_bytes,
            "bytes": _number(report.test.bytes),
            "collectives": report.test.collectives,
            "compile_seconds": round(report.test.seconds, 1),
        }
    return found


def as_lines(report: Report) -> list[str]:
    """The report for people, line by line."""
    config, topology, step = report.plan.config, report.topology, report.step
    shape = ", ".join(f"{axis}:{size}" for axis, size in report.plan.mesh.shape.items() if size > 1)
    lines = [
        f"{config.model.name} on {topology.name}: {report.plan.mesh.size} devices"
        + f" ({shape})" * bool(shape)
        + f", {report.clips} clips of {_shape(report)} a device, {config.model.dtype}",
        "",
        _verdict("step", step, topology.memory),
        f"  parameters {_gib(report.params_bytes)}, optimizer {_gib(report.optimizer_bytes)}"
        + f", averaged copy {_gib(report.copy_bytes)}" * bool(report.copy_bytes)
        + f", activations and other temporaries {_gib(step.temporary_bytes)}",
    ]
    lines += [f"  {text}" for text in _bounds(report)]
    if not step.error:
        lines.append(f"  devices send each other: {_sent(step)}")
    lines += [
        f"  {what}: " + ", ".join(f"{way} x {count}" for way, count in ways.items())
        for what, ways in report.picked.items()
    ]
    lines.append(f"  traced and compiled in {step.seconds:.0f} s")
    if report.test:
        sent = "" if report.test.error else f"; devices send each other: {_sent(report.test)}"
        lines += ["", _verdict("test", report.test, topology.memory) + sent]
    ways = ways_out(report)
    if ways:
        lines += ["", "what makes it fit:", *(f"  {way}" for way in ways)]
    return lines


def ways_out(report: Report) -> list[str]:
    """What to change where it does not fit, the cheapest first."""
    config, memory = report.plan.config, report.topology.memory
    if report.fits or memory is None:
        return []
    ways = []
    if not report.step.fits:
        state = report.params_bytes + report.optimizer_bytes + report.copy_bytes
        if state > memory / 4 and report.plan.mesh.shape["fsdp"] == 1 < report.plan.mesh.size:
            ways.append("--config.train.mesh=fsdp:-1 splits the state over the devices")
        if report.plan.knobs.blocks and not config.train.remat:
            ways.append("--config.train.remat=True keeps of every block its inputs only")
        if report.clips > 1:
            size = config.train.batch_size
            ways.append(
                f"--config.train.accumulate_steps={2 * config.train.accumulate_steps} computes the "
                "batch in parts"
            )
            ways.append(f"--config.train.batch_size={size // 2} halves the clips of a device")
        elif report.plan.mesh.shape["model"] == 1:
            ways.append("--config.train.mesh=data:-1,model:2 splits heads and MLPs as well")
    if report.test and not report.test.fits:
        if config.test.views_per_step > 1:
            ways.append("--config.test.views_per_step=1 looks at one view of a video at a time")
        ways.append("--config.test.batch_size: fewer videos at a time")
    ways.append("--topology: more chips, or chips with more memory")
    return ways


def _verdict(what: str, taken: Taken, memory: int | None) -> str:
    of = f" of {_gib(memory)}" if memory else ""
    word = "fits" if taken.fits else "does not fit"
    if taken.error and not taken.needed_bytes:
        return f"{what} {word}: {taken.error}"
    return f"{what} {word}: {_gib(taken.needed_bytes)}{of} of a device's memory"


def _bounds(report: Report) -> list[str]:
    """What the step is bound by, where the chip is known and the compiler counts."""
    lines = [f"{report.flops / 1e12:.3g} TFLOP"]
    compute = _over(report.flops, report.topology.flops)
    memory = _over(report.step.bytes, report.topology.bandwidth)
    if not math.isnan(compute):
        lines[0] += f", {1e3 * compute:.1f} ms at the chip's best"
    if not math.isnan(report.step.bytes):
        lines.append(f"{report.step.bytes / 1e9:.3g} GB read and written")
    if not math.isnan(memory):
        lines[-1] += f", {1e3 * memory:.1f} ms at the chip's best"
        longer, by = max((compute, "arithmetic"), (memory, "memory"))
        lines.append(
            f"bound by {by}: at most {report.clips / longer:.0f} clips/s a device, "
            f"{100 * compute / longer:.0f} % of its arithmetic"
        )
    if report.step.cycles:
        lines.append(f"{report.step.cycles / 1e6:.3g} million cycles, as the compiler estimates")
    return lines


def _sent(taken: Taken) -> str:
    kinds = (
        f"{kind} x {total['count']} ({total['bytes'] / 1e6:.3g} MB)"
        for kind, total in sorted(taken.collectives.items())
    )
    return ", ".join(kinds) or "nothing"


def _shape(report: Report) -> str:
    frames, height, width, _ = report.plan.batch["video"].shape[1:]
    return f"{frames} x {height} x {width}"


def _over(amount: float, rate: float | None) -> float:
    return amount / rate if rate else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
