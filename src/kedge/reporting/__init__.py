"""Reading results: a table for the terminal, JSON and CSV, one HTML page."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.reporting.claims import comparison as comparison
    from kedge.reporting.files import read_results as read_results
    from kedge.reporting.files import write_results as write_results
    from kedge.reporting.image_rows import images_csv as images_csv
    from kedge.reporting.image_rows import write_images as write_images
    from kedge.reporting.page import write_report as write_report
    from kedge.reporting.text_table import as_csv as as_csv
    from kedge.reporting.text_table import as_json as as_json
    from kedge.reporting.text_table import over_seeds as over_seeds
    from kedge.reporting.text_table import render as render
    from kedge.reporting.text_table import table as table

# Who reads results alone, as `kedge check` does, waits for no torch.
_HOMES = {
    "as_csv": "text_table",
    "as_json": "text_table",
    "comparison": "claims",
    "images_csv": "image_rows",
    "over_seeds": "text_table",
    "read_results": "files",
    "render": "text_table",
    "table": "text_table",
    "write_images": "image_rows",
    "write_report": "page",
    "write_results": "files",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"kedge.reporting.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kedge.reporting' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
