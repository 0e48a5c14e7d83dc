"""Expected accuracy on images without labels: every estimate, and how unlike the images are."""

from typing import Any

from kedge.printable import printable
from kedge.reporting.rows import Row, dig, estimate
from kedge.reporting.sentences import expected
from kedge.reporting.summary import unlabelled


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The sentences, the estimates of each set side by side, and what they were fitted on."""
    models = results["models"]
    known = [dig(m, "unlabelled", "validation") for m in models.values()]
    if not any(known):
        return None
    groups = [
        ("", [Row("", "accuracy on validation images", "%", None, [estimate(dig(k, "accuracy")) for k in known])])
    ]
    for name, lines in unlabelled(models).items():
        rows = [Row(name, label, "%", None, [estimate(v) for v in values]) for label, values in lines]
        groups.append((printable(name), [row for row in rows if any(cell is not None for cell in row.cells)]))
    return {
        "sentences": [words for name, model in models.items() for words in expected(name, model)],
        "groups": groups,
        "fitted": list(
            dict.fromkeys(f"{k['images']:,} images of {printable(k['name'])} ({k['split']})" for k in known if k)
        ),
    }
