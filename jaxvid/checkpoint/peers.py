"""What the processes of a run do together for a checkpoint."""

import jax


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def wait_for_all(what: str) -> None:
    """Returns when all processes have called it with the same `what`."""
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"jaxvid checkpoint {what}")
