"""Any row of the zoo by name, or any variant.

python -m jaxvid.main --config=configs/zoo_row.py:name=tsm_r50_1x1x8_k400,data_dir=DIR --workdir=...
Arguments: name, and those of every config: dataset, data_dir, init, classes, runlocal.
"""

from jaxvid import config


def get_config(arg: str | None = None):
    return config.from_row(**config.parse_arg(arg, name="tsm_r50_8f", **config.ARGUMENTS))
