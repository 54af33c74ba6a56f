"""What pretraining without labels teaches, by linear probes on real clips. Not a test.

    python -m tests.bench_pretrain --data=../shared/data/gestures --out=runs/pretrain_gestures

Backgrounds tell scenes apart and gestures not, and a few hundred clips do not teach a network to
look past them: so of each clip it is kept how much it differs from its median over time, blurred.
For each fold of scenes of `metadata.csv`, a small VideoMAE is pretrained on the clips of the other
folds, whose labels it does not see; it answers for pixels, as where something moves is what there
is to learn. Then linear classifiers learn from those clips, each of them whole and in augmented
views, and answer for the fold's, on top of that encoder, which stays as it is, and on top of the
same encoder as it was before its first step. What they are given is the clip's mean token, as in
VideoMAE's own classifier; or the mean token of each time step, less the clip's ("over time").

Runs that are complete in the folder `out` are not trained again, so that folds may be trained side
by side with `--folds` and then be probed together.
"""

import argparse
import itertools
import json
import pathlib
import resource
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxvid import checkpoint, zoo
from jaxvid import config as configs
from jaxvid.data import build, datasets, decode, toy
from jaxvid.layers.preprocess import normalizer
from jaxvid.training import loop
from tests import handed
from tests.bench_gestures import read_rows, write_lists

ENCODER = {"dim": 96, "depth": 3, "heads": 4, "patch": 4, "img_size": 32}
DECODER = {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4}
SHORT_SIDE = 80
NOISE = 10  # Grey levels of change that cameras and codecs make by themselves.
BLUR = 2  # Pixels: what the smallest cubes hide can then be told from their neighbours.
CONTRAST = 4
MEAN, DEVIATION = 47.0, 72.0  # Of the pixels of the clips so made.
VIEWS = 5  # Augmented ones of each clip that a classifier learns from.
KINDS = ("over time", "mean token")


def keep_motion(data: pathlib.Path, clips: pathlib.Path) -> None:
    """Writes the clips of `metadata.csv` anew, white where they differ from their median."""
    partial = clips.with_name(clips.name + ".partial")  # A kill leaves no half of the folder.
    for path in (row["path"] for row in read_rows(data)):
        frames = np.stack(list(decode.read_frames(data / path, SHORT_SIDE))).astype(np.float32)
        change = np.abs(frames - np.median(frames, axis=0)).max(-1)
        change = np.clip(CONTRAST * blur(np.maximum(change - NOISE, 0)), 0, 255).astype(np.uint8)
        height, width = (size - size % 2 for size in change.shape[1:])
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        picture = np.repeat(change[:, :height, :width, None], 3, axis=-1)
        toy.write_clip(partial / path, picture, fps=30)
    partial.rename(clips)


def blur(frames: np.ndarray) -> np.ndarray:
    """Frames [T, H, W] with each row and column convolved with a Gaussian."""
    offsets = np.arange(-4 * BLUR, 4 * BLUR + 1)
    weights = np.exp(-(offsets**2) / (2 * BLUR**2))
    for axis in (1, 2):
        ends = [(4 * BLUR, 4 * BLUR) if axis == other else (0, 0) for other in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(frames, ends, mode="edge"), len(weights), axis
        )
        frames = windows @ (weights / weights.sum()).astype(np.float32)
    return frames


def get_config(records: pathlib.Path, epochs: float) -> ml_collections.ConfigDict:
    """Pretraining on 16 frames of the whole clip, of which half are mirrored."""
    c = configs.from_row("videomae_pretrain_vit_b", dataset="gestures", data_dir=str(records))
    c.model.overrides.update(ENCODER | DECODER)
    c.data.update(
        {"crop": 32, "crop_mode": "whole", "area": (0.5, 1.0), "aspect": (0.9, 1.1), "flip": 0.5}
    )
    c.data.update({"rand_augment": "", "random_erasing": 0.0, "repeats": 1, "trim": 0.2})
    c.data.update({"mean": 3 * (MEAN,), "std": 3 * (DEVIATION,)})
    for part in (c.data, c.test):
        part.sampling.update({"sampler": "uniform", "clip_len": 16, "num_clips": 1})
    c.test.update({"crops": "whole", "crop": 32, "batch_size": 16})
    c.train.update({"batch_size": 16, "epochs": epochs, "eval_epochs": epochs, "log_steps": 20})
    c.train.update({"mask_ratio": 0.75, "decoder_mask_ratio": 0.75})
    c.train.normalize_cubes = False
    c.optim.update({"name": "adamw", "schedule": "cosine", "final_lr": 0.0, "layer_decay": 1.0})
    c.optim.update({"lr": 1e-3, "warmup_epochs": epochs / 20, "clip_norm": 1.0})
    return c


class Encoded(NamedTuple):
    """What the encoder makes of clips: features [clips, D] by kind, labels [clips]."""

    features: dict[str, np.ndarray]
    labels: np.ndarray


def read_clips(
    c: ml_collections.ConfigDict, split: str, views: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Clips [N, T, H, W, C] of a split and their labels [N].

    First all of each video; then, in whole batches, up to `views` augmented views of each, not
    mirrored: there are classes that only left and right tell apart.
    """
    c = c.copy_and_resolve_references()
    c.train.loss = "softmax"  # So that the batches hold labels.
    c.data.update({"area": (0.7, 1.0), "trim": 0.1, "flip": 0.0})
    videos = datasets.open_split(c.data, split)
    batches = [(b["video"][:, 0], b["label"]) for b in handed.test_batches(videos, c)]
    clips, labels = (np.concatenate(part)[: len(videos)] for part in zip(*batches, strict=True))
    drawn = itertools.islice(
        handed.train_batches(videos, c), views * len(videos) // c.train.batch_size
    )
    more = [(batch["video"], batch["label"]) for batch in drawn]
    parts = zip((clips, labels), *more, strict=True)
    return tuple(np.concatenate(part) for part in parts)


def encode(
    c: ml_collections.ConfigDict, workdir: pathlib.Path, clips: np.ndarray, labels: np.ndarray
) -> Encoded:
    """Encodes clips with the encoder that `workdir` holds."""
    model = zoo.create_model(c.model.name, **c.model.overrides)
    normalize = normalizer(c.data)

    @jax.jit
    def embed(variables, video):
        # No cube needs an answer: one is asked for as none cannot be.
        one = jnp.zeros((len(video), 1), jnp.int32)
        _, out = model.apply(variables, normalize(video), decoded=one)
        return out["stage1"].mean((2, 3))

    variables = checkpoint.load(workdir / "checkpoints")
    starts = range(0, len(clips), c.test.batch_size)
    parts = [np.asarray(embed(variables, clips[at : at + c.test.batch_size])) for at in starts]
    tokens = np.concatenate(parts)
    mean = tokens.mean(1)
    course = (tokens - mean[:, None]).reshape(len(tokens), -1)
    return Encoded(dict(zip(KINDS, (course, mean), strict=True)), labels)


def probe(known: Encoded, asked: Encoded, kind: str, decay: float = 1e-3) -> np.ndarray:
    """Which of the videos that are `asked` a linear classifier of those `known` gets right.

    Features are standardised by those that are known; the classifier's weights are decayed.
    """
    center, scale = (f(known.features[kind], axis=0) for f in (np.mean, np.std))
    x, other = ((part.features[kind] - center) / (scale + 1e-6) for part in (known, asked))
    classes = known.labels.max() + 1
    weights = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}

    def loss(weights):
        logits = x @ weights["kernel"] + weights["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, known.labels)
        return losses.mean() + decay * jnp.square(weights["kernel"]).sum()

    steps = 300
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def descend(carry, _):
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    start = (weights, optimizer.init(weights))
    (weights, _), _ = jax.jit(lambda start: jax.lax.scan(descend, start, length=steps))(start)
    answers = np.asarray(other @ weights["kernel"] + weights["bias"]).argmax(1)
    return answers == asked.labels


def losses(workdir: pathlib.Path) -> list[tuple[int, float]]:
    """Steps and losses that a run logged."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--epochs", type=float, default=320.0, help="of pretraining")
    args = parser.parse_args()
    print(f"{jax.device_count()} {jax.default_backend()} device(s)")
    clips = args.out / "clips"
    if not clips.exists():
        keep_motion(args.data, clips)
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    for fold in args.folds.split(","):
        records, out = args.out / f"records{fold}", args.out / f"fold{fold}"
        if not (records / "test.index.npz").exists():
            write_lists(args.data, fold, records)
            for split in ("train", "test"):
                build.build(clips, records / f"{split}.csv", records, short_side=SHORT_SIDE)
        c = get_config(records, args.epochs)
        loop.train(c, out / "pretrained")
        # The rate of the first step is zero: what follows it is what the run began with.
        c.train.stop_at_step = 1
        loop.train(c, out / "random")
        logged = losses(out / "pretrained")
        line = f"fold {fold}: loss {logged[0][1]:.3f}, in the end {logged[-1][1]:.3f}; probes"
        clips_of = [read_clips(c, "train", VIEWS), read_clips(c, "test")]
        for name in ("pretrained", "random"):
            known, asked = (encode(c, out / name, *of) for of in clips_of)
            for kind in KINDS:
                hits = probe(known, asked, kind)
                right.setdefault((kind, name), []).append(hits)
                line += f" {name}, {kind} {hits.mean():.3f};"
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(f"{line} {(usage.ru_utime + usage.ru_stime) / 60:.1f} CPU minutes", flush=True)
    for kind in KINDS:
        ours, theirs = (np.concatenate(right[kind, name]) for name in ("pretrained", "random"))
        gain = ours.astype(float) - theirs
        print(
            f"{kind}: {ours.mean():.3f} pretrained, {theirs.mean():.3f} random of {len(gain)} "
            f"videos; gain {gain.mean():.3f} +- {gain.std() / len(gain) ** 0.5:.3f}"
        )


if __name__ == "__main__":
    main()
