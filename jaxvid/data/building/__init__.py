"""A folder of videos and a CSV of labels into a split of sharded records.

Every frame is kept, as a JPEG with its short side at most `--short-side`. Chroma is not subsampled:
next to 4:2:0 that costs a fifth more bytes and a quarter more decoding time, and it keeps frames
closer to what a model with published weights saw (1 to 3 dB at quality 95).

The work is cut into shards, each written by one process from start to end, so the bytes do not
depend on the number of processes. A shard counts once it is whole; a build that was killed goes on
with those that are missing, and the records appear in `--out` only when all are there.

With `--flow` the frames are pairs of optical flow (`jaxvid.data.flow`) in `flow/encoded`, and the
split is one of its own beside that of the pictures.
"""

from jaxvid.data.building.repair import rebuild as rebuild
from jaxvid.data.building.split import Summary as Summary
from jaxvid.data.building.split import build as build
from jaxvid.data.building.tasks import FLOW_WAYS as FLOW_WAYS
