"""Tiny encoded clips for tests: frame `i` is grey level `16 + 8 * i` with a white corner."""

import pathlib
import struct
from fractions import Fraction

import av
import numpy as np


def grey(number: int) -> int:
    return 16 + 8 * number


def pattern(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """One frame: grey, its top left quarter white."""
    frame = np.full((height, width, 3), grey(number), np.uint8)
    frame[: height // 2, : width // 2] = 255
    return frame


def encode(
    path: pathlib.Path,
    frames: int = 12,
    *,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 25,
    times: list[int] | None = None,
    gop: int = 12,
    container: dict[str, str] | None = None,
    color: tuple[int, int, int] | None = None,
) -> pathlib.Path:
    """Writes a clip; `times` are the frames' timestamps in 1/100 s, default `rate` a second.

    With a `color`, red, green and blue, all frames are of that instead.
    """
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.options = {"crf": "10", "g": str(gop)} if "26" in codec else {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for number in range(frames):
            picture = pattern(number, *size)
            if color is not None:
                picture[:] = color
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def set_matrix(path: pathlib.Path, a: int, b: int, c: int, d: int) -> None:
    """Writes a display matrix into an MP4's first track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
