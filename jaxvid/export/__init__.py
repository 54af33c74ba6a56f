"""A checkpoint as one program that runs without this library.

python -m jaxvid.export --checkpoint=runs/tsm --out=exported/tsm --preprocess=240x320

Beside the program, which holds the weights, `model.json` says what enters and what it answers. With
--preprocess that is frames as they were decoded and probabilities, by the test's own resizing,
central crop and normalisation. Without, it is normalised clips and logits: the network alone.
"""

from jaxvid.export.command import main as main
from jaxvid.export.folder import export as export
from jaxvid.export.program import central_crop as central_crop
from jaxvid.export.program import for_platforms as for_platforms
from jaxvid.export.program import make_program as make_program
