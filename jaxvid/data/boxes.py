"""How many samples an MP4 or MOV says it has, asked before FFmpeg makes a table of them.

Some of its boxes give a number alone: a file of a kilobyte can declare a billion samples, each of
which takes 24 bytes of memory as soon as the file is opened. Nothing but sizes and counts is read
here; whatever else is wrong with the boxes is left to FFmpeg to say.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from jaxvid.data import bounds

MAX_SAMPLES = 2 * bounds.MAX_FRAMES
"""Of one track; of sound, too."""
_MAX_BOXES = 1 << 20
_MAX_DEPTH = 10
_FIRST = b"ftyp moov mdat moof free skip wide pnot styp sidx uuid udta pdin emsg".split()
_WITHIN = frozenset(
    b"moov trak mdia minf stbl moof traf edts udta dinf mvex tref wave meta sinf hoov".split()
)


@dataclasses.dataclass
class _Track:
    """What the boxes of a track declare: the most samples, and whether it is plain sound.

    Samples of plain sound are all of a size and a time; FFmpeg takes a thousand of them for one.
    """

    samples: int = 0
    sound: bool = False
    plain: bool = False
    of_a_size: int = 0


def problem(path: str | os.PathLike) -> str | None:
    """Says that a file declares more samples than a video may have, if it does."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(8)[4:] not in _FIRST:
            return None
        tracks = [_Track()]
        for count, (kind, start, stop) in enumerate(_boxes(file, 0, size, 0)):
            if count >= _MAX_BOXES:
                return f"has more than {_MAX_BOXES} boxes"
            if kind == b"trak":
                tracks.append(_Track())
            else:
                _declare(file, kind, start, stop, tracks)
    for track in tracks:
        plain = track.sound and track.plain and track.of_a_size <= size
        if track.samples > MAX_SAMPLES and not plain:
            return f"declares {track.samples} samples of a track, more than {MAX_SAMPLES}"
    return None


def _boxes(file: BinaryIO, at: int, stop: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, start, stop) of what the boxes between two places hold, and those in them."""
    while at + 8 <= stop and depth < _MAX_DEPTH:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind, start = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if size == 1 and len(head) == 16:
            size, start = int.from_bytes(head[8:], "big"), at + 16
        end = min(at + size, stop) if size else stop
        if end < start:
            return
        yield kind, start, end
        if kind in _WITHIN:
            yield from _boxes(file, start + 4 * (kind == b"meta"), end, depth + 1)
        at = end


def _declare(file: BinaryIO, kind: bytes, start: int, stop: int, tracks: list[_Track]) -> None:
    """Notes what a box declares of the last track; fragments are of all tracks together."""
    track = tracks[-1]
    if kind not in (b"hdlr", b"stsz", b"stz2", b"stts", b"ctts", b"trun"):
        return
    file.seek(start)
    data = file.read(min(stop - start, 16))
    if len(data) < 8:
        return
    flags, first = struct.unpack_from(">II", data)
    if kind == b"hdlr":
        track.sound = data[8:12] == b"soun"
    elif kind == b"trun":
        tracks[0].samples += first
    elif kind in (b"stsz", b"stz2") and len(data) >= 12:
        number = int.from_bytes(data[8:12], "big")
        track.samples = max(track.samples, number)
        track.of_a_size = max(track.of_a_size, number * first * (kind == b"stsz"))
    elif kind in (b"stts", b"ctts"):
        track.plain = kind == b"stts" and first == 1 and data[12:16] == b"\0\0\0\1"
        track.samples = max(track.samples, _runs(file, start + 8, min(stop, start + 8 + 8 * first)))


def _runs(file: BinaryIO, at: int, stop: int) -> int:
    """The sum of the lengths in a table of (length, value)."""
    total = 0
    while at < stop and total <= 1 << 32:
        file.seek(at)
        data = file.read(min(1 << 16, stop - at) // 8 * 8)
        if not data:
            break
        total += sum(struct.unpack(f">{len(data) // 4}I", data)[::2])
        at += len(data)
    return total
