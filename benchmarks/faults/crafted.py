"""Strangers' files of every kind that kedge reads: an error in words or a right answer, nothing run."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import crafted_data, crafted_models, crafted_texts
from benchmarks.faults.forks import Place, call
from benchmarks.faults.tries import Asked, Base, Try, spoiled

LIMIT = 60.0  # seconds; a right answer takes one or two
QUICK = 14
# What Pillow would start for PostScript, and what it would then run.
GHOSTSCRIPT = '#!/bin/sh\necho "$@" >> "{marker}"\nexit 1\n'


@dataclass(frozen=True)
class Craft:
    """A file to make in a copy of `start` and the command that reads it; `must_fail`: no answer can be right."""

    name: str
    start: str
    prepare: Callable[[Path, Path], object]
    command: list[str]
    must_fail: bool = True
    module: bool = False
    answers: str | None = None  # what must be in the output all the same


def tries(base: Base, asked: Asked) -> Iterator[Try]:
    """Every crafted file; with `quick` a few of them, drawn."""
    crafts = [Craft(*each) for part in (crafted_texts, crafted_models, crafted_data) for each in part.crafts()]
    if asked.quick:  # without an export, which takes long
        crafts = [craft for craft in crafts if craft.start != "files"]
    for craft in asked.some("crafted", crafts, QUICK, len(crafts)):
        if asked.wants(f"crafted/{craft.name}"):
            yield Try(f"crafted/{craft.name}", getattr(base, craft.start), _read(craft))


def _read(craft: Craft) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        script = place.programs / "gs"
        script.write_text(GHOSTSCRIPT.format(marker=place.marker))
        script.chmod(0o755)
        craft.prepare(place.work, place.marker)
        before = {p for p in place.root.rglob("*") if place.work not in p.parents}
        done = call(craft.command, place, LIMIT, module=craft.module)
        if wrong := spoiled(done, place, craft.must_fail):
            return wrong
        if "\x1b[31m" in done.err + ("" if "csv" in craft.command else done.out):
            return "an escape sequence of a stranger reached the terminal"
        if "csv" in craft.command and (cells := [c for c in _cells(done.out) if c[:1] in "=+@" and c]):
            return f"a cell that a spreadsheet computes: {cells[0]!r}"
        outside = {p for p in place.root.rglob("*") if place.work not in p.parents} - before
        strange = [p for p in outside if p.parent == place.root and not p.name.startswith(("out-", "err-", "0-"))]
        if strange:
            return f"wrote outside its folder: {strange[0].relative_to(place.root)}"
        if craft.answers is not None and craft.answers not in done.out:
            return f"the good file was not answered: {done.last}"
        return None

    return run


def _cells(text: str) -> list[str]:
    return [cell for row in csv.reader(io.StringIO(text)) for cell in row]
