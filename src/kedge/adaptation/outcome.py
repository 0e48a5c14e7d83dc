"""`Settings`, under the name that it was first documented by."""

from kedge.procedures._settings import Settings

__all__ = ["Settings"]
