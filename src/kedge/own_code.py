"""Python code that a name asks for, `module:Class`: looked for before it is run, and run only where that is allowed.

Importing a module runs it. A recipe, a run folder or an experiment can come from anybody, so a name in one of them
imports nothing by itself: the command line says `--allow-code`, a program says `with kedge.own_code.allow_code():`.
"""

import difflib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from sysconfig import get_paths
from typing import Any

__all__ = [
    "ALLOW_CODE",
    "NAME",
    "allow_code",
    "check_allowed",
    "command",
    "imported",
    "is_allowed",
    "keep_out_working_folder",
    "near_names",
    "sources",
    "working_folder_first",
]

BEGINNING = 3  # letters from which a word may be the beginning of what was meant
NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)(?P<call>\(\))?")
ALLOW_CODE = (  # what the command line says of its flag
    "import the code that is named as module:NAME (in objective, optimizer, schedule, sampler), and so run its module, "
    "from the working folder too; "
    "look at it first: no recipe, run or experiment says so itself"
)
_ALLOWED: ContextVar[bool] = ContextVar("kedge_allow_code", default=False)


@contextmanager
def allow_code(allowed: bool = True) -> Iterator[None]:
    """Allow, or with `allowed` False forbid, that names of the form module:Class import modules and so run them."""
    token = _ALLOWED.set(allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def is_allowed() -> bool:
    """Whether names may import modules here and now; not unless something said so."""
    return _ALLOWED.get()


def check_allowed(name: str, what: str) -> None:
    """Raise ValueError, in words that name the file, where nothing said that `name` may be imported."""
    if not is_allowed():
        module = name.partition(":")[0]
        spec = _located(module, [os.getcwd(), *sys.path])
        where = f" ({spec.origin})" if spec is not None and spec.has_location else ""
        raise ValueError(
            f"{what} {name} is Python code, the module {module}{where}, which runs when it is imported, and nothing "
            "allowed that: look at it, then say --allow-code, or from Python allow_code=True (or call inside of "
            "`with kedge.own_code.allow_code():`). A recipe, a run or an experiment never says so itself"
        )


def imported(name: str, what: str = "") -> Any:
    """What `module:attribute` names; its module is imported, that is, run, once it is there and not of Python itself.

    `what` is what the name is of, in the messages.

    Raises:
        ValueError: another form, no such module or attribute, a module of Python's own, or one that fails.
    """
    label = f"{what} {name}".strip()
    match = NAME.fullmatch(name)
    if match is None or (match["call"] and what):
        raise ValueError(f"{label} is not of the form package.module:attribute")
    module, attribute = match["module"], match["attribute"]
    spec = _located(module, sys.path) if module not in sys.modules else sys.modules[module].__spec__
    if spec is not None and module.partition(".")[0] in sys.stdlib_module_names and _of_python(spec):
        raise ValueError(f"{label}: {module} is a module of Python itself and none of yours; give yours another name")
    if spec is None and module not in sys.modules:
        files = [path.stem for path in Path().glob("*.py")]
        raise ValueError(
            f"{label}: there is no module {_missing(module)!r} here or among the installed packages"
            f"{near_names(module, files)}"
        )
    try:
        loaded = import_module(module)
    except Exception as error:  # the user's code can raise anything
        why = str(error) if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{label}: importing {module} failed: {why}") from error
    if not hasattr(loaded, attribute):
        names = [n for n in vars(loaded) if not n.startswith("_")]
        raise ValueError(f"{label}: {module} has no {attribute!r}{near_names(attribute, names)}")
    return getattr(loaded, attribute)


def sources(names: Iterable[str]) -> dict[str, str]:
    """SHA-256, in hex digits, of the files of the modules of such names, which are not imported for that."""
    specs = {module: _located(module, sys.path) for module in (name.partition(":")[0] for name in names)}
    files = {module: Path(str(spec.origin)) for module, spec in specs.items() if spec is not None and spec.has_location}
    return {m: hashlib.sha256(file.read_bytes()).hexdigest() for m, file in files.items() if file.is_file()}


def working_folder_first() -> None:
    """Let imports look into the working folder before all else, from now on: what is imported may import more later."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def keep_out_working_folder() -> None:
    """Undo that `python -m` lets imports look into the working folder first: what lies there is data until it is asked
    for by name, and `python -m kedge` does what `kedge` does."""
    own = str(Path(__file__).resolve().parents[1])
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()) and os.getcwd() != own:
        del sys.path[0]


def command() -> list[str]:
    """How a process of kedge starts another: its own Python, and no imports from the working folder."""
    here = os.getcwd() == str(Path(__file__).resolve().parents[1])  # where kedge itself is not installed
    return [sys.executable, *([] if here else ["-P"]), "-m", "kedge"]


def _located(module: str, path: list[str]) -> ModuleSpec | None:
    """Where a module is, with `path` for sys.path, found without importing it or the packages that it is in."""
    parts = module.split(".")
    places: list[str] | None = None
    spec = None
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        spec = PathFinder.find_spec(name, path if places is None else places)
        if spec is None:  # of Python itself, or installed in a way of its own
            finders = [finder for finder in sys.meta_path if finder is not PathFinder and hasattr(finder, "find_spec")]
            spec = next((s for finder in finders if (s := finder.find_spec(name, places)) is not None), None)
        if spec is None or (end < len(parts) and spec.submodule_search_locations is None):
            return None
        places = list(spec.submodule_search_locations or ())
    return spec


def _missing(module: str) -> str:
    """The first part of a dotted name that is not there."""
    parts = module.split(".")
    names = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return next((name for name in names if _located(name, sys.path) is None), module)


def _of_python(spec: ModuleSpec) -> bool:
    """Whether a module is built in, frozen, or in the folder of the standard library."""
    folder = Path(get_paths()["stdlib"])
    return not spec.has_location or Path(str(spec.origin)).is_relative_to(folder)


def near_names(word: Any, known: Iterable[str], most: int = 3) -> str:
    """`; did you mean A or B?` for a misspelled word, or nothing.

    What the word is the beginning of comes first, the shortest of it before all: an ending is what is left out most.
    """
    word, names = str(word), list(dict.fromkeys(known))
    longer = [name for name in names if len(word) >= BEGINNING and name.startswith(word) and name != word]
    near = sorted(longer, key=lambda name: (len(name), name))[:most]
    near += [name for name in difflib.get_close_matches(word, names, n=2 * most) if name not in near]
    near = near[:most]
    return f"; did you mean {' or '.join(near)}?" if near else ""
