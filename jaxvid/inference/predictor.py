"""A checkpoint ready to answer for videos, through the preprocessing of the published test."""

import concurrent.futures
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid import checkpoint, zoo
from jaxvid import config as configs
from jaxvid.base import finite, paths, text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.config import fields
from jaxvid.config.parts import Config
from jaxvid.data import decode, pipeline
from jaxvid.data import flow as flows
from jaxvid.devices import compiled, placement
from jaxvid.inference import evaluate, explain, features, scoring
from jaxvid.inference.stream import Decoding, newest, windows
from jaxvid.layers import streaming
from jaxvid.layers.preprocess import normalizer
from jaxvid.reports import draw
from jaxvid.rows import CROP_COUNTS, RECORD_SIDE

# What every network is told otherwise than by overrides.
_NOT_OVERRIDDEN = ("name", "parent", "num_classes", "dtype")
_LONGEST = 64  # Items of a network's field that is a list.
VIEWS = ("protocol", "one")
_USUAL_RATE = 30.0  # of a stream that does not tell its own
_CENTER_CROP = {"whole": 0, "center": 0, "left": 0, "three": 2, "ten": 8, "ten_unnegated": 8}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network answered for one video.

    `scores` [classes] are probabilities. `view` uint8 [T, H, W, C] are the pixels of the central
    view as the network saw them, `numbers` [T] those frames' places in the video, of stacked flow
    that of the first frame. `fps` is None where the video does not tell it; `damaged` counts what
    of the file did not decode.
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

    @property
    def pictures(self) -> np.ndarray:
        """The central view to look at, uint8 RGB [T, H, W, 3]: of stacked flow the first pairs."""
        return draw.to_look_at(self.view)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` best classes with their probabilities, best first."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.classes[i], float(self.scores[i])) for i in best]


@dataclasses.dataclass(frozen=True)
class Streamed:
    """What the network answered for a part of a video, from `start` to `end` in its seconds.

    `frames` are how many the answer is of, `milliseconds` what it took, and `skipped` how many
    windows, or frames of a network that carries a state, were passed over to keep up. `ready` is
    the process's monotonic clock when the last frame was there. The view of a prediction with a
    state is the newest frame, and its number that since the state began.
    """

    start: float
    end: float
    frames: int
    prediction: Prediction
    milliseconds: float
    skipped: int
    ready: float


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What of a video goes into the network: views uint8 [V, T, H, W, C]; see `Prediction`."""

    num_frames: int
    fps: float | None
    damaged: int
    views: np.ndarray
    central: int
    numbers: np.ndarray


Video = str | os.PathLike | np.ndarray | list[np.ndarray]


class Predictor:
    """A checkpoint ready to answer: the network, its test protocol and its class names.

    `path` is a converted checkpoint's folder or a training run's; `model` names its row
    where it does not say so itself. `views` is `protocol` (all views of the test) or `one` (its
    central clip and crop: faster, a little less accurate). Where the network takes optical flow,
    this is computed of the video's frames as in its training, or as `flow` says.

    A video is a file, or all frames of a video: uint8 RGB [N, H, W, 3] or a list of [H, W, 3]. Of a
    file only the frames that the protocol samples are kept. `fps` is the rate of given frames; only
    protocols with a target rate look at it. With `ahead`, what answers for whole videos is compiled
    by a thread, while the weights are read and the first one is decoded. `JaxvidError` says that a
    file cannot be read or that an array is not a video.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        model: str | None = None,
        views: str = "protocol",
        flow: str | None = None,
        ahead: bool = False,
    ):
        if views not in VIEWS:
            raise JaxvidError(f"views={views!r} is unknown: take {' or '.join(VIEWS)}")
        meta = checkpoint.load_meta(path)
        self._path = path
        self.config = make_config(meta, model, path)
        self._flow = flow or self.config.data.flow
        if flow and not self.config.data.flow:
            raise JaxvidError(f"{self.config.model.name} takes RGB: leave the flow {flow} out")
        if self._flow:
            flows.estimator(self._flow)  # Says now what is not installed.
        if views == "one":
            self.config = one_view(self.config)
        self.protocol = pipeline.make_protocol(self.config.test)
        self.classes = class_names(meta, self.config)
        self._one = views == "one"
        self._network = evaluate.make_network(self.config.model, len(self.classes))
        self._prepare = normalizer(self.config.data)
        self._clip_shape = self.protocol.view
        self._score = scoring.make_scorer(
            self._network,
            self.config.test,
            self.config.train.loss,
            self._prepare,
            placement.make_mesh(jax.local_devices()[:1]),
            self.config.model.matmul_precision,
        )
        # Before the weights are read, which takes a while.
        expected = expected_variables(self._network, self._clip_shape, path)
        usual = not meta.get("new") and not pipeline.untrimmed(self.protocol)
        compiling = self._compiling(expected) if ahead and usual else None
        variables = checkpoint.load_finite(path)
        self._lacking = lacking(meta, variables)
        if self._lacking and all(name.split("/")[1:2] == ["head"] for name in self._lacking):
            variables = _with_zeros(self._network, variables, self._clip_shape, self._lacking)
        else:
            refuse_trunk(path, self._lacking)
        check_variables(expected, variables, path)
        self._variables = jax.device_put(variables)
        given, usual_types = (
            jax.tree.map(lambda leaf: leaf.dtype, each) for each in (variables, expected)
        )
        self._compiled = compiling if given == usual_types else None
        # Larger videos are shrunk while decoding, as for records.
        default = max(RECORD_SIDE, self.protocol.short_side)
        self.short_side = meta.get("short_side", default)
        self._carries = streaming.can_stream(self._network) and not self._flow
        self._carry = scoring.make_stepper(
            self._network,
            self.config.test,
            self.config.train.loss,
            self._prepare,
            self.config.model.matmul_precision,
        )

    def _compiling(self, variables: dict) -> concurrent.futures.Future[jax.stages.Compiled]:
        """What will be the compiled `_score`, of variables of these shapes."""
        count, *clip = pipeline.views_shape(self.protocol)
        if self._one:
            count = CROP_COUNTS[self.protocol.crops]
        video = jax.ShapeDtypeStruct((1, count, *clip), jnp.uint8)
        # Traced here, where JAX's settings are those of the caller.
        lowered = cast(jax.stages.Wrapped, self._score).lower(variables, video)
        return compiled.ahead(lowered)

    def require_classifier(self) -> None:
        """Raises `JaxvidError` where the checkpoint is a trunk, which has features only."""
        refuse_trunk(self._path, self._lacking, len(self.classes))

    def scores(self, video: Video, fps: float | None = None) -> np.ndarray:
        """Probabilities float32 [classes] of a video."""
        return self.predict(video, fps).scores

    def predict(self, video: Video, fps: float | None = None) -> Prediction:
        """Answers for a video."""
        self.require_classifier()
        seen = self._look(video, fps)
        score = self._compiled.result() if self._compiled else self._score
        scores = np.asarray(score(self._variables, jnp.asarray(seen.views[None])))[0]
        _check_answer(video, scores)
        return Prediction(
            num_frames=seen.num_frames,
            fps=seen.fps,
            scores=scores,
            classes=self.classes,
            view=seen.views[seen.central],
            numbers=seen.numbers,
            damaged=seen.damaged,
        )

    def stream(
        self, video: str | os.PathLike, seconds: float, stride: float, live: bool = False
    ) -> Iterator[Streamed]:
        """Answers for the last `seconds` of a video, every `stride` seconds of it.

        A causal network is given each frame once, as many a second as its test takes, and carries
        its state: an answer is of the frames since the state began, at most `seconds` ago, when it
        begins anew. Other networks are given windows of `seconds`, also where `stride` is longer.
        A `live` video is a camera or standard input, see `decode.Video`; of what comes faster than
        it can be answered the newest is taken.
        """
        carries = self._carries and stride <= seconds
        answers = self._carried if carries else self._windows
        if live:
            # Compile before the stream is opened: the first answers would wait for it.
            nothing = np.zeros((64, 64, 3), np.uint8)
            if carries:
                self._step(None, nothing)
            else:
                self.predict([nothing] * 2)
        opened = (
            decode.Video(video, self.short_side, live=True)
            if live
            else decode.opened(video, self.short_side)
        )
        # A thread may still read a stream that is given up.
        with contextlib.nullcontext() if live else opened:
            yield from answers(opened, seconds, stride, live)

    def _windows(
        self, video: Decoding, seconds: float, stride: float, live: bool
    ) -> Iterator[Streamed]:
        """An answer for each window."""
        for window, skipped in newest(windows(video, seconds, stride, live), live):
            began = time.monotonic()
            prediction = self.predict(window.frames, window.fps)
            took, count = 1000 * (time.monotonic() - began), len(window.frames)
            yield Streamed(window.start, window.end, count, prediction, took, skipped, window.ready)

    def _carried(
        self, video: Decoding, seconds: float, stride: float, live: bool
    ) -> Iterator[Streamed]:
        """An answer every `stride` seconds, of a state that each frame changes."""
        interval = self._interval(seconds, video.info().fps)
        state: streaming.State | None = None
        waiting: Streamed | None = None
        start, answered, count, skipped, took = 0.0, 0.0, 0, 0, 0.0
        for tick, passed in newest(windows(video, interval, interval, live), live):
            if state is None:
                start, count = tick.start, 0
            began = time.monotonic()
            scores, state, view = self._step(state, tick.frames[-1])
            took += 1000 * (time.monotonic() - began)
            count, skipped = count + 1, skipped + passed
            seen = Prediction(count, tick.fps, scores, self.classes, view, np.array([count - 1]))
            waiting = Streamed(start, tick.end, count, seen, took, skipped, tick.ready)
            # Answers are due between frames: the nearest one counts.
            if tick.end > answered + stride - interval / 2:
                yield waiting
                waiting, answered, skipped, took = None, tick.end, 0, 0.0
                if answered + stride > start + seconds + interval / 2:
                    state = None
        if waiting:
            yield waiting

    def _interval(self, seconds: float, fps: float) -> float:
        """Seconds from one frame to the next that the network is given."""
        sampling = self.protocol.sampling
        if sampling.clip_len > 1 and sampling.sampler in ("frames", "timed"):
            rate = sampling.target_fps or (fps if fps > 0 else _USUAL_RATE)
            return sampling.frame_interval / rate
        return seconds / sampling.length

    def _step(
        self, state: streaming.State | None, frame: np.ndarray
    ) -> tuple[np.ndarray, streaming.State, np.ndarray]:
        """Scores [classes], the state behind a frame uint8 [H, W, 3], and its central view."""
        views = pipeline.make_views(frame[None], np.zeros((1, 1), int), self.protocol)
        if state is None:
            clips = jax.ShapeDtypeStruct(views.shape, jnp.float32)
            state = streaming.begin(self._network, self._variables, clips)
        answer, state = self._carry(self._variables, state, jnp.asarray(views))
        scores = np.asarray(answer)
        _check_answer("the stream", scores)
        return scores, state, views[_CENTER_CROP[self.protocol.crops]]

    def extractor(
        self, names: Sequence[str], pooled: bool = True
    ) -> Callable[..., dict[str, np.ndarray]]:
        """A function of a video (and `fps`) to the network's intermediates of these names.

        Pooled ones are float32 [C], the mean over all views and positions; others
        [V, T', H', W', C'], or as many axes as they have.

        Raises:
          JaxvidError: the network has no intermediate of a name; those it has are listed.
        """
        extract = features.make_extractor(
            self._network,
            self._prepare,
            self.config.test.views_per_step,
            names,
            pooled,
            self._variables,
            self._clip_shape,
        )

        def run(video: Video, fps: float | None = None) -> dict[str, np.ndarray]:
            found = extract(self._variables, self._look(video, fps).views)
            for array in found.values():
                _check_answer(video, array)
            return found

        return run

    def explain(self, prediction: Prediction, at: str | None = None) -> tuple[np.ndarray, str]:
        """Where in the central view of a prediction its best class was seen.

        `at` is the intermediate to compute it at: earlier ones are finer, but know less of the
        class than the last one with a spatial map, which is the default.

        Returns:
          Heat float32 [T, H, W] in 0..1, the view's own size, and the name of the intermediate
          that it was computed at; see `jaxvid.inference.explain`.
        """

        def apply(variables: Any, clip: jax.Array) -> Any:
            return self._network.apply(variables, clip, train=False)

        clip = self._prepare(jnp.asarray(prediction.view[None]))
        label = int(prediction.scores.argmax())
        heat, name = explain.grad_cam(apply, self._variables, clip, label, at)
        _check_answer("the view", np.asarray(heat))
        return explain.enlarge(heat, prediction.view.shape[:3]), name

    def _look(self, video: Video, fps: float | None) -> _Seen:
        """Samples, decodes, resizes and crops as the test does."""
        if isinstance(video, np.ndarray) and (
            video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3
        ):
            raise JaxvidError(
                f"the frames are {video.dtype} {list(video.shape)}: give uint8 RGB [N, H, W, 3]"
            )
        if isinstance(video, (np.ndarray, list)):
            total, damaged = len(video), 0
        else:
            video = paths.local(video, "video")
            info = decode.survey(video)
            total, fps, damaged = info.num_frames, info.fps, info.damaged
        if self._flow and total < 2:
            name = video if isinstance(video, str | os.PathLike) else "the video"
            raise JaxvidError(f"{name} has {total} frames, and optical flow is between two")
        fps = float(fps) if fps and fps > 0 else None
        # Records keep the rate in single precision: rounded alike, both sample the same frames.
        rate = float(np.float32(fps)) if fps else None
        pairs = total - 1 if self._flow else total
        numbers, clips = pipeline.plan_test(self.protocol, pairs, rate)
        if self._one:
            numbers, clips = _middle_clip(numbers, clips)
        frames = self._frames(video, numbers)
        if not isinstance(video, (np.ndarray, list)) and decode.misled(video):
            return self._look(video, None)  # Now all of it is decoded first.
        middle = _middle(len(clips))
        depth = clips.shape[1] // self._clip_shape[0]
        return _Seen(
            num_frames=total,
            fps=fps,
            damaged=damaged,
            views=pipeline.make_views(frames, clips, self.protocol),
            central=_CENTER_CROP[self.protocol.crops] * len(clips) + middle,
            numbers=numbers[clips[middle]][::depth],
        )

    def _frames(self, video: Video, numbers: np.ndarray) -> np.ndarray:
        """The frames of these numbers, or the flow from each to its next: uint8 [N, H, W, C]."""
        if isinstance(video, (np.ndarray, list)):
            if self._flow:
                return flows.pairs_of(video, numbers, self._flow, self.short_side)
            return np.stack([video[number] for number in numbers])
        if self._flow:
            return flows.pairs_at(video, numbers, self._flow, self.short_side)
        return decode.frames_at(video, numbers, self.short_side)


def _check_answer(video: Video, answer: np.ndarray) -> None:
    """Refuses what a network answered where that is no number."""
    bad = finite.count(answer)
    if bad:
        name = video if isinstance(video, str | os.PathLike) else "these frames"
        raise JaxvidError(
            f"the network's answer for {name} is not finite ({bad} of {answer.size} numbers are "
            "NaN or infinite): its weights are those of a training that diverged, so take another "
            "checkpoint"
        )


def make_config(meta: dict[str, Any], model: str | None, path: str | os.PathLike) -> Config:
    """The config of a checkpoint's network and test, from what it says of itself and its row.

    Raises:
      JaxvidError: `model` and the checkpoint contradict each other, or neither names a row.
    """
    said = meta.get("row") or meta.get("variant")
    name = said or model
    if not name:
        raise JaxvidError(f"{path} does not say of which model it is: add --model=NAME")
    if said and model and model not in (said, meta.get("variant")):
        row = zoo.starting_row(model)
        if row.name != said:
            raise JaxvidError(
                f"--model={model} contradicts {path}, which is a checkpoint of {said}: leave "
                "--model out, or give another --checkpoint"
            )
    if zoo.pretrains(name):
        raise JaxvidError(
            f"{path} is a checkpoint of {name}, which has no classes: fine-tune from it, with init="
        )
    config = configs.from_row(name)
    try:
        if "overrides" in meta:
            _check_overrides(name, meta["overrides"])
            config.model.overrides = ml_collections.ConfigDict(meta["overrides"])
        if "num_classes" in meta:
            config.model.num_classes = meta["num_classes"]
        for field in ("mean", "std"):
            if len(meta.get(field, config.data[field])) != len(config.data[field]):
                raise JaxvidError(f"{field} has {len(meta[field])} numbers")
            config.data[field] = tuple(meta.get(field, config.data[field]))
        config.data.channel_order = meta.get("channel_order", config.data.channel_order)
        config.data.flow = meta.get("flow", config.data.flow)
        config.train.loss = meta.get("loss", config.train.loss)
        # The row's own group would take no value of another type, nor say so in a sentence.
        test = config.test.to_dict() | meta.get("test", {})
        if isinstance(test["sampling"], dict):
            test["sampling"] = config.test.sampling.to_dict() | test["sampling"]
        config.test = ml_collections.ConfigDict(test)
        frozen = fields.freeze(config)
        for place, named in enumerate(meta.get("classes") or ()):
            text.one_line(named, f"class {place}", "class name")
    except (JaxvidError, TypeError, ValueError, AttributeError) as error:
        raise JaxvidError(
            f"{checkpoint.find(path) / checkpoint.RECORD} says what no config may say ({error}): "
            "copy the checkpoint or write it again"
        ) from error
    return frozen


def _check_overrides(name: str, overrides: dict[str, Any]) -> None:
    """Refuses fields of a network that are not like its own, or make one without end."""
    own = zoo.create_model(name)

    def is_like(value: Any, like: Any) -> bool:
        if isinstance(value, list | tuple):
            first = like[0] if isinstance(like, list | tuple) and like else None
            return len(value) <= _LONGEST and all(is_like(item, first) for item in value)
        if isinstance(like, bool) or isinstance(value, bool):
            return isinstance(value, bool) and isinstance(like, bool | None)
        if isinstance(value, int | float):
            most = max(4 * like, 256) if isinstance(like, int) and like > 0 else 4096
            return isinstance(like, int | float | None) and 0 <= value <= most
        return value is None or isinstance(value, str) and isinstance(like, str | None)

    for field, value in overrides.items():
        like = getattr(own, field, None)
        if field in _NOT_OVERRIDDEN or not is_like(value, like):
            raise JaxvidError(
                f"overrides has {text.quoted(field)} = {text.quoted(repr(value), 40)}, which is "
                f"not like the network's own, {like!r}"
            )


def class_names(meta: dict[str, Any], config: Config) -> tuple[str, ...]:
    """The names of a checkpoint's classes: its own, else its row's dataset's, else numbers."""
    row = zoo.starting_row(config.model.name)
    count = config.model.num_classes or row.num_classes
    names = meta.get("classes")
    if not names and row.dataset:
        names = zoo.labels(row.dataset)
    if not names or len(names) != count:
        return tuple(f"class {i}" for i in range(count))
    return tuple(names)


def lacking(meta: dict[str, Any], variables: dict) -> list[str]:
    """The paths that a checkpoint of a trunk leaves to training; none of a whole network."""
    there = flax.traverse_util.flatten_dict(variables, sep="/")
    return [name for name in meta.get("new") or () if name not in there]


def refuse_trunk(path: str | os.PathLike, lacking: Sequence[str], classes: int = 1) -> None:
    """Says in one sentence that there is nothing that would answer.

    Raises:
      JaxvidError: `lacking`, the paths that are left to training, are some, or there are no
        `classes`.
    """
    if lacking or not classes:
        raise JaxvidError(
            f"{path} holds a trunk without a classifier: train from it first, with init= and "
            "--mode=train"
        )


def _with_zeros(
    network: Any, variables: dict, clip_shape: tuple[int, ...], names: Sequence[str]
) -> dict:
    """Completes variables with zeros, which features do not see."""
    clip = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
    leaves = flax.traverse_util.flatten_dict(
        jax.eval_shape(lambda x: network.init(jax.random.key(0), x), clip), sep="/"
    )
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    missing = {name: leaves[name] for name in names if name in leaves}
    flat |= {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in missing.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _middle(clips: int) -> int:
    return (clips - 1) // 2


def _middle_clip(numbers: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduces a test's plan to its middle clip."""
    numbers, places = np.unique(numbers[clips[_middle(len(clips))]], return_inverse=True)
    return numbers, places.reshape(1, -1)


def one_view(config: Config) -> Config:
    """The config with the protocol's central or only crop, and of spread clips the middle one."""
    test = config.test
    crops = "center" if CROP_COUNTS[test.crops] > 1 else test.crops
    sampling = dataclasses.replace(test.sampling, twice_sample=False)
    several = sampling.sampler == "frames" and sampling.clip_len > 1
    if several or sampling.sampler in ("timed", "uniform"):
        sampling = dataclasses.replace(sampling, num_clips=1)
    test = dataclasses.replace(test, crops=crops, sampling=sampling)
    return dataclasses.replace(config, test=test)


def expected_variables(network: Any, clip_shape: tuple[int, ...], path: str | os.PathLike) -> dict:
    """Shapes and types of a network's variables, as a checkpoint holds them.

    Raises:
      JaxvidError: the network of the checkpoint at `path` cannot be made.
    """
    clip = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
    try:
        shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), clip)
    except JaxvidError:
        raise
    # The fields that a checkpoint may override fit together in ways that only networks know.
    except Exception as error:
        reason = text.quoted(f"{type(error).__name__}: {error}".partition("\n")[0])
        raise JaxvidError(
            f"{path} describes a network that cannot be made ({reason}): copy the checkpoint or "
            "write it again"
        ) from error
    return {"params": {}, "batch_stats": {}} | shapes


def check_variables(expected: dict, variables: dict, path: str | os.PathLike) -> None:
    """Says in one sentence that a checkpoint is another network's."""
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
        raise JaxvidError(
            f"{path} is not a checkpoint of this network, convert it again or give its own "
            f"--model: {listed(problems)}"
        )
