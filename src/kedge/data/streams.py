"""Training images that are read in turn and never listed: shards, and streaming data sets of Hugging Face."""

import heapq
import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import torch

from kedge.data.build import Listing, build
from kedge.data.columns import choose_columns, dataset_features, declared_classes
from kedge.data.fingerprints import key_of
from kedge.data.formats import Encoded
from kedge.data.items import ENCODED, RowItems, below
from kedge.data.labels import Label, about_unnamed, numbered
from kedge.data.report import DataError, UnreadableImage
from kedge.data.sets import ImageSet, Indices
from kedge.data.splitting import Division, uniform
from kedge.seeds import derive_seed, generator

SAMPLED = 2048  # training images that are held, encoded: for references, normalisation and a probe
HELD = 5000  # validation images at most, which are held too
BUFFER = 1000  # images of which the next is drawn
_TOGETHER = 256  # images whose hashes are made in one go
LANES = 8  # pieces that are read at the same time


class Sample(NamedTuple):
    """An image as it comes: its place in its piece, its name, its bytes or path, its label as it is written there."""

    place: int
    name: str
    source: Encoded
    label: Label


class Pieces(Protocol):
    """Parts of a source, each of which is read from its beginning to its end, and always gives the same."""

    def __len__(self) -> int: ...

    def read(self, piece: int, members: torch.Tensor | None = None) -> Iterator[Sample]:
        """The samples of a piece in order, of `members`, bool [n], those alone."""


class StreamSet(ImageSet):
    """Training images of a source that is read in turn: it has a number, labels and keys, and no image by its position.

    Attributes:
        sample: a random 2,048 of its images in memory, encoded.
        labels: long [N], in the order of the source.
        pieces: the source.
        members: for each piece which of its images belong to the set, bool [n].
    """

    def __init__(
        self,
        pieces: Pieces,
        members: list[torch.Tensor],
        number: dict[Label, int],
        labels: torch.Tensor,
        keys: list[bytes],
        sample: ImageSet,
    ) -> None:
        super().__init__(sample.name, "train", sample.class_names, labels, sample.image_shape, sample.report)
        self.report.total = len(labels)
        self.origin = sample.origin
        self.pieces, self.members = pieces, members
        self._number, self._keys, self._sample = number, keys, sample

    @property
    def sample(self) -> ImageSet:
        """Some of its images, in memory."""
        return self._sample

    @property
    def keys_of(self) -> str:
        """Encoded bytes."""
        return ENCODED

    def keys(self, sampled: bool = False) -> list[bytes]:
        """Return one key for each image's encoded bytes, in the order of the source."""
        return self._keys

    def relabelled(self, labels: torch.Tensor) -> ImageSet:
        """Raise DataError: the labels of a stream are in the stream."""
        raise DataError(f"{self.name} is read in turn, so its labels cannot be changed: leave label_noise out")

    def subset(self, indices: Indices) -> NoReturn:
        """Raise DataError: there are no positions."""
        raise DataError(
            f"{self.name} is read in turn: images cannot be picked out of it, nor put into another order than it has. "
            "A run that goes on needs the same shards; leave train_images, classes and imbalance out"
        )

    def __getitem__(self, i: int) -> NoReturn:
        self.subset([i])

    def epoch(self, seed: int, epoch: int, rank: int = 0, world: int = 1) -> Iterator[tuple[int, Sample, int]]:
        """(number in the source, sample, label) of this rank's share of an epoch, shuffled.

        The pieces are put in another order for each epoch, and shared out so that each rank has N // world images, none
        of which another has; up to eight are read at a time, and each image is drawn from the next thousand.

        Raises:
            DataError: a piece holds other images than when it was read first.
        """
        counts = torch.tensor([int(mask.sum()) for mask in self.members])
        order = torch.randperm(len(counts), generator=generator(seed, "pieces", epoch))
        ends = counts[order].cumsum(0)
        share = len(self) // world
        low, high = rank * share, (rank + 1) * share
        parts: list[Iterator[tuple[int, Sample, int]]] = []
        for piece, end, count in zip(order.tolist(), ends.tolist(), counts[order].tolist(), strict=True):
            first, last = max(low - (end - count), 0), min(high - (end - count), count)
            if first < last:
                parts.append(self._read(piece, first, last))
        lanes = [chain.from_iterable(parts[lane::LANES]) for lane in range(min(LANES, len(parts)))]
        draws = random.Random(derive_seed(seed, "buffer", epoch, rank))
        buffer: list[tuple[int, Sample, int]] = []
        for each in _in_turn(lanes):
            if len(buffer) < BUFFER:
                buffer.append(each)
                continue
            place = draws.randrange(BUFFER)
            buffer[place], each = each, buffer[place]
            yield each
        draws.shuffle(buffer)
        yield from buffer

    def _read(self, piece: int, first: int, last: int) -> Iterator[tuple[int, Sample, int]]:
        """The training images `first` to `last` of a piece, with their numbers in the source."""
        before = sum(len(mask) for mask in self.members[:piece])
        mask = self.members[piece].clone()
        places = mask.nonzero()[:, 0]
        mask[places[:first]] = False
        mask[places[last:]] = False
        for count, sample in enumerate(self.pieces.read(piece, mask), first + 1):
            if sample.label not in self._number:
                break
            yield before + sample.place, sample, self._number[sample.label]
            if count == last:
                return
        raise DataError(f"{self.name}: piece {piece} holds other images than when the run began: put them back")


class DatasetPieces:
    """The shards of a Hugging Face `IterableDataset`."""

    def __init__(self, dataset: Any, image: str, label: str, name: str, folder: Path | None = None) -> None:
        import datasets

        chosen = dataset.select_columns([image, label])
        self._dataset = chosen.cast_column(image, datasets.Image(decode=False))
        self._image, self._label, self._name, self._folder = image, label, name, folder

    def __len__(self) -> int:
        return int(self._dataset.num_shards)

    def read(self, piece: int, members: torch.Tensor | None = None) -> Iterator[Sample]:
        """The samples of a shard in order, of `members`, bool [n], those alone."""
        for place, row in enumerate(self._dataset.shard(len(self), piece)):
            if members is not None and (place >= len(members) or not bool(members[place])):
                continue
            image, label = row[self._image] or {}, row[self._label]
            source = image.get("bytes") or self._place(image.get("path")) or b""
            name = f"{self._name}:{image.get('path') or f'shard {piece}, row {place}'}"
            if not (isinstance(label, str | int) or (isinstance(label, float) and label.is_integer())):
                raise DataError(f"{name} has the label {label!r}: a whole number or a name is needed")
            yield Sample(place, name, source, label if isinstance(label, str) else int(label))

    def _place(self, path: str | None) -> str | None:
        try:
            return path if self._folder is None or not path else below(self._folder, path)
        except UnreadableImage:
            return None


def from_stream(
    dataset: Any,
    class_names: Sequence[str] | None = None,
    name: str = "stream",
    image_size: int | None = None,
    channels: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[StreamSet, ImageSet | None]:
    """Training and validation images of a streaming data set, for `kedge.training.fit(sets=...)`.

    It is read once from beginning to end: its images are counted, their classes and keys noted, and those held out
    that `split_validation` would hold out by their content, at most 5,000, encoded, in memory. Training then reads it
    once for each epoch, and holds a thousand images at a time.

    Args:
        dataset: a Hugging Face `IterableDataset` with an image and a label column, that gives the same each time.
        class_names: of the labels in order; None takes those that it declares, else what the labels say.
        name: for reports.
        image_size: as for `load`.
        channels: as for `load`.
        val_fraction: of the images, in [0, 1); 0: none, and there is no second set.
        seed: which images are held out.
        folder: rows that name files in place of holding images name some below it; None: any.

    Raises:
        DataError: no such columns, labels that are not among the classes, more than 1 % unreadable images.
        TypeError: no such data set.
    """
    if not all(hasattr(dataset, name) for name in ("features", "column_names", "num_shards", "select_columns")):
        raise TypeError(
            f"from_stream takes a Hugging Face IterableDataset, got {type(dataset).__name__}: "
            "datasets.load_dataset(..., streaming=True) makes one, and dataset.to_iterable_dataset()"
        )
    features = dataset_features(dataset)
    columns = dataset.column_names or list(next(iter(dataset)))
    image, label = choose_columns(features, columns, name)
    names = class_names or declared_classes(features, label)
    pieces = DatasetPieces(dataset, image, label, name, folder)
    return divided(pieces, names, name, "class_names=", image_size, channels, val_fraction, seed)


def divided(
    pieces: Pieces,
    class_names: Sequence[str] | None,
    name: str,
    naming: str,
    image_size: int | None = None,
    channels: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> tuple[StreamSet, ImageSet | None]:
    """(training images, those held out or None) of a source that is read in turn, see `from_stream`."""
    if not 0 <= val_fraction < 1:
        raise DataError(f"the validation fraction must be 0 or more and below 1, got {val_fraction}")
    labels: list[Label] = []
    keys: list[bytes] = []
    lengths: list[int] = []
    lowest: list[tuple[float, int, Sample]] = []  # heaps of the lowest hashes: their largest at the top
    trained: list[tuple[float, int, Sample]] = []
    for piece in range(len(pieces)):
        before = len(labels)
        samples = pieces.read(piece)
        while some := list(islice(samples, _TOGETHER)):
            own = [key_of(each.source) for each in some]
            for each, key, u in zip(some, own, uniform(own, seed).tolist(), strict=True):
                heap, most = (lowest, HELD) if key and u < val_fraction else (trained, SAMPLED)
                entry = (-u, -len(labels), each)
                if len(heap) < most:
                    heapq.heappush(heap, entry)
                else:
                    heapq.heappushpop(heap, entry)
                labels.append(each.label)
            keys += own
        lengths.append(len(labels) - before)
    numbers, names = numbered(labels, class_names, name)
    notes = about_unnamed(labels, class_names, naming)
    limit = min(val_fraction, -lowest[0][0] + 2**-53) if len(lowest) == HELD else val_fraction
    unread, u_of = torch.tensor([not key for key in keys]), uniform(keys, seed)
    out = ~unread & (u_of < limit)
    Division(out, ~unread, u_of, numbers).spare()
    stays = ~out
    if not bool(stays.any()) or (val_fraction and bool(stays.all())):
        raise DataError(f"{name}: of {len(keys)} images none is left to {'validate' if stays.all() else 'train'} on")

    def in_memory(chosen: list[tuple[float, int, Sample]], split: str, size: int | None, depth: int | None) -> ImageSet:
        chosen = sorted((each for each in chosen if bool(stays[-each[1]]) is (split == "train")), key=lambda x: -x[1])
        rows = [
            {"bytes": s.source, "path": s.name} if isinstance(s.source, bytes) else {"path": str(s.source)}
            for _, _, s in chosen
        ]
        where = numbers[[-each[1] for each in chosen]]
        return build(Listing(RowItems(rows, name), where, names, name, split, list(notes)), size, depth)

    few = in_memory(trained, "train", image_size, channels)
    few.report.notes = list(notes)  # not which classes the few lack
    train = StreamSet(
        pieces,
        list(stays.split(lengths)),
        {label: int(number) for label, number in zip(labels, numbers.tolist(), strict=True)},
        numbers[stays],
        [key for key, there in zip(keys, stays.tolist(), strict=True) if there],
        few,
    )
    depth, side, _ = few.image_shape
    return train, in_memory(lowest, "val", side, depth) if val_fraction else None


def _in_turn(lanes: list[Any]) -> Iterator[Any]:
    while lanes:
        unfinished = []
        for lane in lanes:
            for each in lane:
                yield each
                unfinished.append(lane)
                break
        lanes = unfinished
