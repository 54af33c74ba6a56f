"""TensorFlow as the input pipeline uses it: on the CPU, leaving the accelerators to JAX."""

import os

from jaxvid.base.errors import JaxvidError

# JAX sets 1, where it is imported first: then TensorFlow logs what it also raises.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# oneDNN speeds up nothing that is used here and prints a notice on every start.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

try:
    import tensorflow as tf  # its settings are read while importing
except ImportError as error:
    raise JaxvidError(
        f"reading videos needs TensorFlow ({error}): install the extra, pip install 'jaxvid[data]'"
    ) from error

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
