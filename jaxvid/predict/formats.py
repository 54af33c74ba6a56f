"""An answer as text and as JSON."""

import pathlib
from typing import TYPE_CHECKING, Any

from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import shown

if TYPE_CHECKING:
    from jaxvid.inference.predictor import Prediction


def length(prediction: "Prediction") -> str:
    """How long a video is, and what is damaged of it."""
    text = f"{prediction.num_frames} frames"
    if prediction.fps:
        text += f", {prediction.fps:.4g} fps, {prediction.seconds:.1f} s"
    if prediction.damaged:
        text += f"; damaged or missing packets: {prediction.damaged}"
    return text


def text(
    path: pathlib.Path, prediction: "Prediction", top: int, files: dict[str, pathlib.Path]
) -> str:
    """A video's answers with bars, a line each, and what files were written of it."""
    answers = [(shown(label), score) for label, score in prediction.top(top)]
    width = max(len(label) for label, _ in answers)
    lines = [f"{shown(path)}  ({length(prediction)})"]
    for label, score in answers:
        bar = "#" * round(20 * score)
        lines.append(f"  {100 * score:5.1f} %  {label:<{width}}  {bar}".rstrip())
    lines += [f"  {what}: {shown(file)}" for what, file in files.items()]
    return "\n".join(lines)


def json(
    path: pathlib.Path,
    prediction: "Prediction",
    top: int,
    files: dict[str, pathlib.Path],
    milliseconds: float,
) -> dict[str, Any]:
    """The same for programs, with the time that it took."""
    return {
        "path": str(path),
        "frames": prediction.num_frames,
        "fps": prediction.fps,
        "duration": prediction.seconds,
        "damaged": prediction.damaged,
        "answers": answers(prediction, top),
        "milliseconds": round(milliseconds, 1),
        **{what: str(file) for what, file in files.items()},
    }


def answers(prediction: "Prediction", top: int) -> list[dict[str, Any]]:
    """The likeliest classes for programs."""
    return [{"label": label, "score": score} for label, score in prediction.top(top)]


def window_text(window: dict[str, Any]) -> str:
    """The line of a window, of what is said of it in JSON."""
    answers = ", ".join(
        f"{shown(each['label'])} {100 * each['score']:.1f} %" for each in window["answers"]
    )
    return f"  {window['start']:8.2f} - {window['end']:8.2f} s  {answers}"


def refusal(path: pathlib.Path, error: JaxvidError, as_json: bool) -> str | dict[str, Any]:
    """A video that has no answer, and why."""
    if as_json:
        return {"path": str(path), "error": str(error)}
    return f"{shown(path)}\n  no answer: {shown(error)}"
