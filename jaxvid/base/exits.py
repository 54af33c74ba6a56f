"""How commands end: with one sentence or quietly, and with the right exit code.

Whatever the user or the system may do to a command, only a mistake of the program itself shows
where it is, by a traceback.
"""

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Iterator

from jaxvid.base import interrupts
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say

# As a shell would say of a process that SIGPIPE ended, which Python ignores; 13 also elsewhere.
_NOBODY_READS = 128 + 13
# What a system refuses however right a program is. Others, as EBADF, are mistakes of the program.
_REFUSALS = {
    getattr(errno, name, 0)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE"),
        *("ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EEXIST", "ENOENT", "ENOTEMPTY", "EBUSY"),
        *("ENOMEM", "EAGAIN", "ENXIO", "ENODEV", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENOTCONN"),
    )
}


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """What a command runs in: turns each end that is not its own mistake into one of one line.

    A `JaxvidError`, and what the operating system refuses, is that line on standard error and exit
    code 1. Ctrl-C is code 130. Where nobody reads the output any more, as after `| head -1`, the
    command ends quietly, with 141, and where there is no output from the start it is written to
    nowhere. Names that cannot be encoded are printed with escapes.
    """
    _open_streams()
    interrupts.let_through()
    try:
        try:
            yield
        except SystemExit:
            _flush()
            raise
        _flush()
    except JaxvidError as error:
        _end(f"error: {error}", 1)
    except OSError as error:
        if interrupts.was_interrupted(error):
            _end_interrupted()
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _end("", _NOBODY_READS)
        if error.errno not in _REFUSALS:
            raise
        _end(f"error: {_refused(error)}", 1)
    # Also what a library made of Ctrl-C, as a module whose initialisation it interrupted.
    except (Exception, KeyboardInterrupt) as error:
        if not interrupts.was_interrupted(error):
            raise
        _end_interrupted()


def _open_streams() -> None:
    """Sees to it that what is printed can be, whatever it is and wherever it goes."""
    with contextlib.suppress(OSError):
        # A file must not get the number of a stream that is closed: others would write into it.
        while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(lowest)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _nobody_reads() -> bool:
    """Whether standard output or error is a pipe that nobody reads from any more."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _refused(error: OSError) -> str:
    said = error.strerror or str(error)
    if error.filename is None or isinstance(error.filename, int):
        return f"the system refused to read or write ({said}): make room, or look at the disk"
    return f"{os.fsdecode(error.filename)}: {said}: make room, or give another path"


def _end_interrupted() -> None:
    with contextlib.suppress(ValueError):  # another thread's
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second one ends at once
    _end("interrupted", interrupts.INTERRUPTED)


def _end(message: str, code: int) -> None:
    """Ends the command with a line on standard error, as far as anything can still be written."""
    # A list has its items on lines of their own; any other line break came from outside.
    first, *items = message.split("\n  ")
    for stream in (sys.stdout, sys.stderr):
        try:
            if message and stream is sys.stderr:
                say(first, *(f"  {item}" for item in items), error=True)
            stream.flush()
        except OSError:
            # Else Python tries again at its end, and says so.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(code) from None
