"""Any video file or folder of videos to labels, through the preprocessing of the published test.

python -m jaxvid.predict --checkpoint=runs/tsm --video=clip.mp4

In a notebook:

    predictor = predict.Predictor("runs/tsm")
    predictor.scores("clip.mp4")            # [classes], in the order of predictor.classes
    predictor.predict("clip.mp4").top(5)    # [("pulling", 0.91), ...]
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid import checkpoint, draw, evaluate, zoo
from jaxvid import config as configs
from jaxvid.data import decode, pipeline
from jaxvid.errors import JaxvidError, exit_on_error
from jaxvid.progress import Progress

# fmt: off
EXTENSIONS = (
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".qt", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
)
# fmt: on
"""What a video's name ends in, where a folder is searched."""

VIEWS = ("protocol", "one")
STORED_SHORT_SIDE = 320
"""Larger videos are shrunk to it while decoding, as `jaxvid.data.build` does by default. Where the
protocol asks for more, to that; where a checkpoint says what its records had, to that."""

_CENTER_CROP = {"whole": 0, "center": 0, "three": 2, "ten": 8}
_PICTURE_FRAMES = 8
_PICTURE_ANSWERS = 10


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network answered for one video.

    `scores` [classes] are probabilities. `view` uint8 [T, H, W, 3] are the pixels of the central
    view as the network saw them, `numbers` [T] those frames' places in the video. `fps` is None
    where the video does not tell it; `damaged` counts what of the file did not decode.
    """

    num_frames: int
    fps: float | None
    scores: np.ndarray
    classes: tuple[str, ...]
    view: np.ndarray
    numbers: np.ndarray
    damaged: int = 0

    @property
    def seconds(self) -> float | None:
        """The video's duration, where its frame rate is known."""
        return self.num_frames / self.fps if self.fps else None

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` best classes with their probabilities, best first."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.classes[i], float(self.scores[i])) for i in best]


class Predictor:
    """A checkpoint ready to answer: the network, its test protocol and its class names.

    `path` is a converted checkpoint's folder or a training run's; `model` names its row
    where it does not say so itself. `views` is `protocol` (all views of the test) or `one` (its
    central clip and crop: faster, a little less accurate).
    """

    def __init__(self, path: str | os.PathLike, model: str | None = None, views: str = "protocol"):
        if views not in VIEWS:
            raise JaxvidError(f"views={views!r} is unknown: take {' or '.join(VIEWS)}")
        meta = checkpoint.load_meta(path)
        self.config = make_config(meta, model, path)
        if views == "one":
            _keep_one_view(self.config)
        self.protocol = pipeline.make_protocol(self.config)
        self.classes = class_names(meta, self.config)
        self._one = views == "one"
        network = zoo.create_model(
            self.config.model.name, len(self.classes), None, **self.config.model.overrides
        )
        variables = checkpoint.load(path)
        _, clips = pipeline.plan_test(self.protocol, 1, None)
        size = self.protocol.crop
        _check_variables(network, variables, (clips.shape[1], size, size, 3), path)
        self._variables = jax.device_put(variables)
        default = max(STORED_SHORT_SIDE, self.protocol.short_side)
        self._short_side = meta.get("short_side", default)
        self._score = evaluate.make_scorer(network, self.config)

    def scores(self, video: str | os.PathLike | np.ndarray, fps: float | None = None) -> np.ndarray:
        """Probabilities float32 [classes] of a video; see `predict`."""
        return self.predict(video, fps).scores

    def predict(
        self, video: str | os.PathLike | np.ndarray, fps: float | None = None
    ) -> Prediction:
        """Answers for a video file, or for all frames of a video: uint8 RGB [N, H, W, 3].

        Of a file only the frames that the protocol samples are kept. `fps` is the rate of given
        frames; only protocols with a target rate look at it.

        Raises:
          JaxvidError: the file cannot be read, or the array is not a video.
        """
        if isinstance(video, np.ndarray):
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
                raise JaxvidError(
                    f"the frames are {video.dtype} {list(video.shape)}: give uint8 RGB [N, H, W, 3]"
                )
            total, damaged = len(video), 0
        else:
            info = decode.probe(video)
            total, fps, damaged = info.num_frames, info.fps, info.damaged
        fps = float(fps) if fps and fps > 0 else None
        # Records keep the rate in single precision: rounded alike, both sample the same frames.
        rate = float(np.float32(fps)) if fps else None
        numbers, clips = pipeline.plan_test(self.protocol, total, rate)
        if self._one:
            numbers, clips = _middle_clip(numbers, clips)
        if isinstance(video, np.ndarray):
            frames = video[numbers]
        else:
            frames = decode.frames_at(video, numbers, self._short_side)
        views = pipeline.make_views(frames, clips, self.protocol)
        scores = np.asarray(self._score(self._variables, jnp.asarray(views[None])))[0]
        middle = _middle(len(clips))
        return Prediction(
            num_frames=total,
            fps=fps,
            scores=scores,
            classes=self.classes,
            view=views[_CENTER_CROP[self.protocol.crops] * len(clips) + middle],
            numbers=numbers[clips[middle]],
            damaged=damaged,
        )


def make_config(
    meta: dict[str, Any], model: str | None, path: str | os.PathLike
) -> ml_collections.ConfigDict:
    """The config of a checkpoint's network and test, from what it says of itself and its row.

    Raises:
      JaxvidError: `model` and the checkpoint contradict each other, neither names a row, or the
        row takes other input than RGB frames.
    """
    said = meta.get("row") or meta.get("variant")
    if not said and not model:
        raise JaxvidError(f"{path} does not say of which model it is: add --model=NAME")
    if said and model and model not in (said, meta.get("variant")):
        row = zoo.starting_row(model)
        if row.name != said:
            raise JaxvidError(
                f"--model={model} contradicts {path}, which is a checkpoint of {said}: leave "
                "--model out, or give another --checkpoint"
            )
    name = said or model
    row = zoo.starting_row(name)
    if row.modality != "rgb":
        raise JaxvidError(
            f"{name} takes {row.modality}, not the RGB frames of a video file: take an RGB model"
        )
    config = configs.from_row(name)
    if "overrides" in meta:
        config.model.overrides = ml_collections.ConfigDict(meta["overrides"])
    if "num_classes" in meta:
        config.model.num_classes = meta["num_classes"]
    for field in ("mean", "std"):
        if field in meta:
            config.data[field] = tuple(meta[field])
    config.test.update(meta.get("test", {}))
    return config


def class_names(meta: dict[str, Any], config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The names of a checkpoint's classes: its own, else its row's dataset's, else numbers."""
    row = zoo.starting_row(config.model.name)
    count = config.model.num_classes or row.num_classes
    names = meta.get("classes")
    if not names and row.dataset:
        names = zoo.labels(row.dataset)
    if not names or len(names) != count:
        return tuple(f"class {i}" for i in range(count))
    return tuple(names)


def find_videos(path: str | os.PathLike) -> tuple[list[pathlib.Path], int]:
    """The video files of a folder and all below it, sorted, and how many other files there are.

    A file stands for itself, whatever its name ends in.

    Raises:
      JaxvidError: there is no such file or folder, or no video in the folder.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        if not path.exists():
            raise JaxvidError(f"--video={path} does not exist: give a video file or a folder")
        return [path], 0
    files = [pathlib.Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    videos = [
        file
        for file in files
        # What begins with a dot is a system's note about a file, not a video.
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
    ]
    if not videos:
        raise JaxvidError(
            f"--video={path} holds no file that ends as a video does (.mp4, .avi, .mkv, ...): "
            "name a file to have it read whatever its ending"
        )
    return sorted(videos), len(files) - len(videos)


def _middle(clips: int) -> int:
    return (clips - 1) // 2


def _middle_clip(numbers: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduces a test's plan to its middle clip."""
    numbers, places = np.unique(numbers[clips[_middle(len(clips))]], return_inverse=True)
    return numbers, places.reshape(1, -1)


def _keep_one_view(config: ml_collections.ConfigDict) -> None:
    """Takes the protocol's central crop, and of spread clips the middle one."""
    if config.test.crops != "whole":
        config.test.crops = "center"
    sampling = config.test.sampling
    sampling.twice_sample = False
    if sampling.sampler == "uniform" or (sampling.sampler == "frames" and sampling.clip_len > 1):
        sampling.num_clips = 1


def _check_variables(
    network: Any, variables: dict, clip_shape: tuple[int, ...], path: str | os.PathLike
) -> None:
    """Says in one sentence that a checkpoint is another network's."""
    clip = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
    expected = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), clip)
    expected = flax.traverse_util.flatten_dict(expected, sep="/")
    given = flax.traverse_util.flatten_dict(variables, sep="/")
    problems = [f"{name} is missing" for name in expected if name not in given]
    problems += [f"{name} is too many" for name in given if name not in expected]
    problems += [
        f"{name} is {list(given[name].shape)}, not {list(leaf.shape)}"
        for name, leaf in expected.items()
        if name in given and given[name].shape != leaf.shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise JaxvidError(
            f"{path} is not a checkpoint of this network, convert it again or give its own "
            f"--model: {'; '.join(problems[:5])}{more}"
        )


def _picture_paths(root: pathlib.Path, videos: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Where the videos' pictures go, relative to a folder: their own places below `root`.

    A picture is called as its video up to the ending, or with it where two would be the same.
    """
    base = root if root.is_dir() else root.parent
    inside = [video.relative_to(base) for video in videos]
    counts = collections.Counter(path.with_suffix("") for path in inside)
    return [
        path.with_name((path.stem if counts[path.with_suffix("")] == 1 else path.name) + ".png")
        for path in inside
    ]


def _write_picture(prediction: Prediction, name: str, top: int, path: pathlib.Path) -> None:
    count = len(prediction.view)
    shown = np.unique(np.linspace(0, count - 1, min(count, _PICTURE_FRAMES)).round().astype(int))
    numbers = prediction.numbers[shown]
    fps = prediction.fps
    captions = [f"{n / fps:.2f} s" if fps else f"frame {n}" for n in numbers.tolist()]
    title = f"{name}: {_length(prediction)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw.strip(prediction.view[shown], prediction.top(top), path, title, captions)
    except OSError as error:
        raise JaxvidError(
            f"cannot write the picture {path} ({error.strerror or error}): choose another --out"
        ) from None


def _length(prediction: Prediction) -> str:
    text = f"{prediction.num_frames} frames"
    if prediction.fps:
        text += f", {prediction.fps:.4g} fps, {prediction.seconds:.1f} s"
    if prediction.damaged:
        text += f"; damaged or missing packets: {prediction.damaged}"
    return text


def _text(
    path: pathlib.Path, prediction: Prediction, top: int, picture: pathlib.Path | None
) -> str:
    answers = prediction.top(top)
    width = max(len(label) for label, _ in answers)
    lines = [f"{path}  ({_length(prediction)})"]
    for label, score in answers:
        bar = "#" * round(20 * score)
        lines.append(f"  {100 * score:5.1f} %  {label:<{width}}  {bar}".rstrip())
    if picture:
        lines.append(f"  picture: {picture}")
    return "\n".join(lines)


def _json(
    path: pathlib.Path,
    prediction: Prediction,
    top: int,
    picture: pathlib.Path | None,
    milliseconds: float,
) -> str:
    answer: dict[str, Any] = {
        "path": str(path),
        "frames": prediction.num_frames,
        "fps": prediction.fps,
        "duration": prediction.seconds,
        "damaged": prediction.damaged,
        "answers": [{"label": label, "score": score} for label, score in prediction.top(top)],
        "milliseconds": round(milliseconds, 1),
    }
    if picture:
        answer["picture"] = str(picture)
    return json.dumps(answer, ensure_ascii=False)


def _refusal(path: pathlib.Path, error: JaxvidError, as_json: bool) -> str:
    if as_json:
        return json.dumps({"path": str(path), "error": str(error)}, ensure_ascii=False)
    return f"{path}\n  no answer: {error}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.predict",
        description="Say what is seen in a video, or in every video of a folder.",
        epilog="The exit code is 0 only if every video was answered.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a converted checkpoint's folder, or the workdir of a training run (its best one)",
    )
    parser.add_argument(
        "--video", required=True, metavar="PATH", help="a video file, or a folder to search"
    )
    parser.add_argument("--model", metavar="NAME", help="the row, if the checkpoint does not say")
    parser.add_argument("--top", type=int, default=5, help="how many answers (default 5)")
    parser.add_argument(
        "--views",
        choices=VIEWS,
        default="protocol",
        help="all views of the published test, or only its central one (default protocol)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line and video on standard output, the rest on standard error; "
        "pictures only with --picture or --out",
    )
    parser.add_argument(
        "--picture", metavar="FILE.png", help="where a single video's picture goes, exactly"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder of pictures, one a video (default predictions)"
    )
    return parser


def _pictures(args: argparse.Namespace, videos: list[pathlib.Path]) -> list[pathlib.Path | None]:
    """Where each video's picture goes, or None for no pictures."""
    if args.picture:
        if pathlib.Path(args.video).is_dir():
            raise JaxvidError("--picture is for a single video: use --out for a folder of them")
        if not args.picture.lower().endswith(".png"):
            raise JaxvidError(f"--picture={args.picture} must end in .png: pictures are PNGs")
        return [pathlib.Path(args.picture)]
    if args.json and not args.out:
        return [None] * len(videos)
    folder = pathlib.Path(args.out or "predictions")
    return [folder / path for path in _picture_paths(pathlib.Path(args.video), videos)]


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and answers for every video; see `--help`."""
    args = _parser().parse_args(argv)
    if args.top < 1:
        raise JaxvidError(f"--top={args.top} must be 1 or more")
    videos, others = find_videos(args.video)
    pictures = _pictures(args, videos)
    predictor = Predictor(args.checkpoint, args.model, args.views)
    if others:
        print(f"{args.video}: files left out as no videos: {others}", file=sys.stderr)
    progress = Progress(len(videos), "predict", "videos") if len(videos) > 1 else None
    refused = []
    for video, picture in zip(videos, pictures, strict=True):
        began = time.monotonic()
        try:
            prediction = predictor.predict(video)
        except JaxvidError as error:
            refused.append(str(error))
            line = _refusal(video, error, args.json)
        else:
            milliseconds = 1000 * (time.monotonic() - began)
            if picture:
                _write_picture(prediction, video.name, min(args.top, _PICTURE_ANSWERS), picture)
            if args.json:
                line = _json(video, prediction, args.top, picture, milliseconds)
            else:
                line = _text(video, prediction, args.top, picture)
        if progress:
            progress.clear()
        if args.json or progress or not refused:
            print(line, flush=True)
        if progress:
            progress.update()
    if progress:
        progress.close()
    if refused:
        summary = f"{len(refused)} of {len(videos)} videos have no answer:"
        raise JaxvidError("\n  ".join([summary, *refused]) if progress else refused[0])


if __name__ == "__main__":
    with exit_on_error():
        main()
