"""Which column of a table holds the images, which the labels, and what classes are declared for them.

Columns are described in the way of the Hugging Face library: their type and, of labels, the names of the classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kedge.data.report import DataError
from kedge.json_text import parse_json
from kedge.regular import LARGEST_TEXT

Features = dict[str, dict[str, Any]]
_IMAGE_NAMES = ("image", "img", "pixels", "picture")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")


def schema_features(schema: Any) -> Features:
    """Return the type and the class names of each column that a parquet schema's metadata declares, {} for none.

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


def dataset_features(dataset: Any) -> Features:
    """Return the type and the class names of each column of a Hugging Face `Dataset`, {} where it does not say."""
    columns = (dataset.features or {}).items()
    return {name: {"_type": type(f).__name__, "names": getattr(f, "names", None)} for name, f in columns}


def choose_columns(features: Features, columns: Sequence[str], name: str) -> tuple[str, str]:
    """Return the names of the image column and of the label column: by declared type, else by usual name."""
    kinds = {column: f.get("_type") for column, f in features.items() if isinstance(f, dict) and column in columns}
    images = [c for c, kind in kinds.items() if kind == "Image"] + [c for c in _IMAGE_NAMES if c in columns]
    labels = [c for c in _LABEL_NAMES if c in columns] + [c for c, kind in kinds.items() if kind == "ClassLabel"]
    if not images or not labels:
        lacking = "label" if images else "image"
        raise DataError(f"{name}: no {lacking} column among {', '.join(columns)}; expected `image` and `label`")
    return images[0], labels[0]


def declared_classes(features: Mapping[str, Any], label: str) -> list[str] | None:
    """Return the class names that the features declare for the label column, or None."""
    return (features.get(label) or {}).get("names")


def check_column(column: str, image: str, columns: Sequence[str], name: str) -> None:
    """Raise DataError unless a table has a column, and one that is not of images."""
    if column not in columns or column == image:
        others = ", ".join(other for other in columns if other != image)
        raise DataError(f"{name}: no column {column!r} that could name a group; there are: {others}")


def texts_of(values: Iterable[Any], features: Features, column: str) -> list[str | None]:
    """What a column says as texts, None where it says nothing; of class labels their names.

    Raises:
        DataError: for other things than texts, whole numbers, and true or false.
    """
    names, texts = declared_classes(features, column), list[str | None]()
    for value in values:
        if value is not None and not isinstance(value, str | int):
            raise DataError(
                f"the column {column!r} holds {type(value).__name__}s such as {str(value)[:40]}: a group is named by a "
                "text or a whole number"
            )
        known = names is not None and isinstance(value, int) and 0 <= value < len(names)
        texts.append(None if value is None else names[value] if known else str(value))  # type: ignore[index]
    return texts


def _mapping(outer: Any, name: str, where: str) -> dict[str, Any]:
    inner = (outer.get(name) or {}) if isinstance(outer, dict) else outer
    if not isinstance(inner, dict):
        raise ValueError(f"{where}: {name} is no mapping")
    return inner
