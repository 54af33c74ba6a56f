"""`python -m converters`: a PyTorch checkpoint to ours, and back with `--to=torch`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from converters import changes, checkpoints, download, images, many, shards, torch_write
from jaxvid import checkpoint, zoo
from jaxvid.base import paths, text
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error

DESCRIPTION = """\
Converts a published PyTorch checkpoint into a jaxvid checkpoint, or one of ours back.
It reads .pth, .pyth and .pt of every PyTorch since 0.1.10, .pkl, .safetensors and .npz.
PyTorch is not needed, and nothing inside the file is run: it is read as data.
"""
EPILOG = """\
examples:
  python -m converters --model=tsm_r50_1x1x8_k400 --out=weights/tsm
  python -m converters --model=tsm_r50_1x1x8_k400 --checkpoint=tsm.pth --out=weights/tsm
  python -m converters --model=tsm_r50_1x1x8_k400 --checkpoint=mine.pth --out=weights/mine \\
      --classes=labels.txt
  python -m converters --model=tsm_mobileone_s4_1x1x16_k400 --checkpoint=tsm.pth --deploy \\
      --out=weights/fast
  python -m converters --model=slowonly_r50_8x8_k400 --checkpoint=resnet50.pth --image-weights \\
      --out=weights/imagenet
  python -m converters --model=slowonly_r50_8x8_k710 --classes-to=k400 --out=weights/slowonly
  python -m converters --all=checkpoints --out=weights
  python -m converters --to=torch --checkpoint=weights/tsm --out=tsm.pth

`python -m jaxvid.zoo list` shows the models, `python -m jaxvid.zoo show NAME` where a model's
checkpoint lies. Without --checkpoint it is downloaded from there, once, to
~/.cache/jaxvid/checkpoints (or that of XDG_CACHE_HOME), and checked against the sum in its name;
the same command goes on with a download that broke off.

Every tensor must find its place: what does not fit is listed, and nothing is written. A trunk that
was saved without its classifier is for training to start from (init=), and what is new is listed.
A file that torch.load opens with weights_only=True comes back from --to=torch; a converted
checkpoint returns with every key and every bit.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = _parser().parse_args(argv)
    paths.arguments(args, "checkpoint", "all", "out", "classes")
    if args.all is not None:
        _all(args)
        return
    if args.checkpoint is None and (args.to == "torch" or args.image_weights):
        raise JaxvidError("--checkpoint is missing: give the folder or file to convert")
    if args.checkpoint is not None:
        _refuse(args, ("mirror",), "--checkpoint, as nothing is downloaded then")
        paths.readable(args.checkpoint, "--checkpoint")
    if args.to == "torch":
        torch_write.check_free(args.out, overwrite=args.overwrite)
    else:
        checkpoint.check_free(args.out, "--out", overwrite=args.overwrite)
    if args.to == "torch":
        _to_torch(args)
    elif args.image_weights:
        _from_images(args)
    elif args.checkpoint and args.checkpoint.is_dir() and not _of_others(args.checkpoint):
        _from_ours(args)
    else:
        _to_jaxvid(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m converters",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model that the checkpoint is of; with --to=torch it is known from the checkpoint",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="what to convert: a .pth file or its like, or the index or folder of one in shards "
        "(default: the published one, downloaded); "
        "with --to=torch a converted checkpoint's folder or a training run's, which means its best "
        "checkpoint",
    )
    parser.add_argument(
        "--all",
        metavar="FOLDER",
        help="convert every file below this folder that has the name under which a row's was "
        "published, or the row's own (ROW.pth), to --out/ROW; --model is then a pattern of rows "
        "(default: *), and what is converted already is left as it is",
    )
    parser.add_argument(
        "--mirror",
        metavar="BASE",
        help="where to download from: stands in for the https://HOST of published addresses "
        f"(default: the environment variable {download.MIRROR}, if set)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="where the result goes: a folder; with --to=torch a .pth file",
    )
    parser.add_argument(
        "--to", choices=("jaxvid", "torch"), default="jaxvid", help="direction (default: jaxvid)"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names, one a line in the order of the logits, where they are not those of the "
        "model's dataset",
    )
    parser.add_argument(
        "--classes-to",
        metavar="DATASET",
        help="give the classifier the classes of another dataset, as k400 out of k710, by their "
        "names; --checkpoint may then be one of ours too",
    )
    parser.add_argument(
        "--classes-from",
        metavar="DATASET",
        help="with --classes-to the dataset whose classes the checkpoint has, where it does not "
        "say so",
    )
    parser.add_argument(
        "--missing",
        choices=("refuse", "zero"),
        default="refuse",
        help="what --classes-to does about classes that the checkpoint lacks: refuse, or give them "
        "weights of 0, for training to fill (default: refuse)",
    )
    parser.add_argument(
        "--ema",
        action="store_true",
        help="take the averaged copy of the weights, where the file holds one beside them "
        "(state_dict_ema, model_ema, ema_*; default: the weights under the plain name)",
    )
    parser.add_argument(
        "--deploy",
        action="store_true",
        help="write MobileOne's form to deploy, in which each block's branches are one "
        "convolution; --checkpoint may then be one of ours too",
    )
    parser.add_argument(
        "--image-weights",
        action="store_true",
        help="--checkpoint is an image classifier of torchvision, timm or mmpretrain: fill the "
        "model's trunk with it, inflated where the model looks in time, for a training to start "
        "from (init=); what it does not have is listed as new",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is at --out (default: refuse)"
    )
    return parser


def _all(args: argparse.Namespace) -> None:
    where = "--all"
    _refuse(args, ("checkpoint", "mirror", "classes", "deploy", "image_weights"), where)
    _refuse(args, ("classes_to", "classes_from"), where)
    if args.to != "jaxvid":
        raise JaxvidError("--to=torch takes one --checkpoint: leave --all out")
    paths.writable(args.out, "--out")
    many.convert_all(args.all, args.out, args.model or "*", ema=args.ema, overwrite=args.overwrite)


def _to_jaxvid(args: argparse.Namespace) -> None:
    if args.model is None:
        raise JaxvidError("--model is missing: `python -m jaxvid.zoo list` shows the names")
    if args.checkpoint is None:
        args.checkpoint = _published(args.model, args.mirror)
    classes = _read_classes(args.classes) if args.classes else None
    variables, meta, report = checkpoints.convert_and_tell(
        args.model, args.checkpoint, classes=classes, ema=args.ema
    )
    text.say(*report.lines())
    _save(args, variables, meta)


def _published(name: str, mirror: str | None) -> Path:
    """Returns the published checkpoint of a model, downloaded where it is not here yet."""
    row = zoo.starting_row(name)
    if row.source is None:
        raise JaxvidError(
            f"no checkpoint of {row.name} is published: give one as --checkpoint, or train it"
        )
    if row.file is None:
        raise JaxvidError(
            f"the checkpoint of {row.name} lies behind a web page, {row.source}: bring the file by "
            "hand and give it as --checkpoint"
        )
    return download.fetch(row.source, mirror=mirror)


def _from_images(args: argparse.Namespace) -> None:
    _refuse(args, ("classes", "classes_to", "classes_from", "deploy"), "--image-weights")
    if args.model is None:
        raise JaxvidError("--model is missing: `python -m jaxvid.zoo list` shows the names")
    variables, meta, lines = images.inflate_and_tell(args.model, args.checkpoint, ema=args.ema)
    text.say(*lines)
    _save(args, variables, meta)


def _from_ours(args: argparse.Namespace) -> None:
    if not args.deploy and not args.classes_to:
        raise JaxvidError(
            f"{args.checkpoint} is a folder: give a file to convert, or say what to make of a "
            "converted or trained checkpoint (--deploy, --classes-to=DATASET, --to=torch)"
        )
    _refuse(args, ("model", "classes", "ema"), "a converted or trained checkpoint")
    _save(args, checkpoint.load_finite(args.checkpoint), checkpoint.load_meta(args.checkpoint))


def _of_others(folder: Path) -> bool:
    """Says whether a folder holds a checkpoint to convert, and is not one of ours."""
    ours = (folder / checkpoint.RECORD, folder / "checkpoints", *folder.glob("step_*"))
    return not any(path.exists() for path in ours) and shards.holds_weights(folder)


def _save(args: argparse.Namespace, variables: dict, meta: dict) -> None:
    """Writes variables with the classes and in the form that were asked for."""
    if args.classes_to:
        variables, meta = changes.map_classes(
            variables, meta, args.classes_to, args.classes_from, missing=args.missing
        )
    if args.deploy:
        variables, meta = changes.deploy(variables, meta)
    checkpoint.save(args.out, variables, meta, overwrite=args.overwrite)
    if changes.is_trunk(meta):
        text.say(f"wrote {args.out} (the trunk of {meta['row']}, for init= to train from)")
    else:
        text.say(f"wrote {args.out} ({meta['row']}, {meta['num_classes']} classes)")


def _to_torch(args: argparse.Namespace) -> None:
    _refuse(args, ("classes", "classes_to", "ema", "deploy", "image_weights"), "--to=torch")
    meta = checkpoint.load_meta(args.checkpoint)
    name = meta.get("row") or args.model
    if name is None:
        raise JaxvidError(f"{args.checkpoint} does not say of which model it is: add --model=NAME")
    if args.model not in (None, name, meta.get("variant")):
        raise JaxvidError(f"{args.checkpoint} is of {name}, not of {args.model}: leave --model out")
    tensors = checkpoints.to_torch(name, checkpoint.load_finite(args.checkpoint), meta)
    classes = {"classes": list(meta.get("classes") or [])}
    torch_write.write(
        args.out, tensors, {"jaxvid": name, "dataset_meta": classes}, overwrite=args.overwrite
    )
    text.say(f"wrote {args.out} ({name}, {len(tensors)} tensors)")


def _refuse(args: argparse.Namespace, flags: Sequence[str], where: str) -> None:
    for flag in flags:
        if getattr(args, flag):
            raise JaxvidError(f"--{flag.replace('_', '-')} has no use with {where}: leave it out")


def _read_classes(path: Path) -> list[str]:
    classes = list(text.read_names(path))
    if not classes:
        raise JaxvidError(f"--classes={path} is empty: it should hold one class name a line")
    text.say(*(f"note: {path}: {line}" for line in text.alike(classes)), error=True)
    return classes


if __name__ == "__main__":
    with exit_on_error():
        main()
