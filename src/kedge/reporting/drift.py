"""New images against earlier ones: in a few lines, as files, and as a page."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kedge.files import write_together
from kedge.printable import cell, printable
from kedge.reporting.page import templates, together
from kedge.reporting.sections import images

COLUMNS = ("part", "name", "reference", "new", "difference", "low", "high", "p", "new_higher", "note")
CLASSES = 20  # that the page shows, those that changed most
NUMBERS = 6  # that the terminal shows


def drift_lines(results: dict[str, Any]) -> list[str]:
    """What came out, for the terminal."""
    lines = [f"{_sets(results)}: {verdict(results)}"]
    lines += [together(words) for words in details(results)]
    changed = [each for each in numbers(results) if each["p"] < results["settings"]["alpha"]]
    for each in changed[:NUMBERS]:
        lines.append(f"  {each['label']}: {_number(each['reference'])} -> {_number(each['new'])}; {_higher(each)}")
    if len(changed) > NUMBERS:
        lines.append(f"  and {len(changed) - NUMBERS} more numbers, see the page")
    return lines


def verdict(results: dict[str, Any]) -> str:
    """Whether there is a drift, in a sentence."""
    drift, alpha = results["drift"], results["settings"]["alpha"]
    level = f"(p = {_p(drift['p'])}; at most {100 * alpha:g} in 100 comparisons of like images get below {alpha:g})"
    if not drift["changed"]:
        return f"no drift seen {level}"
    return f"the new images look different {level}"


def details(results: dict[str, Any]) -> list[str]:
    """What they look like, what the model makes of them: a sentence each."""
    sentences = [words for words in (looks_like(results), files(results), answers(results), beyond(results)) if words]
    return [*sentences, *accuracy(results)]


def looks_like(results: dict[str, Any]) -> str:
    """The nearest corruption, how strong, and how far to trust the name."""
    nearest = results["nearest"]
    if nearest is None or not results["drift"]["changed"]:
        return ""
    name, explained = nearest["corruption"].replace("_", " "), 100 * (1 - nearest["unexplained"])
    severity = nearest["severity"]
    strong = f"severity {severity['value']:.1f} ({severity['low']:.1f} to {severity['high']:.1f})"
    count = len(results["settings"]["corruptions"])
    if results["drift"]["looks_like"] == nearest["corruption"]:
        text = f"they look most like {name} of {strong}, which explains {explained:.0f} % of the change"
        true, *others = (
            f"{each['corruption'].replace('_', ' ')} {100 * each['share']:.0f} %" for each in nearest["truly"]
        )
        text += f"; where reference images, corrupted here, were named so, it truly was {true}"
        text += f" (else {', '.join(others)})" if others else ""
        if nearest["agreement"] < 0.9:
            text += f". Only {100 * nearest['agreement']:.0f} % of resamples give that name"
        return text
    return (
        f"they look like none of the {count} corruptions tried: the nearest, {name} of {strong}, leaves "
        f"{100 - explained:.0f} % of the change unexplained, and {100 * nearest['limit']:.0f} % is the limit"
    )


def files(results: dict[str, Any]) -> str:
    """What of the files is other than before, as it may be where a change of the images comes from."""
    alpha = results["settings"]["alpha"]
    changed = [
        f"{each['label'].removesuffix(' of the file')} {_number(each['reference'])} -> {_number(each['new'])}"
        for each in results["files"]["numbers"]
        if each["p"] < alpha
    ]
    before, now = ("/".join(shares) for shares in results["files"]["formats"])
    if before and now and before != now:
        changed.append(f"format {before} -> {now}")
    if not changed:
        return ""
    return f"the files are others too, which may be all that changed: {', '.join(changed)} (means)"


def answers(results: dict[str, Any]) -> str:
    """Which classes are predicted more or less often."""
    classes, alpha = results["classes"], results["settings"]["alpha"]
    if classes["p"] >= alpha:
        return f"the classes are predicted about as often as before (p = {_p(classes['p'])})"
    most = [
        f"{printable(each['name'])} {100 * each['reference']:.1f} -> {100 * each['new']:.1f} %"
        for each in ordered_classes(results)
        if each["p"] < alpha
    ]
    which = f": {', '.join(most[:4])}{', ...' if len(most) > 4 else ''}" if most else ""
    return f"other classes are predicted than before (p = {_p(classes['p'])}){which}"


def beyond(results: dict[str, Any]) -> str:
    """The share that is stranger than nearly all reference images."""
    entry = results["beyond"]
    share = entry["share"]
    return (
        f"{100 * share['value']:.0f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f}) are stranger to the "
        f"model than {100 * (1 - entry['usual']):.0f} % of the reference images ({entry['score']}); of like images "
        f"it is {100 * entry['usual']:.0f} %"
    )  # fmt: skip


def accuracy(results: dict[str, Any]) -> list[str]:
    """The expected accuracy on new and reference images, or why there is none, and what speaks against it."""
    entry = results["accuracy"]
    if entry is None:
        return [f"no expected accuracy: {results['no_accuracy']}"]
    own, new = (entry[key]["estimates"][entry[key]["headline"]] for key in ("reference", "new"))
    return [
        f"expected accuracy about {_percent(new)}, on the reference images {_percent(own)}",
        *entry["new"]["warnings"],
    ]


def numbers(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every number of images and files, the most changed first."""
    entries = [*results["numbers"], *results["files"]["numbers"]]
    return sorted(entries, key=lambda each: (each["p"], -abs(each["higher"]["value"] - 0.5)))


def ordered_classes(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The classes, those first whose share changed most."""
    entries = results["classes"]["classes"]
    return sorted(entries, key=lambda each: (each["p"], -abs(each["difference"]["value"])))


def write_drift(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write drift.json, drift.csv, images.csv and drift.html, one page that opens without a network; their paths."""
    folder = Path(folder)
    return write_together(
        {
            folder / "drift.csv": numbers_csv(results),
            folder / "images.csv": images_csv(results),
            folder / "drift.html": page(results),
            folder / "drift.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        }
    )


def numbers_csv(results: dict[str, Any]) -> str:
    """Every number that was compared, one a line."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _csv_rows(results):
        writer.writerow([cell(each) if isinstance(each, str) else each for each in row])
    return stream.getvalue()


def _csv_rows(results: dict[str, Any]) -> Iterator[list[Any]]:
    drift, nearest = results["drift"], results["nearest"]
    yield ["drift", "any change", None, None, None, None, None, drift["p"], None, str(drift["looks_like"])]
    if nearest is not None:
        severity = nearest["severity"]
        yield ["nearest", nearest["corruption"], None, severity["value"], None, severity["low"], severity["high"],
               None, None, f"unexplained {nearest['unexplained']:.4f}, limit {nearest['limit']:.4f}"]  # fmt: skip
    for part, entries in (("image", results["numbers"]), ("file", results["files"]["numbers"])):
        for each in entries:
            difference = each["difference"]
            yield [part, each["key"], each["reference"], each["new"], difference["value"], difference["low"],
                   difference["high"], each["p"], each["higher"]["value"], each["words"]]  # fmt: skip
    yield ["answers", "any change", None, None, None, None, None, results["classes"]["p"], None, ""]
    for each in results["classes"]["classes"]:
        difference = each["difference"]
        yield ["answers", each["name"], each["reference"], each["new"], difference["value"], difference["low"],
               difference["high"], each["p"], None, ""]  # fmt: skip
    share = results["beyond"]["share"]
    yield ["beyond", results["beyond"]["score"], results["beyond"]["usual"], share["value"], None, share["low"],
           share["high"], None, None, "low and high are of the new share"]  # fmt: skip
    if results["accuracy"] is not None:
        for key in results["accuracy"]["new"]["estimates"]:
            own, new = (results["accuracy"][which]["estimates"][key] for which in ("reference", "new"))
            yield ["accuracy", key, own["value"], new["value"], None, new["low"], new["high"], None, None,
                   "low and high are of the new value"]  # fmt: skip


def images_csv(results: dict[str, Any]) -> str:
    """Every new image with its answer and how far it is from the reference images, the furthest first."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("image", "answer", "confidence", "distance", "reference_images_further"))
    for row in sorted(results["images"], key=lambda row: -row["distance"]):
        writer.writerow([cell(row["path"]), cell(row["answer"]), f"{row['confidence']:.6g}", f"{row['distance']:.6g}",
                         f"{row['further']:.6g}"])  # fmt: skip
    return stream.getvalue()


def page(results: dict[str, Any]) -> str:
    """The page as text."""
    alpha = results["settings"]["alpha"]
    rows = [
        {"label": each["label"], "words": each["words"], "reference": _number(each["reference"]),
         "new": _number(each["new"]), "higher": range_of(each["higher"]),
         "share": f"{100 * each['higher']['value']:.0f}", "p": _p(each["p"]), "changed": each["p"] < alpha}
        for each in numbers(results)
        if each["reference"] != each["new"] or each["p"] < 1  # such as colours of grey images
    ]  # fmt: skip
    classes = ordered_classes(results)
    environment = templates()
    environment.globals.update(safe_src=images.safe, tiny_src=images.tiny, together=together)
    return environment.get_template("drift.html").render(
        results=results,
        names={key: printable(results[key]["name"]) for key in ("reference", "new")},
        verdict=verdict(results),
        sentences=details(results),
        rows=rows,
        formats=[", ".join(f"{100 * share:.0f} % {kind}" for kind, share in each.items()) for each in
                 results["files"]["formats"]],
        classes=[
            {"name": printable(each["name"]), "reference": f"{100 * each['reference']:.1f}",
             "new": f"{100 * each['new']:.1f}", "difference": _points(each["difference"]["value"]),
             "interval": f"{_points(each['difference']['low'])} to {_points(each['difference']['high'])}",
             "p": _p(each["p"]), "changed": each["p"] < alpha}
            for each in classes[:CLASSES]
        ],
        left_out=max(0, len(classes) - CLASSES),
        title=f"{printable(results['new']['name'])} against {printable(results['reference']['name'])}",
    )  # fmt: skip


def range_of(entry: dict[str, float]) -> Markup:
    """A share with its interval, as a dot on a line from 0 to 1 whose middle is where nothing changed."""
    at, low, high = (f"{100 * entry[key]:.1f}" for key in ("value", "low", "high"))
    return Markup(
        '<svg viewBox="0 0 100 12" class="range" aria-hidden="true"><path class="g" d="M0 6H100M50 1V11"/>'
        f'<path class="w" d="M{low} 6H{high}"/><circle class="p k0" cx="{at}" cy="6" r="3"/></svg>'
    )


def _sets(results: dict[str, Any]) -> str:
    new, reference = (results[key] for key in ("new", "reference"))
    count = len(results["images"])
    return (
        f"{printable(new['name'])} ({count:,} images) against {printable(reference['name'])} "
        f"({reference['images']:,} images)"
    )


def _higher(entry: dict[str, Any]) -> str:
    value = entry["higher"]["value"]
    if value >= 0.5:
        return f"higher than in a reference image with a chance of {100 * value:.0f} %"
    return f"lower than in a reference image with a chance of {100 * (1 - value):.0f} %"


def _percent(estimate: dict[str, Any]) -> str:
    text = f"{100 * estimate['value']:.0f} %"
    return text if estimate["low"] is None else f"{text} ({100 * estimate['low']:.0f} to {100 * estimate['high']:.0f})"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.1g}"
