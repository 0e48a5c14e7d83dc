"""Verdicts of a gate as lines for people, as JSON, and as JUnit XML, which CI servers show test by test."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from kedge._version import __version__
from kedge.gate import FAIL, UNDECIDED, UNMEASURED, Verdict, overall
from kedge.printable import printable

__all__ = ["FORMAT", "as_json", "as_junit", "verdict_lines"]

FORMAT = 1  # of the JSON; raised when a key changes its meaning
WIDTH = max(map(len, (UNDECIDED, UNMEASURED)))


def verdict_lines(judged: Sequence[Verdict]) -> list[str]:
    """A line for each verdict under the name of its model, and one for all together."""
    lines = []
    for model in dict.fromkeys(each.model for each in judged):
        lines.append(printable(model))
        lines += [f"  {each.verdict:<{WIDTH}}  {printable(each.sentence)}" for each in judged if each.model == model]
    counts = Counter(each.verdict for each in judged)
    return [*lines, f"{overall(judged)}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}"]


def as_json(judged: Sequence[Verdict], results: str, status: int) -> dict[str, Any]:
    """What programs read: the verdict of all, the exit status, and every verdict with its numbers."""
    return {
        "format_version": FORMAT,
        "kedge": __version__,
        "results": results,
        "verdict": overall(judged),
        "exit_status": status,
        "criteria": [{**each.to_json(), "sentence": each.sentence} for each in judged],
    }


def as_junit(judged: Sequence[Verdict], undecided_passes: bool = False) -> str:
    """A test suite for each model and a test for each criterion.

    One that cannot be told is an error of the test, which CI servers show as not passed, like the exit status of the
    command; with `undecided_passes` it counts as skipped, unless its number is not to be believed.
    """
    root = Element("testsuites", name="kedge check")
    kinds = {FAIL: "failure", UNDECIDED: "error", UNMEASURED: "error"}
    for model in dict.fromkeys(each.model for each in judged):
        name = printable(model)
        suite = SubElement(root, "testsuite", name=name)
        for each in (one for one in judged if one.model == model):
            test = SubElement(suite, "testcase", classname=f"kedge.check.{name}", name=each.criterion, time="0")
            said = printable(each.sentence)
            if each.verdict in kinds:
                passes = undecided_passes and each.verdict == UNDECIDED and not each.doubt
                SubElement(test, "skipped" if passes else kinds[each.verdict], message=said, type=each.verdict)
            SubElement(test, "system-out").text = said
        _count(suite)
    _count(root)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _count(element: Element) -> None:
    for key, kind in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(sum(1 for _ in element.iter(kind))))
