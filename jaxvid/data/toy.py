"""A generated dataset of real encoded clips whose classes only motion tells apart.

A textured disc moves over a still textured background: left, right, up, down, round a circle
either way, or it stays and grows or shrinks. Position, size, colours and textures of a single frame
have the same distribution in every class: the picture is a torus (what leaves at one side enters at
the other), starts are uniform, and a growing disc begins anew when it is largest. So a network that
looks at frames one by one stays at chance, and a clip played backwards belongs to another class.
"""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from jaxvid.base import locks, paths, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data import index
from jaxvid.data.building import build

CLASSES = ("clockwise", "counterclockwise", "down", "grow", "left", "right", "shrink", "up")
REVERSED = {
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "down": "up",
    "grow": "shrink",
    "left": "right",
    "right": "left",
    "shrink": "grow",
    "up": "down",
}
MIRRORED = {
    **{name: name for name in CLASSES},
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "left": "right",
    "right": "left",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the clips; `train` and `test` are clips per class.

    `version` changes when the drawing does, so that a cached dataset is not mistaken for it.
    """

    version: int = 1
    seed: int = 0
    train: int = 60
    test: int = 15
    height: int = 80
    width: int = 96
    frames: tuple[int, int] = (24, 48)
    fps: int = 25


DEFAULT = Settings()


def make(folder: str | os.PathLike, settings: Settings = DEFAULT) -> None:
    """Writes `videos/`, `train.csv` and `test.csv` into a folder, a function of `settings`."""
    if min(settings.height, settings.width) < 48 or settings.height % 2 or settings.width % 2:
        raise JaxvidError("toy videos need an even height and width of at least 48 pixels")
    folder = paths.local(folder, "folder")
    counts = {"train": settings.train, "test": settings.test}
    progress = Progress(sum(counts.values()) * len(CLASSES), "drawing toy videos", "videos")
    number = 0
    for split, count in counts.items():
        (folder / "videos" / split).mkdir(parents=True, exist_ok=True)
        lines = ["path,label"]
        for copy in range(count):
            for name in CLASSES:
                path = f"{split}/{name}_{copy:04d}.mp4"
                rng = np.random.Generator(np.random.Philox(key=[settings.seed, number]))
                write_clip(folder / "videos" / path, draw(name, rng, settings), settings.fps)
                lines.append(f"{path},{name}")
                number += 1
                progress.update()
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    progress.close()


def ensure(
    cache_dir: str | os.PathLike = "", settings: Settings = DEFAULT, flow: str = ""
) -> pathlib.Path:
    """Returns the folder of the toy records, which is made on the first call.

    It lies in `cache_dir`, by default the user's cache, and holds the splits `train` and `test`
    and the clips themselves in `videos/`. Where the optical `flow` is asked for, by the way that
    is first, it is computed beside them.
    """
    cache = paths.local(cache_dir, "data_dir") if cache_dir else paths.cache()
    version = hashlib.sha256(repr((settings, index.VERSION)).encode()).hexdigest()[:12]
    folder = cache / f"toy-{version}"
    flows = [folder / f"{split}.flow.index.npz" for split in ("train", "test")]
    if folder.is_dir() and not (flow and not all(path.exists() for path in flows)):
        return folder
    paths.writable(cache, "data_dir" if cache_dir else "XDG_CACHE_HOME")
    try:
        # All processes of one training come here at once: one draws, the others wait.
        with locks.hold(folder, "", beside=True, wait=True):
            if not folder.is_dir():
                with whole.folder(folder) as unfinished:
                    _fill(unfinished, settings)
            if flow:
                _fill(folder, settings, flow)
    except OSError as error:
        raise JaxvidError(
            f"{cache} cannot be written ({error.strerror}); give the toy dataset another data_dir"
        ) from None
    return folder


def _fill(folder: pathlib.Path, settings: Settings, flow: str = "") -> None:
    if not flow:
        make(folder, settings)
    for split in ("train", "test"):
        build(folder / "videos", folder / f"{split}.csv", folder, workers=1, flow=flow)


def draw(name: str, rng: np.random.Generator, settings: Settings = DEFAULT) -> np.ndarray:
    """Draws a clip of class `name`: uint8 [T, H, W, 3]."""
    height, width = settings.height, settings.width
    length = int(rng.integers(settings.frames[0], settings.frames[1] + 1))
    y, x, radius = _motion(name, rng, length, height, width)
    background = _background(rng, height, width)
    # The disc's texture: stripes of two colours, fixed to it and as large as it is.
    colours = rng.uniform(110, 255, (2, 3))
    angle, waves, phase = rng.uniform(0, [2 * np.pi, 1, 2 * np.pi])
    wave = (2 + 3 * waves) * np.array([np.cos(angle), np.sin(angle)])
    frames = np.empty((length, height, width, 3), np.uint8)
    for t in range(length):
        reach = np.arange(-np.ceil(radius[t]) - 1, np.ceil(radius[t]) + 2)
        rows, columns = np.rint(y[t]) + reach, np.rint(x[t]) + reach
        dy, dx = (rows - y[t])[:, None], columns - x[t]
        cover = np.clip(radius[t] - np.hypot(dy, dx) + 0.5, 0, 1)[..., None]
        stripes = 0.5 + 0.5 * np.sin((wave[0] * dx + wave[1] * dy) / radius[t] + phase)[..., None]
        disc = colours[0] + stripes * (colours[1] - colours[0])
        frames[t] = background
        window = np.ix_(rows.astype(int) % height, columns.astype(int) % width)
        frames[t][window] = np.rint(background[window] + cover * (disc - background[window]))
    return frames


def write_clip(path: pathlib.Path, frames: np.ndarray, fps: int) -> None:
    """Encodes uint8 [T, H, W, 3] as H.264 in MP4; height and width must be even."""
    import av

    with av.open(os.fspath(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # bytes must not depend on the machine's cores
        # x264's macroblock tree gives other bytes from run to run on processors with AVX-512.
        stream.options = {"crf": "16", "preset": "veryfast", "x264-params": "mbtree=0"}
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def _motion(
    name: str, rng: np.random.Generator, length: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws centre and radius of the disc over time: three float arrays [T].

    Every class takes the same draws, so that only how they are used tells it apart.
    """
    t = np.arange(length)
    y, x, size, phase, fast, wide = rng.uniform(0, [height, width, 1, 2 * np.pi, 1, 1])
    still, speed = np.zeros(length), (1.2 + 1.6 * fast) * t
    turn = {"clockwise": 1, "counterclockwise": -1}.get(name, 0)
    around = phase + turn * 2 * np.pi * t / (36 - 14 * fast)
    circle = 12 + 8 * wide if turn else 0.0
    step_x = {"left": -speed, "right": speed}.get(name, still) + circle * np.cos(around)
    step_y = {"up": -speed, "down": speed}.get(name, still) + circle * np.sin(around)
    cycle = {"grow": 1, "shrink": -1}.get(name, 0) * t / (32 - 12 * fast)
    radius = 9 * (21 / 9) ** ((size + cycle) % 1)
    return y + step_y, x + step_x, radius


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a still texture: patches of a few random colours, blended; uint8 [H, W, 3]."""
    from PIL import Image

    patches = rng.uniform(20, 140, (6, 7, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))
