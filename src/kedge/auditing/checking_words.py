"""What `kedge check-data` says: a table of classes and parts, what is to be mended, what is worth knowing."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from kedge.auditing.checking import Checked, Copies
from kedge.data.folders import about_order
from kedge.printable import cell, printable

__all__ = ["as_csv", "findings", "lines", "mend", "table"]

SHOWN = 5  # files of each kind of finding
ROWS = 20  # classes of the table; of more the largest and the smallest are shown
UNEVEN = 10  # times as many images in the largest class as in the smallest
Found = tuple[str, str, str, str]  # finding, file, the other file, words


def lines(checked: Checked, seconds: float) -> list[str]:
    """All of it, line by line."""
    pool = checked.pool
    rate = f" ({len(pool) / seconds:,.0f} a second)" if seconds > 1 else ""
    text = [f"{pool.name}: {pool.about}, each decoded once in {seconds:.1f} s{rate}", "", *table(checked), ""]
    if checked.seen:
        text += [_about_files(checked), ""]
    to_mend = mend(checked)
    text += ["to mend:" if to_mend else "nothing to mend"]
    for what, files in to_mend:
        text.append(f"  {what}")
        text += [f"    {line}" for line in files[:SHOWN]]
        if len(files) > SHOWN:
            text.append(f"    ... and {len(files) - SHOWN:,} more")
    if known := list(_worth_knowing(checked)):
        text += ["worth knowing:", *(f"  {each}" for each in known)]
    return text


def table(checked: Checked) -> list[str]:
    """Images of each class and part, and in all; of more than 20 classes the largest ten and the smallest ten."""
    counts, names = checked.counts, checked.pool.class_names
    parts = [*counts]
    totals = [sum(of_class) for of_class in zip(*counts.values(), strict=True)]
    if not checked.pool.labelled:
        return [f"{sum(totals):,} images without classes"]
    shown: Sequence[int] = range(len(names))
    if len(names) > ROWS:
        ranked = sorted(shown, key=lambda label: -totals[label])
        shown = sorted(ranked[: ROWS // 2]) + sorted(ranked[-ROWS // 2 :])
    several = len(parts) > 1
    rows = [["class", *(parts if several else ["images"]), *(["in all"] if several else [])]]
    for label in shown:
        own = [counts[part][label] for part in parts]
        rows.append([printable(names[label]), *map(_number, own), *([_number(totals[label])] if several else [])])
    sums = [sum(counts[part]) for part in parts]
    rows.append(["in all", *map(_number, sums), *([_number(sum(sums))] if several else [])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    if len(names) > ROWS:
        text.insert(ROWS // 2 + 1, f"... {len(names) - ROWS:,} more classes ...")
    return text


def mend(checked: Checked) -> list[tuple[str, list[str]]]:
    """(what is wrong and what to do, the files) of each kind of finding that speaks against training now."""
    pool = checked.pool
    named = [
        (
            f"{_are(len(pool.unreadable), 'image')} unreadable: repair or remove them",
            [f"{printable(file)}: {printable(reason)}" for file, reason in pool.unreadable],
        ),
        (
            f"{_are(len(checked.across), 'image')} in several parts, bit for bit: the later part flatters; keep one of "
            "each",
            _pairs(checked, checked.across),
        ),
        (
            f"{_are(len(checked.contradicting), 'image')} in several classes, bit for bit: one of the labels is wrong",
            _pairs(checked, checked.contradicting),
        ),
        (
            f"{_are(len(checked.tiny), 'image')} tiny beside the others: thumbnails, icons?",
            [f"{printable(pool.file(i))}: {checked.seen[i].width}x{checked.seen[i].height}" for i in checked.tiny],
        ),
        (
            f"{_hold(len(checked.hidden))} an image and {'is' if len(checked.hidden) == 1 else 'are'} not read, being "
            "called like none: give an ending such as .jpg",
            [printable(file) for file in checked.hidden],
        ),
        (
            f"{'1 class has' if len(checked.lonely) == 1 else f'{len(checked.lonely):,} classes have'} fewer than two "
            "different images: none is left to judge them by",
            [printable(name) for name in checked.lonely],
        ),
    ]
    wrong = [(what, files) for what, files in named if files]
    if pool.labelled and len(pool.class_names) < 2:
        wrong.append((f"there is one class, {printable(pool.class_names[0])}: a classifier needs two or more", []))
    return wrong + [(printable(note), []) for note in pool.notes]


def findings(checked: Checked) -> Iterator[Found]:
    """(finding, file, the other file of a copy, words) of each file that `mend` counts."""
    pool = checked.pool
    for file, reason in pool.unreadable:
        yield "unreadable", file, "", reason
    for kind, groups in (("in several parts", checked.across), ("in several classes", checked.contradicting)):
        for first, *others in groups:
            for other in others:
                yield kind, pool.file(other), pool.file(first), "bit for bit"
    for i in checked.tiny:
        yield "tiny", pool.file(i), "", f"{checked.seen[i].width}x{checked.seen[i].height}"
    for file in checked.hidden:
        yield "not called like an image", file, "", ""


def as_csv(checked: Checked) -> str:
    """The findings as CSV with a header."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["finding", "file", "other file", "words"])
    writer.writerows([cell(each) for each in found] for found in findings(checked))
    return stream.getvalue()


def _worth_knowing(checked: Checked) -> Iterator[str]:
    pool = checked.pool
    if checked.within:
        yield f"{_are(checked.within, 'image')} there once more in the same class and part, bit for bit"
    if traits := checked.traits:
        yield traits.line()
    if pool.labelled and len(pool.class_names) > 1:
        totals = [sum(own) for own in zip(*checked.counts.values(), strict=True)]
        most, fewest = max(totals), min(totals)
        if fewest and most >= UNEVEN * fewest:
            yield (
                f"the largest class, {printable(pool.class_names[totals.index(most)])}, has {most / fewest:.0f} times "
                f"as many images as the smallest, {printable(pool.class_names[totals.index(fewest)])}"
            )
        if (order := about_order(pool.class_names)) is not None:
            yield order
    if checked.others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in checked.others[:SHOWN])
        more = ", ..." if len(checked.others) > SHOWN else ""
        yield f"{_are(sum(n for _, n in checked.others), 'further file')} no images and left alone: {kinds}{more}"
    yield "copies that were compressed anew or cut, and wrong labels: kedge audit looks for them"


def _about_files(checked: Checked) -> str:
    seen = checked.seen
    formats = ", ".join(f"{count:,} {kind}" for kind, count in Counter(each.format for each in seen).most_common())
    small, large = min(seen, key=lambda each: each.height * each.width), max(seen, key=lambda s: s.height * s.width)
    sizes = f"{small.width}x{small.height}"
    if (small.width, small.height) != (large.width, large.height):
        sizes += f" to {large.width}x{large.height} pixels, shorter side {median(checked.shorter):.0f} in the middle"
    return f"{formats}; {sizes}"


def _pairs(checked: Checked, groups: Sequence[Copies]) -> list[str]:
    pool = checked.pool
    return [" = ".join(printable(pool.file(i)) for i in own[:3]) + (" = ..." if len(own) > 3 else "") for own in groups]


def _are(count: int, what: str) -> str:
    return f"1 {what} is" if count == 1 else f"{count:,} {what}s are"


def _hold(count: int) -> str:
    return "1 file holds" if count == 1 else f"{count:,} files hold"


def _number(count: int) -> str:
    return f"{count:,}" if count else "-"
