"""What the metadata of a parquet file declares of its columns, in the way of the Hugging Face library."""

from typing import Any

from kedge.json_text import parse_json
from kedge.regular import LARGEST_TEXT


def hf_features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the Hugging Face features in a parquet schema's metadata, {} where there are none.

    Raises:
        ValueError: what stands there is no such description: the file was changed, or is none of that library.
    """
    data = (schema.metadata or {}).get(b"huggingface")
    if data is None:
        return {}
    where = "its metadata `huggingface`"
    if len(data) > LARGEST_TEXT:
        raise ValueError(f"{where} is larger than {LARGEST_TEXT:,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not text in UTF-8") from None
    features = (_mapping(parse_json(text, where), "info", where)).get("features") or {}
    for column in features if isinstance(features, dict) else ("features",):
        names = _mapping(features, column, where).get("names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"{where}: the class names of {column!r} are no list of texts")
    return features


def _mapping(outer: Any, name: str, where: str) -> dict[str, Any]:
    inner = (outer.get(name) or {}) if isinstance(outer, dict) else outer
    if not isinstance(inner, dict):
        raise ValueError(f"{where}: {name} is no mapping")
    return inner
