"""Ctrl-C from a command's first import on, which is that of this module and of little else."""

import os
import signal
import sys
import threading
import types
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of a command that was."""


def leave_quietly_when_interrupted() -> None:
    """Lets Ctrl-C end a command that is still being imported, where nothing has begun yet.

    `let_through` takes over from it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def let_through() -> None:
    """Lets Ctrl-C raise from now on, wherever it falls; does nothing outside the main thread.

    But for where a module is being loaded, which it ends the command in: one whose initialisation
    is interrupted prints what it likes, and may say that it failed and nothing of why.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _raise)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _not_lost


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C led to an error, also where a library made another one of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _raise(number: int, frame: types.FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_code.co_filename == "<frozen importlib._bootstrap>":
            _leave()
        at = at.f_back
    signal.default_int_handler(number, frame)


def _leave(*_: Any) -> None:
    os._exit(INTERRUPTED)


def _not_lost(lost: Any) -> None:
    """Sends Ctrl-C again where it fell into a place that can raise nothing, as in a finaliser."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    main = threading.main_thread().ident
    again = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
    again.daemon = True
    again.start()
