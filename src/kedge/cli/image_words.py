"""Images by a word: a folder, data by its name, a part of it, or either with its images corrupted."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.data import ImageSet
    from kedge.data.decode import Size

SEVERITY = 3  # of a corruption that says none
MOST = 4 << 30  # bytes of corrupted images that are held


@dataclass(frozen=True)
class Word:
    """`PLACE[:SPLIT][@CORRUPTION[:SEVERITY]]`; a path that exists is a path, whatever signs it holds.

    Attributes:
        written: as it stands on the command line.
        place: a folder, or the name of data.
        split: part of the data; None: test, else its last part.
        corruption, severity: what its images are corrupted by; None: nothing.
    """

    written: str
    place: str
    split: str | None = None
    corruption: str | None = None
    severity: int = SEVERITY

    @staticmethod
    def of(word: str) -> "Word":
        """What a word says. Raises ValueError for a corruption or severity that is none."""
        from kedge import data
        from kedge.data.corruptions import check

        if Path(word).expanduser().exists():
            return Word(word, word)
        place, at, corruption = word.rpartition("@")
        if not at:
            place, corruption = word, ""
        name, colon, level = corruption.partition(":")
        if at and not (level.isdigit() if colon else True):
            raise ValueError(f"{word}: a severity is 1 to 5, got {level!r}")
        severity = int(level) if level else SEVERITY
        if at:
            check(name, severity)
        if not Path(place).expanduser().exists():
            head, colon, split = place.rpartition(":")
            if colon and head and _offers(head, split):
                return Word(word, head, split, name or None, severity)
            data.splits(place)  # says what there is
        return Word(word, place, None, name or None, severity)

    def load(self, size: "Size | None", channels: int | None) -> "ImageSet":
        """The images before they are corrupted; of small files only headers are read."""
        from kedge import data
        from kedge.data.image_files import images_under

        how: dict[str, Any] = {"image_size": size, "channels": channels, "decode": False}
        folder = Path(self.place).expanduser()
        if self.split is None and folder.is_dir() and images_under(folder):
            images = data.load_unlabelled(folder, **how)
        else:
            offered = data.splits(self.place)
            split = self.split or ("test" if "test" in offered else offered[-1])
            images = data.load(self.place, split, **how)
        print(f"{self.written}: {images.report.summary()}", file=sys.stderr)
        images.name = self.written
        return images

    def corrupted(self, images: "ImageSet", limit: int | None, seed: int) -> "ImageSet":
        """The images with the corruption, in the 256 levels of a file; as they are without one.

        Raises:
            ValueError: for more images than fit in 4 GB.
        """
        if self.corruption is None:
            return images
        import torch

        from kedge.data import TensorSet
        from kedge.data.corruptions import corrupt
        from kedge.evaluation.sets import limited

        some, positions = limited(images, limit, seed)
        if len(some) * torch.Size(some.image_shape).numel() > MOST:
            raise ValueError(f"{self.written}: {len(some)} corrupted images do not fit in memory; take --limit 1000")
        done, start = [], 0
        for batch, _ in some.batches(256):
            where = positions[start : start + len(batch)]
            worse = corrupt(batch.float() / 255, self.corruption, self.severity, indices=where, seed=seed)
            done.append((worse * 255).round().byte())
            start += len(batch)
        return TensorSet(torch.cat(done), some.labels, some.class_names, self.written, some.split, some.report,
                         some.paths)  # fmt: skip


def same_images(first: "ImageSet", second: "ImageSet") -> bool:
    """Whether two sets are the same images in the same order, by their content: one folder has many spellings."""
    if len(first) != len(second) or first.keys_of != second.keys_of:
        return False
    return first.keys(sampled=True) == second.keys(sampled=True)


def _offers(place: str, split: str) -> bool:
    from kedge import data
    from kedge.data.folders import canonical_split

    try:
        return (canonical_split(split) or split) in data.splits(place)
    except data.DataError:
        return False
