"""A small 3-D network for a few hundred own clips: from nothing, in minutes on a CPU.

python -m jaxvid.main --config=configs/own_clips.py:data_dir=DIR --workdir=runs/own
Sees 16 frames spread over the clip, the whole picture squashed to 72 x 72; never mirrors it. The
README says what it reached on 217 real clips.
Arguments: dataset, data_dir, init (checkpoint folder to start from), classes, runlocal.
"""

from jaxvid import config
from jaxvid.rows import IMAGENET_MEAN, IMAGENET_STD


def get_config(arg: str | None = None):
    c = config.from_row("c3d_small", **config.parse_arg(arg, **config.ARGUMENTS))
    c.data.update(
        {
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "crop": 72,
            "crop_mode": "whole",
            "area": (0.8, 1.0),
            "aspect": (0.95, 1.05),
            "flip": 0.0,
            "color_jitter": (0.4, 0.4, 0.4, 0.0),
            "trim": 0.12,
        }
    )
    c.data.sampling.update({"sampler": "uniform", "clip_len": 16, "num_clips": 1})
    c.test.update({"crops": "whole", "crop": 72, "batch_size": 16})
    c.test.sampling.update({"sampler": "uniform", "clip_len": 16, "num_clips": 1})
    c.train.update({"batch_size": 8, "epochs": 60.0, "eval_epochs": 10.0, "log_steps": 50})
    c.train.label_smoothing = 0.1
    c.optim.update(
        {
            "name": "adamw",
            "lr": 2e-3,
            "weight_decay": 0.05,
            "no_decay": ("ndim<2",),
            "clip_norm": 1.0,
            "schedule": "cosine",
            "warmup_epochs": 1.5,
        }
    )
    return c
