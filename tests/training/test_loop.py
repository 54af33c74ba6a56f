"""The training loop: what it writes, how it goes on after a kill, how it starts from weights."""

import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import time
from typing import NamedTuple

import flax
import jax
import numpy as np
import pytest

from jaxvid import checkpoint, config
from jaxvid.base import locks
from jaxvid.base.errors import JaxvidError, Stopped
from jaxvid.config import fields
from jaxvid.data import build, datasets, pipeline, toy
from jaxvid.devices import chips, costs, placement
from jaxvid.inference import evaluate
from jaxvid.reports import metrics
from jaxvid.training import loop, optim, plan, program, resume
from jaxvid.training.norms import make_precise_norms
from tests import compiling, handed


def make_config(records, **arguments):
    c = config.from_row(
        "tsm_r50_8f", dataset="mini", data_dir=str(records), runlocal=True, **arguments
    )
    c.model.overrides = {"blocks": (1, 1, 1), "width": 8}
    c.data.update({"crop": 32})
    c.data.sampling.num_clips = 4
    c.test.update({"crop": 32, "short_side": 32, "batch_size": 4})
    c.test.sampling.num_clips = 4
    c.train.update({"batch_size": 8, "epochs": 5.0, "eval_epochs": 3.0, "log_steps": 5})
    c.train.checkpoint_steps = 4
    return c


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """A finished run of 20 steps."""
    workdir = tmp_path_factory.mktemp("trained")
    loop.train(make_config(records), workdir)
    return workdir


def flat(path, weights=None):
    return flax.traverse_util.flatten_dict(checkpoint.load(path, weights), sep="/")


def assert_same(one, other, weights=None):
    one, other = flat(one, weights), flat(other, weights)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def last(workdir):
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    return checkpoints.folder(checkpoints.latest_step())


def test_a_run_leaves_everything_it_promises(trained, records):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "test_top1" in line] == [12, 20]
    assert all(0 <= line["input_wait"] <= 1 for line in lines if "loss" in line)
    # The rate is that of the last step before the line: half an epoch of warm-up, then a cosine.
    schedule = optim.make_schedule(make_config(records).optim, 20, 5.0)
    rates = [line["lr"] for line in lines if "loss" in line]
    np.testing.assert_allclose(rates, [schedule(step) for step in (4, 9, 14, 19)], rtol=1e-6)
    assert rates == sorted(rates, reverse=True) and rates[0] > 2 * rates[-1]
    result = json.loads((trained / "eval" / "result.json").read_text())
    assert result["videos"] == 8 and result["views"] == 1
    scores = np.load(trained / "eval" / "scores.npz")
    assert scores["scores"].shape == (8, 8) and len(scores["paths"]) == 8
    assert metrics.accuracy(scores["scores"], scores["labels"]).top1 == result["top1"]
    answers = (trained / "eval" / "predictions.csv").read_text().splitlines()
    assert len(answers) == 9 and answers[0] == "path,label,answer,score,correct"
    assert (trained / "eval" / "confusion.png").stat().st_size > 1000
    assert json.loads((trained / "config.json").read_text())["train"]["batch_size"] == 8
    meta = checkpoint.load_meta(trained)
    assert meta["row"] == "tsm_test" and tuple(meta["classes"]) == toy.CLASSES
    assert meta["short_side"] == 48


def test_a_finished_run_is_only_tested_again(trained, records, capsys):
    before = (trained / "metrics.jsonl").read_text()
    loop.train(make_config(records), trained)
    assert "resumed from step 20" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_text() == before


def test_evaluation_gives_the_result_of_training(trained, records, tmp_path):
    c = make_config(records, init=str(last(trained)))
    c.test.batch_size = 3  # the last batch is filled up, which must not count
    evaluate.evaluate(c, tmp_path)
    ours, theirs = (np.load(path / "eval" / "scores.npz") for path in (tmp_path, trained))
    np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-5)
    np.testing.assert_array_equal(ours["labels"], theirs["labels"])
    np.testing.assert_array_equal(ours["paths"], theirs["paths"])


# ---- starting from weights


def test_fine_tuning_takes_all_but_the_classifier(records, trained, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("yes\nno\n")
    rows = (records / "train.csv").read_text().splitlines()[1:]
    for split in ("train", "test"):
        lines = [f"{row.split(',')[0]},{('yes', 'no')[i % 2]}" for i, row in enumerate(rows)]
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
        build.build(records / "videos", tmp_path / f"{split}.csv", tmp_path, workers=1)
    c = make_config(tmp_path, init=str(trained))
    c.train.stop_at_step = 1
    c.optim.lr = 0.0
    loop.train(c, tmp_path / "run")
    said = capsys.readouterr().out
    assert "new: params/head/fc/kernel (32, 2)" in said and "2 new" in said
    before, after = flat(trained), flat(tmp_path / "run")
    for name in before:
        if name.startswith("params/") and "head" not in name:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_same_classes_keep_the_classifier(records, trained, tmp_path, capsys):
    c = make_config(records, init=str(trained))
    c.train.stop_at_step = 1
    c.optim.lr = 0.0
    loop.train(c, tmp_path)
    assert "0 new" in capsys.readouterr().out
    np.testing.assert_array_equal(
        flat(trained)["params/head/fc/kernel"], flat(tmp_path)["params/head/fc/kernel"]
    )


def test_another_networks_weights_are_refused(records, trained, tmp_path):
    c = make_config(records, init=str(trained))
    c.model.overrides.width = 16
    with pytest.raises(JaxvidError, match="is not a checkpoint of this network: .*conv1"):
        loop.train(c, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(records, tmp_path):
    c = make_config(records)
    c.train.update({"log_steps": 20, "checkpoint_steps": 2})
    c.optim.update({"name": "sgd", "lr": 1e25, "clip_norm": 0.0, "warmup_epochs": 0.0})
    with pytest.raises(JaxvidError) as caught:
        loop.train(c, tmp_path)
    # The first update makes the parameters huge, and the second loss meets them; it was to be
    # logged at step 20 only, but saved after this very step.
    said = re.match(
        r"the (loss|norm of the gradient) is (nan|inf) at step (\d), whose batch holds ",
        str(caught.value),
    )
    assert said and said[3] == "2", caught.value
    split = datasets.open_split(c.data, "train")
    batches = handed.train_batches(split, c, start_step=1)
    for video in next(batches)["index"]:
        assert split.paths[video] in str(caught.value)
    batches.close()
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest_step() is None


def test_parameters_that_are_not_finite_are_never_saved(records, tmp_path):
    c = make_config(records)
    c.train.update({"stop_at_step": 1, "log_steps": 20, "checkpoint_steps": 1})
    c.optim.update(
        {"name": "sgd", "lr": 3e38, "clip_norm": 0.0, "warmup_epochs": 0.0, "momentum": 0.0}
    )
    c.optim.lr_scales = (("*", 1e30),)
    with pytest.raises(JaxvidError, match="the parameters are not finite after step 1"):
        loop.train(c, tmp_path)
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest_step() is None


COSTLY = {"accumulate_steps": 2, "remat": True}


@pytest.mark.parametrize("costly", [{}, pytest.param(COSTLY, marks=pytest.mark.slow("training"))])
def test_a_run_with_many_knobs_goes_on_exactly(records, tmp_path, capsys, costly):
    def knobs(stop):
        c = make_config(records)
        c.optim.update({"layer_decay": 0.9, "freeze": ("backbone/conv1/*",), "lr": 5e-3})
        c.train.update({"ema_decay": 0.8, "freeze_norm": "partial", "norm_group": 4, **costly})
        c.train.precise_norm_batches = 2
        c.train.update({"stop_at_step": stop, "eval_epochs": 6.0, "log_steps": 2})
        return c

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    loop.train(knobs(6), whole)
    said = capsys.readouterr().out
    assert ("8 per device in 2 parts" in said) == bool(costly)
    assert "rates of 5 layers: backbone/conv1 x0.656" in said
    assert "averaging parameters, 0.8 kept a step; tests use the averaged copy" in said
    frozen = int(re.search(r"frozen: (\d+) of (\d+) arrays", said)[1])
    loop.train(knobs(3), halves)
    loop.train(knobs(6), halves)
    assert "resumed from step 3" in capsys.readouterr().out
    for weights in ("ema", "last"):
        assert_same(last(whole), last(halves), weights)
    norms = [name for name in flat(whole) if name.startswith("params/") and "/bn/" in name]
    assert frozen == len(norms) + 1
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]  # of the optimizer
    # What is loaded is what was tested: the averaged copy, unless asked otherwise.
    average, plain = flat(whole), flat(whole, "last")
    assert average.keys() == plain.keys()
    moved = {name for name in plain if (average[name] != plain[name]).any()}
    assert "params/head/fc/kernel" in moved and "params/backbone/conv1/conv/kernel" not in moved
    c = knobs(6)
    c.init = str(whole)
    for weights in ("ema", "last"):
        c.test.weights = weights
        evaluate.evaluate(c, tmp_path / weights)
    scores = [np.load(tmp_path / name / "eval/scores.npz")["scores"] for name in ("ema", "last")]
    tested = np.load(whole / "eval" / "scores.npz")["scores"]
    np.testing.assert_allclose(scores[0], tested, atol=1e-5)
    assert np.abs(scores[1] - tested).max() > 1e-4


@pytest.mark.slow("training")
def test_a_run_that_was_stopped_while_statistics_were_measured_goes_on_exactly(
    records, tmp_path, monkeypatch
):
    c = make_config(records)
    c.train.update({"precise_norm_batches": 3, "stop_at_step": 2, "checkpoint_steps": 100})
    loop.train(c, tmp_path / "whole")

    def stopping(*arguments):
        measure = make_precise_norms(*arguments)

        def measure_and_be_asked(state, batches):
            signal.raise_signal(signal.SIGTERM)
            return measure(state, batches)

        return measure_and_be_asked

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(plan, "make_precise_norms", stopping)
        loop.train(c, tmp_path / "stopped")
    unmeasured = flat(last(tmp_path / "stopped"))
    loop.train(c, tmp_path / "stopped")
    assert_same(last(tmp_path / "whole"), last(tmp_path / "stopped"))
    # The statistics that were tested are those that the checkpoint holds, and only they differ.
    measured = flat(last(tmp_path / "stopped"))
    changed = {name for name in measured if (measured[name] != unmeasured[name]).any()}
    assert changed == {name for name in measured if name.startswith("batch_stats/")}


@pytest.mark.slow("training")
def test_a_run_in_half_precision_learns_as_one_in_single(records, tmp_path):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        c = make_config(records)
        c.model.dtype = dtype
        c.optim.lr = 5e-3
        loop.train(c, tmp_path / dtype)
        text = (tmp_path / dtype / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        losses[dtype] = [line["loss"] for line in lines if "loss" in line]
        assert all(value.dtype == np.float32 for value in flat(tmp_path / dtype).values())
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_a_batch_that_does_not_divide_into_its_parts_is_refused(records, tmp_path):
    c = make_config(records)
    c.train.accumulate_steps = 3
    with pytest.raises(JaxvidError, match="batch_size=8 must divide by .*accumulate_steps=3 and"):
        loop.train(c, tmp_path)


def test_testing_on_other_classes_is_refused(records, trained, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    path = (records / "test.csv").read_text().splitlines()[1].split(",")[0]
    (tmp_path / "test.csv").write_text(f"path,label\n{path},a\n")
    build.build(records / "videos", tmp_path / "test.csv", tmp_path, workers=1)
    with pytest.raises(JaxvidError, match="answers 8 classes that are not those of mini"):
        evaluate.evaluate(make_config(tmp_path, init=str(trained)), tmp_path / "out")


# ---- a workdir goes on only with what made it


@pytest.fixture
def begun(trained, tmp_path):
    """A copy of the finished run, to go on with."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def contents(workdir):
    """All files of a workdir but those that a test writes anew."""
    return {
        path.relative_to(workdir): path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and "eval" not in path.parts and "events" not in path.name
    }


def relabelled(records, folder, labels, splits=("train", "test")):
    """Records of the same clips under other class names, or with fewer of them."""
    for split in splits:
        lines = (records / f"{split}.csv").read_text()
        for old, new in labels.items():
            lines = lines.replace(f",{old}\n", f",{new}\n")
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.csv").write_text(lines)
        build.build(records / "videos", folder / f"{split}.csv", folder, workers=1)
    return folder


def refused(c, workdir):
    """The refusal to train with `c` in `workdir`, which changes nothing there."""
    before = contents(workdir)
    with pytest.raises(JaxvidError) as caught:
        loop.train(c, workdir)
    assert contents(workdir) == before
    return str(caught.value)


def test_other_classes_are_refused(records, begun, tmp_path):
    other = relabelled(records, tmp_path / "other", {"left": "leftwards"})
    c = make_config(other)
    c.data.dataset = "theirs"
    c.train.epochs = 8.0
    assert refused(c, begun) == (
        f"{begun} holds a run that learned 8 classes, which are not those of theirs (8): choose "
        f"another --workdir, where init={begun} starts from its weights, or go on with what made it"
    )


def test_other_videos_are_refused_and_a_move_is_not(records, begun, tmp_path, capsys):
    moved = pathlib.Path(shutil.copytree(records, tmp_path / "moved"))
    c = make_config(moved)
    loop.train(c, begun)
    said = capsys.readouterr().out
    assert f'  data.data_dir: "{records}" -> "{moved}" (the same videos in another place)' in said
    for split, count in (("train", 32), ("test", 8)):
        fewer = pathlib.Path(shutil.copytree(records, tmp_path / f"fewer-{split}"))
        lines = (fewer / f"{split}.csv").read_text().splitlines()
        (fewer / f"{split}.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
        build.build(fewer / "videos", fewer / f"{split}.csv", fewer, workers=1, overwrite=True)
        said = refused(make_config(fewer), begun)
        assert re.search(rf"other videos in the split '{split}' of mini \({count} videos, ", said)
        assert f"there are here ({count - 1} videos, " in said
    # As many, but other labels of the same ones.
    lines = [line.replace(",left", ",x").replace(",right", ",left") for line in lines]
    (moved / "test.csv").write_text("\n".join(line.replace(",x", ",right") for line in lines))
    build.build(moved / "videos", moved / "test.csv", moved, workers=1, overwrite=True)
    assert "other videos in the split 'test'" in refused(make_config(moved), begun)


def test_another_network_is_refused(records, begun):
    c = make_config(records)
    c.model.overrides.dropout = 0.25
    said = refused(c, begun)
    assert (
        'holds a run with config.model.overrides={"blocks": [1, 1, 1], "width": 8}, not {' in said
    )
    c = make_config(records)
    c.model.name = "tsn_test"
    assert 'config.model.name="tsm_test", not "tsn_test": choose another' in refused(c, begun)
    c = make_config(records)
    c.train.loss = "sigmoid"
    assert "holds a run with the loss softmax, not sigmoid, which decides" in refused(c, begun)


def test_nothing_left_to_do_is_said_and_config_json_stays(records, begun, capsys):
    c = make_config(records)
    c.train.update({"epochs": 2.0, "batch_size": 4})
    c.optim.lr = 0.5
    before = contents(begun)
    loop.train(c, begun)
    said = capsys.readouterr().out
    assert "already complete at step 20, as this config ends at 16: nothing to learn" in said
    assert "  optim.lr: 0.002 -> 0.5\n" in said and "  steps in an epoch: 4 -> 8\n" in said
    assert contents(begun) == before


def test_what_differs_is_said_with_its_meaning_and_kept(records, begun, capsys):
    began = (begun / "config.json").read_bytes()
    c = make_config(records, init="somewhere")
    c.train.update({"epochs": 6.0, "eval_epochs": 10.0})
    loop.train(c, begun)
    said = capsys.readouterr().out
    differs = said[said.index("what differs") : said.index("resumed from")]
    assert differs.splitlines() == [
        f"what differs in {begun} after step 20:",
        '  init: "" -> "somewhere" (without effect: the weights are this run\'s own)',
        "  train.epochs: 5.0 -> 6.0",
        "  train.eval_epochs: 3.0 -> 10.0",
        "  steps in all: 20 -> 24",
        f"  the rate at step 21: 0 -> {float(plan.length_of(handed.frozen(c), 32).rate(20)):.3g}",
    ]
    assert (begun / "config.json").read_bytes() == began
    later = json.loads((begun / "config_from_00000020.json").read_text())
    assert later["train"]["epochs"] == 6.0 and later["init"] == "somewhere"
    # The same again is not another one; what comes next is held against the last values.
    loop.train(c, begun)
    assert "what differs" not in capsys.readouterr().out
    c.train.epochs = 6.5
    c.train.batch_size = 16
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "train_batches", interrupted)
        loop.train(c, begun)
    assert "  train.epochs: 6.0 -> 6.5\n" in capsys.readouterr().out
    names = sorted(path.name for path in begun.glob("config*"))
    assert names == ["config.json", "config_from_00000020.json"]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_values_of_steps_that_were_never_saved_are_forgotten(records, begun):
    c = make_config(records)
    c.train.epochs = 7.0
    resume.go_on(begun, handed.frozen(c), 20)
    assert (begun / "config_from_00000020.json").exists()
    assert resume.differences(begun, handed.frozen(c), 20, 32)[0] == "train.epochs: 5.0 -> 7.0"
    resume.go_on(begun, handed.frozen(c), 12)
    assert [path.name for path in begun.glob("config_from*")] == ["config_from_00000012.json"]
    assert resume.differences(begun, handed.frozen(c), 20, 32) == []
    resume.begin(begun, handed.frozen(c))
    assert [path.name for path in begun.glob("config*")] == ["config.json"]


def test_a_run_of_an_older_version_goes_on(records, begun, capsys):
    folder = last(begun)
    record = json.loads((folder / "jaxvid.json").read_text())
    del record["meta"]["records"], record["sums"]
    (folder / "jaxvid.json").write_text(json.dumps(record))
    old = json.loads((begun / "config.json").read_text())
    del old["optim"]["gamma"]
    old["optim"]["gone"] = 1
    for text in (json.dumps(old), "{", None):
        (begun / "config.json").write_text(text) if text else (begun / "config.json").unlink()
        loop.train(make_config(records), begun)
        said = capsys.readouterr().out
        assert "not known, as an older version saved it: which videos it learned from" in said
        unknown = f"not known which fields, as {begun / 'config.json'} cannot be read"
        assert ("not known, as an older version began it: optim.gamma" in said) == bool(
            text == json.dumps(old)
        )
        assert (unknown in said) == (text != json.dumps(old))


def test_two_trainings_in_one_workdir(records, trained, tmp_path):
    """The second is told before it reads or writes anything."""
    with locks.hold(tmp_path, "--workdir"):
        said = refused(make_config(records), tmp_path)
    assert said.startswith(f"--workdir={tmp_path} is being written by process {os.getpid()} on ")
    assert not list(tmp_path.iterdir())


# ---- the host beside the devices


def test_the_steps_of_a_profile_are_written_and_named(records, tmp_path, capsys):
    c = make_config(records)
    c.train.stop_at_step = 4
    loop.train(c, tmp_path, profile="2:3")
    said = capsys.readouterr().out
    assert f"a profile of steps 2:3 is in {tmp_path}/profile: open its file" in said
    [file] = (tmp_path / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    assert sorted(map(int, steps)) == [2, 3]


@pytest.mark.parametrize(
    "profile, words",
    [
        ("5", "--profile=5 must be START:STOP"),
        ("0:4", "--profile=0:4 must be START:STOP"),
        ("4:3", "--profile=4:3 must be START:STOP"),
        ("4:-1", "--profile=4:-1 must be START:STOP"),
        ("1:101", "--profile=1:101 is 101 steps: take at most 100"),
        ("19:21", "--profile=19:21: this run makes steps 1 to 20: choose among these"),
    ],
)
def test_steps_that_cannot_be_profiled_are_refused(records, tmp_path, profile, words):
    with pytest.raises(JaxvidError, match=words):
        loop.train(make_config(records), tmp_path, profile=profile)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_finished_run_has_no_steps_to_profile(records, begun):
    with pytest.raises(JaxvidError, match="--profile=20:20: this run makes no more steps"):
        loop.train(make_config(records), begun, profile="20:20")


def test_programs_are_compiled_once_however_often_a_run_is_tested(records, tmp_path, monkeypatch):
    counts = []

    class Counting(loop.Run):
        def settle(self, to_test, to_save):
            counts.append(len(compiled))
            return super().settle(to_test, to_save)

        def take_step(self):
            super().take_step()
            if self.step == 4:  # All that a run does has been done once by then.
                counts.append(len(compiled))

    monkeypatch.setattr(loop, "Run", Counting)
    c = make_config(records)
    c.train.update({"eval_epochs": 0.5, "checkpoint_steps": 2, "log_steps": 1, "stop_at_step": 8})
    with compiling.counting() as compiled:
        loop.train(c, tmp_path)
    assert 0 < counts[2] == counts[-1] and len(counts) == 5, counts


def test_a_known_chip_has_its_shares_in_the_log(records, tmp_path, monkeypatch, capsys):
    c = make_config(records)
    c.train.update({"stop_at_step": 5})
    with monkeypatch.context() as patch:
        chip = chips.Chip("mine", ("cpu",), 2e12, 1e12, 1, devices=2)
        patch.setattr(chips, "CHIPS", (chip,))
        loop.train(c, tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    said = capsys.readouterr().out
    gflop = float(re.search(r"compiled the step in \S+ s: (\S+) GFLOP", said)[1])
    per_second = line["clips_per_second"] / c.train.batch_size
    assert line["mfu"] == pytest.approx(gflop * 1e9 * per_second / 1e12, rel=1e-3)
    assert 0 < line["memory_share"] < 1
    assert f" mfu {100 * line['mfu']:.0f}% memory_share " in said


def test_of_a_loop_no_bytes_are_said_as_the_compiler_counts_one_round(records, monkeypatch):
    class Loops(NamedTuple):
        flops: float = 1.0
        loops: bool = True
        kernels: bool = True

    monkeypatch.setattr(costs, "count", lambda program: Loops())
    monkeypatch.setattr(chips, "by_kind", lambda kind: chips.CHIPS[0])
    mesh = placement.make_mesh()
    planned = plan.plan(fields.freeze(make_config(records)), mesh, list(toy.CLASSES))
    assert program.compiled(planned).used(1.0, mesh).keys() == {"mfu"}


def test_a_run_is_one_batch_ahead_of_the_step_under_way(records, tmp_path, monkeypatch):
    waiting, under_way = [], []

    class Counting(loop.Run):
        def draw(self):
            under_way.append(self.pace._left)
            super().draw()
            shape = self.plan.batch["video"].shape
            waiting.append(sum(array.shape == shape for array in jax.live_arrays()))

    monkeypatch.setattr(loop, "Run", Counting)
    c = make_config(records)
    c.train.update({"log_steps": 8, "stop_at_step": 8, "checkpoint_steps": 8})
    loop.train(c, tmp_path)
    assert max(under_way) <= 1
    # Nothing is placed that no step will take.
    assert waiting == [1] * 15 + [0]


def test_a_run_that_hangs_tells_where(records, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXVID_HANG_SECONDS", "1")

    class Hanging(loop.Run):
        def draw(self):
            if self.step == 3:
                self.hang()
            super().draw()

        def hang(self):
            until = time.monotonic() + 30
            while not (tmp_path / "hang-0.txt").exists() and time.monotonic() < until:
                time.sleep(0.05)

    monkeypatch.setattr(loop, "Run", Hanging)
    c = make_config(records)
    c.train.update({"stop_at_step": 5})
    loop.train(c, tmp_path)
    assert "in hang\n" in (tmp_path / "hang-0.txt").read_text()
    assert "no step was finished for 00:01" in capsys.readouterr().err
