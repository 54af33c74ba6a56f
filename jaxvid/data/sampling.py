"""Which frames of a video are looked at: the published samplers as index arithmetic.

Only numpy is needed here, so that anyone may ask for frame numbers without loading TensorFlow.
"""

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.rows import Sampling


def sample(
    sampling: Sampling,
    total_frames: int,
    fps: float | None = None,
    *,
    test: bool,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Draws the frame numbers of a video's clips.

    Args:
        sampling: the sampler and its settings.
        total_frames: length of the video in frames, at least 1.
        fps: its frame rate; only samplers with a `target_fps` look at it.
        test: whether the deterministic test mode is meant.
        rng: source of the draws; training needs one.

    Returns:
        int64 `[clips, clip_len]`, each in `0 .. total_frames - 1`.
    """
    if total_frames < 1:
        raise JaxvidError(
            f"total_frames is {total_frames}, but a video needs at least 1 frame to sample from"
        )
    if sampling.sampler not in _SAMPLERS:
        raise JaxvidError(
            f"sampler {sampling.sampler!r} is unknown: choose one of {', '.join(_SAMPLERS)}"
        )
    if not test and rng is None:
        raise JaxvidError("training mode draws at random: pass a numpy Generator as `rng`")
    return _SAMPLERS[sampling.sampler](sampling, total_frames, fps, None if test else rng)


def sample_views(
    sampling: Sampling,
    total_frames: int,
    fps: float | None = None,
    *,
    test: bool,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Draws frame numbers as a network sees them: int64 `[views, T]`.

    A clip is a view, except where clips are single frames: then `num_clips` of them are the
    segments of one view of a frame net. So are stacks and the clips of `segments`, whose frames
    follow one another.
    """
    clips = sample(sampling, total_frames, fps, test=test, rng=rng)
    if sampling.clip_len == 1 and sampling.sampler in ("frames", "dense"):
        return clips.reshape(-1, sampling.num_clips)
    if sampling.sampler in ("stacks", "segments"):
        return clips.reshape(-1, sampling.num_clips * sampling.clip_len)
    return clips


def _frames(
    sampling: Sampling, total: int, fps: float | None, rng: np.random.Generator | None
) -> np.ndarray:
    """Clips spread evenly over the video."""
    length, clips = sampling.clip_len, sampling.num_clips
    steps = np.arange(length) * sampling.frame_interval
    if sampling.target_fps is not None:
        # Frames are spread over what the clip would span at the target rate (PySlowFast).
        ratio = fps / sampling.target_fps if fps else 1.0
        span = max(1.0, length * sampling.frame_interval * ratio)
        steps = np.linspace(0, span - 1, length).astype(np.int64)
    elif rng is None:
        span = (length - 1) * sampling.frame_interval + 1
    else:
        span = length * sampling.frame_interval
    if rng is not None:
        starts = _train_starts(clips, total, span, sampling.keep_tail_frames, rng)
    elif length == 1:
        edges = np.arange(clips) * (total / clips)
        starts = edges + total / clips / 2
        if sampling.twice_sample:
            starts = np.concatenate([starts, edges])
    else:
        starts = _test_starts(sampling, max(total - span, 0))
    return _wrap(starts[:, None] + steps, total, sampling.out_of_bound)


def _test_starts(sampling: Sampling, room: float) -> np.ndarray:
    """First frames of evenly spread clips, where `room` is the last possible one."""
    clips = sampling.num_clips * (2 if sampling.twice_sample else 1)
    if clips == 1:
        return np.array([room // 2])
    if sampling.num_clips == 1:
        raise JaxvidError("twice_sample of clips needs num_clips of at least 2")
    # The published numbers space twice as many clips as if there were half of them.
    spacing = room / (sampling.num_clips - 1)
    if sampling.target_fps is not None:
        return np.arange(clips) * np.floor(spacing)
    return np.round(np.arange(clips) * spacing)


def _timed(
    sampling: Sampling, total: int, fps: float | None, rng: np.random.Generator | None
) -> np.ndarray:
    """Clips of a span of time, from the starts of `num_clips` equal parts of what they leave."""
    target = sampling.target_fps
    ratio = fps / target if fps and target else 1.0
    span = sampling.clip_len * sampling.frame_interval * ratio
    room = max(total - span, 0.0)
    clips = sampling.num_clips
    if rng is not None:
        starts: np.ndarray = rng.uniform(0, room, clips)
    else:
        starts = np.arange(clips) * (room / clips) if clips > 1 else np.array([room / 2])
    steps = np.linspace(0, max(span - 1, 0.0), sampling.clip_len)
    return np.clip(starts[:, None] + steps, 0, total - 1).astype(np.int64)


def _train_starts(
    clips: int, total: int, span: float, keep_tail: bool, rng: np.random.Generator
) -> np.ndarray:
    """First frames of one random clip in each of `clips` equal parts of the video."""
    room = total - span + 1
    if keep_tail:
        if room <= 0:
            return np.zeros(clips)
        part = room / clips
        return np.floor(np.arange(clips) * part + rng.uniform(0, part, clips))
    part = room // clips
    if part > 0:
        return np.arange(clips) * part + rng.integers(int(part), size=clips)
    if total > max(clips, span):
        return np.sort(rng.integers(int(room), size=clips))
    if part == 0:
        return np.round(np.arange(clips) * (room / clips))
    return np.zeros(clips)


def _dense(
    sampling: Sampling, total: int, fps: float | None, rng: np.random.Generator | None
) -> np.ndarray:
    """Clips inside one window of `sample_range` frames; at test several windows."""
    positions = max(1, 1 + total - sampling.sample_range)
    if rng is None:
        windows = np.linspace(0, positions - 1, sampling.num_sample_positions, dtype=np.int64)
    else:
        # The last position is never drawn: so the published networks were trained.
        windows = np.array([0 if positions == 1 else rng.integers(positions - 1)])
    offsets = np.arange(sampling.num_clips) * (sampling.sample_range // sampling.num_clips)
    starts = (windows[:, None] + offsets).reshape(-1) % total
    steps = np.arange(sampling.clip_len) * sampling.frame_interval
    return _wrap(starts[:, None] + steps, total, sampling.out_of_bound)


def _uniform(
    sampling: Sampling, total: int, fps: float | None, rng: np.random.Generator | None
) -> np.ndarray:
    """One frame from each of `clip_len` equal parts; at test `num_clips` such clips."""
    part = (total - 1) / sampling.clip_len
    edges = np.round(np.arange(sampling.clip_len + 1) * part).astype(np.int64)
    if rng is not None:
        return rng.integers(edges[:-1], edges[1:] + 1)[None]
    shifts = (np.arange(1, sampling.num_clips + 1) * (part / (sampling.num_clips + 1))).astype(
        np.int64
    )
    return edges[None, :-1] + shifts[:, None]


def _untrimmed(
    sampling: Sampling, total: int, fps: float | None, rng: np.random.Generator | None
) -> np.ndarray:
    """A clip around every `clip_interval`-th frame, however long the video is."""
    interval, half = sampling.clip_interval, sampling.clip_len // 2
    centers = np.arange(interval // 2, total, interval)
    if not centers.size:
        centers = np.array([total // 2])
    steps = np.arange(-half, sampling.clip_len - half) * sampling.frame_interval
    return np.clip(centers[:, None] + steps, 0, total - 1)


def _segments(
    sampling: Sampling, total: int, fps: float | None, rng: np.random.Generator | None
) -> np.ndarray:
    """A clip in each of `num_clips` equal parts of the video; longer clips reach over their part.

    Frames of a part's clip are spread evenly between its ends, both included. Of a clip that is no
    shorter than its part one frame fewer for each interval is spread, and the last one repeated.
    """
    clips, length = sampling.num_clips, sampling.clip_len
    span, part = length * sampling.frame_interval, total // clips
    if part > span:
        room = part - span
        starts = np.full(clips, room // 2) if rng is None else rng.integers(room, size=clips)
        steps = np.minimum(np.linspace(0, span, length), span - 1).astype(np.int64)
        return (starts + np.arange(clips) * part)[:, None] + steps
    last = min(span, total) - 1
    spread = np.linspace(0, last, last // sampling.frame_interval)
    whole = np.concatenate([spread, np.full(length - len(spread), last)])
    steps = np.clip(whole, 0, max(last - 1, 0)).astype(np.int64)
    shift = max(total - span, 0) // max(clips - 1, 1)
    return np.arange(clips)[:, None] * shift + steps


def _wrap(frames: np.ndarray, total: int, out_of_bound: str) -> np.ndarray:
    """Brings frame numbers `[clips, clip_len]` past the end back into the video."""
    if out_of_bound == "loop":
        return np.mod(frames, total).astype(np.int64)
    if out_of_bound == "repeat_last":
        inside = frames < total
        last = np.max(frames * inside, axis=1, keepdims=True)
        return np.where(inside, frames, last).astype(np.int64)
    raise JaxvidError(f"out_of_bound is {out_of_bound!r}: choose loop or repeat_last")


_SAMPLERS = {
    "frames": _frames,
    "dense": _dense,
    "timed": _timed,
    "uniform": _uniform,
    "untrimmed": _untrimmed,
    "stacks": _frames,
    "segments": _segments,
}
