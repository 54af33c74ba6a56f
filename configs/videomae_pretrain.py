"""VideoMAE's pretraining: ViT-B fills in masked cubes of clips that need no labels.

python -m jaxvid.main --config=configs/videomae_pretrain.py:data_dir=DIR --workdir=runs/pretrain
The authors' script for Kinetics-400: 800 epochs, tubes of 90 %. Other names are
videomae_pretrain_vit_s, _l and _h, and videomaev2_pretrain_vit_b, _l, _h and _g, whose decoder is
asked for half of the cubes. To start from the result, give its workdir as `init` to
configs/zoo_row.py:name=videomae_vit_b (or the variant of that size).
Arguments: name, and those of every config: dataset, data_dir, init, classes, runlocal.
"""

from jaxvid import config


def get_config(arg: str | None = None):
    return config.from_row(
        **config.parse_arg(arg, name="videomae_pretrain_vit_b", **config.ARGUMENTS)
    )
