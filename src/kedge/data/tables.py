"""Parquet files in the Hugging Face image layout, and data sets of the Hugging Face hub."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

from kedge.checks import whole_labels
from kedge.data.build import Found
from kedge.data.declared import hf_features
from kedge.data.folders import canonical_split
from kedge.data.items import RowItems
from kedge.data.report import DataError
from kedge.regular import check_file, is_folder

log = logging.getLogger(__name__)
_IN_MEMORY = 1 << 30  # bytes of parquet beyond which rows stay on disk (memory-mapped Arrow)
_IMAGE_NAMES = ("image", "img", "pixels", "picture")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")


LARGEST_LABEL = 1_000_000
_SHARD = re.compile(r"(.*?)-?(\d+)-of-(\d+)")


class Parquet:
    """Parquet files named after their split, or in a folder that is.

    train-00000-of-00003.parquet, test.parquet, data/train-*.parquet; train/0000.parquet beside test/0000.parquet.

    Raises:
        DataError: several sets in one folder, files of a set that are missing, or two names for one split.
    """

    def __init__(self, path: Path) -> None:
        files = [path] if path.is_file() else parquet_files(path)
        self.name = path.stem if path.is_file() else path.resolve().name
        self.folder = path.parent if path.is_file() else path
        _check_shards(files)
        self.splits: dict[str, list[Path]] = {}
        if path.is_file():
            self.splits["all"] = files
            return
        words = {file: _word(file, path) for file in files}
        places = {file: file.parent.parent if word == file.parent.name else file.parent for file, word in words.items()}
        if len(set(places.values())) > 1:
            shown = ", ".join(sorted({str(place.relative_to(path)) for place in places.values()})[:8])
            raise DataError(f"{path} holds several parquet sets ({shown}): name one of these folders")
        if len(set(words.values())) == 1 and canonical_split(words[files[0]]) is None:
            words = dict.fromkeys(files, "all")  # data-00000-of-00002.parquet: no part has another name
        for split in {canonical_split(word) or word: None for word in words.values()}:
            same = [file for file in files if (canonical_split(words[file]) or words[file]) == split]
            if len(names := sorted({words[file] for file in same})) > 1:
                raise DataError(
                    f"{path} holds {' and '.join(names)}, which both mean {split!r}: keep one, or join them"
                )
            self.splits[split] = same

    def find(self, split: str) -> Found:
        """List the images of a split.

        Raises:
            DataError: files that are not parquet or hold no images and labels, or whose classes differ.
        """
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        files = self.splits[split]
        try:
            schemas = {file: self._schema(file) for group in self.splits.values() for file in group}
            self._check_classes(schemas)
            features, columns = schemas[files[0]]
            image, label = choose_columns(features, columns, self.name)
            if sum(file.stat().st_size for file in files) > _IN_MEMORY:
                from datasets import Dataset, Image

                dataset = Dataset.from_parquet([str(f) for f in files], columns=[image, label])
                images: Any = dataset.cast_column(image, Image(decode=False))[image]
                labels: Any = dataset[label]
            else:
                table = pq.read_table(files, columns=[image, label])
                images, labels = table[image], table[label].to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"{self.name}: cannot read {files[0]} as parquet: {error}") from None
        names = class_names_of(features, label)
        if names is None:
            names = common_classes({part: pq.read_table(self.splits[part], columns=[label])[label].to_pylist()
                                    for part in self.splits}, self.name)  # fmt: skip
        numbers, class_names = numbered(labels, names, self.name)
        return Found(RowItems(images, self.name, self.folder), numbers, class_names, self.name, split)

    def _schema(self, file: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The Hugging Face features of a file, and the names of its columns."""
        import pyarrow.parquet as pq

        try:
            check_file(file)
            schema = pq.read_schema(file)
            return hf_features(schema), schema.names
        except (ValueError, OSError) as error:  # what pyarrow raises of files are these
            raise DataError(f"{self.name}: cannot read {file} as parquet: {error}") from None

    def streamed(self, split: str) -> tuple[Any, list[str] | None]:
        """(the split as a Hugging Face `IterableDataset`, the class names that its files declare or None)."""
        from datasets import load_dataset

        files = self.splits[split]
        features, columns = self._schema(files[0])
        _, label = choose_columns(features, columns, self.name)
        rows = load_dataset("parquet", data_files=[str(file) for file in files], split="train", streaming=True)
        return rows, class_names_of(features, label)

    def _check_classes(self, schemas: Mapping[Path, tuple[dict[str, dict[str, Any]], list[str]]]) -> None:
        first: tuple[Path, list[str]] | None = None
        for file, (features, columns) in schemas.items():
            _, label = choose_columns(features, columns, self.name)
            names = class_names_of(features, label)
            if names is None:
                continue
            if first is None:
                first = (file, names)
            elif names != first[1]:
                differ = sorted(set(names) ^ set(first[1])) or ["their order"]
                raise DataError(
                    f"{self.name}: the classes of {file.name} differ from those of {first[0].name}: "
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
        self.splits: dict[str, str] = {}
        for n in names:
            split = canonical_split(n) or n
            self.splits[n if split in self.splits else split] = n  # of dev and validation the second keeps its name

    def find(self, split: str) -> Found:
        """Download (or take from the cache) a split and list its images.

        Raises:
            DataError: the hub cannot be reached, or the set holds no images and labels.
        """
        import datasets

        with _HubErrors(self.repository):
            parts = {split: datasets.load_dataset(self.repository, self.config, split=self.splits[split])}
            features = features_of(parts[split])
            _, label = choose_columns(features, parts[split].column_names, self.name)
            names = class_names_of(features, label)
            if names is None:
                for part, theirs in self.splits.items():
                    if part != split:
                        parts[part] = datasets.load_dataset(self.repository, self.config, split=theirs)
                names = common_classes({part: dataset[label] for part, dataset in parts.items()}, self.name)
        return found_in_dataset(parts[split], self.name, split, names)

    def streamed(self, split: str) -> tuple[Any, list[str] | None]:
        """(the split as a Hugging Face `IterableDataset`, None: it says itself what its classes are)."""
        import datasets

        with _HubErrors(self.repository):
            return datasets.load_dataset(self.repository, self.config, split=self.splits[split], streaming=True), None


def found_in_dataset(dataset: Any, name: str, split: str, class_names: Sequence[str] | None = None) -> Found:
    """List the images of a Hugging Face `Dataset` with an image and a label column.

    The columns are read as they are stored: what `with_transform` makes of them is not asked for, and a note says so.
    `class_names` are of numbers in their order, and those that text labels are looked up in.

    Raises:
        DataError: no such columns, rows without a label, labels that are not among the classes.
    """
    import datasets

    notes = []
    features = features_of(dataset)
    image, label = choose_columns(features, dataset.column_names, name)
    if (dataset.format or {}).get("type") == "custom":
        notes.append(
            f"its with_transform is not applied: images are read from the column {image!r} and prepared by kedge"
        )
        log.warning("%s: %s", name, notes[0])
    dataset = dataset.with_format(None)
    names = class_names_of(features, label)
    numbers, known = numbered(dataset[label], list(class_names) if names is None and class_names else names, name)
    if class_names is not None and (most := max(numbers)) >= len(class_names):
        raise DataError(f"{name}: labels go up to {most}, but there are {len(class_names)} class names")
    rows = dataset.cast_column(image, datasets.Image(decode=False))[image]
    return Found(RowItems(rows, name), numbers, list(class_names or known), name, split, notes)


def features_of(dataset: Any) -> dict[str, dict[str, Any]]:
    """Return the type and the class names of each column of a Hugging Face `Dataset`, as in a parquet schema."""
    columns = dataset.features.items()
    return {name: {"_type": type(f).__name__, "names": getattr(f, "names", None)} for name, f in columns}


def parquet_files(root: Path) -> list[Path]:
    """Return the parquet files in a folder or, if it has none, in the folders just below it.

    If those have none either: in folders called like splits below them, CONFIGURATION/train/0000.parquet.
    """
    if not root.is_dir():
        return []
    if found := _parquet_in([root]):
        return found
    folders = [entry.path for entry in os.scandir(root) if is_folder(entry)]
    if found := _parquet_in(folders):
        return found
    return _parquet_in(e.path for f in folders for e in os.scandir(f) if canonical_split(e.name) and is_folder(e))


def _parquet_in(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    # Names alone tell: a folder of photos has a million of them, and a Path or a stat for each takes seconds.
    return sorted(Path(e.path) for folder in folders for e in os.scandir(folder) if e.name.endswith(".parquet"))


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


def common_classes(labels: Mapping[str, Iterable[Any]], name: str) -> list[str]:
    """Return the class names of labels that nothing names, the same for all splits: those of "train" if there is one.

    Text labels in alphabetical order, numbers up to the largest.

    Raises:
        DataError: a split with classes that "train" lacks.
    """
    kinds = {type(v) for values in labels.values() for v in values if v is not None}
    mixed = len({issubclass(kind, str) for kind in kinds}) > 1
    if mixed or not all(issubclass(kind, str | Number) for kind in kinds):
        raise DataError(f"{name}: labels are numbers or text, got {', '.join(sorted(k.__name__ for k in kinds))}")
    # Numbers that are not whole, and NaN, name no class: `numbered` refuses them, and says where they are.
    seen = {
        split: {v for v in values if isinstance(v, str) or (v is not None and v != -1 and v == v // 1)}
        for split, values in labels.items()
    }
    known = seen.get("train") or set().union(*seen.values())
    if not known or not all(isinstance(v, str) for v in known):
        known = set(range(check_most(int(max(known, default=0)), name) + 1))
    for split, theirs in seen.items():
        if extra := sorted(map(str, theirs - known)):
            raise DataError(f"{name}: the split {split!r} has classes that 'train' lacks: {', '.join(extra[:8])}")
    return [str(v) for v in sorted(known)]


def check_most(largest: int, name: str) -> int:
    """The largest of labels that nothing names; DataError where a class for each number up to it cannot be meant."""
    if largest >= LARGEST_LABEL:
        raise DataError(
            f"{name}: a label is {largest}, and nothing names the classes: numbers without names are those of classes, "
            f"from 0 on, and below {LARGEST_LABEL:,}. Number the classes, or store their names as text"
        )
    return largest


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
        if unknown := sorted({str(v) for v in labels} - number.keys()):
            raise DataError(f"{name}: labels that are not among its classes: {', '.join(unknown[:8])}")
        labels = [number[v] for v in labels]
    try:
        numbers = whole_labels(labels, name).tolist()
    except ValueError as error:
        raise DataError(str(error)) from None
    if names is None:
        names = [str(i) for i in range(check_most(max(numbers, default=0), name) + 1)]
    wrong = next((v for v in numbers if not 0 <= v < len(names)), None)
    if wrong is not None:
        raise DataError(f"{name}: label {wrong} lies outside its {len(names)} classes")
    return numbers, list(names)


def _word(file: Path, root: Path) -> str:
    """What says which split a parquet file belongs to: its own name, else that of its folder, else "all"."""
    word = re.match(r"[A-Za-z]+", file.stem)
    if word and canonical_split(word[0]):
        return word[0]
    if file.parent != root and canonical_split(file.parent.name):
        return file.parent.name
    return word[0] if word else "all"


def _check_shards(files: Sequence[Path]) -> None:
    """Raise DataError where a file says that it is one of several and others are not there."""
    there: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file.stem):
            there.setdefault((file.parent, shard[1], shard[3]), set()).add(int(shard[2]))
    for (folder, word, count), numbers in there.items():
        missing = sorted(set(range(int(count))) - numbers)
        if missing:
            width = len(count)
            named = [f"{word}{'-' if word else ''}{number:0{width}d}-of-{count}.parquet" for number in missing[:4]]
            raise DataError(
                f"{folder}: {len(numbers)} of the {int(count)} files of {word or 'the set'} are here, without "
                f"{', '.join(named)}{', ...' if len(missing) > 4 else ''}: with a part of its rows a set has other "
                "classes and other numbers. Copy the others beside it and name the folder"
            )


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
