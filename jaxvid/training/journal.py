"""What a run measured, step by step: `metrics.jsonl` and events for TensorBoard.

Both are written at once, without threads, so that a full disk is an error and never a run that
hangs. TensorBoard's files are TFRecords of `Event` messages; scalars need a few fields of those.
"""

import contextlib
import json
import pathlib
import struct
import time
from collections.abc import Iterator

from jaxvid.base import jsons, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data.crc32c import masked


class Journal:
    """The log of a run that goes on from the step `start`.

    Lines of steps after `start` are a killed run's and are dropped, as is the test of `start` where
    that is still to be made (not `tested`), so that each step stands once. Where the system lets
    nothing be written, its methods raise `JaxvidError`.
    """

    def __init__(self, workdir: pathlib.Path, start: int, tested: bool):
        self._workdir = workdir
        path = workdir / "metrics.jsonl"
        with writing(workdir):
            if path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                kept = [line for line in lines if _stays(line, start, tested)]
                whole.text(path, "".join(line + "\n" for line in kept))
            self._lines = whole.Growing(path)
            name = f"events.out.tfevents.{time.time_ns() // 1000}.jaxvid"
            self._events = whole.Growing(workdir / name)
            self._event(0, _field(3, b"brain.Event:2"))
            # Tells TensorBoard to forget what other files say of later steps.
            self._event(start + 1, _field(7, b"\x08\x01"))
            self._events.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars of one step."""
        summary = b"".join(
            _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in values.items()
        )
        with writing(self._workdir):
            line = jsons.dump({"step": step, **values}) + "\n"
            self._lines.write(line.encode("utf-8"))
            self._lines.flush()
            self._event(step, _field(5, summary))
            self._events.flush()

    def keep(self) -> None:
        """Lets nothing be lost that was written, as a checkpoint will say that it was."""
        with writing(self._workdir):
            self._lines.flush(now=True)
            self._events.flush(now=True)

    def close(self) -> None:
        """Ends both logs."""
        with writing(self._workdir):
            self._lines.close()
            self._events.close()

    def _event(self, step: int, what: bytes) -> None:
        data = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + what
        size = struct.pack("<Q", len(data))
        self._events.write(size + struct.pack("<I", masked(size)))
        self._events.write(data + struct.pack("<I", masked(data)))


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
    """Says in one sentence that the system lets nothing be written to `workdir`."""
    try:
        yield
    except OSError as error:
        raise JaxvidError(
            f"cannot write to {workdir} ({error.strerror or error}): make room or choose another "
            "--workdir; the same command goes on from the last checkpoint"
        ) from error


def _stays(line: str, start: int, tested: bool) -> bool:
    """Whether a line belongs to what the run goes on from; one cut short by a kill does not."""
    try:
        values = json.loads(line)
        step = values["step"]
        return step < start or step == start and (tested or "loss" in values)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
