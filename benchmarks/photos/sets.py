"""Sets of photos as folders, so that every tool reads the same files: FOLDER/train/CLASS/*.jpg and FOLDER/test."""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from kedge.data.formats import opened
from kedge.files import whole


@dataclass(frozen=True)
class PhotoSet:
    """A part of a pack of photos.

    Attributes:
        pack: the folder of parquet files inside $KEDGE_DATA.
        first: train on the first so many photos of each class, in the order of the file; None: on all.
        test: test on the first so many of each class; None: on all.
        drawn: train on so many photos, drawn by the seed and balanced as far as the classes allow; None: not drawn.
        words: what the tables say.
    """

    pack: str
    words: str
    first: int | None = None
    test: int | None = None
    drawn: int | None = None

    def name(self, seed: int) -> str:
        """The folder's name: with the seed where the seed decides which photos are in it."""
        parts = [self.pack, *(f"{key}{value}" for key, value in (("first", self.first), ("test", self.test)) if value)]
        return "-".join(parts if self.drawn is None else [*parts, f"drawn{self.drawn}", f"seed{seed}"])


SETS = {
    "trashnet-20": PhotoSet("trashnet160", "litter, 20 photos, 6 classes", test=60, drawn=20),
    "trashnet-50": PhotoSet("trashnet160", "litter, 50 photos, 6 classes", test=60, drawn=50),
    "trashnet-200": PhotoSet("trashnet160", "litter, 200 photos, 6 classes", test=60, drawn=200),
    "ants-bees": PhotoSet("ants_bees256", "ants and bees, 244 photos, 2 classes"),
    "trashnet-600": PhotoSet("trashnet160", "litter, 600 photos, 6 classes", first=100, test=60),
    "trashnet-all": PhotoSet("trashnet160", "litter, all 1,892 photos, 6 classes"),
}


def folder_of(photos: PhotoSet, seed: int, root: Path) -> Path:
    """The folder of a set, written below `root` unless it is there; ValueError or FileNotFoundError in words."""
    folder = root / photos.name(seed)
    done = folder / "done"
    if not done.is_file():
        for split, limit in (("train", photos.first), ("test", photos.test)):
            images, labels, classes = read_pack(photos.pack, split)
            chosen = first_of_each(labels, limit)
            if split == "train" and photos.drawn is not None:
                chosen = balanced(labels, chosen, photos.drawn, seed)
            for row in chosen:
                with opened(images[row]) as image:
                    suffix = (image.format or "jpg").lower()
                name = f"{row:05d}.{'jpg' if suffix == 'jpeg' else suffix}"
                with whole(folder / split / classes[labels[row]] / name) as temporary:
                    temporary.write_bytes(images[row])
        with whole(done) as temporary:
            temporary.write_text("all photos are here\n")
    return folder


def read_pack(pack: str, split: str) -> tuple[list[bytes], list[int], list[str]]:
    """Encoded photos, labels and class names of one split of a pack, in the order of its files."""
    place = os.environ.get("KEDGE_DATA")
    files = sorted(Path(place or ".").glob(f"{pack}/{split}-*.parquet")) if place else []
    if not files:
        raise FileNotFoundError(
            f"no {pack}/{split}-*.parquet in $KEDGE_DATA ({place or 'not set'}): set it to the packs"
        )
    described = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])
    classes = described["info"]["features"]["label"]["names"]
    tables = [pq.read_table(file) for file in files]
    images = [photo["bytes"] for table in tables for photo in table["image"].to_pylist()]
    return images, [label for table in tables for label in table["label"].to_pylist()], classes


def first_of_each(labels: list[int], limit: int | None) -> list[int]:
    """Rows of the first `limit` photos of each class, in order; all for None."""
    rows = [[i for i, label in enumerate(labels) if label == c][:limit] for c in sorted(set(labels))]
    return sorted(row for of_class in rows for row in of_class)


def balanced(labels: list[int], rows: list[int], count: int, seed: int) -> list[int]:
    """`count` of `rows`, drawn by the seed: one of each class in turn, from the classes that have any left."""
    if count > len(rows):
        raise ValueError(f"{count} photos are wanted, and there are {len(rows)}")
    draw = random.Random(seed)
    left = {c: draw.sample(of_class, len(of_class)) for c in sorted(set(labels)) if (of_class := _of(labels, rows, c))}
    chosen: list[int] = []
    while len(chosen) < count:
        order = draw.sample(sorted(left), len(left))
        chosen += [left[c].pop() for c in order if left[c]][: count - len(chosen)]
    return sorted(chosen)


def _of(labels: list[int], rows: list[int], c: int) -> list[int]:
    return [row for row in rows if labels[row] == c]
