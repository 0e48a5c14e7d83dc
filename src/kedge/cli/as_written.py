"""Names on the command line stay as they are written: to YAML `~`, `yes`, `1e3`, `007` and `#1` are no text."""

from typing import Any

import yaml

__all__ = ["value_as_written"]

_NULL = "tag:yaml.org,2002:null"


def value_as_written(text: str) -> Any:
    """A value on the command line: as YAML, but entries of a list of scalars as they are written.

    Only the word `null` itself is None; what YAML would read as nothing or as a comment, `~` and `#1`, is text.
    Raises yaml.YAMLError.
    """
    if text.strip().startswith(("#", "!", "&", "*")):  # to YAML a comment, a type, a mark: nothing that stands alone
        return text
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None or (root.tag == _NULL and root.value != "null"):
            return text
        if isinstance(root, yaml.SequenceNode) and all(isinstance(entry, yaml.ScalarNode) for entry in root.value):
            return [entry.value for entry in root.value]
        return loader.construct_document(root)
    finally:
        loader.dispose()
