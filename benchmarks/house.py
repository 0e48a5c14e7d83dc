"""How large the house is, and how much of it one command walks through.

    python -m benchmarks.house

Lines and files of the source; for `kedge train`, `evaluate` and `predict` on the embedded digits the functions and
files that are entered; names in the source that say nothing of what they name; imports that form circles.
"""

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.side_by_side import finish, options, parser, table

SOURCE = Path(__file__).parent.parent / "src" / "kedge"
VAGUE = {"found", "made", "given", "said", "kept", "held", "wanted", "seen", "told", "asked", "shown", "left", "taken"}
WALKS = {
    "train": ["train", "--data", "digits", "--epochs", "1", "--train_images", "200", "--name", "walk"],
    "evaluate": ["evaluate", "walk", "--severities", "3", "--limit", "40"],
    "predict": ["predict", "walk", "digit.png"],
}


def walked(arguments: Sequence[str]) -> dict[str, int]:
    """How many functions and files of kedge are entered by a command; in this process."""
    entered: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(SOURCE)) and not code.co_name.startswith("<"):
            entered.add((code.co_filename, code.co_qualname))

    from kedge.cli import main

    sys.setprofile(note)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(list(arguments))
    finally:
        sys.setprofile(None)
    return {"functions": len(entered), "files": len({file for file, _ in entered})}


def walks() -> list[list[Any]]:
    """A line for each command, each in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        Image.new("L", (8, 8), 100).save(Path(folder) / "digit.png")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE.parent), str(SOURCE.parent.parent)])}
        for name, arguments in WALKS.items():
            code = f"import json; from benchmarks.house import walked; print(json.dumps(walked({arguments!r})))"
            run = [sys.executable, "-c", code]
            text = subprocess.run(
                run, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            count = json.loads(text.splitlines()[-1])
            rows.append([f"kedge {name}", count["functions"], count["files"]])
    return rows


def names_of(tree: ast.AST) -> list[str]:
    """The names that a file gives: functions, arguments, assigned variables."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return names


def imports_of(path: Path) -> set[str]:
    """The modules of kedge that a file imports, also inside functions and for types alone."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kedge":
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            here = {name for name in inner if module_file(name) is not None}
            modules |= here | ({node.module} if here != inner else set())
    return modules


def module_file(name: str) -> Path | None:
    """The file of a module of kedge; None where there is no such module."""
    place = SOURCE.parent / name.replace(".", "/")
    return next((p for p in (place / "__init__.py", place.with_suffix(".py")) if p.is_file()), None)


def graph_of(depth: int | None = None) -> dict[str, set[str]]:
    """What each module imports, or with a depth of 2 each room; `kedge/__init__`, which looks names up, is left out."""
    graph: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        short = ".".join(name.split(".")[:depth])
        if short != "kedge":
            found = {".".join(module.split(".")[:depth]) for module in imports_of(path)}
            graph[short] = graph.get(short, set()) | found - {short, "kedge"}
    return graph


def circles(depth: int | None = None) -> list[list[str]]:
    """Groups of modules (with a depth of 2, of rooms) that import each other: strongly connected parts of the graph."""
    graph = graph_of(depth)
    if depth is None:  # a room's door imports what is in the room
        graph = {name: {n for n in targets if not is_room(n)} for name, targets in graph.items() if not is_room(name)}
    reach = {name: reachable(graph, name) for name in graph}
    groups = {frozenset(n for n in reach[name] if name in reach.get(n, ())) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def is_room(name: str) -> bool:
    """Whether a module is a folder."""
    return (SOURCE.parent / name.replace(".", "/")).is_dir()


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that `start` imports, directly or not."""
    seen: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph.get(name, ())
    return seen


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("house", __doc__, rounds=1, quick=1), sys.argv[1:] if arguments is None else arguments)
    files = sorted(SOURCE.rglob("*.py"))
    texts = [path.read_text() for path in files]
    names = [name for text in texts for name in names_of(ast.parse(text))]
    vague = Counter(name for name in names if VAGUE & set(name.strip("_").split("_")))
    kinds = sum(len(re.findall(r"isinstance\([^)]*(?:Anchored|Plain|Pixel)Model", text)) for text in texts)
    results = (SOURCE.parents[1] / "benchmarks" / "results").rglob("*")
    rows = [
        ["files", len(files)],
        ["lines", sum(text.count("\n") for text in texts)],
        ["files of more than 300 lines", sum(text.count("\n") > 300 for text in texts)],
        ["names", len(names)],
        ["of those vague, %", 100 * sum(vague.values()) / len(names)],
        ["isinstance of a kind of model", kinds],
        ["circles of files", len(circles())],
        ["rooms in circles", sum(map(len, circles(2)))],
        ["kB of benchmarks/results", sum(p.stat().st_size for p in results if p.is_file()) // 1000],
    ]
    tables = [
        table("The source", ["of src/kedge", "count"], rows),
        table("Entered by a command", ["command", "functions", "files"], walks()),
    ]
    return finish(args, tables=tables)


if __name__ == "__main__":
    sys.exit(main())
