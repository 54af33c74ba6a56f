"""JSON within bounds: what is read is small and sound, and what is written holds no NaN."""

import json
import os

import pytest

from jaxvid.base import jsons


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[[" * 50000, "nests too deeply"),
        ("[" + "9" * 5000 + "]", "a number of 5000 digits"),
        ('{"a": NaN}', "not finite"),
        ('{"a": -Infinity}', "not finite"),
        ("[1e999]", "not finite"),
        ('{"a": 1, "a": 2}', "a name twice"),
        ("[" + "0," * (jsons.MAX_VALUES + 1) + "0]", "over 2000000 values"),
        (" " * (jsons.MAX_BYTES + 1), "over 32 MiB"),
        (b"\xff\xfe{", "codec can't decode"),
        ("{", "Expecting"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        jsons.parse(text)


def test_a_number_that_is_not_defined_is_null():
    value = {"a": [float("nan"), (float("inf"), 1.5)], "b": float("-inf"), "c": True}
    assert jsons.dump(value) == '{"a": [null, [null, 1.5]], "b": null, "c": true}'
    assert jsons.parse(jsons.dump(value))["a"][1] == [None, 1.5]


def test_text_that_is_no_unicode_is_escaped():
    name = os.fsdecode(b"caf\xe9.mp4")
    text = jsons.dump({"é": name}, ensure_ascii=False)
    assert text.encode("utf-8") and json.loads(text) == {"é": name}
    assert jsons.dump("é", ensure_ascii=False) == '"é"'


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        jsons.read(tmp_path / "pipe")
