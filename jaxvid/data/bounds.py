"""What readers accept at most, of records and of videos; more is a mistake or an attack.

All of it is far beyond what anyone trains on, and each is checked before memory is taken for it.
"""

import functools
import struct

MAX_PATH = 4096
"""Bytes of a video's path."""
MAX_CATEGORIES = 63
"""Categories of labels that a record may name."""
MAX_LABELS = 100_000
"""Labels of one video."""
MAX_FRAMES = 1 << 20
"""Frames of one video: ten hours."""
MAX_RECORDS = 1 << 22
"""Records of one split."""
MAX_RECORD = 2**31 - 1
"""Bytes of one record: protocol buffers end there."""
MAX_PICTURE = 128 << 20
"""Bytes of one encoded frame."""
MAX_PIXELS = 8192 * 4320
"""Pixels of one frame: 8K."""
MAX_ASPECT = 20
"""Longer side of a frame by its shorter one, which is resized to some hundred pixels."""
MAX_FPS = 10_000
"""A higher rate is a container's unit of time, not a camera's."""
_SCANS = 100  # of a progressive JPEG, each of which passes over all of the picture
_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG markers that tell the size
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # those without a segment
_SEGMENTS = 4096  # that are looked through for them
_START = 256  # bytes in which the size mostly is


def size_problem(height: int, width: int) -> str | None:
    """Says what is wrong with the size of a frame, if anything."""
    if height < 1 or width < 1:
        return f"its frames are {width}x{height}"
    if height * width > MAX_PIXELS:
        return f"its frames are {width}x{height}, more than the {MAX_PIXELS} pixels of 8K"
    if max(height, width) > MAX_ASPECT * min(height, width):
        return f"its frames are {width}x{height}: one side is over {MAX_ASPECT} times the other"
    return None


def picture_problem(image: bytes, height: int, width: int) -> str | None:
    """Says why an encoded frame may not be decoded as a picture of that size, if it may not."""
    head = _head(image)
    if head is None:
        return "is no JPEG or PNG"
    if head[:2] != (height, width):
        return f"is {head[1]}x{head[0]}, not {width}x{height}"
    # Counting takes longer than all else here: only where there may be several.
    scans = image.count(b"\xff\xda") if head[2] else 1
    return f"is a JPEG of {scans} scans" if scans > _SCANS else None


def picture_size(image: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG or PNG says it has; None where it is neither."""
    head = _head(image)
    return head and head[:2]


def _head(image: bytes) -> tuple[int, int, bool] | None:
    """Height, width, and whether it is a JPEG of several scans."""
    # Frames of one encoder begin alike: what was seen in one holds for the next.
    return _of_start(image[:_START]) or _read(image)


def _read(image: bytes) -> tuple[int, int, bool] | None:
    if image[:8] == b"\x89PNG\r\n\x1a\n" and image[12:16] == b"IHDR" and len(image) >= 24:
        width, height = struct.unpack_from(">II", image, 16)
        return height, width, False
    if image[:2] != b"\xff\xd8":
        return None
    at = 2
    for _ in range(_SEGMENTS):
        at = image.find(b"\xff", at)  # decoders pass over what lies between segments, too
        if at < 0 or at + 9 > len(image):
            return None
        marker = image[at + 1]
        if marker in _SIZES:
            height, width = struct.unpack_from(">HH", image, at + 5)
            return height, width, marker != 0xC0
        if marker in (0xD9, 0xDA):  # the end, or pixels before their size
            return None
        if marker in (0x00, 0xFF):
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(image[at + 2 : at + 4], "big"))
    return None


_of_start = functools.lru_cache(maxsize=256)(_read)
