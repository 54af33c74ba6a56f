"""A checkpoint as one program that runs without this library.

python -m jaxvid.export --checkpoint=runs/tsm --out=exported/tsm --preprocess=240x320

Beside the program, which holds the weights, `model.json` says what enters and what it answers. With
--preprocess that is frames as they were decoded and probabilities, by the test's own resizing,
central crop and normalisation. Without, it is normalised clips and logits: the network alone.
"""

from typing import TYPE_CHECKING, Any

from jaxvid.export.command import main as main

if TYPE_CHECKING:
    from jaxvid.export.folder import export as export
    from jaxvid.export.program import central_crop as central_crop
    from jaxvid.export.program import for_platforms as for_platforms
    from jaxvid.export.program import make_program as make_program


def __getattr__(name: str) -> Any:
    """`export` and what it is made of, loaded on first use, so that `--help` is quick."""
    if name not in ("export", "central_crop", "for_platforms", "make_program"):
        raise AttributeError(f"module 'jaxvid.export' has no attribute {name!r}")
    from jaxvid.export import folder, program

    return getattr(folder if name == "export" else program, name)
