"""An audit as one page that opens without a network, as a CSV, and in a few lines."""

import base64
import csv
import io
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from kedge._version import __version__
from kedge.auditing.findings import KINDS, Finding
from kedge.auditing.learning_curve import Curve
from kedge.auditing.whole import Audit
from kedge.data.report import UnreadableImage
from kedge.files import write_together
from kedge.printable import cell, printable
from kedge.reporting.page import templates
from kedge.reporting.svg import Plot, svg

__all__ = ["as_csv", "lines", "page", "write_audit"]

SHOWN, THUMBNAIL = 24, 96  # images of a sheet, and px of each
COLUMNS = ("file", "part", "label", "finding", "score", "partner file", "words")


def write_audit(audit: Audit, folder: str | Path, command: str = "") -> list[Path]:
    """Write audit.csv and audit.html; their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_together({folder / "audit.csv": as_csv(audit), folder / "audit.html": page(audit, command)})


def as_csv(audit: Audit) -> str:
    """A line for each finding: file, part, label, finding, score, partner file, words; no name is a formula."""
    text, pool = io.StringIO(), audit.pool
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    splits, labels = pool.splits, pool.labels.tolist()
    for f in audit.findings:
        part, label = ("", "") if f.image is None else (splits[f.image], pool.class_names[labels[f.image]])
        partner = "" if f.partner is None else pool.file(f.partner)
        table.writerow([cell(f.file), part, cell(label), f.kind, f"{f.score:.4f}", cell(partner), cell(f.words)])
    return text.getvalue()


def lines(audit: Audit) -> list[str]:
    """What was seen, a line each."""
    pool = audit.pool
    text = [f"{pool.name}: {pool.about}"]
    text += [f"  {audit.count(kind):6,}  {kind}: {what}" for kind, what in KINDS.items() if audit.count(kind)]
    if not audit.findings:
        text.append("  nothing that stands out")
    if audit.accuracy is not None:
        text.append(f"labels judged by {audit.features}: {100 * audit.accuracy:.1f} % right on images left out")
    text += [f"careful: {note}" for note in audit.notes]
    if audit.curve is not None:
        text += curve_lines(audit.curve, pool.class_names)
    return text


def curve_lines(curve: Curve, names: tuple[str, ...]) -> list[str]:
    """Accuracy by number of training images, what twice as many would give, and the classes that would gain most."""
    text = ["would more photos help? small heads on these features, equal steps:"]
    for count, (mean, low, high) in zip(curve.images, curve.accuracy(), strict=True):
        text.append(f"  {count:7,} training images: {_percent(mean, low, high)}")
    text.append(f"  {2 * curve.images[-1]:7,} (expected):      {_percent(*curve.expected(2 * curve.images[-1]))}")
    ranked = _classes(curve, names)[:5]
    text += [
        f"  {name}: half as many cost {_points(row)} points of its {100 * row['recall']:.1f} %" for name, row in ranked
    ]
    return text


def page(audit: Audit, command: str = "") -> str:
    """The page as text: contact sheets of each kind of finding, the first 24 of each."""
    environment = templates()
    pool = audit.pool
    environment.globals.update(pixelated=lambda src: src.startswith("data:image/png"))
    curve = audit.curve
    sheets = []
    for kind, what in KINDS.items():
        own = [f for f in audit.findings if f.kind == kind]
        if own:
            sheets.append({
                "kind": kind, "what": what, "count": len(own), "id": kind.replace(" ", "-").replace(",", ""),
                "rows": [_row(audit, f) for f in own[:SHOWN]],
            })  # fmt: skip
    return environment.get_template("audit.html").render(
        name=printable(pool.name), about=pool.about, notes=audit.notes,
        features=printable(audit.features), accuracy=audit.accuracy, sheets=sheets, shown=SHOWN, kedge=__version__,
        command=printable(command), plot=None if curve is None else _plot(curve),
        points=[] if curve is None else [
            (f"{count:,}", _percent(*values)) for count, values in zip(curve.images, curve.accuracy(), strict=True)
        ] + [(f"{2 * curve.images[-1]:,} (expected)", _percent(*curve.expected(2 * curve.images[-1])))],
        by_class=[] if curve is None else [
            (printable(name), f"{100 * row['recall']:.1f} %", _points(row), int(row["judged"]))
            for name, row in _classes(curve, pool.class_names)
        ],
    )  # fmt: skip


def _row(audit: Audit, finding: Finding) -> dict[str, Any]:
    pool, labels = audit.pool, audit.pool.labels

    def label(i: int | None) -> str:
        return "" if i is None else printable(pool.class_names[int(labels[i])])

    return {
        "src": _thumbnail(audit, finding.image), "file": printable(finding.file), "short": _short(finding.file),
        "label": label(finding.image), "score": f"{finding.score:.2f}", "words": printable(finding.words),
        "part": "" if finding.image is None else pool.splits[finding.image],
        "partner": None if finding.partner is None else {
            "src": _thumbnail(audit, finding.partner), "file": printable(pool.file(finding.partner)),
            "short": _short(pool.file(finding.partner)), "label": label(finding.partner),
            "part": pool.splits[finding.partner],
        },
    }  # fmt: skip


def _short(file: str) -> str:
    return printable("/".join(Path(file).parts[-2:]))


def _thumbnail(audit: Audit, i: int | None) -> str:
    """A data: URL of at most 96 px, a PNG up to 32 px; nothing for what cannot be read."""
    if i is None:
        return ""
    part, row = audit.pool.places[i]
    try:
        image: Image.Image = audit.pool.parts[part].image(row, THUMBNAIL)
    except UnreadableImage:  # it went since it was read
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    kind, stream = "png" if max(image.size) <= 32 else "jpeg", io.BytesIO()
    image.save(stream, kind)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _classes(curve: Curve, names: tuple[str, ...]) -> list[tuple[str, dict[str, float]]]:
    """The classes that were halved, the one that lost most first."""
    rows = [(names[c], curve.of_class(c)) for c in curve.halved]
    return sorted(rows, key=lambda row: -row[1]["gain"])


def _plot(curve: Curve) -> Markup:
    values, more = curve.accuracy(), curve.expected(2 * curve.images[-1])
    x = [float(i) for i in range(len(values))]
    every = [100 * v for row in (*values, more) for v in row]
    low, high = max(0.0, min(every) - 2), min(100.0, max(every) + 2)
    plot = Plot((-0.3, len(values) + 0.3), (low, high), "training images: each step twice as many", "accuracy, %",
                width=420, height=260, x_ticks=())  # fmt: skip
    for at, (_, below, above) in zip([*x, float(len(values))], [*values, more], strict=True):
        plot.whisker(at, 100 * below, 100 * above)
    plot.line(x, [100 * mean for mean, _, _ in values], 0)
    plot.line([float(len(values))], [100 * more[0]], 1)
    return svg(plot)


def _percent(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _points(row: dict[str, float]) -> str:
    return f"{100 * row['gain']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
