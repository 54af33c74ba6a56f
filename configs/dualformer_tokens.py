"""DualFormer-T on Kinetics-400, its tokens labelled by a teacher such as DualFormer-B.

python -m jaxvid.main --config=configs/dualformer_tokens.py:teacher=DIR1,data_dir=DIR2 --workdir=...
Arguments: teacher (checkpoint folder of a trained network of the same classes), name of the row to
train, and those of every config: dataset, data_dir, init, classes, runlocal.
"""

from jaxvid import config


def get_config(arg: str | None = None):
    given = config.parse_arg(arg, name="dualformer_t_32x2_k400", teacher="", **config.ARGUMENTS)
    teacher = given.pop("teacher")
    c = config.from_row(**given)
    c.model.overrides.token_labels = True
    c.train.teacher = teacher
    return c
