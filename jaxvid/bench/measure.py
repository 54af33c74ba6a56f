"""Makes the work of a row on one device, and times it."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid import checkpoint, zoo
from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.config.parts import Config
from jaxvid.data import pipeline, toy
from jaxvid.data.cores import usable_cores
from jaxvid.devices import chips, compiled, costs, placement
from jaxvid.inference.evaluate import make_network
from jaxvid.inference.predictor import Predictor
from jaxvid.layers.backend import PLAIN, for_mesh, tracing_for
from jaxvid.layers.preprocess import normalizer
from jaxvid.reports.programs import needed_bytes
from jaxvid.training import plan as plans
from jaxvid.training import resume

_VIDEO = toy.Settings(height=256, width=340, frames=(250, 250))


class Machine(NamedTuple):
    """Where figures are of.

    Attributes:
      backend: `cpu`, `gpu` or `tpu`.
      device: how JAX calls the device.
      cores: processors that this process may run on.
      load: how many processes wanted one before anything was measured, over the last minute; None
        where the system does not tell.
      flops: bfloat16 operations a second that the device can do at best, where it is known.
    """

    backend: str
    device: str
    cores: int
    load: float | None
    flops: float | None

    @property
    def shared(self) -> bool:
        """Whether other work takes a good part of a processor."""
        return self.load is not None and self.load > 0.3


class Times(NamedTuple):
    """Seconds of each repeat: by the clock, and of the processors that worked for this process."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is timed.

    Attributes:
      run: does it once, to its end.
      clips: how many the network sees each time.
      shape: that of one, [T, H, W, C].
      dtype: what the network computes in.
      flops: operations of convolutions and matrix products each time, where it was counted.
      needed_bytes: memory of the device that the program needs, with its arguments.
      cold: seconds to trace and compile it.
      warm: seconds where the compiler's output was kept on disk.
    """

    run: Callable[[], Any]
    clips: int
    shape: tuple[int, ...]
    dtype: str
    flops: float | None = None
    needed_bytes: int | None = None
    cold: float | None = None
    warm: float | None = None


class Measured(NamedTuple):
    """A part of the work of a row, and its times."""

    machine: Machine
    model: str
    part: str
    work: Work
    times: Times

    @property
    def rate(self) -> float:
        """Clips a second; of a video those that its test sees of it."""
        return self.work.clips / statistics.median(self.times.wall)

    @property
    def share(self) -> float | None:
        """The share of what the device can do at best, in bfloat16."""
        if self.machine.flops is None or self.work.flops is None:
            return None
        return self.work.flops / self.work.clips * self.rate / self.machine.flops


class Subject(NamedTuple):
    """A row as it is measured."""

    name: str
    config: Config
    classes: tuple[str, ...]
    mesh: jax.sharding.Mesh


def machine() -> Machine:
    """This machine and the first of its devices."""
    load = None
    with contextlib.suppress(OSError, AttributeError):  # Windows has none.
        load = os.getloadavg()[0]
    try:
        device = jax.local_devices()[0]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise JaxvidError(f"JAX has no such device here ({reason}): leave --backend out") from error
    chip = chips.by_kind(device.device_kind)
    flops = chip.flops / chip.devices if chip else None
    return Machine(jax.default_backend(), device.device_kind, usable_cores(), load, flops)


def subject(name: str, dtype: str, batch: int, small: bool = False) -> Subject:
    """The row or variant `name` with training steps and forwards of `batch` clips.

    Raises:
      JaxvidError: it is several networks.
    """
    config = configs.from_row(name, runlocal=small)
    if config.model.members:
        raise JaxvidError(f"it is several networks: measure {' and '.join(config.model.members)}")
    config.model.dtype = dtype
    config.train.batch_size, config.test.batch_size, config.train.accumulate_steps = batch, 1, 1
    frozen = fields.freeze(config)
    count = 0 if zoo.pretrains(frozen.model.name) else zoo.create_model(name).num_classes
    classes = tuple(f"class {number}" for number in range(count))
    mesh = placement.make_mesh(jax.local_devices()[:1], frozen.train.axes)
    return Subject(name, frozen, classes, mesh)


def work(subject: Subject, part: str, folder: pathlib.Path, video: pathlib.Path | None) -> Work:
    """The part `forward`, `train` or `video` of a row's work, ready to run.

    `folder` is for what is written meanwhile, `video` what is answered for.

    Raises:
      JaxvidError: a network that pretrains has no such part.
    """
    if part == "train":
        return _train(subject)
    if not subject.classes:
        raise JaxvidError("it pretrains, and has no classes: measure --parts=train")
    if part == "forward":
        return _forward(subject)
    return _video(subject, folder, cast(pathlib.Path, video))


def time_work(run: Callable[[], Any], repeats: int) -> Times:
    """Times `run` after a first time that does not count."""
    run()
    wall, processor = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    return Times(tuple(wall), tuple(processor))


def _forward(subject: Subject) -> Work:
    """Logits of clips as the test takes them."""
    config = subject.config
    network = make_network(config.model, len(subject.classes))
    prepare = normalizer(config.data, jnp.dtype(config.model.dtype))
    shape = config.test.protocol.view
    size = config.train.batch_size

    def forward(variables: Any, video: jax.Array) -> jax.Array:
        return network.apply(variables, prepare(video), train=False)[0]

    function = jax.jit(for_mesh(forward, subject.mesh, config.model.matmul_precision))
    arguments = (_variables(network, shape), jnp.asarray(_pixels(size, *shape)))
    program = _compile(function, arguments)
    return Work(
        run=lambda: jax.block_until_ready(program.executable(*arguments)),
        clips=size,
        shape=shape,
        dtype=config.model.dtype,
        **program.figures,
    )


def _train(subject: Subject) -> Work:
    """Steps of training, one after the other."""
    config = subject.config
    plan = plans.plan(config, subject.mesh, subject.classes)
    program = _compile(plan.step, (plan.state, plan.batch))
    state = plan.init()
    batch = {
        name: _pixels(*like.shape) if "label" not in name else np.ones(like.shape, like.dtype)
        for name, like in plan.batch.items()
    }
    batch["index"] = np.arange(config.train.batch_size, dtype=np.int32)
    there = {
        name: jax.device_put(array, plan.batch[name].sharding) for name, array in batch.items()
    }

    def step() -> None:
        nonlocal state
        state, measured = program.executable(state, there)
        jax.block_until_ready(measured)

    return Work(
        run=step,
        clips=config.train.batch_size,
        shape=pipeline.clip_shape(config.data),
        dtype=config.model.dtype,
        **program.figures,
    )


def _video(subject: Subject, folder: pathlib.Path, video: pathlib.Path) -> Work:
    """What `python -m jaxvid.predict` does for one video, when all is loaded."""
    config = subject.config
    protocol = config.test.protocol
    network = make_network(config.model, len(subject.classes))
    variables = _variables(network, protocol.view)
    meta = resume.describe(config, subject.classes, protocol.short_side)
    place = folder / "checkpoint"
    checkpoint.save(place, jax.device_get(variables), meta, overwrite=True)
    predictor = Predictor(place)
    views = pipeline.views_shape(protocol)
    return Work(
        run=lambda: predictor.scores(video),
        clips=views[0],
        shape=views[1:],
        dtype=predictor.config.model.dtype,
    )


class _Program(NamedTuple):
    executable: Callable[..., Any]
    figures: dict[str, Any]


def _compile(function: Any, arguments: tuple[Any, ...]) -> _Program:
    """Compiles a function twice, at first with nothing that was kept, and counts what it takes."""

    def once() -> tuple[Any, jax.stages.Compiled, float]:
        jax.clear_caches()
        begun = time.perf_counter()
        traced = function.trace(*arguments)
        executable = traced.lower().compile()
        return traced, executable, time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder, compiled.kept_in(pathlib.Path(folder)):
        traced, executable, cold = once()
        *_, warm = once()
    counted = costs.count(traced.jaxpr)
    if counted.kernels:  # into which one cannot look
        with tracing_for(PLAIN):
            counted = costs.count(jax.make_jaxpr(function.__wrapped__)(*arguments))
    return _Program(
        executable,
        {
            "flops": counted.flops,
            "needed_bytes": needed_bytes(executable),
            "cold": cold,
            "warm": warm,
        },
    )


def _variables(network: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Weights as training starts from them: others may be numbers that processors are slow at."""
    init = jax.jit(functools.partial(network.init, train=False))
    return dict(init(jax.random.key(0), jnp.zeros((1, *shape), jnp.float32)))


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write_video(folder: pathlib.Path) -> pathlib.Path:
    """Writes the video that is answered for where no other is given."""
    path = folder / "video.mp4"
    toy.write_clip(path, toy.draw("clockwise", np.random.default_rng(0), _VIDEO), _VIDEO.fps)
    return path
