"""`python -m converters`: a PyTorch checkpoint to ours, and back with `--to=torch` or `--to=hf`."""

import argparse
from collections.abc import Sequence

from converters import hub
from converters.download import MIRROR
from jaxvid.base import paths
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
  python -m converters --model=vjepa2_vitl_16x4_sthv2 --checkpoint=vitl.pt \\
      --head=ssv2-vitl-16x2x3.pt --out=weights/vjepa2
  python -m converters --model=vjepa2_vitl_16x4_sthv2 --out=weights/vjepa2 \\
      --checkpoint=hf:facebook/vjepa2-vitl-fpc16-256-ssv2/model.safetensors
  python -m converters --all=checkpoints --out=weights
  python -m converters --to=torch --checkpoint=weights/tsm --out=tsm.pth
  python -m converters --to=hf --checkpoint=weights/videomae --out=videomae

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
    paths.arguments(args, "all", "classes")
    paths.arguments(args, "checkpoint", "head", door=hub.door)
    paths.arguments(args, "out", door=paths.anywhere)
    from converters import commands  # JAX with it, which --help does without

    commands.run(args)


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
        help="the model that the checkpoint is of; with --to it is known from the checkpoint",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="what to convert: a .pth file or its like, the index or folder of one in shards, or "
        "hf:ORG/REPO/FILE on the Hugging Face hub (default: the published one, downloaded); "
        "with --to a converted checkpoint's folder or a training run's, which means its best "
        "checkpoint",
    )
    parser.add_argument(
        "--head",
        metavar="PATH",
        help="the file of a probe, where --checkpoint is the encoder that it was trained on, as "
        "those of V-JEPA 2 are published",
    )
    parser.add_argument(
        "--classifier",
        type=int,
        metavar="N",
        default=0,
        help="which of the classifiers in --head to take, from 0 on (default: 0, which the "
        "published figures are of)",
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
        f"(default: the environment variable {MIRROR}, if set)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="where the result goes: a folder; with --to=torch a .pth file",
    )
    parser.add_argument(
        "--to",
        choices=("jaxvid", "torch", "hf"),
        default="jaxvid",
        help="direction (default: jaxvid): back to the published layout (torch), or to a folder "
        "that Hugging Face's Transformers loads (hf), of VideoMAE, TimeSformer and V-JEPA 2",
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


if __name__ == "__main__":
    with exit_on_error():
        main()
