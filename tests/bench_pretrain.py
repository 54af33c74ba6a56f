"""What pretraining without labels teaches, by linear probes on real clips. Not a test.

    python tests/bench_pretrain.py --data=../shared/data/gestures --out=runs/pretrain_gestures

For a fold of `metadata.csv`: builds records of its clips, pretrains a small VideoMAE on those of
the other folds, whose labels it does not see, and trains a linear classifier of the mean token on
top of that encoder, frozen, and on top of the same encoder as it was before its first step.
"""

import argparse
import json
import pathlib
import resource

import jax

from jaxvid import config as configs
from jaxvid import train
from jaxvid.data import build
from tests.bench_gestures import write_lists

ENCODER = {"dim": 96, "depth": 3, "heads": 4, "patch": 8, "img_size": 48}
DECODER = {"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4}


def get_config(name: str, records: pathlib.Path, epochs: float, **arguments):
    """What pretraining and probes have in common: 16 frames of the whole clip, never mirrored."""
    c = configs.from_row(name, dataset="gestures", data_dir=str(records), **arguments)
    c.model.overrides.update(ENCODER)
    c.data.update(
        {"crop": 48, "crop_mode": "whole", "area": (0.7, 1.0), "aspect": (0.9, 1.1), "flip": 0.0}
    )
    c.data.update({"rand_augment": "", "random_erasing": 0.0, "repeats": 1})
    for part in (c.data, c.test):
        part.sampling.update({"sampler": "uniform", "clip_len": 16, "num_clips": 1})
    c.test.update({"crops": "whole", "crop": 48, "batch_size": 16})
    c.train.update({"batch_size": 8, "epochs": epochs, "eval_epochs": epochs, "log_steps": 20})
    c.optim.update({"name": "adamw", "schedule": "cosine", "final_lr": 0.0, "layer_decay": 1.0})
    return c


def pretrain(records: pathlib.Path, workdir: pathlib.Path, epochs: float, steps: int = 0) -> None:
    c = get_config("videomae_pretrain_vit_b", records, epochs)
    c.model.overrides.update(DECODER)
    c.train.update({"mask_ratio": 0.75, "decoder_mask_ratio": 0.5, "stop_at_step": steps})
    c.optim.update({"lr": 1.5e-3, "warmup_epochs": 3.0})
    train.train(c, workdir)


def probe(records: pathlib.Path, workdir: pathlib.Path, init: pathlib.Path, epochs: float) -> float:
    """Top-1 of a linear classifier; the norm before it is new too, and left as it begins."""
    c = get_config("videomae_vit_b", records, epochs, init=str(init / "checkpoints"))
    c.model.overrides.update({"drop_path": 0.0, "head_init_scale": 1.0})
    c.train.update({"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0})
    c.optim.update({"freeze": ("trunk",), "lr": 0.03, "weight_decay": 0.0, "warmup_epochs": 1.0})
    return train.train(c, workdir).top1


def losses(workdir: pathlib.Path) -> list[tuple[int, float]]:
    """Steps and losses that a run logged."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--folds", default="0")
    parser.add_argument("--epochs", type=float, default=50.0, help="of pretraining")
    parser.add_argument("--probe_epochs", type=float, default=15.0)
    args = parser.parse_args()
    print(f"{jax.device_count()} {jax.default_backend()} device(s)")
    for fold in args.folds.split(","):
        records, out = args.out / f"records{fold}", args.out / f"fold{fold}"
        if not (records / "test.index.npz").exists():
            write_lists(args.data, fold, records)
            for split in ("train", "test"):
                build.build(args.data, records / f"{split}.csv", records, short_side=64)
        # The rate of the first step is zero: what follows it is what the run began with.
        pretrain(records, out / "random", args.epochs, steps=1)
        pretrain(records, out / "pretrained", args.epochs)
        logged = losses(out / "pretrained")
        top1 = {
            name: probe(records, out / f"probe_{name}", out / name, args.probe_epochs)
            for name in ("random", "pretrained")
        }
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"fold {fold}: loss {logged[0][1]:.3f} at step {logged[0][0]}, {logged[-1][1]:.3f} at "
            f"step {logged[-1][0]}; linear probe {top1['pretrained']:.3f} pretrained, "
            f"{top1['random']:.3f} random; {(usage.ru_utime + usage.ru_stime) / 60:.1f} CPU "
            "minutes so far",
            flush=True,
        )


if __name__ == "__main__":
    main()
