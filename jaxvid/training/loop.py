"""The training loop, readable top to bottom.

Order of operations, which exact resume depends on: measure BatchNorm's statistics where that is
asked for, save the state, evaluate it, take the batch of its step, make the step, log. Batches and
random numbers are functions of (seed, step), so that the next batch may be placed while the devices
make a step, and is the same after a stop.
"""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import ml_collections
import numpy as np

from jaxvid import checkpoint
from jaxvid.base import locks, paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import duration
from jaxvid.config import fields
from jaxvid.config.parts import Config
from jaxvid.data import datasets, images, order, pipeline
from jaxvid.data.batches import Batches
from jaxvid.devices import placement, processes
from jaxvid.devices.processes import log
from jaxvid.inference import evaluate, streams
from jaxvid.reports import metrics
from jaxvid.training import (
    hangs,
    journal,
    pace,
    patience,
    profiling,
    program,
    resume,
    start,
    stopping,
    weights,
)
from jaxvid.training import plan as plans
from jaxvid.training.state import TrainState, split
from jaxvid.training.window import Window, check_finite


def train(
    config: ml_collections.ConfigDict | Config, workdir: str | pathlib.Path, profile: str = ""
) -> metrics.Result:
    """Trains as `config` says, in `workdir`; goes on from its last checkpoint if there is one.

    Writes `config.json`, `metrics.jsonl` and TensorBoard events, `checkpoints/`, and the test of
    the last parameters into `eval/`. Returns that test's accuracies. SIGTERM or SIGINT saves after
    the step under way and raises `Stopped`. `profile` names steps, as `20:22`, of which JAX's
    profiler writes what host and devices do into `profile/`.

    Networks that are tested together are trained one after the other, each in a folder in `workdir`
    called as it is, and then tested.

    Raises:
      JaxvidError: also where another process trains in `workdir`, or what is there was made with
        another network, other classes or other videos.
    """
    config = fields.freeze(config)
    if config.model.members:
        for name, member in streams.members(config).items():
            train(member, pathlib.Path(workdir, name), profile)
        return evaluate.evaluate(dataclasses.replace(config, init=""), workdir)
    wanted = profiling.steps(profile) if profile else None
    workdir = paths.writable(workdir, "--workdir")
    with processes.in_first(locks.hold(workdir, "--workdir")):
        return _train(config, workdir, wanted)


def _train(config: Config, workdir: pathlib.Path, wanted: profiling.Steps | None) -> metrics.Result:
    """Trains in a workdir in which no other process does."""
    processes.check_shared(workdir)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    last = checkpoints.latest_step()
    start.check_sources(config, fresh=last is None)

    # ---- devices and data
    mesh = placement.make_mesh(axes=config.train.axes)
    plans.check_batches(config, mesh)
    say_devices(config, mesh)
    videos = open_videos(config)
    length = plans.length_of(config, len(videos.train))
    say_videos(config, videos, length)
    meta = resume.describe(config, videos.classes, videos.train.short_side)
    meta["records"] = {
        name: resume.fingerprint(split)
        for name, split in (
            (config.data.train_split, videos.train),
            (config.data.test_split, videos.test),
        )
    }
    if videos.images:
        meta["records"]["images"] = resume.fingerprint(videos.images)
    if last is not None:
        resume.compare(workdir, checkpoints.folder(last), config, meta, len(videos.train))

    # ---- the plan, and the state to start from
    categories, class_weights = videos.train.categories, weights.of_classes(config, videos.train)
    plan = plans.plan(config, mesh, videos.classes, len(videos.train), categories, class_weights)
    if plan.class_weights:
        log(weights.describe(plan.classes, plan.class_weights))
    if videos.images:
        check_images(plan.model, videos.images, config)
    for line in plan.knobs.said:
        log(line)
    lessons = {}
    if plan.teacher:
        loaded = plan.teacher.load()
        variables = {name: loaded[name] for name in plan.batch["teacher"]}
        lessons = {"teacher": jax.device_put(variables, placement.replicated(mesh))}
        log(f"learning {plan.teacher.subject}")
    if plan.knobs.lora:
        meta["lora"] |= start.base_of(plan, checkpoints, last)
    # While the state is made or read, and the first clips are decoded.
    compiling = program.begin(plan) if last is None or last < length.end(config) else None
    state = start.first_state(plan, checkpoints, last)
    say_state(plan, state)

    # ---- the loop, and what it leaves
    # A run may have ended between saving a state and testing it.
    tested = last is None or checkpoints.metric(last) is not None
    run = Run(plan, videos, checkpoints, meta, lessons, workdir, state, tested, wanted, compiling)
    if run.step >= run.end:
        why = run.patience.reason if run.ended_early else f"this config ends at {run.end}"
        log(f"already complete at step {run.step}, as {why}: nothing to learn")
    run.open_journal(fresh=last is None)
    outcome = run.loop()
    with (
        paths.writing(workdir, "--workdir"),
        processes.in_first(locks.hold(workdir / "eval", "", wait=True)),
    ):
        outcome.write(workdir / "eval", run.patience.about(run.step, run.ended_early))
    log(f"done: {outcome.line}")
    log(f"checkpoints, logs and pictures in eval are in {workdir}")
    return outcome.result


class Videos(NamedTuple):
    """What a run learns from and is tested on; it has no classes where it pretrains."""

    train: datasets.Split
    test: datasets.Split
    classes: list[str]
    images: datasets.Split | None = None


class Run:
    """A run under way: its plan, its state, and what is done at each step."""

    def __init__(
        self,
        plan: plans.Plan,
        videos: Videos,
        checkpoints: checkpoint.Checkpoints,
        meta: dict[str, Any],
        lessons: dict[str, Any],
        workdir: pathlib.Path,
        state: TrainState,
        tested: bool,
        wanted: profiling.Steps | None = None,
        compiling: Callable[[], program.Program] | None = None,
    ):
        config, length = plan.config, plan.length
        self.plan, self.config, self.videos, self.workdir = plan, config, videos, workdir
        self.checkpoints, self.meta, self.lessons = checkpoints, meta, lessons
        self.state, self.tested = state, tested
        self.begin = self.step = self.saved = int(state.step)
        self.end = length.end(config)
        self.compiling = compiling
        self.eval_steps = max(round(config.train.eval_epochs * length.per_epoch), 1)
        self.patience = patience.Patience(config.train.patience, self.eval_steps, checkpoints)
        self.ended_early = False
        if tested and self.step < self.end:
            self.end_early()
        self.precise = config.train.precise_norm_batches if state.batch_stats else 0
        self.test = evaluate.make_test(plan.model, config, videos.test, plan.mesh)
        profiling.check(wanted, self.step, self.end)
        self.hangs = hangs.Hangs(workdir, hangs.patience())
        self.pace = pace.Pace(self.hangs.beat)
        self.profile = profiling.Profile(wanted, workdir, self.pace.wait)
        self.batches = self.clips()
        # None is drawn that no step will take.
        left = itertools.islice(self.batches, max(self.end - self.step, 0))
        self.coming = placement.Ahead(left, plan.mesh)
        self.window = Window(self.step)
        self.signals = stopping.Signals(placement.largest(plan.mesh))
        self.journal: journal.Journal | None = None

    def open_journal(self, fresh: bool) -> None:
        """Notes the values that the steps to come are made with, and opens the log."""
        if jax.process_index() != 0:
            return
        with journal.writing(self.workdir):
            if fresh:
                resume.begin(self.workdir, self.config)
            elif self.step < self.end:
                resume.go_on(self.workdir, self.config, self.step)
        self.journal = journal.Journal(self.workdir, self.step, self.tested)

    def loop(self) -> evaluate.Outcome:
        """All steps that are left; returns the test of the last parameters."""
        outcome = None
        with self.checkpoints, self.signals, self.hangs, self.pace, self.profile:
            while True:
                to_test, to_save = self.is_due()
                if to_test or to_save:
                    with self.hangs.paused():
                        outcome = self.settle(to_test, to_save) or outcome
                if to_test and self.step < self.end and self.end_early():
                    log(f"ending early at step {self.step}: {self.patience.reason}")
                if self.step == self.end or self.begin > self.end:
                    break
                if self.signals.asked():
                    self.stop()
                self.take_step()
                if self.step % self.config.train.log_steps == 0 or self.step == self.end:
                    self.report()
            if outcome is None:  # A run that was already complete: test what it left.
                outcome = self.run_test()
        self.batches.close()
        for reason in self.batches.bad.values():
            log(f"bad record: {reason}")
        if self.journal:
            self.journal.close()
        return outcome

    def settle(self, to_test: bool, to_save: bool) -> evaluate.Outcome | None:
        """Saves and tests the state of this step."""
        if to_test and self.precise:
            # Of the parameters and the batches that follow: again the same after a stop.
            self.measure_norms()
        if to_save or to_test and self.precise:
            self.save()
        return self.test_now() if to_test else None

    def is_due(self) -> tuple[bool, bool]:
        """Whether the state of this step is to be tested, and whether to be saved."""
        moved, train = self.step > self.begin, self.config.train
        to_test = self.step % self.eval_steps == 0 or self.step == self.end
        to_test = to_test and (moved or not self.tested) and self.begin <= self.end
        to_save = moved and (to_test or self.step % train.checkpoint_steps == 0)
        return to_test, to_save

    def end_early(self) -> bool:
        """Ends the run at this step, which was tested, where its patience is over."""
        self.ended_early = self.patience.is_over(self.step)
        if self.ended_early:
            self.end = self.step
        return self.ended_early

    def clips(self) -> Batches | images.Joint:
        """Training batches from that of this step on."""
        train, seed = self.config.train, self.config.seed
        clips = pipeline.train_batches(
            self.videos.train,
            self.config.data,
            batch_size=train.batch_size,
            loss=train.loss,
            seed=seed,
            start_step=self.step,
        )
        if self.videos.images is None:
            return clips
        pictures = pipeline.train_batches(
            self.videos.images,
            images.data_of(self.config.data),
            batch_size=train.image_batch_size,
            loss="softmax",
            seed=seed + images.SEED,
            start_step=self.step,
        )
        return images.Joint(clips, pictures)

    @functools.cached_property
    def program(self) -> program.Program:
        """The compiled step."""
        return self.compiling() if self.compiling else program.compiled(self.plan)

    def take_step(self) -> None:
        """Hands this step to the devices and, while they make it, the batch of the next one.

        They have at most these two batches, as the step before is finished when the latter comes.
        """
        run, number = self.program.run, self.step + 1
        self.draw()  # The first one, or what comes after it is already there.
        drawn, batch = next(self.coming)
        with self.profile.step(number):
            self.state, measured = run(self.state, {**batch, **self.lessons})
        del batch
        self.window.add(measured, drawn["index"])
        self.step = number
        self.pace.given(measured)
        self.pace.wait(1)
        self.draw()
        self.profile.handed(number)

    def draw(self) -> None:
        """Places the next batch, and counts how long the devices had nothing to do meanwhile."""
        begun = time.monotonic()
        self.coming.draw()
        self.window.waited += self.pace.idle(begun)

    def measure_norms(self) -> None:
        """Gives BatchNorms the statistics of the batches that follow."""
        following = self.clips()
        taken = itertools.islice(following, min(self.precise, self.plan.length.per_epoch))
        batches = (placement.put_batch(batch, self.plan.mesh) for batch in self.unless_asked(taken))
        try:
            self.state = self.plan.precise_norms(self.state, batches)
        finally:
            following.close()

    @property
    def to_save(self) -> TrainState:
        """The state, without what the base of its factors has."""
        return self.state.without(frozenset(self.meta.get("lora", {}).get("held", ())))

    def save(self) -> None:
        """Saves the state of this step."""
        self.check_finite()
        self.keep_notes()
        self.checkpoints.save(self.step, self.to_save, self.meta)
        self.saved = self.step
        self.window = Window(self.step)

    def test_now(self) -> evaluate.Outcome:
        """Tests the state of this step and notes what it found."""
        outcome = self.run_test()
        log(outcome.line)
        self.note(self.step, {f"test_{name}": x for name, x in outcome.result.logged.items()})
        self.keep_notes()
        self.checkpoints.measure(self.step, outcome.result.main)
        self.window = Window(self.step)
        return outcome

    def run_test(self) -> evaluate.Outcome:
        """Tests the state of this step."""
        test = self.config.test
        batches = pipeline.test_batches(
            self.videos.test,
            test,
            loss=self.config.train.loss,
            workers=self.config.data.workers,
        )
        variables = self.state.tested(test.weights)
        variables = variables | {"params": self.plan.merged(variables["params"])}
        return self.test(variables, self.unless_asked(batches), f"test at step {self.step}")

    def report(self) -> None:
        """Logs the means since the last line."""
        batch_size, step = self.config.train.batch_size, self.step
        values = self.window.close(step, batch_size)
        values["lr"] = float(self.plan.length.rate(step - 1))
        used = self.program.used(values["clips_per_second"] / batch_size, self.plan.mesh)
        values |= used
        if not all(map(np.isfinite, values.values())):
            self.check_finite()
        self.checkpoints.check()
        if self.batches.bad:
            values["bad_records"] = len(self.batches.bad)
        self.note(step, values)
        left = (self.end - step) * batch_size / values["clips_per_second"]
        top1 = f"top-1 {values['top1']:.3f} " if "top1" in values else ""
        shares = "".join(f"{name} {100 * share:.0f}% " for name, share in used.items())
        log(
            f"step {step}/{self.end} loss {values['loss']:.4f} {top1}"
            f"lr {values['lr']:.2e} {values['clips_per_second']:.1f} clips/s "
            f"waiting {100 * values['input_wait']:.0f}% {shares}{duration(left)} left"
        )
        self.window = Window(step)

    def note(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars to the log, in the process that has one."""
        if self.journal:
            self.journal.write(step, values)

    def keep_notes(self) -> None:
        """Lets no line of the log be lost that a checkpoint comes after."""
        if self.journal:
            self.journal.keep()

    def check_finite(self) -> None:
        """Stops the run where it is not finite."""
        check_finite(self.window, self.state, self.videos.train.paths, self.workdir)

    def unless_asked(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, until the run is asked to stop."""
        for batch in batches:
            if self.signals.asked():
                self.stop()
            yield batch

    def stop(self) -> NoReturn:
        """Saves what is not saved and ends the run as the signal asks."""
        with self.hangs.paused():
            if self.step != self.saved:
                self.check_finite()
                self.keep_notes()
                self.checkpoints.save(self.step, self.to_save, self.meta)
            self.checkpoints.wait()
        log(
            f"stopped by {self.signals.name} at step {self.step}: the same command goes on from "
            "there"
        )
        raise self.signals.stopped()


def open_videos(config: Config) -> Videos:
    """Opens both splits of `config.data`."""
    labelled = config.train.loss != "pixels"
    train, test = (
        datasets.open_split(config.data, split, labelled=labelled)
        for split in (config.data.train_split, config.data.test_split)
    )
    classes = common_classes(config, train, test) if labelled else []
    pictures = images.open_images(config.data) if config.data.images else None
    return Videos(train, test, classes, pictures)


def common_classes(
    config: Config, train_split: datasets.Split, test_split: datasets.Split
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


def check_images(model: Any, split: datasets.Split, config: Config) -> None:
    """Says how many pictures there are, of as many classes as the network's head for them has."""
    if len(split.classes) != model.image_classes:
        raise JaxvidError(
            f"{config.data.images} has {len(split.classes)} classes, but the network's head for "
            f"images {model.image_classes}: set image_classes in config.model.overrides"
        )
    log(
        f"{config.data.images}: {len(split)} pictures beside them, {len(split.classes)} classes, "
        f"{config.train.image_batch_size} a step"
    )


def say_devices(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Says on what a run is made, and how its batch is shared out."""
    size, cuts, count = config.train.batch_size, config.train.accumulate_steps, mesh.devices.size
    shape = ", ".join(f"{axis}:{size}" for axis, size in mesh.shape.items() if size > 1)
    log(
        f"{count} {mesh.devices.flat[0].platform} device(s)" + f" ({shape})" * (count > 1) + ", "
        f"global batch {size}, {size // placement.shares(mesh)} per device"
        + (f" in {cuts} parts" if cuts > 1 else "")
    )


def say_videos(config: Config, videos: Videos, length: plans.Length) -> None:
    """Says what there is to learn from, and for how long."""
    classes = f"{len(videos.classes)} classes" if videos.classes else "without their labels"
    log(
        f"{config.data.dataset}: {len(videos.train)} videos to train, {len(videos.test)} to test, "
        f"{classes}; {length.per_epoch} steps an epoch, {length.steps} in all"
    )
    if config.data.balance:
        turns = order.turns(videos.train.source.labels, config.data.balance)
        log(
            f"balance {config.data.balance:g}: an epoch of {len(turns)} clips has a video from "
            f"{turns.min():.2g} to {turns.max():.2g} times, on average"
        )


def say_state(plan: plans.Plan, state: TrainState) -> None:
    """Says how large the network is, what share of it is trained, and which copy is tested."""
    config = plan.config
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    share = ""
    if plan.knobs.frozen:
        trained, _ = split(state.params, plan.knobs.frozen)
        learning = sum(leaf.size for leaf in jax.tree.leaves(trained))
        share = f", of which {learning / 1e6:.2f} M are trained ({100 * learning / count:.2g} %)"
    log(f"{config.model.name}: {count / 1e6:.2f} M parameters{share}")
    if state.ema:
        copy = "averaged copy" if config.test.weights == "ema" else "parameters themselves"
        log(f"averaging parameters, {config.train.ema_decay} kept a step; tests use the {copy}")
