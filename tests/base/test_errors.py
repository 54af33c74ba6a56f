"""What refusals have in common."""

import pytest

from jaxvid.base.errors import listed


@pytest.mark.parametrize(
    "count, said",
    [
        (0, ""),
        (1, "a0 is missing"),
        (2, "a0 is missing; a1 is missing"),
        (10, "; ".join(f"a{i} is missing" for i in range(10))),
        (11, "; ".join(f"a{i} is missing" for i in range(10)) + "; and 1 more"),
        (5000, "; ".join(f"a{i} is missing" for i in range(10)) + "; and 4990 more"),
    ],
)
def test_at_most_ten_problems_are_listed_and_the_rest_are_counted(count, said):
    assert listed(f"a{i} is missing" for i in range(count)) == said


def test_fewer_may_be_listed_and_joined_otherwise():
    assert listed(["a", "b", "c"], 2, ", ") == "a, b, and 1 more"
