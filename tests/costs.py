"""What each module of tests costs: `pytest --costs` prints a table of time and memory at the end.

Processor time is the process's own and that of the programs it started and waited for, so it says
the same on a busy machine. Memory is resident: `peak` while the module ran, `kept` after it over
before. With several workers each module stands in the table once, and below it each worker's peak.
"""

import collections
import gc
import os
import pathlib
import time

import pytest

Cost = collections.namedtuple("Cost", "file tests seconds processor peak kept")


def resident(field: str = "VmRSS") -> float:
    """Memory of this process in MiB; `VmHWM` is its highest since `forget_peak`."""
    for line in pathlib.Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    """Begins to measure the highest resident memory anew."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", "utf-8")


def processor() -> float:
    """Seconds of processor time, with the finished programs that this process started."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class Costs:
    """The plugin; one in each worker, and one that gathers what they measured."""

    def __init__(self):
        self.costs: list[Cost] = []
        self.workers: dict[str, float] = {}
        self.began = None
        self.file = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        file = item.location[0]
        if self.began is None:
            forget_peak()
            self.file, self.count = file, 0
            self.began = time.monotonic(), processor(), resident()
        self.count += 1
        result = yield
        if nextitem is None or nextitem.location[0] != file:
            gc.collect()
            self.end()
        return result

    def end(self):
        clock, used, memory = self.began
        self.costs.append(
            Cost(
                self.file,
                self.count,
                time.monotonic() - clock,
                processor() - used,
                resident("VmHWM"),
                resident() - memory,
            )
        )
        self.began = None

    def pytest_sessionfinish(self, session):
        if output := getattr(session.config, "workeroutput", None):
            output["costs"] = [list(cost) for cost in self.costs]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        costs = [Cost(*cost) for cost in getattr(node, "workeroutput", {}).get("costs", [])]
        self.costs += costs
        self.workers[node.gateway.id] = max((cost.peak for cost in costs), default=0.0)

    def pytest_terminal_summary(self, terminalreporter):
        if not self.costs:
            return
        write = terminalreporter.write_line
        terminalreporter.section("costs")
        write(f"{'processor s':>11} {'wall s':>7} {'peak MiB':>8} {'kept MiB':>8} {'tests':>5}")
        for cost in sorted(self.costs, key=lambda cost: -cost.processor):
            write(
                f"{cost.processor:11.1f} {cost.seconds:7.1f} {cost.peak:8.0f} {cost.kept:8.0f}"
                f" {cost.tests:5} {cost.file}"
            )
        workers = self.workers or {"one": max(cost.peak for cost in self.costs)}
        peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in sorted(workers.items()))
        write(
            f"{sum(cost.processor for cost in self.costs):11.1f} s of processor in all;"
            f" peak MiB: {sum(workers.values()):.0f} ({peaks})"
        )
