"""Which images a run trained on and which it held out, by what is in them: a small file in its folder."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kedge.data import ImageSet
from kedge.data.items import ENCODED
from kedge.files import whole

__all__ = ["FILE", "ImageRecord"]

FILE = "images.safetensors"
_WIDTH = 16  # bytes of a key


@dataclass(frozen=True)
class ImageRecord:
    """Keys (`ImageSet.keys`) of the images of a run: 20 bytes an image on disk.

    Attributes:
        keys_of: what the keys are made from, see `ImageSet.keys_of`.
        trained: of the training images, in their order; b"" for one that could not be read.
        labels: of these, long [N].
        held_of: what the keys in `held` are made from.
        held: of the validation images, in their order.
        held_labels: of these, long [M].
        earlier: of images that the model had been trained on before this run, and this run did not train on.
        known: whether these are all: not where a run started from a model whose own images are not on record.
    """

    keys_of: str
    trained: Sequence[bytes]
    labels: Tensor
    held_of: str
    held: Sequence[bytes]
    held_labels: Tensor
    earlier: Sequence[bytes] = ()
    known: bool = True

    @classmethod
    def of(
        cls, train: ImageSet, val: ImageSet | None, before: "ImageRecord | None" = None, known: bool = True
    ) -> "ImageRecord":
        """The record of a run on these images, which starts from the model of the run `before`.

        `known`: whether all is known that the model was trained on before.
        """
        trained = train.keys()
        earlier: Iterable[bytes] = ()
        if before is not None:
            known = known and before.known and before.keys_of == train.keys_of
            earlier = before.seen - set(trained) if before.keys_of == train.keys_of else ()
        none = torch.zeros(0, dtype=torch.long)
        held: tuple[str, Sequence[bytes], Tensor] = (train.keys_of, [], none)
        if val is not None:
            held = (val.keys_of, val.keys(), val.labels)
        return cls(train.keys_of, trained, train.labels, *held, sorted(earlier), known)

    @property
    def photos(self) -> bool:
        """Whether the images were encoded ones of any size, such as JPEG files, and not arrays of pixels."""
        return self.keys_of == ENCODED

    @classmethod
    def union(cls, records: "Sequence[ImageRecord]") -> "ImageRecord | None":
        """What several models were trained on together; None where their images are known by different keys."""
        if len({record.keys_of for record in records}) != 1:
            return None
        none, seen = torch.zeros(0, dtype=torch.long), sorted(frozenset().union(*(r.seen for r in records)))
        known = all(record.known for record in records)
        return cls(records[0].keys_of, [], none, records[0].keys_of, [], none, seen, known)

    @classmethod
    def read(cls, run: Path | None) -> "ImageRecord | None":
        """The record in a run folder; None if it has none, as runs of earlier versions.

        Raises:
            ValueError: for a file that is damaged.
        """
        if run is None or not (path := run / FILE).is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
                keys = [_parted(file.get_tensor(name)) for name in ("trained", "held", "earlier")]
                labels = [file.get_tensor(name).long() for name in ("labels", "held_labels")]
            known = about["known"] == "yes"
            if any(len(each) != len(of) for each, of in zip(keys, labels, strict=False)):
                raise ValueError("it has more keys than labels, or fewer")
            return cls(about["keys_of"], keys[0], labels[0], about["held_of"], keys[1], labels[1], keys[2], known)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path}, which says what the run trained on and held out, cannot be read ({error}): without it no "
                "image can be called held out. Put it back from a copy"
            ) from error

    def write(self, run: Path) -> None:
        """Write the record into a run folder, whole or not at all."""
        tensors = {
            "trained": _joined(self.trained),
            "labels": self.labels.to(torch.int32),
            "held": _joined(self.held),
            "held_labels": self.held_labels.to(torch.int32),
            "earlier": _joined(self.earlier),
        }
        about = {"format": "kedge images", "format_version": "1", "keys_of": self.keys_of, "held_of": self.held_of}
        about["known"] = "yes" if self.known else "no"
        with whole(run / FILE) as temporary:
            save_file(tensors, temporary, about)

    @cached_property
    def seen(self) -> frozenset[bytes]:
        """Keys of all images that the model was trained on, in this run and before."""
        return frozenset([*self.trained, *self.earlier]) - {b""}

    @cached_property
    def held_out(self) -> frozenset[bytes]:
        """Keys of the images that were held out, and that the model never saw."""
        keys = frozenset(self.held) - {b""}
        return keys - self.seen if self.held_of == self.keys_of else keys

    @cached_property
    def digest(self) -> str:
        """Hex digits that tell what was trained on and held out."""
        parts = (self.keys_of, b"".join(sorted(self.seen)), self.held_of, b"".join(sorted(self.held_out)))
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def of_classes(self, classes: int) -> list[int] | None:
        """How many training images each of so many classes had in this run; None where that is not on record."""
        if not len(self.labels) or int(self.labels.max()) >= classes:
            return None
        counts: list[int] = torch.bincount(self.labels, minlength=classes).tolist()
        return counts

    def count(self, images: Any) -> int | None:
        """How many of these images the model was trained on, bit for bit; None where that cannot be told."""
        if getattr(images, "keys_of", None) != self.keys_of:
            return None
        shared = sum(key in self.seen for key in images.keys())  # noqa: SIM118 - not a dict
        return shared if shared or self.known else None

    def arranged(self, train: ImageSet, val: ImageSet | None, some: bool = False) -> tuple[ImageSet, ImageSet]:
        """The images of the run in the order that it began with; of one set for both (`val` None) its two parts.

        Names and places count for nothing, content and class do. `some`: there may be more training images.

        Raises:
            ValueError: images that are not those, in words that count how.
        """
        cut = len(self.trained)
        if val is None:
            labels = torch.cat([self.labels, self.held_labels])
            images = _arranged(train, [*self.trained, *self.held], labels, some)
            return images.subset(range(cut)), images.subset(range(cut, len(images)))
        return _arranged(train, self.trained, self.labels, some), _arranged(val, self.held, self.held_labels)


def _arranged(images: ImageSet, keys: Sequence[bytes], labels: Tensor, some: bool = False) -> ImageSet:
    then = list(zip(keys, labels.tolist(), strict=True))
    now = list(zip(images.keys(), images.labels.tolist(), strict=True))
    if then == now:
        return images
    places: dict[tuple[bytes, int], list[int]] = {}
    for place in range(len(now) - 1, -1, -1):
        places.setdefault(now[place], []).append(place)
    changed = bool(Counter(then) - Counter(now))
    chosen = [] if changed else [places[each].pop() for each in then]
    if not changed and not some and len(now) > len(then):
        # Validation images that could not be read were no images of the run, and are none now.
        changed = len(images.subset(sorted(set(range(len(now))).difference(chosen))).readable()[0]) > 0
    if changed:
        raise ValueError(f"the data changed since the run began: {_difference(then, now)}")
    return images.subset(chosen)


def _difference(then: list[tuple[bytes, int]], now: list[tuple[bytes, int]]) -> str:
    gone = (Counter(key for key, _ in then) - Counter(key for key, _ in now)).total()
    new = (Counter(key for key, _ in now) - Counter(key for key, _ in then)).total()
    moved = (Counter(then) - Counter(now)).total() - gone
    counts = ((gone, "gone or changed"), (new, "new"), (moved, "in another class"))
    return f"of {len(then):,} images " + ", ".join(f"{count:,} {words}" for count, words in counts if count)


def _joined(keys: Sequence[bytes]) -> Tensor:
    """uint8 [N, 16]; zeros for what could not be read."""
    together = bytearray(b"".join(key or bytes(_WIDTH) for key in keys))
    return torch.frombuffer(together, dtype=torch.uint8).view(-1, _WIDTH) if together else torch.zeros(0, _WIDTH).byte()


def _parted(keys: Tensor) -> list[bytes]:
    together = keys.numpy().tobytes()
    parts = (together[i : i + _WIDTH] for i in range(0, len(together), _WIDTH))
    return [part if any(part) else b"" for part in parts]
