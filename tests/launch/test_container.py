"""The recipe of the image: what it copies, installs and runs as."""

import configparser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.launch.stand_in import LAUNCH, Stage

ROOT = LAUNCH.parent
RECIPE = (LAUNCH / "Dockerfile").read_text("utf-8")
DEVICES = {"cpu": "data", "cuda": "data,cuda", "tpu": "data,tpu"}


def instructions(recipe: str) -> list[tuple[str, str]]:
    """(name, arguments) of each, with lines that go on put together as Docker does."""
    lines = re.sub(r"^#.*\n", "", recipe, flags=re.M).replace("\\\n", "")
    split = [line.split(maxsplit=1) for line in lines.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in split]


INSTRUCTIONS = instructions(RECIPE)
# Whether a file goes into the image at all, by the last line of .dockerignore that covers it.
RULES = [
    line
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def all_of(name: str) -> list[str]:
    return [arguments for found, arguments in INSTRUCTIONS if found == name]


def copied() -> dict[str, str]:
    """Each source with the place that it is copied to."""
    places = {}
    for arguments in all_of("COPY"):
        *sources, place = arguments.split()
        for source in sources:
            places[source] = f"./{source}" if place == "./" else place
    return places


def setup() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


def test_every_instruction_is_one():
    known = {"FROM", "WORKDIR", "COPY", "ARG", "RUN", "USER", "ENV", "CMD"}
    assert {name for name, _ in INSTRUCTIONS} == known
    assert INSTRUCTIONS[0] == ("FROM", "python:3.12-slim")
    assert not re.search(r"\b(ADD|latest|sudo|curl|wget|http)\b", RECIPE)


def test_what_is_copied_is_there_and_is_not_ignored():
    assert all((ROOT / source).exists() for source in copied())
    assert RULES[0] == "*"
    assert {rule.removeprefix("!") for rule in RULES if rule.startswith("!")} == set(copied())
    assert [rule for rule in RULES[1:] if not rule.startswith("!")] == ["**/__pycache__"]


def test_all_that_is_installed_is_copied():
    parsed = setup()
    places = copied()
    assert {"setup.cfg", "pyproject.toml", parsed["metadata"]["license_files"].strip()} <= set(
        places
    )
    assert parsed["metadata"]["long_description"].removeprefix("file: ") in places
    renamed = dict(
        re.split(r"\s*=\s*", line) for line in parsed["options"]["package_dir"].split("\n") if line
    )
    packages = parsed["options"]["packages"].split()
    folders = {renamed.get(name, name).split(".")[0] for name in packages}
    assert folders <= set(places)
    # A folder that is copied keeps its name.
    assert all(pathlib.PurePath(place) == pathlib.PurePath(name) for name, place in places.items())


def installation() -> str:
    (line,) = [line for line in all_of("RUN") if "pip install" in line]
    return line


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.stand_in("pip")
    return stage


def install(stage, **variables):
    return subprocess.run(
        ["sh", "-c", installation()],
        env=stage.environment(**variables),
        cwd=stage.folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_has_its_extras(stage, device):
    assert install(stage, DEVICE=device).returncode == 0
    assert stage.calls == [["pip", "install", "--no-cache-dir", f".[{DEVICES[device]}]"]]
    assert set(DEVICES[device].split(",")) <= set(setup()["options.extras_require"])


def test_the_usual_device_is_the_cpu():
    assert all_of("ARG") == ["DEVICE=cpu"]


def test_another_device_is_refused(stage):
    done = install(stage, DEVICE="gpu")
    assert done.returncode == 1 and stage.calls == []
    assert done.stderr == "error: DEVICE=gpu must be cpu, cuda or tpu\n"


def test_an_installation_that_fails_ends_the_build(stage):
    stage.answer(("install", 3, ""))
    assert install(stage, DEVICE="cpu").returncode == 3


def test_it_runs_as_the_user_that_the_pods_have():
    assert all_of("USER") == ["1000:1000"]
    last = [name for name, _ in INSTRUCTIONS if name in ("RUN", "USER")][-1]
    assert last == "USER"
    assert re.search(r"^ +user=1000 ", (LAUNCH / "gke.sh").read_text("utf-8"), re.M)
    assert any("useradd" in line and "--uid=1000 " in line for line in all_of("RUN"))
    assert all_of("WORKDIR")[-1] == "/home/jaxvid"


@pytest.mark.slow("container")
def test_what_it_installs_runs_without_the_clone(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name, place in copied().items():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / place)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    paths = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = own | {"PATH": paths, "DEVICE": "cpu", "JAX_PLATFORMS": "cpu"}

    def run(*words, folder=source):
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("sh", "-c", installation())
    home = tmp_path / "home"
    home.mkdir()
    (command,) = all_of("CMD")
    assert "tsm_r50_1x1x8_k400" in run(*json.loads(command), folder=home)
    where = run("python", "-c", "import jaxvid; print(jaxvid.__file__)", folder=home)
    assert pathlib.Path(where.strip()).is_relative_to(tmp_path / "venv")
    few = ["--config.train.stop_at_step=2", "--workdir=runs/first"]
    config = "--config=configs/tsm_r50.py:runlocal,data_dir=runs"
    run("python", "-m", "jaxvid.main", config, *few, folder=home)
    assert (home / "runs" / "first").is_dir()
