"""What the command does with its flags, once they are read: the work behind `__main__`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from converters import (
    changes,
    checkpoints,
    download,
    hub,
    hugging_face_write,
    images,
    many,
    shards,
    torch_write,
)
from jaxvid import checkpoint, zoo
from jaxvid.base import paths, text
from jaxvid.base.errors import JaxvidError


def run(args: argparse.Namespace) -> None:
    """Converts what the flags say."""
    if args.all is not None:
        _all(args)
        return
    if args.head is None and args.classifier:
        raise JaxvidError("--classifier chooses within --head: give that, or leave it out")
    away = args.to != "jaxvid"
    if args.checkpoint is None and (away or args.image_weights or args.head):
        beside = ", beside which --head stands" if args.head else ""
        raise JaxvidError(f"--checkpoint is missing: give the folder or file to convert{beside}")
    if args.checkpoint is not None:
        _refuse(args, ("mirror",), "--checkpoint, as nothing is downloaded then")
    for flag in ("checkpoint", "head"):
        if (path := getattr(args, flag)) is not None and not hub.is_address(path):
            paths.readable(path, f"--{flag}")
    if away:
        writer = torch_write if args.to == "torch" else hugging_face_write
        writer.check_free(args.out, overwrite=args.overwrite)
        _away(args)
        return
    checkpoint.check_free(args.out, "--out", overwrite=args.overwrite)
    for flag in ("checkpoint", "head"):
        if getattr(args, flag) is not None:
            setattr(args, flag, hub.local(getattr(args, flag), f"--{flag}"))
    if args.image_weights:
        _from_images(args)
    elif args.checkpoint and args.checkpoint.is_dir() and not _of_others(args.checkpoint):
        _from_ours(args)
    else:
        _to_jaxvid(args)


def _all(args: argparse.Namespace) -> None:
    where = "--all"
    _refuse(args, ("checkpoint", "mirror", "classes", "deploy", "image_weights"), where)
    _refuse(args, ("classes_to", "classes_from", "head"), where)
    if args.to != "jaxvid":
        raise JaxvidError(f"--to={args.to} takes one --checkpoint: leave --all out")
    paths.writable(args.out, "--out")
    many.convert_all(args.all, args.out, args.model or "*", ema=args.ema, overwrite=args.overwrite)


def _to_jaxvid(args: argparse.Namespace) -> None:
    if args.model is None:
        raise JaxvidError("--model is missing: `python -m jaxvid.zoo list` shows the names")
    if args.checkpoint is None:
        args.checkpoint = _published(args.model, args.mirror)
    classes = _read_classes(args.classes) if args.classes else None
    variables, meta, report = checkpoints.convert_and_tell(
        args.model,
        args.checkpoint,
        classes=classes,
        ema=args.ema,
        head=args.head,
        classifier=args.classifier,
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
    _refuse(args, ("classes", "classes_to", "classes_from", "deploy", "head"), "--image-weights")
    if args.model is None:
        raise JaxvidError("--model is missing: `python -m jaxvid.zoo list` shows the names")
    variables, meta, lines = images.inflate_and_tell(args.model, args.checkpoint, ema=args.ema)
    text.say(*lines)
    _save(args, variables, meta)


def _from_ours(args: argparse.Namespace) -> None:
    if not (args.deploy or args.classes_to or _is_to_merge(args.checkpoint)):
        raise JaxvidError(
            f"{args.checkpoint} is a folder: give a file to convert, or say what to make of a "
            "converted or trained checkpoint (--deploy, --classes-to=DATASET, --to=torch)"
        )
    _refuse(args, ("model", "classes", "ema", "head"), "a converted or trained checkpoint")
    _save(args, checkpoint.load_finite(args.checkpoint), checkpoint.load_meta(args.checkpoint))


def _is_to_merge(folder: Path) -> bool:
    """Says whether a folder holds a checkpoint that is whole only with its base (LoRA)."""
    try:
        return checkpoint.load_lora(folder) is not None
    except JaxvidError:
        return False


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


def _away(args: argparse.Namespace) -> None:
    """Writes one of our checkpoints in another layout."""
    flags = ("classes", "classes_to", "ema", "deploy", "image_weights", "head")
    _refuse(args, flags, f"--to={args.to}")
    if hub.is_address(args.checkpoint):
        raise JaxvidError(
            f"--checkpoint={args.checkpoint} is a file on the hub, and --to={args.to} is for "
            "checkpoints of jaxvid: give the folder of one"
        )
    meta = checkpoint.load_meta(args.checkpoint)
    name = meta.get("row") or args.model
    if name is None:
        raise JaxvidError(f"{args.checkpoint} does not say of which model it is: add --model=NAME")
    if args.model not in (None, name, meta.get("variant")):
        raise JaxvidError(f"{args.checkpoint} is of {name}, not of {args.model}: leave --model out")
    variables = checkpoint.load_finite(args.checkpoint)
    if args.to == "hf":
        tensors, config = checkpoints.to_hugging_face(name, variables, meta)
        hugging_face_write.write(args.out, tensors, config, overwrite=args.overwrite)
        text.say(f"wrote {args.out} ({config['architectures'][0]}, {len(tensors)} tensors)")
        return
    tensors = checkpoints.to_torch(name, variables, meta)
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
