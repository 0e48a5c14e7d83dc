"""What the numbers of a claim come from: its file, what it uses of the room's workshop, and the methods it is about."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from kedge import catalog
from kedge.claims._base import claim

__all__ = ["digest", "text_digest"]

ROOM = "kedge.claims"
JUDGING = f"{ROOM}._base"  # what it says is computed when a table is written, of what was measured
Definitions = dict[str, ast.stmt]
Imports = dict[str, tuple[str, str]]


@cache  # a process measures by the texts that it has imported
def text_digest(name: str) -> str:
    """Of the claim's file, every letter of it."""
    return _short(_file(f"{ROOM}.{name}").read_bytes())


@cache
def digest(name: str) -> str:
    """Of what the claim uses of other files of its room, functions, classes and constants, and of its methods' files.

    Docstrings, comments, layout and `info` are left out. What kedge does beneath them is not looked at.
    """
    texts: dict[tuple[str, str], str] = {}
    _, imports = _parsed(f"{ROOM}.{name}")
    _follow(list(imports.values()), texts)
    for method in claim(name).methods:
        definitions, _ = _parsed(f"kedge.{method}")
        texts |= {(method, each): ast.unparse(node) for each, node in definitions.items() if each != "info"}
    return _short("\n".join(f"{module} {text}" for (module, _), text in sorted(texts.items())).encode())


def _follow(wanted: list[tuple[str, str]], texts: dict[tuple[str, str], str]) -> None:
    """Add what is wanted, (module, name), and what that uses in turn."""
    while wanted:
        module, name = wanted.pop()
        definitions, imports = _parsed(module)
        if (module, name) in texts or module == JUDGING:
            continue
        if name in imports:
            wanted.append(imports[name])
        elif name in definitions:
            texts[module, name] = ast.unparse(definitions[name])
            wanted += [(module, node.id) for node in ast.walk(definitions[name]) if isinstance(node, ast.Name)]


@cache
def _parsed(module: str) -> tuple[Definitions, Imports]:
    """What a file defines at its top, without docstrings, and what it takes from other files of this room."""
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    definitions: Definitions = {}
    imports: Imports = {}
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                definitions[node.name] = node
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
                definitions |= dict.fromkeys(names, node)
            case ast.ImportFrom(module=str(origin)) if origin == ROOM or origin.startswith(f"{ROOM}."):
                imports |= {each.asname or each.name: (origin, each.name) for each in node.names}
    return definitions, imports


def _file(module: str) -> Path:
    place = catalog.HOME.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
