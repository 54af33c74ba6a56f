"""The log of a run: each step once, readable by TensorBoard, and one sentence on a full disk."""

import errno
import json
import os

import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.training.journal import Journal


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_that_a_run_makes_again_stand_once(tmp_path):
    journal = Journal(tmp_path, 0, tested=True)
    for step in (1, 2, 3):
        journal.write(step, {"loss": step / 2})
        journal.write(step, {"test_top1": 0.5})
    journal.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    Journal(tmp_path, 2, tested=True).close()
    steps = [(line["step"], "loss" in line) for line in lines(tmp_path)]
    assert steps == [(1, True), (1, False), (2, True), (2, False)]
    Journal(tmp_path, 2, tested=False).close()  # that test is still to be made
    assert [(line["step"], "loss" in line) for line in lines(tmp_path)] == steps[:3]


def test_tensorboard_reads_the_scalars_and_forgets_later_steps(tmp_path):
    journal = Journal(tmp_path, 7, tested=True)
    journal.write(8, {"loss": 0.25, "test_top1": 1.0})
    journal.write(300, {"loss": 1e-3})
    journal.close()
    from jaxvid.data.cpu_tf import tf

    (file,) = tmp_path.glob("events.out.tfevents.*")
    first, begin, *events = tf.compat.v1.train.summary_iterator(str(file))
    assert first.file_version == "brain.Event:2"
    assert begin.step == 8 and begin.session_log.status == begin.session_log.START
    scalars = [(e.step, [(v.tag, v.simple_value) for v in e.summary.value]) for e in events]
    assert scalars[0] == (8, [("loss", 0.25), ("test_top1", 1.0)])
    assert scalars[1][0] == 300 and scalars[1][1][0][1] == pytest.approx(1e-3)
    assert events[0].wall_time >= first.wall_time > 1.7e9


def test_a_full_disk_is_one_sentence(tmp_path):
    journal = Journal(tmp_path, 0, tested=True)

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal._lines = Full()
    with pytest.raises(JaxvidError) as caught:
        journal.write(1, {"loss": 1.0})
    assert str(caught.value) == (
        f"cannot write to {tmp_path} (No space left on device): make room or choose another "
        "--workdir; the same command goes on from the last checkpoint"
    )
