"""Where results go: a folder that holds none yet, and the files in it."""

from pathlib import Path
from typing import Any

__all__ = ["beside_others", "free_folder", "write"]


def free_folder(folder: Path, holding: str = "") -> Path:
    """`folder`, or the first of folder-2, folder-3, ... that is not there, or does not hold the file `holding`."""
    free, n = folder, 2
    while (free / holding).exists():
        free, n = folder.with_name(f"{folder.name}-{n}"), n + 1
    return free


def beside_others(folder: Path, first: Path) -> str:
    """That there are earlier results, where there are: the page to open is not the one in the folder of that name."""
    return "" if folder == first else f"  (the newest; {first} holds the first, and nothing was replaced)"


def write(results: dict[str, Any], out: Path) -> Path:
    """Write results.json, results.csv, images.csv and report.html into `out`; the path of the page.

    All are there before the first gets its name, and results.json, by which a folder counts as taken, gets it last.
    """
    from kedge.files import sweep, write_together
    from kedge.reporting import as_csv
    from kedge.reporting.files import results_text
    from kedge.reporting.image_rows import images_csv
    from kedge.reporting.page import page

    sweep(out)
    texts = {
        "results.csv": as_csv(results),
        "images.csv": images_csv(results),
        "report.html": page(results),
        "results.json": results_text(results),
    }
    write_together({out / name: text for name, text in texts.items()})
    return out / "report.html"
