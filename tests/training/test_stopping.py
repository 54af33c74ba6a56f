"""A signal asks once, in all processes at the same call; a second one ends at once."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxvid.base.errors import Stopped
from jaxvid.base.exits import exit_on_error
from jaxvid.training import stopping

ROOT = pathlib.Path(__file__).parents[2]


def wait_until_asked(signals):
    end = time.monotonic() + 10
    while not signals.asked() and time.monotonic() < end:
        time.sleep(0.001)
    return signals.asked()


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_asks_to_stop_and_names_the_exit_code(name, code, capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stopping.Signals() as signals:
        assert not signals.asked()
        signal.raise_signal(signal.Signals[name])
        assert wait_until_asked(signals)
        assert signals.name == name
        assert signals.stopped().code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert f"{name}: saving first; once more ends at once" in capsys.readouterr().err


def test_a_run_in_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)

    def run():
        with stopping.Signals() as signals:
            seen.append((signal.getsignal(signal.SIGTERM), signals.asked()))

    seen = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_stop_is_no_error_of_the_user():
    with pytest.raises(Stopped) as caught, exit_on_error():
        raise Stopped(143)
    assert caught.value.code == 143


class Peers:
    """Processes that go on in step: each round's largest number is there one round later."""

    def __init__(self):
        self.rounds = {}

    def of(self, name):
        def begin(number):
            calls[0] += 1
            given = self.rounds.setdefault(calls[0], {})
            given[name] = number

            class Answer:
                def __int__(self):
                    assert len(given) == 2, "read before all were asked"
                    return max(given.values())

            return Answer()

        calls = [0]
        return begin


@pytest.mark.parametrize("moment", range(2 * stopping.EVERY))
def test_all_processes_stop_after_the_same_step(moment):
    peers = Peers()
    one, other = (stopping.Signals(peers.of(name)) for name in ("one", "other"))
    for step in range(4 * stopping.EVERY):
        if step == moment:
            other._number = int(signal.SIGTERM)
        stops = [one.asked(), other.asked()]
        assert stops[0] == stops[1]
        if stops[0]:
            break
    assert stops == [True, True] and 0 <= step - moment <= 2 * stopping.EVERY
    assert one.stopped().code == other.stopped().code == 143


BLOCKED = """
import ctypes, signal
from jaxvid.training import stopping
with stopping.Signals():
    print("ready", flush=True)
    mutex = ctypes.create_string_buffer(128)
    for _ in range(2):  # The second time waits for ever, and Python's own handlers with it.
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs pthreads of glibc")
def test_the_second_signal_ends_a_process_that_is_blocked():
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "SIGINT: saving first; once more ends at once\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[1] == "SIGTERM again: ending at once\n"
    assert process.returncode == 143
