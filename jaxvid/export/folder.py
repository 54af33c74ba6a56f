"""The folder of an exported program, and `model.json` in it, which says what enters."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxvid.base import jsons, locks, paths, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.export import formats
from jaxvid.export.choices import PLATFORMS
from jaxvid.export.formats import Bundle
from jaxvid.export.program import first_state, for_platforms, make_program
from jaxvid.export.subject import Subject, load_subject

CARD = "model.json"


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
    stream: int | None = None,
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
      stream: how many frames enter at once of videos that a causal network sees bit by bit: its
        state enters with them, and leaves with the answers for all frames so far. None lets whole
        clips enter.

    Returns:
      What `model.json` says.

    Raises:
      JaxvidError: an argument is wrong, `out` exists, or the weights are too many for the format.
    """
    out = paths.anywhere(out, "--out")
    _check(out, format, batch, platforms, dtype, stream)
    with locks.hold(out, "--out", beside=True):
        _check_free(out)  # Another process may have written it meanwhile.
        subject = load_subject(path, model, dtype, from_frames=preprocess is not None)
        bundle = _bundle(subject, batch, preprocess, platforms, stream)
        card = _card(subject, bundle, format, preprocess)
        _write(bundle, card, out)
    return card


def _bundle(
    subject: Subject,
    batch: int | None,
    preprocess: tuple[int, int] | None,
    platforms: Sequence[str],
    stream: int | None,
) -> Bundle:
    """The program with all that is written of it."""
    frames, *picture = subject.clip_shape
    frames = stream or frames
    clip = jax.ShapeDtypeStruct((frames, *picture), jnp.float32)
    state = first_state(subject.network, subject.variables, clip) if stream else {}
    if preprocess:
        clip = jax.ShapeDtypeStruct((frames, *preprocess, 3), jnp.uint8)
    return Bundle(
        program=for_platforms(make_program(subject.network, subject.config, preprocess), platforms),
        variables=subject.variables,
        clip=clip,
        batch=batch,
        platforms=tuple(platforms),
        answer="probabilities" if preprocess else "logits",
        state=state,
    )


def _card(
    subject: Subject, bundle: Bundle, format: str, preprocess: tuple[int, int] | None
) -> dict[str, Any]:
    """What `model.json` says."""
    config, clip, batch = subject.config, bundle.clip, bundle.batch
    card: dict[str, Any] = {
        "model": subject.row.name,
        "format": format,
        "platforms": list(bundle.platforms),
        "input": {"name": "video", "shape": [batch, *clip.shape], "dtype": str(clip.dtype)},
        "output": {
            "name": bundle.answer,
            "shape": [batch, len(subject.classes)],
            "dtype": "float32",
        },
        "sampling": dataclasses.asdict(config.test.sampling),
        "activation": "softmax" if config.train.loss == "softmax" else "sigmoid",
        "classes": list(subject.classes),
    }
    if bundle.state:
        card["state"] = {
            name: {"shape": [batch, *leaf.shape[1:]], "dtype": str(leaf.dtype)}
            for name, leaf in bundle.state.items()
        }
    if not preprocess:
        card["preprocessing"] = {
            "short_side": config.test.short_side,
            "crop": config.test.crop,
            "crops": config.test.crops,
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "channel_order": config.data.channel_order,
        }
    return card


def _write(bundle: Bundle, card: dict[str, Any], out: pathlib.Path) -> None:
    """Writes the folder, whole or not at all."""
    try:
        with whole.folder(out) as folder:
            formats.WRITERS[card["format"]](bundle, folder)
            text = jsons.dump(card, indent=1, ensure_ascii=False)
            (folder / CARD).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise JaxvidError(
            f"cannot write --out={out} ({error.strerror or error}): make room or choose another"
        ) from error


def _check(
    out: pathlib.Path,
    format: str,
    batch: int | None,
    platforms: Sequence[str],
    dtype: str,
    stream: int | None,
) -> None:
    """Refuses arguments that are wrong."""
    if format not in formats.WRITERS:
        raise JaxvidError(f"--format={format} is unknown: take {' or '.join(formats.WRITERS)}")
    if format == "savedmodel":
        paths.in_utf8(out, "--out", "TensorFlow")
    if batch is not None and batch < 1:
        raise JaxvidError(f"--batch={batch} holds no clip: give a whole number from 1, or any")
    if stream is not None and stream < 1:
        raise JaxvidError(f"--stream={stream} holds no frame: give a whole number from 1")
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
