"""Early stopping: a run ends when its tests have been no better for `config.train.patience` times.

What was best is read from the checkpoints, of which a run keeps the best, so that a run which was
killed ends where one that was not would have.
"""

from typing import Any

from jaxvid import checkpoint


class Patience:
    """How long a run waits for a better test; 0 tests are for ever."""

    def __init__(self, tests: int, eval_steps: int, checkpoints: checkpoint.Checkpoints):
        """`eval_steps` lie between two tests."""
        self._tests, self._eval_steps, self._checkpoints = tests, eval_steps, checkpoints

    def is_over(self, step: int) -> bool:
        """Whether the test of `step`, which was made, was the last to wait for."""
        if not self._tests:
            return False
        best = self._checkpoints.best_step() or 0
        return step // self._eval_steps - best // self._eval_steps >= self._tests

    @property
    def reason(self) -> str:
        """Why a run ended early."""
        best = self._checkpoints.best_step()
        than = "none has a figure" if best is None else f"none was better than that of step {best}"
        return f"of the last {self._tests} tests {than} (config.train.patience={self._tests})"

    def about(self, step: int, early: bool) -> dict[str, Any]:
        """What the results of a run say of its end, where it had patience to lose."""
        if not self._tests:
            return {}
        return {"step": step, "stopped_early": early, "best_step": self._checkpoints.best_step()}
