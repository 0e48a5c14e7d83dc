"""The gallery: a page for each method of each room, written from its file when the documentation is built.

`docs/methods/` is made anew by every build. What was measured of a method stands in `docs/measured/ROOM/NAME.md`, and
what came out of the claims about it in `benchmarks/results/claims-*/results.json`.
"""

import json
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path

from kedge import catalog
from kedge.claims._table import claim_lines
from kedge.cli.methods import ROOMS as WORDS

DOCS = Path(__file__).resolve().parents[1]
TITLES = {
    "objectives": "Objectives",
    "heads": "Heads",
    "optim.rules": "Gradient rules",
    "optim.schedules": "Schedules",
    "samplers": "Samplers",
    "selection": "Selection",
    "procedures": "Procedures",
    "postprocess": "Steps after the logits",
    "test_time": "Adapting at test time",
    "scores": "Scores",
    "metrics": "Metrics",
    "attacks": "Attacks",
    "data.corruptions": "Corruptions",
}
ROOMS = {room: (title, f"{WORDS[room][0].upper()}{WORDS[room][1:]}.") for room, title in TITLES.items()}
COMMANDS = {
    "objectives": "kedge train --data photos --objective {name}",
    "heads": "kedge train --data photos --arguments '{{head: {name}}}'",
    "optim.rules": "kedge train --data photos --optimizer {name}",
    "optim.schedules": "kedge train --data photos --schedule {name}",
    "samplers": "kedge train --data photos --sampler {name}",
    "selection": "kedge select RUNS --how {name}",
    "procedures": "kedge adapt RUN --data photos --how {name}",
    "postprocess": "kedge calibrate RUN --step {name}",
    "test_time": "kedge evaluate RUN --data photos --adapt_at_test {name}",
    "scores": "kedge evaluate RUN --data photos --ood OTHERS --scores {name}",
    "attacks": "kedge evaluate RUN --data photos --attack {name}",
    "data.corruptions": "kedge evaluate RUN --data photos --shift {name}",
}
CHECKED = {
    "code": "the formula was compared with published code",
    "paper": "the formula is the paper's",
    "abstract": "the paper was read in summary",
    "derived": "the formula is derived from the mathematics",
    "own": "kedge's own method",
}


def page(room, name):
    """The page of one method as Markdown."""
    method, info, command = catalog.get(room, name), catalog.info(room, name), COMMANDS.get(room)
    label = method.__name__
    lines = [f"# {label}", "", catalog.summary(room, name), ""]
    if command is not None:
        wraps = next(iter(catalog.arguments(method)), "") == "inner"
        example = f"'[{label}{', CrossEntropy' if wraps else ''}]'" if room == "objectives" else name
        if (stated := catalog.stated(room, name, "EXAMPLE")) is not None:  # where the name alone is not enough
            example = stated if "'" in stated else f"'{stated}'"  # quoted: with flags that it needs too
        lines += ["```console", f"$ {command.format(name=example)}", "```", ""]
    package = method.__module__.rpartition(".")[0]
    public = getattr(import_module(package), label, None) is method
    lines += ["```python", f"from {package if public else method.__module__} import {label}", "```", ""]
    if info is not None:
        title = f"[{info.title}]({info.url})" if info.url else info.title
        source = ", ".join(word for word in (title, info.cite) if word)
        lines += [f"Source: {source} ({CHECKED[info.checked]}).", ""]
    kind = "autoclass" if isinstance(method, type) else "autofunction"
    lines += [
        "## Reference",
        "",
        "```{eval-rst}",
        f".. {kind}:: {method.__module__}.{label}",
        "   :no-index:",
        "```",
        "",
    ]
    measured = DOCS / "measured" / room / f"{name}.md"
    claims = [each for each in claimed() if f"{room}.{name}" in each["methods"]]
    if measured.is_file() or claims:
        lines += ["## Measured", ""]
    if measured.is_file():
        lines += [measured.read_text(encoding="utf-8"), ""]
    for each in claims:
        command = f"`kedge reproduce claims --only {each['claim']}`"
        lines += [f"{each['title']} **{each['verdict'].capitalize()}** ({command}).", "", *claim_lines(each), ""]
    return "\n".join(lines)


@cache
def claimed():
    """What came out of all claims, as it was recorded."""
    files = sorted((DOCS.parent / "benchmarks" / "results").glob("claims-*/results.json"))
    return [each for file in files for each in json.loads(file.read_text(encoding="utf-8"))["claims"]]


def overview(room):
    """The page of a room: its methods in a table, and where to read how to add one."""
    title, what = ROOMS[room]
    lines = [f"# {title}", "", what, "", "| name | what it is | source |", "| --- | --- | --- |"]
    for name in catalog.names(room):
        info = catalog.info(room, name)
        source = "" if info is None else f"[{info.cite or info.title}]({info.url})" if info.url else info.cite
        lines.append(f"| [`{name}`]({name}.md) | {catalog.summary(room, name)} | {source} |")
    lines += ["", "[A method of your own](../../add-your-own.md) is one more file."]
    names = "\n".join(catalog.names(room))
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", names, "```", ""])


def write(app=None):
    """Make `docs/methods/`."""
    place = DOCS / "methods"
    shutil.rmtree(place, ignore_errors=True)
    rooms = [room for room in ROOMS if catalog.HOME.joinpath(*room.split(".")).is_dir()]
    for room in rooms:
        folder = place / room
        folder.mkdir(parents=True)
        (folder / "index.md").write_text(overview(room), encoding="utf-8")
        for name in catalog.names(room):
            (folder / f"{name}.md").write_text(page(room, name), encoding="utf-8")
    rows = [
        f"- [{ROOMS[room][0]}]({room}/index.md): {ROOMS[room][1]} {len(catalog.names(room))} of them." for room in rooms
    ]
    listed = "\n".join(f"{room}/index" for room in rooms)
    text = ["# Every method", "", "Each method is one file in its room; its page is made from it.", "", *rows]
    (place / "index.md").write_text("\n".join([*text, "", "```{toctree}", ":hidden:", "", listed, "```", ""]))


def setup(app):
    """Write the pages before Sphinx looks for them."""
    app.connect("config-inited", lambda app, config: write())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
