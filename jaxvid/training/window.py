"""What a run measured since its last line, and where it ceased to be finite."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import shown
from jaxvid.training import journal
from jaxvid.training.state import TrainState, all_finite


@dataclasses.dataclass
class Window:
    """What happened since the last log line.

    `waited` are the seconds in which the devices had nothing to do since there was no batch.
    """

    first: int
    waited: float = 0.0

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        self._measured: list[dict[str, jax.Array]] = []
        self._videos: list[np.ndarray] = []

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
        """Means of the measurements, clips per second and the share of time waited for input."""
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
