"""What a campaign came to: counts by class, how tries fell, each failure with the line that does it again."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import lines, table
from kedge.clock import now
from kedge.evaluation.provenance import machine

HELD = {
    "kills": "gone on with, everything is as without the kill, to the bit",
    "disk": "words say so, nothing half written stays, and gone on with all is as without",
    "crafted": "an error in words or a right answer; no code run, no hang, no memory eaten, nothing written elsewhere",
    "lines": "words, no traceback; nothing written elsewhere",
    "together": "one wins and the other says so, or both are right",
    "fuzz": "no error but those in words",
}
Counts = dict[str, dict[str, int]]


class Record:
    """Tries counted as they end."""

    def __init__(self, command: str, seed: int, quick: bool) -> None:
        self.about = {"name": "faults", "command": command, "created": now(), "seed": seed, "quick": quick}
        self.parts: Counts = {}
        self.failures: list[dict[str, Any]] = []
        self.memory = 0.0

    def count(self, name: str, tried: int, held: int) -> None:
        """Add to the part of a class that `name` begins with."""
        part = self.parts.setdefault("/".join(name.split("/")[:2]), {"tried": 0, "held": 0})
        part["tried"] += tried
        part["held"] += held

    def fell(self, name: str, wrong: str, again: str, **more: Any) -> None:
        """Note one that did not hold, and what does it again."""
        self.failures.append(
            _written({"try": name, "wrong": re.sub(r"\.\d+\.tmp", ".PID.tmp", wrong), "again": again, **more})
        )

    def end(self, seconds: float, earlier: Path | None = None) -> dict[str, Any]:
        """The record as it is written, with the parts that only an `earlier` file has."""
        made: dict[str, Any] = {
            **self.about,
            "machine": machine(),
            "load": os.getloadavg()[0],
            "device": "cpu",
            "seconds": round(seconds),
            "most_memory_mb": round(self.memory),
            "parts": self.parts,
            "failures": self.failures,
        }
        if earlier is not None and earlier.is_file():
            _add(made, json.loads(earlier.read_text(encoding="utf-8")))
        made["classes"] = _classes(made["parts"])
        made["rows"], made["tables"] = [], _tables(made)
        return made


def _written(value: Any) -> Any:
    """Texts that can be written: what is no UTF-8 in them is escaped."""
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_written(each) for each in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _add(made: dict[str, Any], before: Mapping[str, Any]) -> None:
    others = set(before["parts"]) - set(made["parts"])
    made["parts"] = {**{name: before["parts"][name] for name in before["parts"] if name in others}, **made["parts"]}
    earlier = [f for f in before["failures"] if "/".join(f["try"].split("/")[:2]) in others]
    made["failures"] = sorted([*earlier, *made["failures"]], key=lambda f: list(HELD).index(f["try"].split("/")[0]))
    made["command"] = f"{before['command']}`, `{made['command']}"
    made["seconds"] += before["seconds"]
    made["most_memory_mb"] = max(before["most_memory_mb"], made["most_memory_mb"])


def _classes(parts: Counts) -> Counts:
    names = [name for name in HELD if any(part.split("/")[0] == name for part in parts)]
    return {n: {k: sum(v[k] for part, v in parts.items() if part.split("/")[0] == n) for k in ("tried", "held")}
            for n in names}  # fmt: skip


def _tables(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = [[name, HELD[name], each["tried"], each["held"]] for name, each in made["classes"].items()]
    counts.append(["all", "", *(sum(each[k] for each in made["classes"].values()) for k in ("tried", "held"))])
    how = Counter((f["try"].split("/")[0], _kind(f["wrong"])) for f in made["failures"])
    fell = [
        [class_, kind, number]
        for (class_, kind), number in sorted(how.items(), key=lambda each: (each[0][0], -each[1]))
    ]
    return [
        table("Tries, and those that held", ["class", "held means", "tried", "held"], counts),
        *([table("How the others fell", ["class", "how", "number"], fell)] if fell else []),
    ]  # fmt: skip


def _kind(wrong: str) -> str:
    """The kind of a failure: what is said before the first colon, without names and numbers."""
    words = wrong.removeprefix("going on with ").split(" (")[0]
    words = words.split(": ")[1] if words.startswith("kedge ") and ": " in words else words.split(":")[0]
    known = ("ended by signal", "went past", "process ended", "hangs", "status", "took", " in ", " is ")
    return {
        "went past": "hang", "hangs": "hang", "ended by signal": "crash", "process ended": "crash",
        "took": "memory eaten", "status": "status without a word", " in ": "traceback", " is ": "another number",
    }.get(next((k for k in known if k in words), ""), words)  # fmt: skip


def text(made: Mapping[str, Any]) -> str:
    """The tables, and each failure with its line."""
    said = lines(made)
    for failure in made["failures"]:
        said += [f"\n{failure['try']}: {failure['wrong']}", f"    {failure['again']}"]
    return "\n".join(said)
