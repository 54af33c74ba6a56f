"""Imports go one way: who may import whom, as tables, against what the source really says."""

import configparser
import re
import subprocess
import sys

import pytest

from tests import house
from tests.house import ARROWS, GROUND, PACKAGES, ROOT, SOURCES, imports, module_name, room_of

# Packages from outside that only some rooms or modules may import; all others are free.
CONFINED = {
    "torch": set(),
    "torchvision": set(),
    "mmcv": set(),
    "tensorflow": {"jaxvid.data"},
    "tensorflow_datasets": {"jaxvid.data"},
    "dmvr": {"jaxvid.data"},
    "orbax": {"jaxvid.checkpoint.orbax"},
    "cv2": {"jaxvid.data"},
    "fsspec": {"jaxvid.base.stores"},
    "s3fs": {"jaxvid.base.stores"},
    "apache_beam": {"jaxvid.data.building.pipeline"},
}
# Import names that differ from the name in setup.cfg that brings them.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-contrib-python-headless",
    "apache_beam": "apache-beam",
    "google_crc32c": "google-crc32c",
    "ml_dtypes": "jax",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
}


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
            allowed = {"jaxvid", *ARROWS[room], *(GROUND if room not in GROUND else ())}
            if other != name and target not in allowed:
                wrong.append(f"{name} imports {other}")
        elif top in CONFINED and not {room, name} & CONFINED[top]:
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
        ("jaxvid.base.text", "from jaxvid.rows import Row"),
        ("jaxvid.inference.evaluate", "from jaxvid.training.loop import train"),
        ("jaxvid.data.records", "from jaxvid import training"),
        ("jaxvid.config.fields", "from jaxvid.training import optim"),
        ("jaxvid.zoo", "import tensorflow as tf"),
        ("jaxvid.training.loop", "def f():\n    import orbax.checkpoint"),
        ("jaxvid.checkpoint.trees", "import orbax.checkpoint"),
        ("converters", "import torch"),
        ("converters", "from jaxvid import inference"),
        ("configs.tsm_r50", "from jaxvid import zoo"),
        ("jaxvid.something_new", ""),
    ],
)
def test_a_wrong_arrow_is_seen(name, source):
    assert wrong_arrows(name, source)


def test_no_way_leads_back_into_a_room():
    assert house.levels().keys() == ARROWS.keys()  # Which has no end where there is one.


def test_no_modules_import_each_other_in_a_circle():
    assert house.circles(house.needs()) == {}


def test_a_circle_is_seen_and_all_else_is_not():
    needs = {"a": {"b"}, "b": {"c", "e"}, "c": {"d"}, "d": {"b"}, "e": set(), "f": {"a"}}
    assert house.circles(needs) == {"b": {"c"}, "c": {"d"}, "d": {"b"}}
    source = "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    import c"
    assert imports("x", house.without_type_checking(source), False) == {"b", "c"}


def test_every_arrow_of_the_table_is_gone():
    found = house.arrows()
    assert {r: ARROWS[r] - {r} - GROUND - found[r] for r in ARROWS if r != "jaxvid"} == {
        room: set() for room in ARROWS if room != "jaxvid"
    }


def test_the_map_is_fresh():
    assert house.written_map() == house.page_map(), "make it again: python -m tests.house"


def test_every_outside_package_is_declared():
    declared = set(re.findall(r"^ {4}([\w.-]+)", (ROOT / "setup.cfg").read_text("utf-8"), re.M))
    outside = {
        imported.split(".")[0]
        for name, path in SOURCES.items()
        for imported in imports(name, path.read_text("utf-8"), path.name == "__init__.py")
    }
    outside -= {*sys.stdlib_module_names, *PACKAGES}
    assert {DISTRIBUTIONS.get(name, name) for name in outside} <= declared


def test_every_folder_of_code_is_installed():
    # By name, as one of them lies elsewhere in a clone: `configs` becomes `jaxvid.configs`.
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    named = re.search(r"^packages =\n((?: {4}[\w.]+\n)+)", setup, re.M)[1].split()
    folders = {module_name(path.parent / "__init__.py") for path in SOURCES.values()}
    assert set(named) == folders - {"configs"} | {"jaxvid.configs"}


def test_every_other_file_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    data = setup["options.package_data"]
    for package in data:
        files = [path for path in (ROOT / package).rglob("*") if path.is_file()]
        others = {path for path in files if path.suffix not in (".py", ".pyc")}
        patterns = data[package].replace("\n", ",").split(",")
        listed = {path for pattern in patterns for path in (ROOT / package).glob(pattern.strip())}
        assert others == listed & others
        assert ROOT / package / "py.typed" in listed  # Which says to type checkers to look inside.
    assert set(data) == {"jaxvid", "converters"}


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
