"""Any video file, folder, camera or pipe to labels, by the preprocessing of the published test.

python -m jaxvid.predict --checkpoint=runs/tsm --video=clip.mp4

In a notebook:

    predictor = predict.Predictor("runs/tsm")
    predictor.scores("clip.mp4")            # [classes], in the order of predictor.classes
    predictor.predict("clip.mp4").top(5)    # [("pulling", 0.91), ...]
"""

from typing import TYPE_CHECKING, Any

from jaxvid.data.info import EXTENSIONS as EXTENSIONS
from jaxvid.predict.command import main as main
from jaxvid.predict.videos import find_videos as find_videos

if TYPE_CHECKING:
    from jaxvid.inference.predictor import Prediction as Prediction
    from jaxvid.inference.predictor import Predictor as Predictor
    from jaxvid.inference.predictor import class_names as class_names
    from jaxvid.inference.predictor import make_config as make_config


def __getattr__(name: str) -> Any:
    """`Predictor` and what goes with it, loaded on first use, so that `--help` is quick."""
    if name not in ("Prediction", "Predictor", "class_names", "make_config"):
        raise AttributeError(f"module 'jaxvid.predict' has no attribute {name!r}")
    from jaxvid.inference import predictor

    return getattr(predictor, name)
