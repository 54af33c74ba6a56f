"""The command that measures networks: what it says, and that what it counts is so."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.bench import command, measure, report

ROOT = pathlib.Path(__file__).parents[2]


def test_a_row_is_measured_in_all_its_parts(tmp_path):
    chart = tmp_path / "chart.png"
    words = ["--model=tsm_test", "--small", "--repeats=3", "--json", f"--chart={chart}"]
    done = subprocess.run(
        [sys.executable, "-m", "jaxvid.bench", *words, "--backend=cpu"],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {each["part"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert list(found) == ["forward", "train", "video"]
    for each in found.values():
        seconds = each["seconds"]
        assert 0 < seconds["lowest"] <= seconds["median"] <= seconds["highest"]
        assert each["clips_per_second"] == pytest.approx(each["clips"] / seconds["median"])
        assert each["model"] == "tsm_test" and each["backend"] == "cpu" and each["repeats"] == 3
        assert each["share_of_peak"] is None  # of a CPU nobody says what it can do
    forward, train = found["forward"], found["train"]
    # A step is a forward pass and twice as much again to differentiate it, without the pictures.
    assert 2.5 * forward["flops"] < train["flops"] < 3 * forward["flops"]
    assert train["needed_bytes"] > forward["needed_bytes"] > 0
    for each in (forward, train):
        assert each["compile_seconds_warm"] < each["compile_seconds_cold"]
    assert chart.read_bytes().startswith(b"\x89PNG")
    # Nothing of it is left where commands keep what they compiled.
    assert not list(tmp_path.glob("**/*-cache"))


def test_times_are_of_the_clock_and_of_the_processor():
    times = measure.time_work(lambda: time.sleep(0.02), 3)
    assert len(times.wall) == 3 and min(times.wall) >= 0.02
    assert max(times.processor) < 0.02


def test_the_share_is_of_the_devices_own_peak():
    machine = measure.Machine("gpu", "NVIDIA H200", 4, 2.5, 100e12)
    work = measure.Work(lambda: None, 2, (8, 64, 64, 3), "bfloat16", flops=1e12)
    measured = measure.Measured(machine, "x", "forward", work, measure.Times((0.04,), (0.01,)))
    assert measured.rate == 50 and measured.share == pytest.approx(0.25)
    assert "25.0 % of the chip's bfloat16 peak" in report.as_line(measured)
    assert any("other work is under way here (load 2.5)" in line for line in report.about(machine))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model=nothing*"], "--model=nothing* matches no row"),
        (["--model=tsm_test", "--parts=forwards"], "'forwards' is none of forward, train, video"),
        (["--model=tsm_test", "--dtype=float16"], "'float16' is none of float32, bfloat16"),
        (["--model=tsm_test", "--batch=0"], "--batch=0 must be 1 or more"),
        (["--model=tsm_test", "--chart=x.jpg"], "must end in .png"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, said):
    with pytest.raises(JaxvidError) as refused:
        command.main(words)
    assert said in str(refused.value)


def test_what_is_left_out_is_said():
    words = ["--model=tsn_r50_1x1x8_k400_twostream", "--parts=forward", "--repeats=1"]
    with pytest.raises(JaxvidError, match="not measured: .*it is several networks: measure"):
        command.main(words)
