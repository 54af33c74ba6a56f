"""Checkpoints on disk: exact, whole or absent, and independent of the devices that wrote them.

A checkpoint is a folder with `jaxvid.json` (what the arrays are) beside a folder of arrays in
Orbax's format, whose name `jaxvid.json` holds. It is written arrays first, and becomes real in the
one rename that puts `jaxvid.json` in place. Until then the folder is no checkpoint, or still the
old one, so a kill or a full disk never leaves half of one. A training run keeps such folders side
by side as `step_<number>`, and writes them while it goes on.

`jaxvid.json` holds a checksum of each array as a whole, whatever devices its parts lay on, so that
whoever reads arrays on any others sees whether they are still what was written.

A checkpoint of a run by LoRA holds what was trained only, and names the base that the rest is in;
`load` gives both, merged.
"""

from jaxvid.checkpoint.folders import check_free as check_free
from jaxvid.checkpoint.lora import merged as merged
from jaxvid.checkpoint.record import RECORD as RECORD
from jaxvid.checkpoint.run import Checkpoints as Checkpoints
from jaxvid.checkpoint.variables import describe_base as describe_base
from jaxvid.checkpoint.variables import find as find
from jaxvid.checkpoint.variables import load as load
from jaxvid.checkpoint.variables import load_base as load_base
from jaxvid.checkpoint.variables import load_finite as load_finite
from jaxvid.checkpoint.variables import load_lora as load_lora
from jaxvid.checkpoint.variables import load_meta as load_meta
from jaxvid.checkpoint.variables import save as save
