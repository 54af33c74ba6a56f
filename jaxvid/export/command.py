"""The command: flags to a program."""

import argparse
import re
from collections.abc import Sequence

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.export.choices import FORMATS, PLATFORMS


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and writes the program; see `--help`."""
    args = _parser().parse_args(argv)
    paths.arguments(args, "checkpoint", "out", door=paths.anywhere)
    from jaxvid.export.folder import export  # JAX with it, which --help does without

    card = export(
        args.checkpoint,
        args.out,
        model=args.model,
        format=args.format,
        batch=_batch(args.batch),
        preprocess=_size(args.preprocess),
        platforms=args.platforms.split(","),
        dtype=args.dtype,
        stream=args.stream,
    )
    what, answer = card["input"], card["output"]
    written = args.out
    total = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
    say(
        f"{written}: {total / 2**20:.1f} MiB; video {what['dtype']} {_dimensions(what['shape'])} "
        f"-> {answer['name']} {_dimensions(answer['shape'])}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.export",
        description="Write a network with its weights as one program that runs without jaxvid.",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a converted checkpoint's folder, or the workdir of a training run (its best one)",
    )
    add("--out", required=True, metavar="DIR", help="a new folder to write")
    add("--model", metavar="NAME", help="the row, if the checkpoint does not say")
    add(
        "--format",
        choices=FORMATS,
        default="stablehlo",
        help="stablehlo, for JAX, or savedmodel, for TensorFlow (default stablehlo)",
    )
    add("--batch", default="any", metavar="N", help="clips that enter at once (default any)")
    add(
        "--preprocess",
        metavar="HxW",
        help="let frames of this height and width enter, uint8 as decoded, and answer with "
        "probabilities; otherwise normalised clips enter, and the answers are logits",
    )
    add(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        help=f"where it is to run, of {', '.join(PLATFORMS)} (default cpu,cuda,tpu)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the network computes in (default float32)",
    )
    add(
        "--stream",
        type=int,
        metavar="N",
        help="let N frames of a video enter at once, with the state that a causal network carries, "
        "which leaves with the answer for all frames so far",
    )
    return parser


def _batch(text: str) -> int | None:
    """The number that `--batch` says, None for any."""
    if text == "any":
        return None
    if not text.isdecimal():
        raise JaxvidError(f"--batch={text} is no number: give a whole number from 1, or any")
    return int(text)


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width that `--preprocess` says, if it is given."""
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise JaxvidError(
            f"--preprocess={text} is no size: give height and width of the frames, such as 240x320"
        )
    return (int(match[1]), int(match[2]))


def _dimensions(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"
