"""What videos are called, what one turns out to be, and how large its frames are kept."""

import dataclasses

from jaxvid.data.keyframes import Keyframes

# fmt: off
EXTENSIONS = (
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".qt", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
)
# fmt: on
"""What a video's name ends in, where a folder is searched."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What a video is, after all of it was decoded.

    `height` and `width` are those of the frames that come out; `fps` is NaN where nothing tells
    it; `damaged` counts packets that did not decode, frames that the decoder patched up,
    packets missing at the end, and pictures missing between others of a folder. `cut` are the
    seconds by which a window reaches beyond the video. `keyframes` say where decoding may begin
    other than at the start, or why nowhere.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str
    damaged: int
    cut: float = 0.0
    keyframes: Keyframes | str = ""


def shrunk(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width of a frame whose shorter side is at most `short_side`."""
    if short_side is None or min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))
