"""Imports go one way: who may import whom, as tables, against what the source really says."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("jaxvid", "converters", "configs")

LEAVES = {
    "jaxvid.arrays",
    "jaxvid.config_file",
    "jaxvid.draw",
    "jaxvid.errors",
    "jaxvid.finite",
    "jaxvid.jsons",
    "jaxvid.meta",
    "jaxvid.locks",
    "jaxvid.paths",
    "jaxvid.preprocess",
    "jaxvid.progress",
    "jaxvid.regular",
    "jaxvid.rows",
    "jaxvid.text",
    "jaxvid.whole",
}
TOOLS = {
    "jaxvid.checkpoint",
    "jaxvid.losses",
    "jaxvid.masking",
    "jaxvid.metrics",
    "jaxvid.mixing",
    "jaxvid.optim",
    "jaxvid.sharding",
    "jaxvid.stopping",
}
# A room is a module, or a package with all that is in it. Each may import the rooms on its right
# and the leaves; a package's modules may import one another only where it names itself.
ARROWS = {
    **{leaf: set() for leaf in LEAVES},
    **{tool: set() for tool in TOOLS},
    "jaxvid": {"jaxvid.zoo", "jaxvid.checkpoint"},
    "jaxvid.layers": {"jaxvid.layers"},
    "jaxvid.parts": {"jaxvid.layers"},
    "jaxvid.models": {"jaxvid.layers"},
    "jaxvid.zoo": {"jaxvid.models"},
    "jaxvid.zoo_page": {"jaxvid.zoo"},
    "jaxvid.config": {"jaxvid.zoo"},
    "jaxvid.data": {"jaxvid.data"},
    "jaxvid.evaluate": {
        "jaxvid.zoo",
        "jaxvid.config",
        "jaxvid.fields",
        "jaxvid.data",
        "jaxvid.reconstruct",
        *TOOLS,
    },
    "jaxvid.reconstruct": {"jaxvid.masking"},
    "jaxvid.fields": {
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.losses",
        "jaxvid.masking",
        "jaxvid.optim",
        "jaxvid.parts",
    },
    "jaxvid.step": {"jaxvid.losses", "jaxvid.masking", "jaxvid.mixing", "jaxvid.parts"},
    "jaxvid.teachers": {"jaxvid.step", "jaxvid.zoo", "jaxvid.checkpoint"},
    "jaxvid.journal": {"jaxvid.data"},
    "jaxvid.runs": {"jaxvid.fields", "jaxvid.optim", "jaxvid.data"},
    "jaxvid.train": {
        "jaxvid.runs",
        "jaxvid.evaluate",
        "jaxvid.journal",
        "jaxvid.fields",
        "jaxvid.parts",
        "jaxvid.step",
        "jaxvid.teachers",
        "jaxvid.zoo",
        "jaxvid.config",
        "jaxvid.data",
        *TOOLS,
    },
    "jaxvid.stream": {"jaxvid.data"},
    "jaxvid.predictor": {
        "jaxvid.evaluate",
        "jaxvid.explain",
        "jaxvid.features",
        "jaxvid.fields",
        "jaxvid.zoo",
        "jaxvid.config",
        "jaxvid.data",
        *TOOLS,
    },
    "jaxvid.predict": {"jaxvid.predictor", "jaxvid.stream", "jaxvid.data"},
    "jaxvid.export": {
        "jaxvid.predictor",
        "jaxvid.layers",
        "jaxvid.zoo",
        "jaxvid.data",
        *TOOLS,
    },
    "jaxvid.explain": set(),
    "jaxvid.features": set(),
    "jaxvid.fuse": {"jaxvid.evaluate"},
    "jaxvid.main": {"jaxvid.train", "jaxvid.evaluate", "jaxvid.fields", "jaxvid.sharding"},
    "converters": {
        "converters",
        "jaxvid.zoo",
        "jaxvid.models",
        "jaxvid.layers",
        "jaxvid.checkpoint",
    },
    "configs": {"jaxvid.config"},
}
# Packages from outside that only some rooms may import; all others are free.
CONFINED = {
    "torch": set(),
    "torchvision": set(),
    "mmcv": set(),
    "tensorflow": {"jaxvid.data"},
    "tensorflow_datasets": {"jaxvid.data"},
    "dmvr": {"jaxvid.data"},
    "orbax": {"jaxvid.checkpoint"},
}
# Import names that differ from the name in setup.cfg that brings them.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "ml_dtypes": "jax",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
}
# Used where they happen to be installed, with a way round where not.
OPTIONAL = {"google_crc32c"}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(name: str, source: str, is_package: bool) -> set[str]:
    """Full names of all that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in SOURCES else base)
    return found


def room_of(name: str) -> str | None:
    """The room that a module stands in: the longest name of the table that it begins with."""
    if name == "jaxvid":
        return name
    fitting = [r for r in ARROWS if r != "jaxvid" and (name == r or name.startswith(r + "."))]
    return max(fitting, key=len, default=None)


def wrong_arrows(name: str, source: str, is_package: bool = False) -> list[str]:
    """What `name` imports and may not, as sentences."""
    room = room_of(name)
    if room is None:
        return [f"{name} has no room: give it one in the table of this test"]
    wrong = []
    for other in sorted(imports(name, source, is_package)):
        top = other.split(".")[0]
        if top in PACKAGES:
            target = room_of(other)
            # The package itself holds nothing but the version and the lazy public names.
            allowed = target == "jaxvid" or target in ARROWS[room] | LEAVES
            if other != name and not allowed:
                wrong.append(f"{name} imports {other}")
        elif top in CONFINED and room not in CONFINED[top]:
            wrong.append(f"{name} imports {top}")
    return wrong


@pytest.mark.parametrize("name", SOURCES)
def test_every_import_follows_an_arrow(name):
    path = SOURCES[name]
    assert wrong_arrows(name, path.read_text("utf-8"), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("jaxvid.models.tsm", "from jaxvid.models import tsn"),
        ("jaxvid.models.tsm", "from jaxvid.models.tsn import TSN"),
        ("jaxvid.models.tsm", "from . import tsn"),
        ("jaxvid.models.tsm", "def f():\n    from .tsn import TSN"),
        ("jaxvid.layers.conv", "from jaxvid import zoo"),
        ("jaxvid.rows", "import jaxvid.zoo"),
        ("jaxvid.optim", "from jaxvid.train import train"),
        ("jaxvid.data.records", "from jaxvid import train"),
        ("jaxvid.zoo", "import tensorflow as tf"),
        ("jaxvid.train", "def f():\n    import orbax.checkpoint"),
        ("converters", "import torch"),
        ("converters", "from jaxvid import evaluate"),
        ("configs.tsm_r50", "from jaxvid import zoo"),
        ("jaxvid.something_new", ""),
    ],
)
def test_a_wrong_arrow_is_seen(name, source):
    assert wrong_arrows(name, source)


def test_no_two_rooms_import_each_other():
    assert [(a, b) for a in ARROWS for b in ARROWS[a] - {a} if a in ARROWS[b]] == []


def test_every_outside_package_is_declared():
    declared = set(re.findall(r"^ {4}([\w.-]+)", (ROOT / "setup.cfg").read_text("utf-8"), re.M))
    outside = {
        imported.split(".")[0]
        for name, path in SOURCES.items()
        for imported in imports(name, path.read_text("utf-8"), path.name == "__init__.py")
    }
    outside -= {*sys.stdlib_module_names, *PACKAGES, *OPTIONAL}
    assert {DISTRIBUTIONS.get(name, name) for name in outside} <= declared


def test_every_folder_of_code_is_installed():
    # By name, as one of them lies elsewhere in a clone: `configs` becomes `jaxvid.configs`.
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    named = re.search(r"^packages =\n((?: {4}[\w.]+\n)+)", setup, re.M)[1].split()
    folders = {module_name(path.parent / "__init__.py") for path in SOURCES.values()}
    assert set(named) == folders - {"configs"} | {"jaxvid.configs"}


HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "av", "PIL", "matplotlib", "orbax"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import jaxvid", HEAVY | {"jax", "flax", "numpy"}),
        ("import jaxvid, jaxvid.models.mvit, converters", HEAVY),
        ("import jaxvid; jaxvid.list_models(); jaxvid.create_model('tsm_test')", HEAVY),
        ("import jaxvid.config; jaxvid.config.from_row('tsm_r50_8f', runlocal=True)", HEAVY),
        ("import jaxvid.predict, jaxvid.fuse", HEAVY | {"jax", "flax"}),
    ],
)
def test_importing_loads_no_more_than_it_needs(code, absent):
    report = f"{code}\nimport sys\nprint(*(set({sorted(absent)}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
