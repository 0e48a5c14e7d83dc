"""Parquet files in the Hugging Face image layout, and data sets of the Hugging Face hub."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge.data.build import Found
from kedge.data.folders import canonical_split
from kedge.data.items import RowItems
from kedge.data.report import DataError

_IN_MEMORY = 1 << 30  # bytes of parquet beyond which rows stay on disk (memory-mapped Arrow)
_IMAGE_NAMES = ("image", "img", "pixels", "picture")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")


class Parquet:
    """Parquet files named after their split: train-00000-of-00003.parquet, test.parquet, data/train-*.parquet."""

    def __init__(self, path: Path) -> None:
        files = [path] if path.is_file() else parquet_files(path)
        self.name = path.stem if path.is_file() else path.resolve().name
        self.splits: dict[str, list[Path]] = {}
        folders = {file.parent for file in files}
        if len(folders) > 1:
            shown = ", ".join(sorted(f.name for f in folders)[:8])
            raise DataError(f"{path} holds several parquet sets ({shown}): name one of these folders")
        for file in files:
            word = re.match(r"[A-Za-z]+", file.stem)
            split = canonical_split(word[0]) if word else None
            self.splits.setdefault(split or (word[0] if word and len(files) > 1 else "all"), []).append(file)

    def find(self, split: str) -> Found:
        """List the images of a split.

        Raises:
            DataError: files that are not parquet or hold no images and labels, or whose classes differ.
        """
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        files = self.splits[split]
        try:
            features = [hf_features(pq.read_schema(file)) for file in files]
            self._check_classes({str(file): pq.read_schema(file) for group in self.splits.values() for file in group})
            image, label = choose_columns(features[0], pq.read_schema(files[0]).names, self.name)
            if sum(file.stat().st_size for file in files) > _IN_MEMORY:
                from datasets import Dataset, Image

                dataset = Dataset.from_parquet([str(f) for f in files], columns=[image, label])
                images: Any = dataset.cast_column(image, Image(decode=False))[image]
                labels: Any = dataset[label]
            else:
                table = pq.read_table(files, columns=[image, label])
                images, labels = table[image], table[label].to_pylist()
        except ArrowException as error:
            raise DataError(f"{self.name}: cannot read {files[0]} as parquet: {error}") from None
        numbers, class_names = numbered(labels, class_names_of(features[0], label), self.name)
        return Found(RowItems(images, self.name), numbers, class_names, self.name, split)

    def _check_classes(self, schemas: Mapping[str, Any]) -> None:
        first: tuple[str, list[str]] | None = None
        for file, schema in schemas.items():
            features = hf_features(schema)
            _, label = choose_columns(features, schema.names, self.name)
            names = class_names_of(features, label)
            if names is None:
                continue
            if first is None:
                first = (file, names)
            elif names != first[1]:
                differ = sorted(set(names) ^ set(first[1])) or ["their order"]
                raise DataError(
                    f"{self.name}: the classes of {Path(file).name} differ from those of {Path(first[0]).name}: "
                    f"{', '.join(differ[:8])}"
                )


class Hub:
    """A data set of the Hugging Face hub, `owner/name` or `owner/name:config`."""

    def __init__(self, name: str) -> None:
        self.repository, _, config = name.partition(":")
        self.config = config or None
        self.name = self.repository.split("/")[-1]
        import datasets

        with _HubErrors(self.repository):
            names = datasets.get_dataset_split_names(self.repository, self.config)
        self.splits = {canonical_split(n) or n: n for n in names}

    def find(self, split: str) -> Found:
        """Download (or take from the cache) a split and list its images.

        Raises:
            DataError: the hub cannot be reached, or the set holds no images and labels.
        """
        import datasets

        with _HubErrors(self.repository):
            dataset = datasets.load_dataset(self.repository, self.config, split=self.splits[split])
        return found_in_dataset(dataset, self.name, split)


def found_in_dataset(dataset: Any, name: str, split: str) -> Found:
    """List the images of a Hugging Face `Dataset` with an image and a label column."""
    import datasets

    features = {k: {"_type": type(f).__name__, "names": getattr(f, "names", None)} for k, f in dataset.features.items()}
    image, label = choose_columns(features, dataset.column_names, name)
    numbers, class_names = numbered(dataset[label], class_names_of(features, label), name)
    rows = dataset.cast_column(image, datasets.Image(decode=False))[image]
    return Found(RowItems(rows, name), numbers, class_names, name, split)


def parquet_files(root: Path) -> list[Path]:
    """Return the parquet files in a folder or, if it has none, in the folders just below it."""
    return sorted(root.glob("*.parquet")) or sorted(root.glob("*/*.parquet"))


def hf_features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the Hugging Face features in a parquet schema's metadata, {} where there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    return {} if text is None else json.loads(text).get("info", {}).get("features", {}) or {}


def choose_columns(features: Mapping[str, Any], columns: Sequence[str], name: str) -> tuple[str, str]:
    """Return the names of the image column and of the label column: by declared type, else by usual name."""
    features = {name: feature for name, feature in features.items() if name in columns}  # others were taken out
    image = _first(features, "Image") or next((c for c in _IMAGE_NAMES if c in columns), None)
    label = next((c for c in _LABEL_NAMES if c in columns), None) or _first(features, "ClassLabel")
    if image is None or label is None:
        lacking = "image" if image is None else "label"
        raise DataError(f"{name}: no {lacking} column among {', '.join(columns)}; expected `image` and `label`")
    return image, label


def class_names_of(features: Mapping[str, Any], label: str) -> list[str] | None:
    """Return the class names that the features declare for the label column, or None."""
    return (features.get(label) or {}).get("names")


def numbered(labels: Iterable[Any], names: list[str] | None, name: str) -> tuple[list[int], list[str]]:
    """Return labels as numbers with their class names; text labels are numbered in alphabetical order.

    Raises:
        DataError: rows without a label, or labels outside the class list.
    """
    labels = list(labels)
    missing = sum(v is None or v == -1 for v in labels)
    if missing:
        raise DataError(f"{name}: {missing} of {len(labels)} rows have no label")
    if labels and isinstance(labels[0], str):
        names = sorted(set(labels)) if names is None else names
        number = {n: i for i, n in enumerate(names)}
        labels = [number.get(v, -1) for v in labels]
    if names is None:
        names = [str(i) for i in range(int(max(labels, default=0)) + 1)]
    wrong = next((v for v in labels if not 0 <= v < len(names)), None)
    if wrong is not None:
        raise DataError(f"{name}: label {wrong} lies outside its {len(names)} classes")
    return [int(v) for v in labels], list(names)


def _first(features: Mapping[str, Any], kind: str) -> str | None:
    return next((k for k, v in features.items() if isinstance(v, dict) and v.get("_type") == kind), None)


class _HubErrors:
    """Turns what the hub's libraries raise into one message that says what to do."""

    def __init__(self, repository: str) -> None:
        self._repository = repository

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, DataError):
            return
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        folder = self._repository.split("/")[-1]
        raise DataError(
            f"{self._repository!r} is no folder here, and loading it from the Hugging Face hub failed: {reason}\n"
            "If the name is right, check the network (HF_ENDPOINT, HTTPS_PROXY, and HF_TOKEN for a private set). "
            "Without a network: on a connected machine run\n"
            f"  hf download --repo-type dataset {self._repository} --local-dir {folder}\n"
            f"copy the folder here and load it by its path (or put it into $KEDGE_DATA and load {folder!r})."
        ) from error
