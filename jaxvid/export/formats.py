"""What a program is written as: a file of StableHLO, or TensorFlow's SavedModel."""

import dataclasses
import errno
import os
import pathlib
from typing import Any

import jax

from jaxvid.base.errors import JaxvidError
from jaxvid.export.choices import FORMATS
from jaxvid.export.program import Named, Program

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
      program: the function (variables, video, state) -> (answers, state).
      variables: the weights.
      clip: shape and type of one clip [T, H, W, C] that enters.
      batch: how many of them enter at once; None is any number.
      platforms: what it is for.
      answer: what its answers are called.
      state: of one stream before its first frame, by names; {} where clips are answered alone.
    """

    program: Program
    variables: dict[str, Any]
    clip: jax.ShapeDtypeStruct
    batch: int | None
    platforms: tuple[str, ...]
    answer: str
    state: Named


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

    def run(video: jax.Array, *state: Named) -> dict[str, jax.Array]:
        answer, carried = bundle.program(bundle.variables, video, *state or [{}])
        return {bundle.answer: answer, **carried}

    state = {
        name: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in bundle.state.items()
    }
    exported = jax.export.export(
        jax.jit(run), platforms=bundle.platforms, disabled_checks=UNPROMISED
    )(video, *[state] if state else [])
    (folder / PROGRAM).write_bytes(exported.serialize())


def write_savedmodel(bundle: Bundle, folder: pathlib.Path) -> None:
    """Writes the folder that TensorFlow reads."""
    from jax.experimental import jax2tf

    from jaxvid.data.cpu_tf import tf

    batch = "(batch, ...)" if bundle.batch is None else None
    run = jax2tf.convert(
        bundle.program,
        polymorphic_shapes=[None, batch, batch],
        with_gradient=False,
        native_serialization_platforms=bundle.platforms,
    )
    module = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, bundle.variables)

    def named(video: Any, **state: Any) -> dict[str, Any]:
        answer, carried = run(module.weights, video, state)
        return {bundle.answer: answer, **carried}

    def array(name: str, like: Any, shape: tuple[int, ...]) -> Any:
        return tf.TensorSpec((bundle.batch, *shape), like.dtype, name=name)

    module.run = tf.function(named, autograph=False)
    signature = module.run.get_concrete_function(
        video=array("video", bundle.clip, bundle.clip.shape),
        **{name: array(name, leaf, leaf.shape[1:]) for name, leaf in bundle.state.items()},
    )
    try:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})
    except tf.errors.OpError as error:
        # TensorFlow tells of a full disk by errors of its own, with the system's words in them.
        for number in errno.errorcode:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from error
        raise


WRITERS = dict(zip(FORMATS, (write_stablehlo, write_savedmodel), strict=True))
