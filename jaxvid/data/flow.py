"""Optical flow: computed between the frames of videos, and kept as pictures.

Pair k of a video is what moves from frame k to frame k + 1, so that there is one pair less than
there are frames. As in denseflow and MMAction2, from which the published networks learned, frames
are made grey, then shrunk; x and y in pixels of that size, from -20 to 20, become 0 to 255 (what
is beyond is cut), and no motion is 128. Later resizing does not change these values.
"""

import io
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, decode
from jaxvid.data.info import shrunk
from jaxvid.data.keyframes import Keyframes
from jaxvid.data.windows import WHOLE, Window
from jaxvid.rows import FLOWS

BOUND = 20.0
"""Pixels of motion that are told apart, in either direction."""
PICTURES = "pictures"
"""The way of `jaxvid.data.build` that reads pictures of flow in place of computing it."""
_PICTURE = re.compile(r"(?:flow_)?([xy])_(\d+)\.jpe?g", re.IGNORECASE)

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From two grey pictures uint8 [H, W] to the motion between them in pixels, float32 [H, W, 2]."""


def estimator(method: str) -> Estimate:
    """How OpenCV computes flow with its own settings, by a `method` of `jaxvid.rows.FLOWS`.

    What is returned is for one thread.

    Raises:
      JaxvidError: OpenCV is not installed, or without its extra modules.
    """
    if method not in FLOWS:
        raise JaxvidError(f"the flow {method!r} is unknown: take {' or '.join(FLOWS)}")
    cv2 = _opencv()
    if method == "farneback":
        made = cv2.FarnebackOpticalFlow.create()
    elif hasattr(cv2, "optflow"):
        made = cv2.optflow.DualTVL1OpticalFlow.create()
    else:
        raise JaxvidError(
            "TV-L1 is in OpenCV's extra modules, which are not installed: pip uninstall "
            "opencv-python-headless opencv-python, then pip install 'jaxvid[flow]', or take the "
            "flow farneback"
        )

    def estimate(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return made.calc(before, after, None)

    return estimate


def version() -> str:
    """OpenCV's version, on which the bytes of flow depend."""
    return str(_opencv().__version__)


def use_one_thread() -> None:
    """Keeps OpenCV to one thread, where processes share the cores already."""
    _opencv().setNumThreads(1)


def grey(frame: np.ndarray, short_side: int | None) -> np.ndarray:
    """An RGB frame uint8 [H, W, 3] as flow is computed of it: uint8 [h, w], shrunk if larger."""
    cv2 = _opencv()
    picture = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return _resized(picture, short_side)


def quantise(motion: np.ndarray) -> np.ndarray:
    """Motion in pixels, float [..., 2], as the levels of a picture, uint8 [..., 2]."""
    levels = 255 * (motion.astype(np.float64) + BOUND) / (2 * BOUND)
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)


def between(
    frames: Iterable[np.ndarray], method: str, short_side: int | None
) -> Iterator[np.ndarray]:
    """Yields the flow of each pair of RGB frames that follow one another: uint8 [h, w, 2]."""
    numbered = enumerate(frames)
    yield from (pair for _, pair in _pairs(numbered, None, method, short_side))


def pairs_at(
    path: str | os.PathLike,
    indices: Collection[int] | np.ndarray,
    method: str,
    short_side: int | None,
    window: Window = WHOLE,
    noted: Keyframes | None = None,
) -> np.ndarray:
    """The flow of the pairs numbered `indices` of a video, with repeats: uint8 [N, h, w, 2].

    They are numbered from the start of the window. Only their frames are kept; with what was
    `noted` they are found by key frames. Raises `JaxvidError` where the video cannot be read, or
    ends before.
    """
    numbers = np.asarray(indices, np.int64).tolist()
    wanted = frozenset(numbers)
    needed = sorted(wanted | {number + 1 for number in wanted})
    with decode.opened(path, window=window, noted=noted) as video:
        frames = zip(needed, video.frames(frozenset(needed)), strict=False)
        found = dict(_pairs(frames, wanted, method, short_side))
        if len(found) < len(wanted):
            raise JaxvidError(
                f"{path} has {video.info().num_frames} frames; frame {needed[-1]} was asked for"
            )
    return np.stack([found[number] for number in numbers])


def pairs_of(
    frames: list[np.ndarray] | np.ndarray,
    indices: np.ndarray,
    method: str,
    short_side: int | None,
) -> np.ndarray:
    """As `pairs_at`, of all frames of a video in memory."""
    wanted = frozenset(indices.tolist())
    needed = sorted(wanted | {number + 1 for number in wanted})
    numbered = ((number, frames[number]) for number in needed)
    found = dict(_pairs(numbered, wanted, method, short_side))
    return np.stack([found[number] for number in indices.tolist()])


def _pairs(
    frames: Iterable[tuple[int, np.ndarray]],
    wanted: Collection[int] | None,
    method: str,
    short_side: int | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number and the flow of each pair among numbered frames, or of those wanted."""
    estimate = estimator(method)
    before: tuple[int, np.ndarray] | None = None
    for number, frame in frames:
        picture = grey(frame, short_side)
        if before and before[0] == number - 1 and (wanted is None or before[0] in wanted):
            yield before[0], quantise(estimate(before[1], picture))
        before = number, picture


def read_pictures(folder: pathlib.Path, short_side: int | None) -> Iterator[np.ndarray]:
    """Yields the flow in pictures of x and y of a folder, in the order of their numbers.

    They are called `flow_x_00001.jpg` and `flow_y_00001.jpg`, as by denseflow, or without `flow_`;
    other files are passed over. Larger pictures are shrunk, their values as they are. Pairs are
    uint8 [h, w, 2].

    Raises:
      JaxvidError: there are no such pictures, one is missing or cannot be read, or sizes differ.
    """
    found: dict[str, dict[int, pathlib.Path]] = {"x": {}, "y": {}}
    try:
        names = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise JaxvidError(f"{folder} cannot be read ({error.strerror})") from None
    for path in names:
        if match := _PICTURE.fullmatch(path.name):
            axis, number = match[1].lower(), int(match[2])
            if number in found[axis]:
                raise JaxvidError(f"{folder} has {found[axis][number].name} and {path.name}")
            found[axis][number] = path
    numbers = sorted(found["x"].keys() | found["y"].keys())
    if not numbers:
        raise JaxvidError(f"{folder} is no folder of flow_x_00001.jpg, flow_y_00001.jpg and so on")
    for axis in "xy":
        missing = set(range(numbers[0], numbers[-1] + 1)) - found[axis].keys()
        if missing:
            raise JaxvidError(f"{folder} has no picture flow_{axis}_{min(missing):05d}.jpg")
    size: tuple[int, ...] = ()
    for number in numbers:
        pair = np.stack([_read_grey(found[axis][number]) for axis in "xy"], -1)
        size = size or pair.shape
        if pair.shape != size:
            raise JaxvidError(f"{found['x'][number]} is of another size than those before")
        yield _resized(pair, short_side)


def _read_grey(path: pathlib.Path) -> np.ndarray:
    """A grey picture uint8 [H, W]."""
    from PIL import Image

    try:
        # Pillow's other readers are never asked: some of them run programs.
        with Image.open(path, formats=("JPEG",)) as opened:
            if problem := bounds.size_problem(opened.height, opened.width):
                raise ValueError(problem)
            return np.asarray(opened.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise JaxvidError(f"{path} is no picture of flow ({error})") from None


def _resized(picture: np.ndarray, short_side: int | None) -> np.ndarray:
    """A picture uint8 [H, W] or [H, W, C], shrunk if it is larger."""
    height, width = picture.shape[:2]
    size = shrunk(height, width, short_side)
    if size == (height, width):
        return picture
    cv2 = _opencv()
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)


def to_jpeg(pair: np.ndarray, quality: int) -> bytes:
    """A pair uint8 [H, W, 2] as DMVR reads it: a JPEG whose channels are x, y and zeros.

    They are stored as they are, not as luma and chroma: x and y are as exact as in a picture each.
    """
    from PIL import Image

    out = io.BytesIO()
    picture = np.concatenate([pair, np.zeros_like(pair[..., :1])], -1)
    Image.fromarray(picture).save(out, "JPEG", quality=quality, keep_rgb=True)
    return out.getvalue()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise JaxvidError("optical flow needs OpenCV: pip install 'jaxvid[flow]'") from None
    return cv2
