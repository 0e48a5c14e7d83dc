"""The readers under hypothesis: files changed in structure and in bytes; no crash that is not one of our errors.

The command runs in the process, where a try costs tenths of a second. What it lets out is what a user would see as a
traceback; each place it comes from is told once, with the smallest change that led there.
"""

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import kedge
from benchmarks.faults.forks import UNFORESEEN, Place, bounded
from benchmarks.faults.tries import Asked, Base, files_of

HANGS = 20  # seconds of one example
EXAMPLES = 200  # in a row, before the next reader has its turn


@dataclass(frozen=True)
class Reader:
    """A file in a copy of `start`, how it is written from a tree or from bytes, and the command that reads it."""

    name: str
    start: str
    file: str
    command: list[str]
    tree: Callable[[Path], Any]
    write: Callable[[Path, Any], None]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _write_yaml(path: Path, tree: Any) -> None:
    path.write_text(yaml.safe_dump(tree), encoding="utf-8", errors="surrogatepass")


def _features(path: Path) -> Any:
    names = {"_type": "ClassLabel", "names": ["a", "b"]}
    return {"info": {"features": {"image": {"_type": "Image"}, "label": names}}}


def _write_parquet(path: Path, tree: Any) -> None:
    from benchmarks.faults.crafted_data import table

    table(features=json.dumps(tree), name=path.name)(path.parent, path)


def _card(path: Path) -> Any:
    import onnx

    return json.loads(next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "kedge"))


def _write_card(path: Path, tree: Any) -> None:
    from benchmarks.faults.crafted_models import metadata

    metadata(json.dumps(tree))(path.parents[2], path)


_EVALUATE = ["evaluate", "base", "--shift", "none", "--limit", "20"]
READERS = (
    Reader(
        "recipe", "run", "runs/base/recipe.yaml", ["train", "--config", "FILE", "--print_config"], _yaml, _write_yaml
    ),
    Reader("config", "run", "runs/base/model/config.json", ["predict", "base", "images"], _json, _write_json),
    Reader("run.json", "run", "runs/base/run.json", ["card", "base"], _json, _write_json),
    Reader("results.json", "evaluated", "runs/base/evaluation/results.json", ["card", "base"], _json, _write_json),
    Reader("experiment", "run", "tiny.yaml", ["reproduce", "FILE", "--print"], _yaml, _write_yaml),
    Reader("parquet", "run", "x.parquet", ["predict", "base", "images"], _features, _write_parquet),
    Reader("onnx-card", "files", "runs/base/base.onnx", ["predict", "FILE", "images"], _card, _write_card),
)


def evaluated(base: Base) -> Path:
    """The run with an evaluation."""
    return base._ran("evaluated", base.run, _EVALUATE)


def fuzzed(base: Base, asked: Asked, minutes: float) -> Iterator[tuple[str, int, int, dict[str, str]]]:
    """Per reader: its name, how many files were tried, how many fell, and what went wrong by where it came from."""
    readers = [reader for reader in READERS[: 2 if asked.quick else None] if asked.wants(f"fuzz/{reader.name}")]
    for reader in readers:
        start = evaluated(base) if reader.start == "evaluated" else getattr(base, reader.start)
        place = base.place(start)
        yield reader.name, *_in_a_fork(reader, place, asked.seed, 60 * minutes / len(readers))
        place.gone()


def _in_a_fork(reader: Reader, place: Place, seed: int, seconds: float) -> tuple[int, int, dict[str, str]]:
    """Fuzz one reader in a fork; a fork that dies tells of its last file."""
    notes, path = place.root / "fuzz.jsonl", place.work / reader.file
    if reader.name == "parquet":
        _write_parquet(path, _features(path))
    data = path.read_bytes()
    until, round_, tried, fell = time.monotonic() + seconds, 0, 0, 0
    wrong: dict[str, str] = {}
    while time.monotonic() < until or not round_:
        path.write_bytes(data)  # the last of the round before is there
        if not (process := os.fork()):
            status = 1
            try:
                _fork(reader, place, seed + 1000 * round_, until, notes)
                status = 0
            except BaseException:
                (place.root / "why.txt").write_text(traceback.format_exc())
            finally:
                os._exit(status)
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        lines = notes.read_text().splitlines() if notes.exists() else []
        entries = [json.loads(line) for line in lines]
        tried += sum(entry["tried"] for entry in entries if "tried" in entry)
        for entry in (e for e in entries if "wrong" in e):
            fell += 1
            if entry["wrong"] not in wrong or len(entry["file"]) < len(wrong[entry["wrong"]]):
                wrong[entry["wrong"]] = entry["file"]
        if (why := place.root / "why.txt").exists():
            raise RuntimeError(why.read_text())
        if status:
            fell += 1
            wrong[f"the process ended with status {status}"] = next(
                (e["began"] for e in entries[::-1] if "began" in e), ""
            )
        notes.unlink(missing_ok=True)
        round_ += 1
    return tried, fell, wrong


def _fork(reader: Reader, place: Place, seed: int, until: float, notes: Path) -> None:
    import hypothesis
    from hypothesis import strategies as st

    os.setsid()
    os.chdir(place.work)
    os.environ.update({"HOME": str(place.home), "TMPDIR": str(place.temporary), "COLUMNS": "120"})
    sys.path[0] = str(Path(sys.executable).parent)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    bounded()
    path = place.work / reader.file
    tree, data = reader.tree(path), path.read_bytes()
    untouched = {name: file.read_bytes() for name, file in files_of(place.work).items() if file != path}
    example = _example(reader, path)
    tried = 0
    with notes.open("a") as file:

        def note(**entry: Any) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(_trees(st, tree) | _bytes(st, data))
        def one(change: tuple[str, Any]) -> None:
            nonlocal tried
            shown, made = change
            shown = shown[:1000]
            if tried and time.monotonic() > until:
                return
            tried += 1
            raw = isinstance(made, bytes)
            try:
                path.write_bytes(made if raw else data)
                if not raw:
                    reader.write(path, made)
            except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError, UnicodeError):
                return
            note(began=shown)
            if where := example():
                note(wrong=where, file=shown)
            for name, content in untouched.items():
                (place.work / name).write_bytes(content)

        one()
        note(tried=tried)


def _example(reader: Reader, path: Path) -> Callable[[], str | None]:
    """Run the command once: None, or where what it let out came from."""
    from kedge.cli import main

    command = [word.replace("FILE", str(path)) for word in reader.command]

    def rang(number: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, rang)

    def run() -> str | None:
        out, err = io.StringIO(), io.StringIO()
        signal.alarm(HANGS)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                if reader.name == "parquet":
                    _load(path)
                    return None
                status = main(command)
            said = err.getvalue()
            if "Traceback" in said or UNFORESEEN in said:
                return "traceback printed" if "Traceback" in said else said[said.index(UNFORESEEN) :].split(";")[0]
            return f"status {status} without a word" if status and not said.strip() else None
        except SystemExit:
            return None
        except TimeoutError:
            return f"hangs: more than {HANGS} s"
        except BaseException as error:
            return _place(error)
        finally:
            signal.alarm(0)

    return run


def _load(path: Path) -> None:
    """Read a data set, in words where it cannot be: what the commands do first."""
    from kedge import data
    from kedge.cli.output import in_words

    try:
        data.load(path, "train")
    except Exception as error:
        if in_words(error).startswith(UNFORESEEN):
            raise


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(kedge.__file__).parent in Path(frame.filename).parents]
    at = ours[-1] if ours else frames[-1]
    return f"{type(error).__name__} in {Path(at.filename).name}, {at.name}"


def _values(st: Any) -> Any:
    """Anything that JSON or YAML can hold."""
    numbers = st.integers() | st.sampled_from([10**12, -1, 0, 2**63, 10**400]) | st.floats()
    text = st.text(max_size=20) | st.sampled_from(["evil:make", "\x1b[31m", "../..", "null", "=1", "nan"])
    plain = st.none() | st.booleans() | numbers | text
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=8
    )


def _trees(st: Any, tree: Any) -> Any:
    """The tree with one or several of its nodes replaced, removed, doubled or wrapped."""
    places = list(_nodes(tree))
    change = st.tuples(st.sampled_from(places), st.sampled_from(["put", "put", "put", "remove", "wrap"]), _values(st))

    def apply(changes: list[Any]) -> Any:
        made = json.loads(json.dumps(tree))
        for at, how, value in changes:
            with contextlib.suppress(KeyError, IndexError, TypeError):
                made = _changed(made, at, how, value)
        return made

    return st.lists(change, min_size=1, max_size=3).map(lambda changes: (repr(changes), apply(changes)))


def _nodes(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in entries:
        yield from _nodes(value, (*at, key))


def _changed(tree: Any, at: tuple[Any, ...], how: str, value: Any) -> Any:
    if not at:
        return [tree] if how == "wrap" else value
    inner = tree
    for key in at[:-1]:
        inner = inner[key]
    if how == "remove":
        del inner[at[-1]]
    else:
        inner[at[-1]] = [inner[at[-1]]] if how == "wrap" else value
    return tree


def _bytes(st: Any, data: bytes) -> Any:
    """The file with a piece of it replaced."""
    size = len(data)
    piece = st.binary(max_size=12) | st.sampled_from(
        [b"[" * 3000, b"{", b"}", b": ", b"\n", b"\0", b"&a ", b"*a", b"!!python/name:os.system "]
    )
    cut = st.tuples(st.integers(0, size), st.integers(0, 40), piece)
    return cut.map(lambda c: (f"bytes {c[0]} to {c[0] + c[1]} are {c[2]!r}", data[: c[0]] + c[2] + data[c[0] + c[1] :]))
