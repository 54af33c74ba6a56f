"""Batches of uint8 clips, for training and for the published tests.

The videos of training follow one another without end: all videos in an order drawn from (seed,
0), all of them in an order drawn from (seed, 1), and so on. Each gives `data.repeats` clips that
follow one another: of the same frames, unless `data.repeats_share_frames` is off, but changed each
in its own way. Clip number n of this stream is in batch n // batch size, and everything random
about it is drawn from (seed, n). So batches do not depend on how many processes share them,
starting at any step costs nothing, and fewer videos than a batch holds just come round sooner.

A clip that cannot be read or decoded is replaced by that of another video, which is drawn from
(seed, n) too, until more than `data.max_bad_records` videos were met that are bad.

Python plans an example (numpy, cheap) and fetches the frames that it needs, as JPEGs or, where
videos are decoded on the fly, as pixels; TensorFlow decodes JPEGs and changes pixels. Both happen
in `data.workers` threads: reading and decoding let go of Python's lock.
"""

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.config.parts import Data, Test
from jaxvid.data import augment, rand_augment, sampling
from jaxvid.data.cores import usable_cores
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Source, Split
from jaxvid.rows import CROP_COUNTS, Protocol

_EPOCH_KEYS = 2**63
"""Epochs draw from keys of their own, beside those of the clips' numbers."""
_SPARE_KEYS = 2**62
"""So do the videos that stand in for bad ones."""


def steps_per_epoch(videos: int, batch_size: int, repeats: int = 1) -> int:
    """The number of whole batches of clips in an epoch, at least 1.

    An epoch has every video once, that is `repeats` clips of each.
    """
    return max(videos * repeats // batch_size, 1)


def clip_shape(data: Data) -> tuple[int, int, int, int]:
    """Shape [T, H, W, C] of one training clip."""
    rng = np.random.default_rng(0)
    views = sampling.sample_views(data.sampling, 1, test=False, rng=rng)
    if len(views) != 1:
        raise JaxvidError(
            f"config.data.sampling gives {len(views)} clips of a video, but training takes one:"
            " set num_clips to 1"
        )
    return (views.shape[1], data.crop, data.crop, 3)


def make_protocol(test: Test) -> Protocol:
    """The published part of `config.test`.

    Raises:
      JaxvidError: it has no such crops, or they are larger than the picture.
    """
    augment.check_protocol(test.protocol)
    return test.protocol


def make_augmentation(data: Data) -> augment.Augmentation:
    """The random changes of training that `config.data` describes."""
    return augment.Augmentation(
        size=data.crop,
        crop_mode=data.crop_mode,
        crop_scales=data.crop_scales,
        even_sides=data.even_sides,
        crop_scale_gap=data.crop_scale_gap,
        fixed_crops=data.fixed_crops,
        area=data.area,
        aspect=data.aspect,
        flip=data.flip,
        color_jitter=data.color_jitter,
        hue_bytes=data.hue_bytes,
        rand_augment=data.rand_augment,
        rand_augment_fill=data.rand_augment_fill,
        rand_augment_after_crop=data.rand_augment_after_crop,
        random_erasing=data.random_erasing,
    )


def train_batches(
    split: Split,
    data: Data,
    *,
    batch_size: int,
    loss: str,
    seed: int,
    start_step: int = 0,
    process: int | None = None,
    processes: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's part of every global batch, from `start_step` on, without end.

    Args:
        split: the videos.
        data: what is seen of them.
        batch_size: clips of a global batch.
        loss: that of the training, which decides what labels are.
        seed: of all that is random, from 0.
        start_step: the step whose batch comes first.
        process: which of `processes` this one is; by default as JAX says.
        processes: how many share a batch; by default as JAX says.

    Returns:
        An iterator of `video` uint8 `[B, T, H, W, C]`, `label` int32 `[B]` (or, where the loss is
        `sigmoid`, uint8 `[B, classes]`, 1 for the classes that a video has) and `index` int64
        `[B]`, the videos' numbers in the split; `close()` ends its threads, and `bad` says of
        the videos that this process could not use why.
    """
    part = _Part(batch_size, process, processes, "train")
    repeats = data.repeats
    if repeats < 1 or part.batch % repeats:
        raise JaxvidError(
            f"config.train.batch_size is {part.batch} clips, but config.data.repeats is {repeats}:"
            " take a multiple of it"
        )
    clip = clip_shape(data)
    augmentation = make_augmentation(data)
    operate = functools.partial(rand_augment.apply, fill=augmentation.rand_augment_fill)
    on_crop = bool(augmentation.rand_augment) and augmentation.rand_augment_after_crop
    on_whole = bool(augmentation.rand_augment) and not on_crop
    how, source = data.sampling, split.source
    mirrored = {a: b for pair in data.mirrored_labels for a, b in (pair, pair[::-1])}
    labels = _Labels(split, loss)
    if seed < 0:
        raise JaxvidError(f"config.seed is {seed}: give a whole number from 0")

    def pick(position: int, attempt: int) -> int:
        number = part.number(position) // repeats
        if attempt:
            spare = generator(seed, _SPARE_KEYS + number)
            return int(spare.integers(len(source), size=attempt)[-1])
        epoch, place = divmod(number, len(source))
        return int(epoch_order(seed, epoch, len(source))[place])

    def load(position: int, video: int) -> tuple:
        number, repeat = divmod(part.number(position), repeats)
        rng = generator(seed, number)
        if not data.repeats_share_frames:
            rng = _jumped(rng, repeat)
        first, total = 0, int(source.num_frames[video])
        if data.trim:
            first, total = _trim(total, data.trim, rng)
        views = first + sampling.sample_views(how, total, _fps(source, video), test=False, rng=rng)
        if data.repeats_share_frames:
            rng = _jumped(rng, repeat)
        drawn = augment.draw(augmentation, int(source.height[video]), int(source.width[video]), rng)
        operations = np.array(drawn.operations, np.float32).reshape(-1, 2)
        return (
            *_fetch(source, video, views[0]),
            np.array(drawn.box, np.int32),
            np.array(drawn.flip),
            np.array(drawn.jitter, np.float32),
            np.array(drawn.order, np.int32),
            operations[:, 0].astype(np.int32),
            operations[:, 1],
            np.array(drawn.erased, np.int32),
            np.array(drawn.noise, np.int32),
            labels(video, mirrored if drawn.flip else {}),
            np.int64(video),
        )

    loaded = (
        _frames_spec(source),
        tf.TensorSpec([clip[0]], tf.int64),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([], tf.bool),
        tf.TensorSpec([4], tf.float32),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([None], tf.int32),
        tf.TensorSpec([None], tf.float32),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([2], tf.int32),
        labels.spec,
        tf.TensorSpec([], tf.int64),
    )

    def change(
        images, frames, box, flip, jitter, order, kinds, values, erased, noise, label, video
    ):
        if on_whole or not source.encoded:
            pixels = _pixels(images)
            if on_whole:
                pixels = operate(pixels, kinds, values)
            top, left, height, width = tf.unstack(box)
            pixels = pixels[:, top : top + height, left : left + width]
        else:
            # Equal to cropping afterwards, but at the rim of JPEGs with subsampled chroma.
            pixels = _decode(
                lambda image: tf.image.decode_and_crop_jpeg(image, box, **_JPEG), images
            )
        pixels = augment.finish(pixels, flip, jitter, order, augmentation)
        if on_crop:
            pixels = operate(pixels, kinds, values)
        pixels = tf.gather(pixels, frames)
        if augmentation.random_erasing:
            pixels = augment.erase(pixels, erased, noise)
        return {"video": tf.ensure_shape(pixels, clip), "label": label, "index": video}

    return _Batches(
        source,
        pick,
        load,
        loaded,
        change,
        range(start_step * part.size, np.iinfo(np.int64).max),
        part.size,
        data.workers,
        ahead=2,
        max_bad=data.max_bad_records,
    )


def test_batches(
    split: Split,
    test: Test,
    *,
    loss: str,
    workers: int = 0,
    process: int | None = None,
    processes: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's part of every global batch of the test's views, each video once.

    Args:
        split: the videos.
        test: the protocol, and the videos of a global batch.
        loss: that of the network's training, which decides what labels are.
        workers: threads that read and decode; 0 takes as many as there are cores.
        process: which of `processes` this one is; by default as JAX says.
        processes: how many share a batch; by default as JAX says.

    Returns:
        An iterator of `video` uint8 `[B, V, T, H, W, C]`, `label` as in training, `index` int64
        `[B]` and `weight` float32 `[B]`. The last batch is filled up with zeros of weight 0 and
        index -1. Every process gets the same number of batches.
    """
    part = _Part(test.batch_size, process, processes, "test")
    protocol = make_protocol(test)
    source = split.source
    if protocol.sampling.sampler == "untrimmed":
        raise JaxvidError(
            "the untrimmed sampler gives every video its own number of views, which cannot be"
            " batched: take another sampler, or predict video by video"
        )

    def load(position: int, video: int) -> tuple:
        views = _test_frames(protocol, int(source.num_frames[video]), _fps(source, video))
        return (
            *_fetch(source, video, views),
            labels(video),
            np.int64(video),
        )

    def change(images, clips, label, video):
        views = tf.ensure_shape(augment.make_views(_pixels(images), clips, protocol), shape)
        return {"video": views, "label": label, "index": video, "weight": tf.constant(1.0)}

    clips, length = _test_frames(protocol, 1, None).shape
    views = clips * CROP_COUNTS[protocol.crops]
    shape = (views, length, protocol.crop, protocol.crop, 3)
    labels = _Labels(split, loss)
    loaded = (
        _frames_spec(source),
        tf.TensorSpec([clips, length], tf.int64),
        labels.spec,
        tf.TensorSpec([], tf.int64),
    )
    steps = -(-len(source) // part.batch)
    batches = _Batches(
        source,
        lambda position, _: part.number(position),
        load,
        loaded,
        change,
        range(sum(part.number(i) < len(source) for i in range(steps * part.size))),
        part.size,
        workers,
        # All views of a batch of videos are large: hold no more than the next one.
        ahead=1,
        max_bad=0,
    )
    return _filled(batches, steps, part, shape, labels.spec)


test_batches.__test__ = False  # pytest takes it for a test where it is imported


def _filled(
    batches: Iterator[dict[str, np.ndarray]],
    steps: int,
    part: "_Part",
    shape: tuple[int, ...],
    label: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """Fills the last of `steps` batches up to its full size."""
    nothing = {
        "video": np.zeros((0, *shape), np.uint8),
        "label": np.zeros((0, *label.shape), label.dtype.as_numpy_dtype),
        "index": np.zeros(0, np.int64),
        "weight": np.zeros(0, np.float32),
    }
    for _ in range(steps):
        batch = next(batches, nothing)
        missing = part.size - len(batch["index"])
        if missing:
            batch = {
                name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
                for name, array in batch.items()
            }
            batch["index"][-missing:] = -1
        yield batch


def plan_test(
    protocol: Protocol, total_frames: int, fps: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Says which frames a test needs of a video, so that only those are decoded.

    Returns:
        The needed frame numbers in rising order, int64 `[N]`, and the place in them of every
        frame of every clip, int64 `[clips, T]`.
    """
    clips = _test_frames(protocol, total_frames, fps)
    frames, places = np.unique(clips, return_inverse=True)
    return frames, places.reshape(clips.shape)


def make_views(frames: np.ndarray, clips: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Turns decoded frames into the views that a test would see of them.

    Args:
        frames: uint8 RGB `[N, H, W, 3]`, those that `plan_test` asked for.
        clips: its places `[clips, T]`.
        protocol: the row's test.

    Returns:
        uint8 `[V, T, crop, crop, 3]`, just what `test_batches` gives for records of these frames.
    """
    augment.check_protocol(protocol)
    return augment.make_views(tf.constant(frames), tf.constant(clips), protocol).numpy()


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, videos: int) -> np.ndarray:
    """The order of the videos in an epoch: a permutation of 0 .. videos - 1."""
    return generator(seed, _EPOCH_KEYS + epoch).permutation(videos)


def generator(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one clip: the same wherever and whenever it is made."""
    # A list would be rounded to float64 as soon as a number needs 64 bits.
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


def _jumped(rng: np.random.Generator, repeat: int) -> np.random.Generator:
    """Numbers of a repeat's own; of the first, those of the video."""
    return np.random.Generator(rng.bit_generator.jumped(repeat)) if repeat else rng


_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


def _frames_spec(source: Source) -> Any:
    """What `Source.frames` gives, as TensorFlow takes it."""
    if source.encoded:
        return tf.TensorSpec([None], tf.string)
    return tf.TensorSpec([None, None, None, 3], tf.uint8)


def _pixels(images: Any) -> Any:
    """Frames uint8 `[N, H, W, 3]`, decoded where they are JPEGs."""
    if images.dtype != tf.string:
        return images
    return _decode(lambda image: tf.io.decode_jpeg(image, **_JPEG), images)


def _decode(decode: Callable[[Any], Any], images: Any) -> Any:
    """Decodes JPEGs `[N]` to uint8 `[N, H, W, 3]`."""
    if tf.executing_eagerly():  # where map_fn would complain of what its failure leaves behind
        return tf.stack([decode(image) for image in images])
    frame = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.map_fn(decode, images, fn_output_signature=frame)


def _test_frames(protocol: Protocol, total_frames: int, fps: float | None) -> np.ndarray:
    return sampling.sample_views(protocol.sampling, total_frames, fps, test=True)


def _trim(total: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Cuts up to `share` of a video off at either end; returns the first frame and how many."""
    before, after = (rng.uniform(0, share, size=2) * total).astype(int)
    return int(before), total - int(before) - int(after)


def _fps(source: Source, video: int) -> float | None:
    fps = float(source.fps[video])
    return fps if fps > 0 else None


def _fetch(source: Source, video: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames, each once, and the place in them of every one of `frames`."""
    needed, places = np.unique(frames, return_inverse=True)
    images = source.frames(int(video), needed)
    if source.encoded:
        images = np.array(images, object)
    return images, places.reshape(frames.shape)


def _nothing(spec: Any) -> np.ndarray:
    """An array that fits the description, without elements where their number is free."""
    shape = [size or 0 for size in spec.shape]
    return np.zeros(shape, object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)


class _Labels:
    """The labels of an example as the loss takes them, described by `spec`.

    A number, or with the loss `sigmoid` a 1 at each class that the video has. With the loss
    `pixels` all are 0, and videos need none.
    """

    def __init__(self, split: Split, loss: str):
        self._labels, self._classes = split.source.labels, len(split.classes)
        self._several, self._none = loss == "sigmoid", loss == "pixels"
        if self._several:
            self.spec = tf.TensorSpec([self._classes], tf.uint8)
            return
        self.spec = tf.TensorSpec([], tf.int32)
        several = (number for number, labels in enumerate(self._labels) if len(labels) > 1)
        number = next(several, None)
        if number is not None and not self._none:
            raise JaxvidError(
                f"{split.source.name(number)} has {len(self._labels[number])} labels: set"
                " config.train.loss=sigmoid, or keep one for each video"
            )

    def __call__(self, video: int, mirrored: dict[int, int] | None = None) -> np.ndarray:
        """The labels of a video, changed as `mirrored` says."""
        if self._none:
            return np.zeros((), np.int32)
        labels = [(mirrored or {}).get(label, label) for label in self._labels[video]]
        if not self._several:
            return np.array(labels[0], np.int32)
        present = np.zeros(self._classes, np.uint8)
        present[labels] = 1
        return present


class _Part:
    """This process's part of every global batch."""

    def __init__(self, batch: int, process: int | None, processes: int | None, what: str):
        self.process = jax.process_index() if process is None else process
        processes = jax.process_count() if processes is None else processes
        if batch < 1 or batch % processes:
            raise JaxvidError(
                f"config.{what}.batch_size is {batch}, which does not divide over {processes}"
                f" processes: take a multiple of {processes}"
            )
        self.batch = batch
        self.size = batch // processes

    def number(self, position: int) -> int:
        """The global example number of this process's `position`-th example."""
        step, place = divmod(int(position), self.size)
        return step * self.batch + self.process * self.size + place


class _Batches:
    """Batches of examples that are planned in Python and made by TensorFlow.

    `pick` takes one of `positions` and the number of videos that failed at it, and says whose turn
    it is; `load` takes the position and this video and returns arrays as `loaded` describes them;
    `change` turns them into the example. Examples keep the order of their positions; `ahead`
    batches are made before they are asked for. Which attempt succeeds follows from the position
    and the files alone, whatever was met before. `bad` holds, by video, why it could not be used;
    once it has more than `max_bad` videos, that is an error.
    """

    def __init__(
        self,
        source: Source,
        pick: Callable[[int, int], int],
        load: Callable[[int, int], tuple],
        loaded: tuple,
        change: Callable[..., dict[str, Any]],
        positions: range,
        size: int,
        workers: int,
        ahead: int,
        max_bad: int,
    ):
        self.bad: dict[int, str] = {}
        self._source, self._pick, self._load, self._change = source, pick, load, change
        self._loaded, self._positions, self._size = loaded, positions, size
        self._workers, self._ahead, self._max_bad = workers or usable_cores(), ahead, max_bad
        self._attempts: dict[int, int] = {}
        self._running = []
        # Threads that call Python while it shuts down would hang the process: this also runs then.
        self._finalizer = weakref.finalize(self, self._running.clear)
        self._start()

    def _start(self) -> None:
        """Makes batches from the first of the positions on."""
        options = tf.data.Options()
        options.threading.private_threadpool_size = self._workers
        options.threading.max_intra_op_parallelism = 1
        # The threads must not hold this object: they end when nobody else holds it.
        pick, load, loaded, change = self._pick, self._load, self._loaded, self._change
        attempts = self._attempts

        def plan(position):
            try:
                return load(position, pick(position, attempts.get(int(position), 0)))
            except JaxvidError:
                # TensorFlow would print a traceback. No frames fail too, and are explained.
                return tuple(_nothing(spec) for spec in loaded)

        @tf.autograph.experimental.do_not_convert
        def make(position):
            arrays = tf.numpy_function(plan, [position], [spec.dtype for spec in loaded])
            for array, spec in zip(arrays, loaded, strict=True):
                array.set_shape(spec.shape)
            tf.debugging.assert_positive(tf.size(arrays[0]))
            return change(*arrays)

        made = tf.data.Dataset.range(self._positions.start, self._positions.stop)
        made = made.map(make, num_parallel_calls=self._workers, deterministic=True)
        made = made.batch(self._size).prefetch(self._ahead).with_options(options)
        self._running[:] = [made.as_numpy_iterator()]

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._running:
            raise StopIteration
        try:
            batch = next(self._running[0])
        except tf.errors.OpError:
            if not self._replace_bad():
                raise
            self._start()
            batch = next(self._running[0])
        self._positions = self._positions[self._size :]
        return batch

    def close(self) -> None:
        """Ends the threads; there are no batches after this."""
        self._finalizer()

    def _replace_bad(self) -> bool:
        """Finds what failed in the next batch and what to take instead; says if there was any.

        Makes its examples again, one by one: TensorFlow does not say which it was.
        """
        self._attempts = {}
        for position in self._positions[: self._size]:
            attempt = 0
            while self._failure(position, self._pick(position, attempt)):
                attempt += 1
                self._attempts[position] = attempt
        return bool(self._attempts)

    def _failure(self, position: int, video: int) -> str:
        """Says why the example cannot be made of this video, and counts it; or nothing."""
        try:
            arrays = self._load(position, video)
            self._change(*(tf.constant(array) for array in arrays))
            return ""
        except JaxvidError as error:
            reason = str(error)
        except tf.errors.OpError as error:
            line = error.message.splitlines()[0]
            reason = f"{self._source.name(video)} cannot be decoded ({line}): leave it out"
        if video in self.bad:
            return reason
        self.bad[video] = reason
        count, limit = len(self.bad), self._max_bad
        if count > limit or count == len(self._source):
            counted = f" ({count} bad videos; config.data.max_bad_records is {limit})"
            raise JaxvidError(reason + counted if limit else reason)
        say(
            f"warning: {reason}; another video takes its place (bad video {count} of at most"
            f" {limit})",
            error=True,
        )
        return reason
