"""Last layers by name, in place of the linear one of a network: `--arguments '{head: vib}'`.

Each is a file of this folder whose class is called with the number of features and of outputs.
"""

from typing import Any

from kedge import catalog

__all__ = [*catalog.class_names("heads")]


def __getattr__(name: str) -> Any:
    return catalog.exported(__name__, name)


def __dir__() -> list[str]:
    return __all__
