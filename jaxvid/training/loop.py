"""The training loop, readable top to bottom.

Order of operations, which exact resume depends on: measure BatchNorm's statistics where that is
asked for, save the state, evaluate it, take the batch of its step, make the step, log. Batches and
random numbers are functions of (seed, step).
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from jaxvid import checkpoint, zoo
from jaxvid.base import locks, paths, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import duration
from jaxvid.base.text import say, shown
from jaxvid.config import fields
from jaxvid.data import datasets, pipeline
from jaxvid.devices import placement, processes
from jaxvid.inference import evaluate
from jaxvid.reports import metrics
from jaxvid.training import journal, optim, parts, resume, stopping, teachers
from jaxvid.training.step import (
    TrainState,
    all_finite,
    make_precise_norms,
    make_state,
    make_train_step,
)
from jaxvid.training.step import make_update as make_update


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> metrics.Result:
    """Trains as `config` says, in `workdir`; goes on from its last checkpoint if there is one.

    Writes `config.json`, `metrics.jsonl` and TensorBoard events, `checkpoints/`, and the test of
    the last parameters into `eval/`. Returns that test's accuracies. SIGTERM or SIGINT saves after
    the step under way and raises `Stopped`.

    Raises:
      JaxvidError: also where another process trains in `workdir`, or what is there was made with
        another network, other classes or other videos.
    """
    fields.check(config)
    workdir = paths.writable(workdir, "--workdir")
    with processes.in_first(locks.hold(workdir, "--workdir")):
        return _train(config, workdir)


def _train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> metrics.Result:
    """Trains in a workdir in which no other process does."""
    processes.check_shared(workdir)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    last = checkpoints.latest_step()
    if config.init and last is None:
        checkpoint.find(config.init)
    if config.train.teacher:
        checkpoint.find(config.train.teacher)

    # ---- devices
    mesh = placement.make_mesh()
    placement.check_batch("train.batch_size", config.train.batch_size, mesh)
    placement.check_batch("test.batch_size", config.test.batch_size, mesh)
    cuts = config.train.accumulate_steps
    if config.train.batch_size % (cuts * mesh.devices.size):
        raise JaxvidError(
            f"config.train.batch_size={config.train.batch_size} must divide by "
            f"config.train.accumulate_steps={cuts} and then over {mesh.devices.size} devices: take "
            f"a multiple of {cuts * mesh.devices.size}"
        )
    log(
        f"{mesh.devices.size} {mesh.devices.flat[0].platform} device(s), global batch "
        f"{config.train.batch_size}, {config.train.batch_size // mesh.devices.size} per device"
        + (f" in {cuts} parts" if cuts > 1 else "")
    )

    # ---- data
    labelled = config.train.loss != "pixels"
    train_split, test_split = (
        datasets.open_split(config.data, split, labelled=labelled)
        for split in (config.data.train_split, config.data.test_split)
    )
    classes = common_classes(config, train_split, test_split) if labelled else []
    plan = resume.plan(config, len(train_split))
    log(
        f"{config.data.dataset}: {len(train_split)} videos to train, {len(test_split)} to test, "
        + (f"{len(classes)} classes; " if labelled else "without their labels; ")
        + f"{plan.per_epoch} steps an epoch, {plan.steps} in all"
    )
    meta = describe(config, classes, train_split.short_side)
    meta["records"] = {
        name: resume.fingerprint(split)
        for name, split in (
            (config.data.train_split, train_split),
            (config.data.test_split, test_split),
        )
    }
    if last is not None:
        check_same(workdir, checkpoints.folder(last), config, meta, len(train_split))

    # ---- model and optimizer
    model = zoo.create_model(
        config.model.name,
        len(classes),
        evaluate.compute_dtype(config),
        **config.model.overrides,
    )
    clip_shape = pipeline.clip_shape(config)
    knobs = read_knobs(model, clip_shape, config)
    optimizer = optim.make_optimizer(config.optim, plan.rate, knobs.layer_of)

    teacher, lessons = None, {}
    if config.train.teacher:
        teacher, variables = teachers.load(config, classes, evaluate.compute_dtype(config))
        lessons = {"teacher": jax.device_put(variables, placement.replicated(mesh))}
        log(f"learning the labels that {config.train.teacher} gives to tokens")

    def init() -> TrainState:
        clip = jnp.zeros((1, *clip_shape), jnp.float32)
        variables = model.init(jax.random.key(config.seed), clip, train=False)
        return make_state(variables, optimizer, knobs.frozen, config.train.ema_decay > 0)

    # ---- the state to start from: this run's own, else config.init, else from nothing
    abstract = jax.eval_shape(init)
    placed = placement.place_state(abstract, mesh, config.train.sharding)
    if last is not None:
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract,
            placed,
        )
        state = checkpoints.restore(last, abstract)
        log(f"resumed from step {last} of {workdir / 'checkpoints'}")
    else:
        state = jax.jit(init, out_shardings=placed)()
        if config.init:
            state = start_from(state, config.init, classes)
    start = int(state.step)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    log(f"{config.model.name}: {count / 1e6:.2f} M parameters")
    if state.ema:
        copy = "averaged copy" if config.test.weights == "ema" else "parameters themselves"
        log(f"averaging parameters, {config.train.ema_decay} kept a step; tests use the {copy}")

    # ---- the step, the test, the log
    step_fn = jax.jit(
        make_train_step(model, optimizer, config, knobs.frozen, knobs.recomputed, teacher),
        donate_argnums=0,
        out_shardings=(placed, placement.replicated(mesh)),
    )
    precise = config.train.precise_norm_batches if state.batch_stats else 0
    precise_norms = make_precise_norms(model, config, knobs.frozen, placed.batch_stats)
    test = evaluate.make_test(model, config, test_split, mesh)
    batches = pipeline.train_batches(train_split, config, start_step=start)
    eval_steps = max(round(config.train.eval_epochs * plan.per_epoch), 1)
    end = min(plan.steps, config.train.stop_at_step or plan.steps)
    if start >= end:
        log(f"already complete at step {start}, as this config ends at {end}: nothing to learn")
    # A run may have ended between saving a state and testing it.
    tested = last is None or checkpoints.metric(last) is not None
    saved = start
    writer = None
    if jax.process_index() == 0:
        with journal.writing(workdir):
            if last is None:
                resume.begin(workdir, config)
            elif start < end:
                resume.go_on(workdir, config, start)
        writer = journal.Journal(workdir, start, tested)
    outcome = None
    window = Window(start)
    signals = stopping.Signals(placement.largest(mesh))

    def note(step: int, values: dict[str, float]) -> None:
        if writer is not None:
            writer.write(step, values)

    def with_precise_norms(step: int) -> TrainState:
        following = pipeline.train_batches(train_split, config, start_step=step)
        taken = itertools.islice(following, min(precise, plan.per_epoch))
        batches = (placement.put_batch(batch, mesh) for batch in unless_asked(step, taken))
        try:
            return precise_norms(state, batches)
        finally:
            following.close()

    def run_test(step: int) -> evaluate.Outcome:
        batches = unless_asked(step, pipeline.test_batches(test_split, config))
        return test(state.tested(config.test.weights), batches, f"test at step {step}")

    def unless_asked(step: int, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            if signals.asked():
                stop(step)
            yield batch

    def stop(step: int) -> None:
        if step != saved:
            check_finite(window, state, train_split.paths, workdir)
            checkpoints.save(step, state, meta)
        checkpoints.wait()
        log(f"stopped by {signals.name} at step {step}: the same command goes on from there")
        raise signals.stopped()

    # ---- the loop
    with checkpoints, signals:
        for step in range(start, end + 1):
            to_test = (step % eval_steps == 0 or step == end) and (step > start or not tested)
            to_save = step > start and (to_test or step % config.train.checkpoint_steps == 0)
            if to_test and precise:
                # Of the parameters and the batches that follow: again the same after a stop.
                state = with_precise_norms(step)
            if to_save or to_test and precise:
                check_finite(window, state, train_split.paths, workdir)
                checkpoints.save(step, state, meta)
                saved = step
                window = Window(step)
            if to_test:
                outcome = run_test(step)
                log(outcome.line)
                figures = outcome.result.logged
                note(step, {f"test_{name}": value for name, value in figures.items()})
                checkpoints.measure(step, outcome.result.main)
                window = Window(step)
            if step == end:
                break
            if signals.asked():
                stop(step)
            waited = time.monotonic()
            drawn = next(batches)
            batch = placement.put_batch(drawn, mesh)
            window.waited += time.monotonic() - waited
            state, measured = step_fn(state, {**batch, **lessons})
            window.add(measured, drawn["index"])
            if (step + 1) % config.train.log_steps == 0 or step + 1 == end:
                values = window.close(step + 1, config.train.batch_size)
                values["lr"] = float(plan.rate(step))
                if not all(map(np.isfinite, values.values())):
                    check_finite(window, state, train_split.paths, workdir)
                checkpoints.check()
                if batches.bad:
                    values["bad_records"] = len(batches.bad)
                note(step + 1, values)
                left = (end - step - 1) * config.train.batch_size / values["clips_per_second"]
                top1 = f"top-1 {values['top1']:.3f} " if "top1" in values else ""
                log(
                    f"step {step + 1}/{end} loss {values['loss']:.4f} {top1}"
                    f"lr {values['lr']:.2e} {values['clips_per_second']:.1f} clips/s "
                    f"waiting {100 * values['input_wait']:.0f}% {duration(left)} left"
                )
                window = Window(step + 1)
        if outcome is None:  # A run that was already complete: test what it left.
            outcome = run_test(start)
    batches.close()
    for reason in batches.bad.values():
        log(f"bad record: {reason}")
    if writer is not None:
        writer.close()

    # ---- the result
    with (
        paths.writing(workdir, "--workdir"),
        processes.in_first(locks.hold(workdir / "eval", "", wait=True)),
    ):
        outcome.write(workdir / "eval")
    log(f"done: {outcome.line}")
    log(f"checkpoints, logs and pictures in eval are in {workdir}")
    return outcome.result


def common_classes(
    config: ml_collections.ConfigDict, train_split: datasets.Split, test_split: datasets.Split
) -> list[str]:
    """The classes of both splits, which must be the same and as many as `config` says."""
    classes = list(train_split.classes)
    if list(test_split.classes) != classes:
        raise JaxvidError(
            f"{config.data.dataset}: the splits {config.data.train_split} and "
            f"{config.data.test_split} name different classes: build both with the same labels"
        )
    if config.model.num_classes not in (0, len(classes)):
        raise JaxvidError(
            f"config.model.num_classes={config.model.num_classes} but {config.data.dataset} has "
            f"{len(classes)} classes: leave it 0"
        )
    return classes


class Knobs(NamedTuple):
    """Which parts of a network a config singles out, by their paths; see `parts`."""

    frozen: frozenset[str]
    recomputed: frozenset[str]
    layer_of: dict[str, int]


def read_knobs(
    model: nn.Module, clip_shape: Sequence[int], config: ml_collections.ConfigDict
) -> Knobs:
    """Finds the parts of `model` that `config` freezes, recomputes or slows down, and says them."""
    found = parts.find(model, clip_shape)
    frozen = parts.frozen(found, config.optim.freeze, config.train.freeze_norm)
    if frozen:
        log(f"frozen: {len(frozen)} of {len(found.params)} arrays of parameters")
    recomputed = parts.blocks(found.params) if config.train.remat else frozenset()
    if config.train.remat and not recomputed:
        raise JaxvidError(
            "config.train.remat recomputes numbered blocks, of which this network has none: leave "
            "it off"
        )
    layer_of = {}
    if config.optim.layer_decay != 1:
        layer_of = parts.layers(found.params)
        log(parts.describe_layers(layer_of, config.optim.layer_decay))
    return Knobs(frozen, recomputed, layer_of)


def start_from(state: TrainState, path: str, classes: list[str]) -> TrainState:
    """Puts a checkpoint's parameters into a fresh state and says which ones stay new.

    The classifier is new where its shape or its class names differ; so is what an image classifier
    or a network that pretrains did not have, where the checkpoint is of such a one. Of the latter
    the decoder is left out. Raises `JaxvidError` where anything else differs: then the checkpoint
    is another network's.
    """
    loaded = flax.traverse_util.flatten_dict(checkpoint.load_finite(path), sep="/")
    meta = checkpoint.load_meta(path)
    known, missing = meta.get("classes"), set(meta.get("new", ())) - loaded.keys()
    own = flax.traverse_util.flatten_dict(state.variables, sep="/")
    decoder = [name for name in loaded if name.startswith("params/decoder/") and name not in own]
    for name in decoder:
        del loaded[name]
    other_classes = bool(known) and list(known) != classes

    def is_new(name: str) -> bool:
        if name in missing:
            return True
        in_head = name.startswith(("params/head/", "batch_stats/head/"))
        return in_head and (other_classes or loaded[name].shape != own[name].shape)

    problems = [f"{name} is missing" for name in own if name not in loaded.keys() | missing]
    problems += [f"{name} is too many" for name in loaded if name not in own]
    problems += [
        f"{name} is {loaded[name].shape}, not {own[name].shape}"
        for name in own
        if name in loaded and not is_new(name) and loaded[name].shape != own[name].shape
    ]
    if problems:
        raise JaxvidError(
            f"config.init={path} is not a checkpoint of this network: {listed(problems)}"
        )
    new = [name for name in own if is_new(name)]
    merged = {
        name: own[name]
        if name in new
        else jax.device_put(np.asarray(loaded[name], own[name].dtype), own[name].sharding)
        for name in own
    }
    tree = flax.traverse_util.unflatten_dict(merged, sep="/")
    log(f"started from {path}: {len(own) - len(new)} arrays taken, {len(new)} new")
    for name in new:
        log(f"  new: {name} {own[name].shape}")
    if decoder:
        log(f"  left out: {len(decoder)} arrays of the decoder, which only pretraining needs")
    return state.started_from(tree)


def check_same(
    workdir: pathlib.Path,
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    meta: dict[str, Any],
    videos: int,
) -> None:
    """Refuses to go on from the checkpoint in `folder` with what did not make it.

    What else differs is said, as is what cannot be compared.
    """
    then = checkpoint.load_meta(folder)
    lines = resume.check_same(workdir, then, meta, config.data.dataset)
    lines += resume.differences(workdir, config, then["step"], videos)
    if lines:
        log(f"what differs in {workdir} after step {then['step']}:")
    for line in lines:
        log(f"  {line}")


def describe(
    config: ml_collections.ConfigDict, classes: list[str], short_side: int
) -> dict[str, Any]:
    """What a checkpoint must say of itself so that prediction needs nothing else.

    `short_side` is that of the largest picture in the records.
    """
    row = zoo.starting_row(config.model.name)
    return {
        "row": config.model.name,
        "variant": row.variant,
        "num_classes": len(classes),
        "classes": classes,
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "channel_order": config.data.channel_order,
        "overrides": config.model.overrides.to_dict(),
        "loss": config.train.loss,
        "test": config.test.to_dict(),
        "short_side": short_side,
        "new": [f"params/{path}" for path in row.new],
    }


@dataclasses.dataclass
class Window:
    """What happened since the last log line."""

    first: int
    waited: float = 0.0

    def __post_init__(self):
        self._start = time.monotonic()
        self._measured = []
        self._videos = []

    def add(self, measured: dict[str, jax.Array], videos: np.ndarray) -> None:
        """Keeps a step's measurements on the device, so that logging never stalls it.

        `videos` are the numbers of those in this process's part of the batch.
        """
        self._measured.append(measured)
        self._videos.append(videos)

    def first_not_finite(self) -> tuple[int, str, np.ndarray] | None:
        """The first step with a loss or a gradient that is not finite, what it is, its videos."""
        for i, measured in enumerate(jax.device_get(self._measured)):
            for name, said in (("loss", "the loss"), ("grad_norm", "the norm of the gradient")):
                if not np.isfinite(measured[name]):
                    what = f"{said} is {measured[name]} at step {self.first + i + 1}"
                    return self.first + i + 1, what, self._videos[i]
        return None

    def close(self, step: int, batch_size: int) -> dict[str, float]:
        """Means of the measurements, clips per second and the share of time spent on input."""
        measured = jax.device_get(self._measured)
        elapsed = time.monotonic() - self._start
        values = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}
        values["clips_per_second"] = (step - self.first) * batch_size / elapsed
        values["input_wait"] = self.waited / elapsed
        return values


def check_finite(
    window: Window, state: TrainState, paths: Sequence[str], workdir: pathlib.Path
) -> None:
    """Stops a run whose loss, gradient or parameters are not finite, before they are saved.

    Raises:
      JaxvidError: naming the step at which it began and the videos of that step's batch.
    """
    found = window.first_not_finite()
    if found is None:
        if all_finite(state.variables):
            return
        raise JaxvidError(
            f"the parameters are not finite after step {int(state.step)}: lower config.optim.lr; "
            f"the last checkpoint is in {workdir / 'checkpoints'}"
        )
    number, what, videos = found
    if jax.process_count() > 1:
        videos = multihost_utils.process_allgather(videos).ravel()
    names = [paths[i] for i in sorted(set(videos.tolist()))]
    held = ", ".join(names[:8])
    if len(names) > 8:
        file = workdir / f"not_finite_{number}.txt"
        held += f" and {len(names) - 8} more ({file} names all)"
        if jax.process_index() == 0:
            with journal.writing(workdir):
                whole.text(file, "".join(f"{shown(name)}\n" for name in names))
    raise JaxvidError(
        f"{what}, whose batch holds {held}: look at these, lower config.optim.lr or set "
        f"config.optim.clip_norm; the last checkpoint is in {workdir / 'checkpoints'}"
    )


def log(message: str) -> None:
    """Prints a line at once, from process 0 only."""
    if jax.process_index() == 0:
        say(message)
