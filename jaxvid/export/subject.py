"""What is exported: the network of a checkpoint with its weights, and what its test lets enter."""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.data import pipeline
from jaxvid.inference.predictor import (
    check_variables,
    class_names,
    expected_variables,
    lacking,
    make_config,
    one_view,
    refuse_trunk,
)
from jaxvid.rows import Row


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network with its weights.

    Attributes:
      row: the row that it is of.
      config: how it was trained, and its test; of RGB, a single view of this.
      classes: their names.
      network: the module, in the type that it computes in.
      variables: its weights.
      clip_shape: the shape [T, H, W, C] of a normalised clip.
    """

    row: Row
    config: Config
    classes: tuple[str, ...]
    network: nn.Module
    variables: dict[str, Any]
    clip_shape: tuple[int, int, int, int]


def load_subject(
    path: str | os.PathLike, model: str | None, dtype: str, from_frames: bool
) -> Subject:
    """Loads what a checkpoint holds; see `export`.

    Raises:
      JaxvidError: it cannot be exported, or not as a program that takes decoded frames.
    """
    meta = checkpoint.load_meta(path)
    config = make_config(meta, model, path)
    row = zoo.starting_row(config.model.name)
    if row.modality != "rgb" and from_frames:
        raise JaxvidError(f"{row.name} takes {row.modality}: leave --preprocess out")
    if row.modality == "rgb":
        config = one_view(config)
    clip_shape = pipeline.make_protocol(config.test).view
    classes = class_names(meta, config)
    network = zoo.create_model(row.name, len(classes), jnp.dtype(dtype), **config.model.overrides)
    variables = checkpoint.load_finite(path)
    refuse_trunk(path, lacking(meta, variables), len(classes))
    check_variables(expected_variables(network, clip_shape, path), variables, path)
    return Subject(row, config, tuple(classes), network, variables, clip_shape)
