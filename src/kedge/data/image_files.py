"""The image files in and below a folder."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kedge.data.formats import EXTENSIONS, UNREAD, advice
from kedge.data.paths import Paths, PathsBuilder
from kedge.data.report import DataError
from kedge.regular import is_folder

NOT_READ = "of a kind that is not read"


def is_flat(folder: Path) -> bool:
    """Whether a folder holds images and no folders: what has no classes, such as out-of-distribution images."""
    if not folder.is_dir():
        return False
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(p.suffix.lower() in EXTENSIONS for p in inside) and not any(p.is_dir() for p in inside)


def subfolders(root: Path) -> list[Path]:
    """Return the folders in a folder by name, without hidden ones and what unpacking leaves beside them."""
    return sorted(
        (Path(e.path) for e in os.scandir(root) if is_folder(e) and not e.name.startswith((".", "__MACOSX"))),
        key=lambda path: path.name,
    )


def files_under(folder: Path) -> tuple[Paths, list[str]]:
    """Return (image files, images of kinds that are not read) in and below a folder, hidden ones left out.

    Raises:
        DataError: a folder in it that cannot be listed.
    """
    images, unread = PathsBuilder(), list[str]()
    add_files(images, unread, folder)
    return images.paths(), unread


def add_files(images: PathsBuilder, unread: list[str], folder: Path) -> int:
    """Add what is in and below a folder to `images` and `unread`; gives how many images."""
    count = 0
    if not folder.is_dir():
        return count
    for parent, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not is_loop(parent, f))
        visible = [name for name in files if not name.startswith(".")]
        count += images.add(parent, sorted(name for name in visible if name.lower().endswith(EXTENSIONS)))
        unread += [os.path.join(parent, name) for name in sorted(visible) if name.lower().endswith(UNREAD)]
    return count


def is_loop(parent: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in: followed, all images there would be listed again and again."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    return os.path.join(os.path.realpath(parent), "").startswith(os.path.join(os.path.realpath(path), ""))


def _cannot_list(error: OSError) -> None:
    raise DataError(
        f"the folder {error.filename} cannot be listed ({error.strerror}): its images would be missing without a word"
    ) from error


def everything_under(folder: Path) -> Paths:
    """Return the files in and below a folder that are called like images, of kinds that are read or not, sorted.

    Hidden ones are left out.

    Raises:
        DataError: a folder in it that cannot be listed.
    """
    paths = PathsBuilder()

    def add(place: str) -> None:
        try:
            entries = [e for e in os.scandir(place) if not e.name.startswith(".")]
        except OSError as error:
            _cannot_list(error)
        folders = {e.name for e in entries if is_folder(e) and not is_loop(place, e.name)}
        called = (e for e in entries if e.name.lower().endswith((*EXTENSIONS, *UNREAD)))
        files = {e.name for e in called if _is_listed(e)}
        del entries
        # Where a folder stands among files decides the order; runs of files are added at once.
        run: list[str] = []
        for name in sorted(folders | files):
            if name in folders:
                paths.add(place, run)
                run = []
                add(os.path.join(place, name))
            else:
                run.append(name)
        paths.add(place, run)

    add(str(folder))
    return paths.paths()


def images_under(folder: Path) -> Paths:
    """Return the image files in a folder and in those below it, in order; hidden ones are left out."""
    return files_under(folder)[0]


def about_unread(paths: Sequence[str]) -> list[str]:
    """One sentence that counts images of kinds that are not read; or none."""
    if not paths:
        return []
    kinds = Counter(os.path.splitext(path)[1].lower() for path in paths)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    are = "file is" if len(paths) == 1 else "files are"
    left_out = f"{len(paths)} image {are} {NOT_READ} and left out: {counted}, such as {paths[0]}"
    return [f"{left_out}. {advice(kinds)}"]


def _is_listed(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a file, or a link that leads nowhere, which is told of with the unreadable images."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link that leads in a circle
        return True
