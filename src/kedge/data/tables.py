"""Parquet files in the Hugging Face image layout, and data sets of the Hugging Face hub."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge.data.build import Listing
from kedge.data.columns import (
    Features,
    check_column,
    choose_columns,
    dataset_features,
    declared_classes,
    schema_features,
    texts_of,
)
from kedge.data.folders import canonical_split, split_word
from kedge.data.hub_errors import cache_errors, hub_errors
from kedge.data.items import RowItems
from kedge.data.labels import common_classes, numbered
from kedge.data.report import DataError
from kedge.data.sets import ImageSet
from kedge.data.streams import StreamSet, from_stream
from kedge.full_disk import is_full_disk
from kedge.regular import check_file, is_folder

log = logging.getLogger(__name__)
_IN_MEMORY = 1 << 30  # bytes of parquet beyond which rows stay on disk (memory-mapped Arrow)
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
            several = ", ".join(sorted({str(place.relative_to(path)) for place in places.values()})[:8])
            raise DataError(f"{path} holds several parquet sets ({several}): name one of these folders")
        if len(set(words.values())) == 1 and canonical_split(words[files[0]]) is None:
            words = dict.fromkeys(files, "all")  # data-00000-of-00002.parquet: no part has another name
        for split in {canonical_split(word) or word: None for word in words.values()}:
            same = [file for file in files if (canonical_split(words[file]) or words[file]) == split]
            if len(names := sorted({words[file] for file in same})) > 1:
                raise DataError(
                    f"{path} holds {' and '.join(names)}, which both mean {split!r}: keep one, or join them"
                )
            self.splits[split] = same

    def listing(self, split: str) -> Listing:
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
                from datasets import Image

                dataset = _mapped(files, [image, label], self.name)
                images: Any = dataset.cast_column(image, Image(decode=False))[image]
                labels: Any = dataset[label]
            else:
                table = pq.read_table(files, columns=[image, label])
                images, labels = table[image], table[label].to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"{self.name}: cannot read {files[0]} as parquet: {error}") from None
        names = declared_classes(features, label)
        if names is None:
            names = common_classes({part: pq.read_table(self.splits[part], columns=[label])[label].to_pylist()
                                    for part in self.splits}, self.name)  # fmt: skip
        return Listing(RowItems(images, self.name, self.folder), *numbered(labels, names, self.name), self.name, split)

    def stream(
        self, split: str, image_size: int | None, val_fraction: float, seed: int
    ) -> tuple[StreamSet, ImageSet | None]:
        """Training images of a split that are read in turn, see `from_stream`; rows name files of the folder alone."""
        from datasets import load_dataset

        files = self.splits[split]
        features, columns = self._schema(files[0])
        names = declared_classes(features, choose_columns(features, columns, self.name)[1])
        with cache_errors(self.name):
            rows = load_dataset("parquet", data_files=[str(file) for file in files], split="train", streaming=True)
        return from_stream(rows, names, self.name, image_size, None, val_fraction, seed, self.folder)

    def column(self, name: str) -> Iterator[tuple[RowItems, list[str | None]]]:
        """The images of all parts with what a column says of each, a piece at a time.

        Raises:
            DataError: no such column, or one of other things than texts and whole numbers.
        """
        import pyarrow.parquet as pq

        for file in [file for files in self.splits.values() for file in files]:
            features, columns = self._schema(file)
            image, _ = choose_columns(features, columns, self.name)
            check_column(name, image, columns, self.name)
            for rows in pq.ParquetFile(file).iter_batches(columns=[image, name]):
                yield RowItems(rows[image], self.name, self.folder), texts_of(rows[name].to_pylist(), features, name)

    def _schema(self, file: Path) -> tuple[Features, list[str]]:
        """The Hugging Face features of a file, and the names of its columns."""
        import pyarrow.parquet as pq

        try:
            check_file(file)
            schema = pq.read_schema(file)
            return schema_features(schema), schema.names
        except (ValueError, OSError) as error:  # what pyarrow raises of files are these
            raise DataError(f"{self.name}: cannot read {file} as parquet: {error}") from None

    def _check_classes(self, schemas: Mapping[Path, tuple[Features, list[str]]]) -> None:
        first: tuple[Path, list[str]] | None = None
        for file, (features, columns) in schemas.items():
            names = declared_classes(features, choose_columns(features, columns, self.name)[1])
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

        with hub_errors(self.repository):
            names = datasets.get_dataset_split_names(self.repository, self.config)
        self.splits: dict[str, str] = {}
        for n in names:
            split = canonical_split(n) or n
            self.splits[n if split in self.splits else split] = n  # of dev and validation the second keeps its name

    def listing(self, split: str) -> Listing:
        """Download (or take from the cache) a split and list its images.

        Raises:
            DataError: the hub cannot be reached, or the set holds no images and labels.
        """
        with hub_errors(self.repository):
            parts = {split: self._load(split)}
            features = dataset_features(parts[split])
            _, label = choose_columns(features, parts[split].column_names, self.name)
            names = declared_classes(features, label)
            if names is None:
                parts |= {part: self._load(part) for part in self.splits if part != split}
                names = common_classes({part: dataset[label] for part, dataset in parts.items()}, self.name)
        return dataset_listing(parts[split], self.name, split, names)

    def stream(
        self, split: str, image_size: int | None, val_fraction: float, seed: int
    ) -> tuple[StreamSet, ImageSet | None]:
        """Training images of a split that are read in turn, see `from_stream`."""
        with hub_errors(self.repository):
            rows = self._load(split, streaming=True)
        return from_stream(rows, None, self.name, image_size, None, val_fraction, seed)

    def column(self, name: str) -> Iterator[tuple[RowItems, list[str | None]]]:
        """As of `Parquet`, a part at a time."""
        import datasets

        for split in self.splits:
            with hub_errors(self.repository):
                rows = self._load(split)
                features = dataset_features(rows)
                image, _ = choose_columns(features, rows.column_names, self.name)
                check_column(name, image, rows.column_names, self.name)
                rows = rows.cast_column(image, datasets.Image(decode=False))
            yield RowItems(rows[image], self.name), texts_of(rows[name], features, name)

    def _load(self, split: str, **options: bool) -> Any:
        import datasets

        return datasets.load_dataset(self.repository, self.config, split=self.splits[split], **options)


def dataset_listing(dataset: Any, name: str, split: str, class_names: Sequence[str] | None = None) -> Listing:
    """List the images of a Hugging Face `Dataset` with an image and a label column.

    The columns are read as they are stored: what `with_transform` makes of them is not asked for, and a note says so.
    `class_names` are of numbers in their order, and those that text labels are looked up in.

    Raises:
        DataError: no such columns, rows without a label, labels that are not among the classes.
    """
    import datasets

    notes = []
    features = dataset_features(dataset)
    image, label = choose_columns(features, dataset.column_names, name)
    if (dataset.format or {}).get("type") == "custom":
        notes.append(
            f"its with_transform is not applied: images are read from the column {image!r} and prepared by kedge"
        )
        log.warning("%s: %s", name, notes[0])
    dataset = dataset.with_format(None)
    known = declared_classes(features, label) if class_names is None else class_names
    numbers, names = numbered(dataset[label], known, name)
    rows = dataset.cast_column(image, datasets.Image(decode=False))[image]
    return Listing(RowItems(rows, name), numbers, names, name, split, notes)


def _mapped(files: Sequence[Path], columns: list[str], name: str) -> Any:
    """A Hugging Face `Dataset` of columns of parquet files, which are written once more as Arrow files in the cache."""
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        with cache_errors(name):
            return Dataset.from_parquet([str(file) for file in files], columns=columns)
    except DatasetGenerationError as error:  # around whatever stopped it half-way
        if is_full_disk(error) or error.__cause__ is None:
            raise
        raise OSError(str(error.__cause__)) from error


def parquet_files(root: Path) -> list[Path]:
    """Return the parquet files in a folder or, if it has none, in the folders just below it.

    If those have none either: in folders called like splits below them, CONFIGURATION/train/0000.parquet.
    """
    if not root.is_dir():
        return []
    if files := _parquet_in([root]):
        return files
    folders = [entry.path for entry in os.scandir(root) if is_folder(entry)]
    if files := _parquet_in(folders):
        return files
    return _parquet_in(e.path for f in folders for e in os.scandir(f) if canonical_split(e.name) and is_folder(e))


def _parquet_in(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    # Names alone tell: a folder of photos has a million of them, and a Path or a stat for each takes seconds.
    return sorted(Path(e.path) for folder in folders for e in os.scandir(folder) if e.name.endswith(".parquet"))


def _word(file: Path, root: Path) -> str:
    """What says which split a parquet file belongs to: its own name, else that of its folder, else "all"."""
    if word := split_word(file.stem):
        return word
    if file.parent != root and canonical_split(file.parent.name):
        return file.parent.name
    first = re.match(r"[A-Za-z]+", file.stem)
    return first[0] if first else "all"


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
