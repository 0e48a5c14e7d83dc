"""YAML that anybody may have written: read within bounds, and refused in words."""

import os
from collections.abc import Collection
from typing import Any

import yaml

from kedge.json_text import DEEPEST
from kedge.regular import read_text

__all__ = ["parse_yaml", "read_yaml"]

LARGEST = 1_000_000  # bytes
_MOST = 50_000  # entries, which take seconds to read
_REPEATED = 10_000  # entries that aliases may add by repeating others
_DIGITS = 300  # of a number
_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


def read_yaml(path: str | os.PathLike[str], names: Collection[str] = (), lists: Collection[str] = ()) -> dict[str, Any]:
    """The mapping that a YAML file holds, empty where it holds nothing; see `parse_yaml`.

    Raises:
        ValueError: it cannot be read as that, and why; the path is named.
        OSError: there is no such file.
    """
    return parse_yaml(read_text(path, LARGEST), str(path), names, lists)


def parse_yaml(text: str, where: str, names: Collection[str] = (), lists: Collection[str] = ()) -> dict[str, Any]:
    """The mapping that YAML `text` holds, empty where it holds nothing; `where` names it in errors.

    Values are text, numbers, true or false, null, lists and mappings; dates are text. The values of the keys `names`,
    and the entries of the lists under the keys `lists`, are names, taken as they are written: there `007` is `"007"`,
    not 7, and `yes` is `"yes"`. A value of `names` that is null stays None; in `lists` it is the text.

    Raises:
        ValueError: it is no YAML, no mapping, larger than a million characters or 50,000 entries, nested deeper than
            64, repeats itself by aliases without end, or holds a key twice or values of other kinds.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{where} is larger than {LARGEST:,} characters, which no recipe is")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        sizes: dict[int, int | None] = {}
        if _entries(node, sizes) > len(sizes) + _REPEATED:
            raise ValueError(f"its aliases repeat more than {_REPEATED:,} entries")
        _keep_names(node, names, lists)
        value = _constructed(loader, node)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds a {type(value).__name__} where a mapping of keys to values is expected")
    return value


class _Loader(yaml.SafeLoader):
    """Stops where there is too much, before it is read to its end, and leaves dates as the text that they are."""

    depth = 0
    entries = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST}")
        if self.entries > _MOST:
            raise ValueError(f"it holds more than {_MOST:,} entries")
        self.depth, self.entries = self.depth + 1, self.entries + 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _keep_names(root: yaml.Node, names: Collection[str], lists: Collection[str]) -> None:
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value in names and value.tag != _NULL:
            _as_text(value)
        if key.value in lists and isinstance(value, yaml.SequenceNode):
            for entry in value.value:
                _as_text(entry)


def _as_text(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        node.tag = _TEXT


def _constructed(loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except Exception as error:  # values that are not of the kind that their tag says can raise nearly anything
        raise ValueError(f"a value is not of the kind that is said of it ({type(error).__name__}: {error})") from error


def _entries(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """How many nodes there are in and below `node` with all aliases written out; checks each one on the way."""
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias stands inside what it names")
        return size
    sizes[id(node)] = None
    if node.tag not in _TAGS:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        raise ValueError(f"line {node.start_mark.line + 1}: values of the kind !!{kind} are not read")
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    else:
        children = []
        node.value.encode()  # half of a character, which nothing could print, is a UnicodeEncodeError
        if node.tag.endswith((":int", ":float")) and len(node.value) > _DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits is too large")
    size = 1 + sum(_entries(child, sizes) for child in children)
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    names: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {key.start_mark.line + 1}: a key is a word, not a list or a mapping")
        if (key.tag, key.value) in names:
            raise ValueError(f"line {key.start_mark.line + 1}: {key.value[:80]!r} is there twice")
        names.add((key.tag, key.value))
