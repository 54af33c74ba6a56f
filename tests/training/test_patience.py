"""Early stopping, of runs that learn nothing, at the smallest size."""

import json

import pytest

from jaxvid import checkpoint
from jaxvid.training import loop, patience
from tests.training.test_loop import make_config


class Fake:
    """Checkpoints of which one is the best."""

    def __init__(self, best):
        self._best = best

    def best_step(self):
        return self._best


@pytest.mark.parametrize(
    "tests, best, step, over",
    [
        (0, 0, 1000, False),
        (2, 100, 150, False),
        (2, 100, 199, False),
        (2, 100, 200, True),
        (2, 130, 150, False),
        (2, 130, 200, True),
        (2, None, 50, False),
        (2, None, 100, True),
    ],
)
def test_patience_counts_tests_since_the_best(tests, best, step, over):
    assert patience.Patience(tests, 50, Fake(best)).is_over(step) is over


def steps(workdir):
    return checkpoint.Checkpoints(workdir / "checkpoints").steps()


def test_a_run_that_gets_no_better_ends(records, tmp_path, capsys):  # noqa: F811
    c = make_config(records)
    c.optim.lr = 0.0  # Every test finds the same, so that the first, of step 4, stays the best.
    c.train.update({"eval_epochs": 1.0, "patience": 2, "class_weights": "up:2"})
    loop.train(c, tmp_path)
    said = capsys.readouterr().out
    assert (
        "ending early at step 12: of the last 2 tests none was better than that of step 4" in said
    )
    assert "to 1.78 (up)" in said
    assert steps(tmp_path) == [4, 12]
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert (result["step"], result["best_step"], result["stopped_early"]) == (12, 4, True)

    loop.train(c, tmp_path)
    said = capsys.readouterr().out
    assert "already complete at step 12, as of the last 2 tests none was better" in said
    assert steps(tmp_path) == [4, 12]
    assert json.loads((tmp_path / "eval" / "result.json").read_text()) == result

    # Killed after it saved the state of step 12, before it tested that.
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    checkpoints.measure(12, float("nan"))
    loop.train(c, tmp_path)
    assert "ending early at step 12" in capsys.readouterr().out

    c.train.patience = 3
    loop.train(c, tmp_path)
    assert "ending early at step 16" in capsys.readouterr().out
    assert steps(tmp_path) == [4, 16]
