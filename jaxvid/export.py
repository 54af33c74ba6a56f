"""A checkpoint as one program that runs without this library.

python -m jaxvid.export --checkpoint=runs/tsm --out=exported/tsm --preprocess=240x320

Beside the program, which holds the weights, `model.json` says what enters and what it answers. With
--preprocess that is frames as they were decoded and probabilities, by the test's own resizing,
central crop and normalisation. Without, it is normalised clips and logits: the network alone.
"""

import argparse
import dataclasses
import errno
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxvid import checkpoint, zoo
from jaxvid.base import jsons, locks, paths, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.config.parts import Config, Test
from jaxvid.data import pipeline
from jaxvid.inference.predictor import (
    check_variables,
    class_names,
    lacking,
    make_config,
    one_view,
    refuse_trunk,
)
from jaxvid.layers.backend import tracing_for
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses

FORMATS = ("stablehlo", "savedmodel")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
PROGRAM, CARD = "model.jax", "model.json"

_LARGEST = 2**31 - 2**20
"""Bytes of weights for which the file of a StableHLO program has room."""

Program = Callable[[Any, jax.Array], jax.Array]


def export(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | None = None,
    format: str = "stablehlo",
    batch: int | None = None,
    preprocess: tuple[int, int] | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: str = "float32",
) -> dict[str, Any]:
    """Writes the network of a checkpoint with its weights to the new folder `out`.

    Args:
      path: a converted checkpoint's folder or a training run's.
      out: `stablehlo` is the file `model.jax` there, which `jax.export.deserialize` reads;
        `savedmodel` is the folder itself, which TensorFlow reads.
      model: the row, if the checkpoint does not say.
      batch: number of clips that the program takes; None is any.
      preprocess: height and width of the frames that enter, uint8 [B, T, H, W, 3]; None lets
        normalised clips enter, float32 [B, T, crop, crop, C].
      platforms: those of `PLATFORMS` that the program is for. CPUs get the convolutions that are
        fast there; no other platform gets kernels that only some of its devices have.
      dtype: what the network computes in, `float32` or `bfloat16`.

    Returns:
      What `model.json` says.

    Raises:
      JaxvidError: an argument is wrong, `out` exists, or the weights are too many for the format.
    """
    out = paths.local(out, "--out")
    _check(out, format, batch, platforms, dtype)
    with locks.hold(out, "--out", beside=True):
        _check_free(out)  # Another process may have written it meanwhile.
        return _export(path, out, model, format, batch, preprocess, platforms, dtype)


def _export(
    path: str | os.PathLike,
    out: pathlib.Path,
    model: str | None,
    format: str,
    batch: int | None,
    preprocess: tuple[int, int] | None,
    platforms: Sequence[str],
    dtype: str,
) -> dict[str, Any]:
    """Writes to a folder that no other process writes."""
    meta = checkpoint.load_meta(path)
    config = make_config(meta, model, path)
    row = zoo.starting_row(config.model.name)
    if row.modality == "rgb":
        config = one_view(config)
        protocol = pipeline.make_protocol(config.test)
        frames, channels = pipeline.plan_test(protocol, 1, None)[1].shape[1], 3
    elif preprocess is None:
        protocol = pipeline.make_protocol(config.test)
        frames, channels = protocol.sampling.num_clips, 2 * protocol.sampling.clip_len
    else:
        raise JaxvidError(f"{row.name} takes {row.modality}: leave --preprocess out")
    clip_shape = (frames, protocol.crop, protocol.crop, channels)
    classes = class_names(meta, config)
    network = zoo.create_model(row.name, len(classes), jnp.dtype(dtype), **config.model.overrides)
    variables = checkpoint.load_finite(path)
    refuse_trunk(path, lacking(meta, variables))
    check_variables(network, variables, clip_shape, path)

    shape = (frames, *preprocess, 3) if preprocess else clip_shape
    clip = jax.ShapeDtypeStruct(shape, jnp.uint8 if preprocess else jnp.float32)
    program = for_platforms(make_program(network, config, preprocess), platforms)
    card: dict[str, Any] = {
        "model": row.name,
        "format": format,
        "platforms": list(platforms),
        "input": {"name": "video", "shape": [batch, *shape], "dtype": str(clip.dtype)},
        "output": {
            "name": "probabilities" if preprocess else "logits",
            "shape": [batch, len(classes)],
            "dtype": "float32",
        },
        "sampling": dataclasses.asdict(config.test.sampling),
        "activation": "softmax" if config.train.loss == "softmax" else "sigmoid",
        "classes": list(classes),
    }
    if not preprocess:
        card["preprocessing"] = {
            "short_side": protocol.short_side,
            "crop": protocol.crop,
            "crops": protocol.crops,
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "channel_order": config.data.channel_order,
        }
    write = _write_stablehlo if format == "stablehlo" else _write_savedmodel
    try:
        with whole.folder(out) as folder:
            write(program, variables, clip, batch, platforms, card["output"]["name"], folder)
            text = jsons.dump(card, indent=1, ensure_ascii=False)
            (folder / CARD).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise JaxvidError(
            f"cannot write --out={out} ({error.strerror or error}): make room or choose another"
        ) from error
    return card


def make_program(network: Any, config: Config, preprocess: tuple[int, int] | None) -> Program:
    """The function (variables, video) -> answers that is exported; see `export`."""

    def answer(variables: Any, video: jax.Array) -> jax.Array:
        return network.apply(variables, video, train=False)[0]

    if not preprocess:
        return answer
    normalize = normalizer(config.data)

    def answer_frames(variables: Any, video: jax.Array) -> jax.Array:
        logits = answer(variables, normalize(central_crop(video, config.test)))
        return losses.probabilities(config.train.loss, logits)

    return answer_frames


def central_crop(video: jax.Array, test: Test) -> jax.Array:
    """Resizes and crops frames uint8 [B, T, H, W, C] as the test does: float32, whole numbers."""
    *start, height, width, channels = video.shape
    crop = test.crop
    scale = test.short_side / min(height, width)
    size = [int(side * scale + 0.5) for side in (height, width)]
    if test.crops == "whole":
        size = [crop, crop]
    video = video.astype(jnp.float32)
    if size != [height, width]:
        video = jax.image.resize(video, (*start, *size, channels), "linear", antialias=False)
    top, left = ((side - crop) // 2 for side in size)
    if test.crops == "left":
        top, left = (0, left) if size[0] > size[1] else (top, 0)
    return jnp.round(video[..., top : top + crop, left : left + crop, :])


def for_platforms(program: Program, platforms: Sequence[str]) -> Program:
    """The program as each platform is to compute it; which one it is shows when it is run."""

    def traced_for(backend: str) -> Program:
        def run(variables: Any, video: jax.Array) -> jax.Array:
            with tracing_for(backend):
                return program(variables, video)

        return run

    if set(platforms) == {"cpu"}:
        return traced_for("cpu")
    if "cpu" not in platforms:
        return traced_for("any")
    return lambda variables, video: jax.lax.platform_dependent(
        variables, video, cpu=traced_for("cpu"), default=traced_for("any")
    )


def _write_stablehlo(
    program: Program,
    variables: Any,
    clip: jax.ShapeDtypeStruct,
    batch: int | None,
    platforms: Sequence[str],
    answer: str,
    folder: pathlib.Path,
) -> None:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if size > _LARGEST:
        raise JaxvidError(
            f"the weights take {size / 2**30:.1f} GiB, and such a file holds less than 2: take "
            "--format=savedmodel"
        )
    (count,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
    video = jax.ShapeDtypeStruct((count, *clip.shape), clip.dtype)

    def run(video: jax.Array) -> dict[str, jax.Array]:
        return {answer: program(variables, video)}

    exported = jax.export.export(jax.jit(run), platforms=platforms)(video)
    (folder / PROGRAM).write_bytes(exported.serialize())


def _write_savedmodel(
    program: Program,
    variables: Any,
    clip: jax.ShapeDtypeStruct,
    batch: int | None,
    platforms: Sequence[str],
    answer: str,
    folder: pathlib.Path,
) -> None:
    from jax.experimental import jax2tf

    from jaxvid.data.cpu_tf import tf

    run = jax2tf.convert(
        program,
        polymorphic_shapes=[None, "(batch, ...)" if batch is None else None],
        with_gradient=False,
        native_serialization_platforms=tuple(platforms),
    )
    module = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, variables)
    signature = [tf.TensorSpec((batch, *clip.shape), clip.dtype, name="video")]
    module.run = tf.function(
        lambda video: {answer: run(module.weights, video)},
        input_signature=signature,
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


def _check(
    out: pathlib.Path, format: str, batch: int | None, platforms: Sequence[str], dtype: str
) -> None:
    if format not in FORMATS:
        raise JaxvidError(f"--format={format} is unknown: take {' or '.join(FORMATS)}")
    if format == "savedmodel":
        paths.in_utf8(out, "--out", "TensorFlow")
    if batch is not None and batch < 1:
        raise JaxvidError(f"--batch={batch} holds no clip: give a whole number from 1, or any")
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise JaxvidError(
            f"--platforms={','.join(platforms)}: choose among {', '.join(PLATFORMS)}, with commas "
            "between"
        )
    if dtype not in ("float32", "bfloat16"):
        raise JaxvidError(f"--dtype={dtype} is unknown: take float32 or bfloat16")
    _check_free(out)


def _check_free(out: pathlib.Path) -> None:
    if out.exists():
        raise JaxvidError(f"--out={out} exists: choose a new folder, or delete that one")
    paths.writable(out.parent, "--out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.export",
        description="Write a network with its weights as one program that runs without jaxvid.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a converted checkpoint's folder, or the workdir of a training run (its best one)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder to write")
    parser.add_argument("--model", metavar="NAME", help="the row, if the checkpoint does not say")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="stablehlo",
        help="stablehlo, for JAX, or savedmodel, for TensorFlow (default stablehlo)",
    )
    parser.add_argument(
        "--batch", default="any", metavar="N", help="clips that enter at once (default any)"
    )
    parser.add_argument(
        "--preprocess",
        metavar="HxW",
        help="let frames of this height and width enter, uint8 as decoded, and answer with "
        "probabilities; otherwise normalised clips enter, and the answers are logits",
    )
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        help=f"where it is to run, of {', '.join(PLATFORMS)} (default cpu,cuda,tpu)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the network computes in (default float32)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and writes the program; see `--help`."""
    args = _parser().parse_args(argv)
    paths.arguments(args, "checkpoint", "out")
    batch = None if args.batch == "any" else args.batch
    if batch is not None and not batch.isdecimal():
        raise JaxvidError(f"--batch={batch} is no number: give a whole number from 1, or any")
    size = None
    if args.preprocess:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", args.preprocess)
        if not match:
            raise JaxvidError(
                f"--preprocess={args.preprocess} is no size: give height and width of the frames, "
                "such as 240x320"
            )
        size = (int(match[1]), int(match[2]))
    card = export(
        args.checkpoint,
        args.out,
        model=args.model,
        format=args.format,
        batch=batch and int(batch),
        preprocess=size,
        platforms=args.platforms.split(","),
        dtype=args.dtype,
    )
    what, answer = card["input"], card["output"]
    written = args.out
    total = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
    say(
        f"{written}: {total / 2**20:.1f} MiB; video {what['dtype']} {_dimensions(what['shape'])} "
        f"-> {answer['name']} {_dimensions(answer['shape'])}"
    )


def _dimensions(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"


if __name__ == "__main__":
    with exit_on_error():
        main()
