"""YAML whose names stay as they are written: to YAML `null`, `yes`, `1e3`, `007` and `2020-01-01` are no text."""

from collections.abc import Collection
from typing import Any

import yaml

__all__ = ["mapping_as_written", "value_as_written"]

_TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"


def mapping_as_written(text: str, names: Collection[str], lists: Collection[str]) -> Any:
    """What `yaml.safe_load` gives, but of a mapping the values of `names`, and entries of `lists`, as they are written.

    For these `007` is `"007"`, not 7, and `yes` is `"yes"`. A value of `names` that is null stays None; in `lists` it
    is the text. Raises yaml.YAMLError.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if isinstance(root, yaml.MappingNode):
            for key, value in root.value:
                if isinstance(key, yaml.ScalarNode) and key.value in names and value.tag != _NULL:
                    _as_text(value)
                if isinstance(key, yaml.ScalarNode) and key.value in lists and isinstance(value, yaml.SequenceNode):
                    for entry in value.value:
                        _as_text(entry)
        return loader.construct_document(root)
    finally:
        loader.dispose()


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


def _as_text(node: Any) -> None:
    if isinstance(node, yaml.ScalarNode) and node.tag.startswith("tag:yaml.org,2002:"):
        node.tag = _TEXT
