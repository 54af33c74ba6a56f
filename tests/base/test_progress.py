"""Progress: a bar on a terminal, lines at a bounded rate elsewhere, and no escape of a name."""

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from jaxvid.base.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """The time that a bar sees, which goes on only by `clock[0]`."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def work(clock, items=100, seconds=1.0, **how):
    stream = io.StringIO()
    progress = Progress(items, "probing", "videos", stream=stream, **how)
    for _ in range(items):
        clock[0] += seconds
        progress.update()
    progress.close()
    return stream.getvalue()


def test_lines_are_printed_at_a_bounded_rate(clock):
    said = work(clock)
    assert said.splitlines()[0] == "probing:  10% 10/100 [00:10<01:30,  1.00videos/s]"
    assert [int(n) for n in re.findall(r"(\d+)/100 ", said)] == [*range(10, 101, 10), 100]
    assert said.isascii() and said.count("\n") == len(said.splitlines()) == 11
    assert "\r" not in said


def test_short_work_is_one_line(clock):
    said = work(clock, items=3, seconds=0.5)
    assert said == "probing: 100% 3/3 [00:01<00:00,  2.00videos/s]\n"


def test_what_was_done_before_does_not_count_for_the_rate(clock):
    stream = io.StringIO()
    progress = Progress(100, "downloading", "MB", stream=stream, done=60)
    clock[0] += 10
    progress.update(20)
    assert stream.getvalue() == "downloading:  80% 80/100 [00:10<00:10,  2.00MB/s]\n"


def test_of_an_unknown_total_only_what_is_done_is_said(clock):
    stream = io.StringIO()
    progress = Progress(None, "importing", "videos", stream=stream)
    clock[0] += 20
    progress.update(10)
    progress.close()
    assert stream.getvalue().splitlines() == ["importing: 10videos [00:20,  2.00s/videos]"] * 2


def test_names_are_escaped():
    stream = io.StringIO()
    progress = Progress(3, "probing a\x1b[2J", "videos", every=0, stream=stream)
    progress.update(note="b\nc")
    progress.close("\x1b]0;d")
    lines = stream.getvalue().split("\n")
    assert len(lines) == 4 and all(line.isprintable() for line in lines)
    assert r"a\x1b[2J" in lines[0] and r"b\nc" in lines[1] and r"\x1b]0;d" in lines[2]


def test_work_that_fails_says_no_more_of_itself(clock):
    stream = io.StringIO()
    progress = Progress(3, "probing", "videos", stream=stream)
    clock[0] += 10
    progress.update()
    said = stream.getvalue()
    del progress
    assert stream.getvalue() == said


def test_a_bar_starts_no_thread(clock):
    before = threading.enumerate()
    work(clock)
    assert threading.enumerate() == before


CODE = r"""
import sys
from jaxvid.base.progress import Progress
progress = Progress(4, "probing a\x1b[2J", "videos", every=1000)
print("now", file=sys.stderr)
progress.update(2, note="\x1b[31mb")
progress.clear()
print("a line")
progress.update(2)
progress.close()
print("the end", file=sys.stderr)
"""


def on_a_terminal(columns):
    """What a terminal so wide is sent; 0 is one that does not say."""
    ours, theirs = os.openpty()
    size = struct.pack("HHHH", 24 if columns else 0, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        sent = b""
        try:
            while data := os.read(ours, 1 << 16):
                sent += data
        except OSError:  # All that is left of a terminal whose processes have ended.
            pass
        os.close(ours)
    assert process.returncode == 0, sent
    return sent.decode()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_has_a_bar_as_wide_as_it_is(columns):
    sent = on_a_terminal(columns)
    bars = re.findall(r"\r(probing a\\x1b\[2J: [^\r]*)", sent)
    assert bars[0].startswith(r"probing a\x1b[2J:   0%|") and "\x1b" not in sent
    assert "100%|" in bars[-1] and "4/4 [" in bars[-1]
    assert columns - 1 <= len(bars[-1]) <= columns  # Before its version 4.68 tqdm filled all.
    # A line stands in the place of the bar, not behind it.
    assert re.search(r"\r *\ra line\r\n", sent) and sent.endswith("the end\r\n")


def test_a_terminal_without_a_width_has_lines():
    sent = on_a_terminal(0)
    assert re.fullmatch(r"now\r\na line\r\nprobing .*: 100% 4/4 \[.*\]\r\nthe end\r\n", sent)


def test_nothing_is_loaded_for_work_that_has_not_begun():
    code = "import sys, jaxvid.base.progress; print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_durations():
    assert [duration(s) for s in (42.3, 185, 7800, float("inf"))] == [
        *("00:42", "03:05", "2:10:00", "unknown")
    ]
