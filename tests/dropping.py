"""Methods of one's own: the files that the docs show, and a room with such a file in it."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kedge
from kedge import catalog
from kedge.data import corruptions

DOCS = Path(__file__).parents[1] / "docs"


def from_docs(page: str, line: str) -> str:
    """The file that a page of the docs shows as a method of one's own."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (file,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if line in block)
    return file


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Puts a file into a room: a folder beside that of kedge, in which all else is kedge's."""
    home = tmp_path / "kedge"
    dropped = []

    def clear() -> None:
        catalog.names.cache_clear()
        catalog.class_names.cache_clear()

    def mirror(folder: Path, room: Path) -> None:
        if not folder.is_dir() or folder.is_symlink():
            source = room.resolve()
            folder.unlink(missing_ok=True)
            folder.mkdir()
            for each in source.iterdir():
                (folder / each.name).symlink_to(each)

    def put(room: str, name: str, text: str) -> None:
        folder, source = home, catalog.HOME.resolve() if not home.exists() else Path(kedge.__file__).parent
        mirror(folder, source)
        for part in room.split("."):
            folder, source = folder / part, source / part
            mirror(folder, source)
        (folder / f"{name}.py").write_text(text)
        package = importlib.import_module(f"kedge.{room}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.setattr(catalog, "HOME", home)
        dropped.append((package, name))
        clear()

    yield put
    for package, name in dropped:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)
    corruptions.corruption.cache_clear()
    clear()
