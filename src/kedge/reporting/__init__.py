"""Reading results: a table for the terminal, JSON and CSV, one HTML page."""

from kedge.reporting.claims import comparison
from kedge.reporting.files import read_results, write_results
from kedge.reporting.images_csv import images_csv, write_images
from kedge.reporting.page import write_report
from kedge.reporting.table import as_csv, as_json, over_seeds, render, table

__all__ = [
    "as_csv",
    "as_json",
    "comparison",
    "images_csv",
    "over_seeds",
    "read_results",
    "render",
    "table",
    "write_images",
    "write_report",
    "write_results",
]
