"""SlowOnly-R50 on 8 frames, 8 apart, as published on Kinetics-400.

python -m jaxvid.main --config=configs/slowonly_r50.py:data_dir=DIR --workdir=runs/1
Arguments: dataset, data_dir, init (checkpoint folder to start from), classes, runlocal.
"""

from jaxvid import config


def get_config(arg: str | None = None):
    return config.from_row("slowonly_r50_8f", **config.parse_arg(arg, **config.ARGUMENTS))
