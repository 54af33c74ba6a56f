"""Hiera's pretraining: Hiera-B fills in masked units of clips that need no labels.

python -m jaxvid.main --config=configs/hiera_pretrain.py:data_dir=DIR --workdir=runs/pretrain
Units of 32 x 32 pixels in two frames, of which 90 % are hidden. Other names are
hiera_bplus_16x224_mae, hiera_l_16x224_mae and hiera_h_16x224_mae. To start from the result, give
its workdir as `init` to configs/zoo_row.py:name=hiera_b_16x4_k400 (or the row of that size).
Arguments: name, and those of every config: dataset, data_dir, init, classes, runlocal.
"""

from jaxvid import config


def get_config(arg: str | None = None):
    return config.from_row(**config.parse_arg(arg, name="hiera_b_16x224_mae", **config.ARGUMENTS))
