"""What a type checker sees of the public names: read by mypy as a file of a user, run by nobody."""

from typing import Any, assert_type

import flax.linen as nn
import jax
import ml_collections
import numpy as np

import converters
import jaxvid
from jaxvid import checkpoint, config, predict
from jaxvid.reports import metrics
from jaxvid.rows import Row
from jaxvid.training.loop import train


def names_and_weights(video: jax.Array) -> None:
    model = jaxvid.create_model("tsm_r50_1x1x8_k400", num_classes=10, dtype=np.float32)
    assert_type(model, nn.Module)
    assert_type(jaxvid.list_models("mvit*"), list[str])
    row = jaxvid.get_row("tsm_r50_1x1x8_k400")
    assert_type(row, Row)
    assert_type(row.mean, tuple[float, ...])
    variables = jaxvid.load_checkpoint("runs/tsm")
    assert_type(variables, dict[str, Any])
    assert_type(checkpoint.load_meta("runs/tsm"), dict[str, Any])
    logits, out = model.apply(variables, video, train=False)


def conversion(variables: dict[str, Any]) -> None:
    assert_type(converters.convert("tsm_r50_1x1x8_k400", "tsm.pth"), dict[str, Any])
    assert_type(converters.inflate("tsm_r50_1x1x8_k400", "resnet50.pth"), dict[str, Any])
    assert_type(converters.to_torch("tsm_r50_1x1x8_k400", variables), dict[str, np.ndarray])


def prediction() -> None:
    predictor = predict.Predictor("runs/tsm", views="one")
    assert_type(predictor, predict.Predictor)
    assert_type(predictor.classes, tuple[str, ...])
    assert_type(predictor.scores("clip.mp4"), np.ndarray)
    answer = predictor.predict("clip.mp4")
    assert_type(answer, predict.Prediction)
    assert_type(answer.top(5), list[tuple[str, float]])
    assert_type(predictor.explain(answer), tuple[np.ndarray, str])


def training() -> None:
    settings = config.from_row("tsm_r50_1x1x8_k400", dataset="clips", runlocal=True)
    assert_type(settings, ml_collections.ConfigDict)
    assert_type(train(settings, "runs/tsm"), metrics.Result)
