"""Numbers in environment variables."""

import pytest

from jaxvid.base import environment
from jaxvid.base.errors import JaxvidError


@pytest.mark.parametrize(("given", "wanted"), [({}, None), ({"A": ""}, None), ({"A": "2.5"}, 2.5)])
def test_a_number_is_read(given, wanted):
    assert environment.read_number(given, "A", "seconds") == wanted


@pytest.mark.parametrize("given", ["-1", "inf", "nan", "ten"])
def test_what_is_no_number_from_0_on_is_named(given):
    with pytest.raises(JaxvidError, match=f"A='{given}' must be seconds, or 0 for never"):
        environment.read_number({"A": given}, "A", "seconds, or 0 for never")
