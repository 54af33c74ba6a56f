"""The slow tests in parts that each take less than an hour, and the table of when each ran last.

    python -m pytest --parts                              names them
    python -m pytest -m slow --part=kills                 runs one
    python -m pytest -m slow --part=kills --record        and writes its row in `docs/slow.md`

A slow test names its part: `@pytest.mark.slow("kills")`.
"""

import datetime
import pathlib
import re
import subprocess
import time

import pytest

from tests.costs import processor

ROOT = pathlib.Path(__file__).parent.parent
TABLE = ROOT / "docs" / "slow.md"
# What each proves. Tests of `GOLDENS` have the marker `golden`, and are slow when there are many.
PARTS = {
    "architectures": "every architecture has its keys, costs and rows, and trains all of it",
    "training": "groups of BatchNorm in every family; runs that go on with costly settings",
    "answers": "every family's exported program answers as the network; heat maps are gradients",
    "devices": "eight devices and several processes train as one does, and go on as others",
    "chips": "with libtpu: on a v5e only parameters travel, in the memory that the page says",
    "kills": "a run killed at twenty moments ends as one undisturbed",
    "races": "of fifty pairs of commands in one place none tears what the other writes",
    "faults": "every command under every fault is done, or ends with one sentence",
    "fuzz": "thousands of hostile files and words are read or refused",
    "memory": "a conversion takes half as much memory again as the tensors",
    "container": "what the image installs trains without the clone",
    "goldens": "every golden of a folder: `-m golden --golden=DIR --record`",
}
GOLDENS = "goldens"
_LONGEST = 3600  # Seconds of one of these tests; `pyproject.toml` has those of others.
HEAD = ["part", "what it proves", "last run", "commit", "passed", "failed", "skipped"]
HEAD += ["processor", "clock"]


def part_of(item) -> str | None:
    """The part of a test, or None of one that is not slow; a marker without one is an error."""
    marks = list(item.iter_markers("slow"))
    if not marks:
        return GOLDENS if item.get_closest_marker("golden") else None
    named = {mark.args for mark in marks}
    if len(named) > 1 or len(marks[0].args) != 1 or marks[0].args[0] not in PARTS:
        raise pytest.UsageError(
            f"{item.nodeid}: write @pytest.mark.slow(PART) with one part of tests/slow.py"
        )
    return marks[0].args[0]


class Slow:
    """The plugin that chooses a part, and in the end writes its row."""

    def __init__(self, config):
        self.config = config
        self.clock = time.monotonic()
        self.parts: set[str | None] = set()
        self.workers: list[float] = []
        options = config.option
        if options.part:
            options.markexpr = "golden" if options.part == GOLDENS else "slow"
        some = options.keyword or options.maxfail
        if not hasattr(config, "workerinput"):
            some = some or config.args_source is not config.ArgsSource.TESTPATHS
        if options.record and some:
            raise pytest.UsageError("--record takes whole parts: leave -k, -x and paths out")

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, config, items):
        parts = {item: part_of(item) for item in items}
        result = yield
        if wanted := config.option.part:
            others = [item for item in items if parts[item] != wanted]
            items[:] = [item for item in items if parts[item] == wanted]
            config.hook.pytest_deselected(items=others)
        self.parts = {parts[item] for item in items}
        for item in items:
            if parts[item] is not None:
                item.add_marker(pytest.mark.timeout(_LONGEST))
        return result

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        output = getattr(node, "workeroutput", {})
        self.workers.append(output.get("processor", 0.0))
        self.parts |= set(output.get("parts", ()))

    def pytest_sessionfinish(self, session):
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["processor"], output["parts"] = processor(), list(self.parts)

    def pytest_terminal_summary(self, terminalreporter, exitstatus):
        if not self.config.option.record:
            return
        whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not whole or len(self.parts) != 1 or not self.parts <= PARTS.keys():
            terminalreporter.write_line("nothing is recorded: it takes all tests of one part")
            return
        stats = terminalreporter.stats
        counts = {
            "passed": len(stats.get("passed", ())),
            "failed": len(stats.get("failed", ())) + len(stats.get("error", ())),
            "skipped": len(stats.get("skipped", ())),
        }
        seconds = time.monotonic() - self.clock
        used = sum(self.workers) if self.workers else processor()
        (part,) = self.parts
        row = {
            "last run": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "commit": commit(),
            **counts,
            "processor": f"{used / 60:.1f} min",
            "clock": f"{seconds / 60:.1f} min, {max(len(self.workers), 1)} at once",
        }
        TABLE.write_text(written(TABLE.read_text("utf-8"), part, row), "utf-8")
        terminalreporter.write_line(f"recorded in {TABLE.relative_to(ROOT)}: {part}")


def commit() -> str:
    """The commit that runs, with a + where files differ from it, the table aside."""

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!docs/slow.md")
    return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")


def rows(text: str) -> dict[str, dict[str, str]]:
    """The table's cells, by part and by heading; of what never ran they are empty."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("| `") and (part := cells[0].strip("`")) in PARTS:
            cells += [""] * (len(HEAD) - len(cells))
            found[part] = dict(zip(HEAD, cells, strict=True))
    return {part: found.get(part, dict.fromkeys(HEAD, "")) for part in PARTS}


def written(text: str, part: str | None = None, row: dict[str, object] | None = None) -> str:
    """The page with its table drawn anew, and in it the row of `part`."""
    table = rows(text)
    for name, proves in PARTS.items():
        table[name] |= {"part": f"`{name}`", "what it proves": proves}
    if part:
        table[part] |= {key: str(value) for key, value in row.items()}
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ["---"] * len(HEAD))]
    lines += ["| " + " | ".join(cells[key] for key in HEAD) + " |" for cells in table.values()]
    return re.sub(r"^\| part .*\Z", "\n".join(lines) + "\n", text, flags=re.M | re.S)


def tell() -> None:
    """Names every part, what it proves, and when it ran last."""
    for part, row in rows(TABLE.read_text("utf-8")).items():
        ran = f"{row['last run']}, {row['passed']} passed, {row['failed']} failed"
        print(f"{part:13}  {PARTS[part]}")
        print(" " * 15 + (ran if row["last run"] else "never recorded"))
