"""MViTv2-S on 16 frames, 4 apart, as published on Kinetics-400.

python -m jaxvid.main --config=configs/mvit_s.py:data_dir=DIR --workdir=runs/1
Arguments: dataset, data_dir, init (checkpoint folder to start from), classes, runlocal.
"""

from jaxvid import config


def get_config(arg: str | None = None):
    return config.from_row("mvitv2_s", **config.parse_arg(arg, **config.ARGUMENTS))
