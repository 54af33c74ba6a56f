"""TensorFlow as the input pipeline uses it: on the CPU, leaving the accelerators to JAX."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN speeds up nothing that is used here and prints a notice on every start.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf  # noqa: E402  (its settings are read while importing)

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
