"""What the devices have finished, how long they had nothing to do, and where a run hangs."""

import threading
import time

import jax.numpy as jnp
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.training import hangs, pace


class Step:
    """What a step measures, which is there when the test says so."""

    def __init__(self, error=None):
        self.error, self.there = error, threading.Event()

    def block_until_ready(self):
        assert self.there.wait(30)
        if self.error:
            raise self.error


def test_the_devices_are_waited_for_but_for_so_many_steps():
    first, second = Step(), Step()
    with pace.Pace() as steps:
        steps.given({"loss": first})
        steps.given({"loss": second})
        waiting = threading.Thread(target=steps.wait, args=(1,))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        first.there.set()
        waiting.join(30)
        assert not waiting.is_alive()
        second.there.set()
        steps.wait()


def test_time_counts_as_idle_from_the_last_step_on():
    step = Step()
    with pace.Pace() as steps:
        begun = time.monotonic()
        steps.given({"loss": step})
        time.sleep(0.2)
        assert steps.idle(begun) == 0
        step.there.set()
        steps.wait()
        time.sleep(0.1)
        assert 0.1 <= steps.idle(begun) < time.monotonic() - begun - 0.15
        begun = time.monotonic()
        assert steps.idle(begun) <= time.monotonic() - begun


def test_a_step_that_fails_is_finished_and_its_error_left_to_who_reads_it():
    finished = []
    with pace.Pace(lambda: finished.append(True)) as steps:
        for step in (Step(RuntimeError("out of memory")), jnp.zeros(3)):
            steps.given(step)
            getattr(step, "there", threading.Event()).set()
        steps.wait()
    assert finished == [True, True]


# ---- hangs


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def hang_here(until):
    assert until.wait(60)


def test_a_hang_tells_the_stacks_of_all_threads_once(tmp_path, capsys):
    file, over = tmp_path / "hang-0.txt", threading.Event()
    stuck = threading.Thread(target=hang_here, args=(over,), name="stuck")
    stuck.start()
    with hangs.Hangs(tmp_path, 1.0) as watch:
        time.sleep(1.3)
        assert not file.exists()  # Nothing has begun.
        watch.beat()
        wait_for(lambda: file.exists() and file.read_text().endswith("\n\n"))
        text = file.read_text()
        time.sleep(1.3)
        assert file.read_text() == text
        said = capsys.readouterr().err
        assert "no step was finished for 00:01, after 1 of this process" in said
        assert "in hang_here" in said and "in hang_here" in text and text.count("no step") == 1
        watch.beat()  # It goes on, and hangs again.
        wait_for(lambda: file.read_text().count("no step") == 2)
    over.set()
    stuck.join()


def test_no_hang_is_seen_while_steps_go_on_or_the_clock_stands(tmp_path):
    with hangs.Hangs(tmp_path, 0.5) as watch:
        watch.beat()
        for _ in range(4):
            time.sleep(0.2)
            watch.beat()
        with watch.paused():
            watch.beat()  # One that was under way.
            time.sleep(0.8)
        time.sleep(0.2)
        assert not list(tmp_path.iterdir())
        wait_for(lambda: list(tmp_path.iterdir()))


def test_the_limit_grows_with_the_longest_step(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = hangs.Hangs(tmp_path)
    for moment in (500.0, 510.0, 555.0, 560.0):  # The first is after the compilation.
        now[0] = moment
        watch.beat()
    assert watch.limit == 450
    with watch.paused():
        now[0] = 2000.0
    now[0] = 2001.0
    watch.beat()
    assert watch.limit == 450
    assert hangs.Hangs(tmp_path).limit == 300


def test_a_disk_that_takes_nothing_does_not_silence_it(tmp_path, capsys):
    with hangs.Hangs(tmp_path / "gone", 0.1) as watch:
        watch.beat()
        wait_for(lambda: "hang-0.txt cannot be written" in capsys.readouterr().err)


def test_seconds_are_those_of_the_environment():
    assert hangs.patience({}) is None
    assert hangs.patience({"JAXVID_HANG_SECONDS": "90"}) == 90
    assert hangs.patience({"JAXVID_HANG_SECONDS": "0"}) == float("inf")
    for wrong in ("-1", "nan", "inf", "soon"):
        with pytest.raises(JaxvidError, match=f"JAXVID_HANG_SECONDS='{wrong}' must be seconds"):
            hangs.patience({"JAXVID_HANG_SECONDS": wrong})
