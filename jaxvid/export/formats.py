"""What a program is written as: a file of StableHLO, or TensorFlow's SavedModel."""

import dataclasses
import errno
import os
import pathlib
from typing import Any

import jax

from jaxvid.base.errors import JaxvidError
from jaxvid.export.choices import FORMATS
from jaxvid.export.program import Program

PROGRAM = "model.jax"
"""The file of a StableHLO program in its folder."""
_LARGEST = 2**31 - 2**20
"""Bytes of weights for which it has room."""

UNPROMISED = tuple(
    map(
        jax.export.DisabledSafetyCheck.custom_call,
        ("__cudnn$fmhaSoftmax", "__cudnn$fmhaScaleBiasSoftmax"),
    )
)
"""Kernels of which JAX does not promise that another version of it will know them: cuDNN's."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A program with all that is written of it.

    Attributes:
      program: the function (variables, video) -> answers.
      variables: the weights.
      clip: shape and type of one clip [T, H, W, C] that enters.
      batch: how many of them enter at once; None is any number.
      platforms: what it is for.
      answer: what its answers are called.
    """

    program: Program
    variables: dict[str, Any]
    clip: jax.ShapeDtypeStruct
    batch: int | None
    platforms: tuple[str, ...]
    answer: str


def write_stablehlo(bundle: Bundle, folder: pathlib.Path) -> None:
    """Writes the file that `jax.export.deserialize` reads."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(bundle.variables))
    if size > _LARGEST:
        raise JaxvidError(
            f"the weights take {size / 2**30:.1f} GiB, and such a file holds less than 2: take "
            "--format=savedmodel"
        )
    (count,) = jax.export.symbolic_shape("batch") if bundle.batch is None else (bundle.batch,)
    video = jax.ShapeDtypeStruct((count, *bundle.clip.shape), bundle.clip.dtype)

    def run(video: jax.Array) -> dict[str, jax.Array]:
        return {bundle.answer: bundle.program(bundle.variables, video)}

    exported = jax.export.export(
        jax.jit(run), platforms=bundle.platforms, disabled_checks=UNPROMISED
    )(video)
    (folder / PROGRAM).write_bytes(exported.serialize())


def write_savedmodel(bundle: Bundle, folder: pathlib.Path) -> None:
    """Writes the folder that TensorFlow reads."""
    from jax.experimental import jax2tf

    from jaxvid.data.cpu_tf import tf

    run = jax2tf.convert(
        bundle.program,
        polymorphic_shapes=[None, "(batch, ...)" if bundle.batch is None else None],
        with_gradient=False,
        native_serialization_platforms=bundle.platforms,
    )
    module = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, bundle.variables)
    clip = tf.TensorSpec((bundle.batch, *bundle.clip.shape), bundle.clip.dtype, name="video")
    module.run = tf.function(
        lambda video: {bundle.answer: run(module.weights, video)},
        input_signature=[clip],
        autograph=False,
    )
    try:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.run})
    except tf.errors.OpError as error:
        # TensorFlow tells of a full disk by errors of its own, with the system's words in them.
        for number in errno.errorcode:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from error
        raise


WRITERS = dict(zip(FORMATS, (write_stablehlo, write_savedmodel), strict=True))
