"""Builds by a pipeline of Apache Beam: the same bytes, though its workers are killed.

Beam and TensorFlow ask for different versions of protobuf, so `JAXVID_BEAM_PYTHON` names the Python
of an environment that has apache-beam, av, pillow, numpy, google-crc32c and tqdm, of the versions
here.
"""

import importlib.util
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from jaxvid.data import build, toy

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = os.environ.get("JAXVID_BEAM_PYTHON", "")
if not PYTHON and importlib.util.find_spec("apache_beam"):
    PYTHON = sys.executable
needs_beam = pytest.mark.skipif(
    not PYTHON, reason="Apache Beam is not here: set JAXVID_BEAM_PYTHON to a Python that has it"
)
FLAGS = ["--runner=DirectRunner", "--direct_running_mode=multi_processing"]


@pytest.fixture
def videos(tmp_path):
    """64 toy clips, one file that is none, and what a local build makes of them."""
    folder = tmp_path / "videos"
    toy.make(folder, toy.Settings(train=8, test=1, height=96, width=96, frames=(20, 30)))
    (folder / "bad.mp4").write_bytes(b"no video")
    with open(folder / "train.csv", "a", encoding="utf-8") as file:
        file.write("../bad.mp4,up\n")
    build.build(folder / "videos", folder / "train.csv", tmp_path / "local", shards=12, workers=1)
    return folder


def content(folder):
    """All bytes of a build, but for what names the versions of the libraries and the time."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix not in (".npz", ".json")
    }


def begin(videos, out, *flags):
    command = ["-m", "jaxvid.data.build", f"--videos={videos / 'videos'}", f"--out={out}"]
    command += [f"--labels={videos / 'train.csv'}", "--shards=12", *flags]
    return subprocess.Popen(
        [PYTHON, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers_of(process):
    """The processes of a pipeline that are its workers."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if os.getsid(int(folder.name)) == process.pid and b"sdk_worker_main" in b" ".join(
                words
            ):
                found += [int(folder.name)] * words[0].endswith(b"python")
        except OSError:
            continue
    return found


@needs_beam
def test_a_pipeline_makes_the_bytes_of_a_local_build(videos, tmp_path):
    process = begin(videos, tmp_path / "beam", "--runner=DirectRunner")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "1 left out" in said and "../bad.mp4: cannot be opened" in said
    assert content(tmp_path / "beam") == content(tmp_path / "local")


@needs_beam
@pytest.mark.slow("kills")
def test_workers_that_are_killed_cost_time_alone(videos, tmp_path):
    """DirectRunner waits for a worker that died; the command is then ended, and run again."""
    rng, killed, out = random.Random(0), 0, tmp_path / "beam"
    for last in (False, False, False, True):
        process = begin(videos, out, *FLAGS, "--direct_num_workers=4")
        deadline = time.monotonic() + (600 if last else 40)
        at = 0.0  # once there are workers, whom a fast machine does not need for long
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            at -= 0.1
            if not last and at < 0 and (found := workers_of(process)):
                os.kill(rng.choice(found), signal.SIGKILL)
                killed, at = killed + 1, rng.uniform(0, 2)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert killed >= 4
    assert content(out) == content(tmp_path / "local")


@pytest.mark.skipif(
    bool(importlib.util.find_spec("apache_beam")), reason="what is said without it; it is here"
)
def test_beam_that_is_missing_is_said(videos, tmp_path, capsys):
    words = [f"--videos={videos / 'videos'}", f"--labels={videos / 'train.csv'}"]
    with pytest.raises(SystemExit):
        build.main([*words, f"--out={tmp_path / 'no'}", "--runner=DirectRunner", "--x=1"])
    assert "--runner needs Apache Beam: pip install 'jaxvid[beam]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build.main([*words, f"--out={tmp_path / 'no'}", "--x=1"])
    assert "unrecognized arguments: --x=1" in capsys.readouterr().err
