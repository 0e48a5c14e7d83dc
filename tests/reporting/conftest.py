from typing import Any

import pytest

from tests.reporting import lacking, synthetic

NASTY = (
    "<script>alert(1)</script>",
    '"><img src=https://example.org/x onerror=alert(1)>',
    "$x^2$",
    "_under",
    "{{ 7 * 7 }}",
    "\x1b[31mred",
    "a class name that goes on " * 8,
)
HOSTILE = '<script>alert("m")</script>'


@pytest.fixture(scope="session")
def one() -> dict[str, Any]:
    return synthetic.results(("only",), limited=True)


@pytest.fixture(scope="session")
def two() -> dict[str, Any]:
    return synthetic.results(("standard", "anchored"))


@pytest.fixture(scope="session")
def three() -> dict[str, Any]:
    """Everything at once, with names that want to be more than names."""
    made = synthetic.results(
        ("standard", "anchored", HOSTILE),
        sets={"<u>grey</u>": "near", "far one": "far", "far two": "far"},
        published=("<b>published</b>",),
        classes=NASTY,
        groups=True,
    )
    made["data"]["name"] = "<i>photos</i>"
    made["citations"].append({"what": "<i>x</i>", "cite": "y", "url": "javascript:alert(1)"})
    made["models"]["standard"]["errors"] = [{"part": "<i>part</i>", "message": '"<img src=x>'}]
    made["models"]["standard"]["warnings"] = ["<b>looks like</b> probabilities"]
    return made


@pytest.fixture(scope="session")
def bare() -> dict[str, Any]:
    return synthetic.results(("only",), sets={}, corruptions=(), published=(), attacks=False, interval=False)


@pytest.fixture(scope="session")
def partial() -> dict[str, Any]:
    return lacking.interrupted()


@pytest.fixture(scope="session")
def old() -> dict[str, Any]:
    """Results of an earlier version."""
    return lacking.earlier(synthetic.results(("standard", "anchored", "deep", "wide")))
