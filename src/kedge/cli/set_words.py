"""What the commands say of prediction sets."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.cli.answers import Tally
    from kedge.postprocess import SetRule


def about_sets(name: str, record: Mapping[str, Any]) -> list[str]:
    """What `kedge calibrate` says of those that it set: the promise, how exact it is, how large the sets are."""
    from kedge.postprocess import coverage_range, describe_steps

    value = record["value"]
    fewest = min(value["images"])
    low, _ = coverage_range(fewest, value["coverage"])
    of_class = " of the class with the fewest" if value["by_class"] else ""
    lines = [
        f"{describe_steps({name: record})[0]}, set on {record['images']} images of {record['fitted_on']}",
        f"of other images like these {100 * value['coverage']:g} % or more have their class in the set, on average "
        f"over calibrations; with {fewest} images{of_class} {low:.1%} or more in 19 of 20 calibrations",
        f"on these images a set holds {record['size']:.2f} classes; {record['empty']:.1%} are empty",
    ]
    if record["accuracy"] >= value["coverage"]:
        lines.append(
            f"(the answer alone is right on {record['accuracy']:.1%} of these images, more than the sets promise: a "
            "higher coverage says more)"
        )
    lines.append("(the promise is about images like these and no others: kedge predict --sets says when they are not)")
    return lines


def of_answers(tally: "Tally", rule: "SetRule") -> list[str]:
    """What `kedge predict` says of the sets of its answers, and whether what they promise can be relied on."""
    answers = tally.images - tally.failed
    if not answers:
        return []
    size = f"{tally.in_sets / answers:.2f} classes in a set on average, {tally.empty} of {answers} sets are empty"
    outlook = rule.outlook(answers, tally.expected_right, tally.unfamiliar)
    return [size, f"careful: {outlook}" if outlook.broken else str(outlook)]
