"""Pictures as a video: those of a folder in the order of their numbers, or one as a single frame.

Frames were extracted as `00001.jpg` or `img_00001.jpg`, from 0 or 1; the last number in a name is
the frame's. Optical flow beside them, as `flow_x_00001.jpg`, is none of the video's frames. A
picture is turned upright as its EXIF data say.
"""

import io
import math
import os
import re
import struct
import warnings
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.data import bounds
from jaxvid.data.info import Info, shrunk

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".png")
"""What a picture's name ends in."""
_NAME = re.compile(r"(.*?)([0-9]+)[^0-9]*")
_FLOW = re.compile(r"flow_.*", re.IGNORECASE)
_SHALLOW = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of at most 8 bits
_ORIENTATION = 0x0112

# Pillow's word on damaged EXIF data, of which only the orientation counts here.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


def is_picture(name: str) -> bool:
    """Whether a file of that name is one by its ending."""
    return name.lower().endswith(ENDINGS)


def frame_files(folder: str | os.PathLike) -> tuple[list[str], int]:
    """The names of a folder's frames in the order of their numbers, and how many are missing.

    Missing are those between the first and the last, in steps of the smallest distance of two.

    Raises:
      JaxvidError: there are none, they cannot be told from other pictures, or two have one number.
    """
    try:
        names = [name for name in os.listdir(folder) if is_picture(name) and name[0] != "."]
    except OSError as error:
        raise JaxvidError(f"{folder} cannot be read ({error.strerror})") from None
    names = [name for name in names if not _FLOW.fullmatch(name)] or names
    if not names:
        raise JaxvidError(f"{folder} is a folder without pictures ({', '.join(ENDINGS)})")
    if len(names) > bounds.MAX_FRAMES:
        raise JaxvidError(f"{folder} has {len(names)} pictures, more than {bounds.MAX_FRAMES}")
    parts = {name: _NAME.fullmatch(os.path.splitext(name)[0]) for name in names}
    without = next((name for name, match in parts.items() if match is None), None)
    if without is not None:
        raise JaxvidError(
            f"{folder} has a picture without a number ({text.quoted(without)}), so that the order "
            "of its frames is unknown"
        )
    starts = sorted({match[1] for match in parts.values() if match})
    if len(starts) > 1:
        raise JaxvidError(
            f"{folder} has pictures whose names begin differently "
            f"({listed(map(text.quoted, starts), 3, ', ')}): keep the frames of one video in it"
        )
    numbers = {name: int(match[2]) for name, match in parts.items() if match}
    names.sort(key=lambda name: (numbers[name], name))
    order = np.array([numbers[name] for name in names], object)
    steps = order[1:] - order[:-1]
    if len(steps) and min(steps) == 0:
        place = int(np.argmin(steps))
        raise JaxvidError(
            f"{folder} has two pictures of one number: {text.quoted(names[place])} and "
            f"{text.quoted(names[place + 1])}"
        )
    whole = (order[-1] - order[0]) // min(steps) + 1 if len(steps) else 1
    return names, max(0, int(min(whole, 1 << 40)) - len(names))


class Pictures:
    """A folder of frames, or one picture, read as `jaxvid.data.decode.Video` reads a file.

    Nothing in there says its rate, nor the `time` of a frame.
    """

    time: float | None = None

    def __init__(self, path: str | os.PathLike, short_side: int | None = None):
        self._path, self._short_side = os.fspath(path), short_side
        if os.path.isdir(self._path):
            names, self._missing = frame_files(self._path)
            self._files = [os.path.join(self._path, name) for name in names]
        else:
            self._files, self._missing = [self._path], 0
        self._count = 0
        self._full: tuple[int, int] | None = None  # height and width of the first, upright
        self._size = (0, 0)
        self._kind = ""

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def frames(self, wanted: Collection[int] | None = None) -> Iterator[np.ndarray]:
        """Yields frames uint8 [H, W, 3] in order; with `wanted` only those numbers.

        With none wanted all are decoded, to see whether they can be; of some, only these are.

        Raises:
          JaxvidError: a picture cannot be read, or is not as large as the first.
        """
        count = max(wanted) + 1 if wanted else len(self._files)
        for number, file in enumerate(self._files[:count]):
            self._count = number + 1
            if not wanted or number in wanted:
                image, _ = self._open(file)
                if wanted is None or number in wanted:
                    yield np.asarray(image.convert("RGB"))

    def jpegs(self, quality: int) -> Iterator[bytes]:
        """Yields all frames as JPEGs; a JPEG that need not be changed is given as it is."""
        for number, file in enumerate(self._files):
            self._count = number + 1
            image, copied = self._open(file)
            yield copied or to_jpeg(image.convert("RGB"), quality)

    def info(self) -> Info:
        """Says what the video was, as far as it has been read."""
        return Info(self._count, math.nan, *self._size, self._kind, self._missing)

    def _open(self, file: str) -> tuple["Image.Image", bytes | None]:
        """A picture, upright and shrunk, and its own bytes where these are a JPEG of just that."""
        from PIL import Image

        try:
            with open(file, "rb") as opened:
                data = opened.read(bounds.MAX_PICTURE + 1)
            if len(data) > bounds.MAX_PICTURE:
                raise ValueError(f"it has over {bounds.MAX_PICTURE >> 20} MiB")
            height, width = bounds.picture_size(data) or (0, 0)
            problem = bounds.picture_problem(data, height, width)
            problem = problem or bounds.size_problem(height, width)
            if problem:
                raise ValueError(problem)
            image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            if getattr(image, "is_animated", False):
                raise ValueError("it is animated: call it .apng")
            if image.mode not in _SHALLOW:
                raise ValueError(f"it has more than 8 bits a colour ({image.mode})")
            kind = image.format or ""
            turn = _turn(image)
            as_is = kind == "JPEG" and image.mode == "RGB" and turn is None
            image.load()
            if turn is not None:
                image = image.transpose(turn)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise JaxvidError(f"{file} cannot be read as a picture: {said}") from None
        size = image.height, image.width
        if self._full is None:
            self._full, self._size = size, shrunk(*size, self._short_side)
            self._kind = kind.lower()
        if size != self._full:
            raise JaxvidError(
                f"{file} is {size[1]}x{size[0]}, and the first frame of its video "
                f"{self._full[1]}x{self._full[0]}"
            )
        if size != self._size:
            as_is = False
            image = image.convert("RGB").resize(self._size[::-1], Image.Resampling.BICUBIC)
        return image, data if as_is else None


def _turn(image: "Image.Image") -> "Image.Transpose | None":
    """What turns a picture upright, if anything does; EXIF data that are damaged say nothing."""
    from PIL import Image

    way = Image.Transpose
    ways = (
        *(way.FLIP_LEFT_RIGHT, way.ROTATE_180, way.FLIP_TOP_BOTTOM, way.TRANSPOSE),
        *(way.ROTATE_270, way.TRANSVERSE, way.ROTATE_90),
    )
    try:
        said = image.getexif().get(_ORIENTATION)
    except (struct.error, ValueError, TypeError, KeyError):
        return None
    return ways[said - 2] if isinstance(said, int) and 2 <= said <= 8 else None


def to_jpeg(image: "Image.Image", quality: int) -> bytes:
    """Encodes an RGB picture with its colours in full resolution."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling="4:4:4")
    return out.getvalue()
