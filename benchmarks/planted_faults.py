"""Folders of images with faults planted in them, and the list of what was planted where.

Of all images 2 % get a wrong label, 1 % become dark and 1 % blurred, each image at most one of these. Copies of as many
training images as 5 % of them are put into the test part, a quarter each: byte for byte, as JPEG of quality 60, at 70 %
of the size (150 % of images below 16 px), and cut to 90 % of each side at a random place (7 of 8 pixels of a digit).
"""

import io
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageEnhance, ImageFilter

from kedge.data.folders import data_folder

WRONG, COPIED, DARK, BLURRED = 0.02, 0.05, 0.01, 0.01
KINDS = ("exact", "jpeg", "resized", "cropped")


def plant(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Write a set with faults as folders; gives {wrong: {file: class}, copies: {file: (original, kind)}}.

    Files are called by their number: nothing in a name tells what was done to an image.
    """
    images, draws = _encoded(name), random.Random(f"{name} {seed}")
    draws.shuffle(images)
    classes = sorted({label for _, _, label in images})
    train = [i for i, (part, _, _) in enumerate(images) if part == "train"]
    chosen = draws.sample(range(len(images)), round((WRONG + DARK + BLURRED) * len(images)))
    wrong = {i: draws.choice([c for c in classes if c != images[i][2]]) for i in chosen[: round(WRONG * len(images))]}
    dark = set(chosen[len(wrong) : len(wrong) + round(DARK * len(images))])
    blurred = set(chosen) - set(wrong) - dark
    faults: dict[str, Any] = {"wrong": {}, "dark": [], "blurred": [], "copies": {}, "images": 0}
    places: dict[int, str] = {}
    for i, (part, data, label) in enumerate(images):
        changed = _darkened(data) if i in dark else _blurred(data) if i in blurred else data
        places[i] = _write(folder, part, wrong.get(i, label), f"{i:05}", changed)
        if i in wrong:
            faults["wrong"][places[i]] = label
    faults["dark"], faults["blurred"] = [places[i] for i in sorted(dark)], [places[i] for i in sorted(blurred)]
    spared = set(chosen)
    sources = draws.sample([i for i in train if i not in spared], round(COPIED * len(train)))
    for number, i in enumerate(sources):
        kind = KINDS[number % len(KINDS)]
        copy = _write(folder, "test", images[i][2], f"{len(images) + number:05}", _copied(images[i][1], kind, draws))
        faults["copies"][copy] = (places[i], kind)
    faults["images"] = len(images) + len(sources)
    return faults


def _encoded(name: str) -> list[tuple[str, bytes, str]]:
    """(part, encoded image, class) of each image of a set."""
    if name == "digits":
        from kedge.data import load

        rows = []
        for part in ("train", "val", "test"):
            images = load("digits", part)
            for i in range(len(images)):
                image = Image.fromarray(images[i][0][0].numpy())
                rows.append(("test" if part == "test" else "train", _bytes(image, "PNG"), str(int(images.labels[i]))))
        return rows
    root = data_folder()
    if root is None:
        raise SystemExit("KEDGE_DATA names the folder of the image sets")
    rows = []
    for part in ("train", "test"):
        for file in sorted((root / name).glob(f"{part}-*.parquet")):
            table = pq.read_table(file)
            rows += [(part, row["image"]["bytes"], f"class{row['label']}") for row in table.to_pylist()]
    return rows


def _write(folder: Path, part: str, label: str, name: str, data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpg"
    path = folder / part / label / f"{name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path.relative_to(folder))


def _bytes(image: Image.Image, kind: str, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return stream.getvalue()


def _same_kind(image: Image.Image, data: bytes) -> bytes:
    return _bytes(image, "PNG" if data.startswith(b"\x89PNG") else "JPEG")


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    return image if image.mode == "L" else image.convert("RGB")


def _darkened(data: bytes) -> bytes:
    """A quarter of the brightness or less, as of a photo taken without light."""
    return _same_kind(ImageEnhance.Brightness(_opened(data)).enhance(0.2), data)


def _blurred(data: bytes) -> bytes:
    """Out of focus by 2 % of the shorter side, a pixel at least."""
    image = _opened(data)
    return _same_kind(image.filter(ImageFilter.GaussianBlur(max(1.0, 0.02 * min(image.size)))), data)


def _copied(data: bytes, kind: str, draws: random.Random) -> bytes:
    if kind == "exact":
        return data
    image = _opened(data)
    width, height = image.size
    if kind == "jpeg":
        return _bytes(image, "JPEG", 60)
    if kind == "resized":
        share = 0.7 if min(image.size) >= 16 else 1.5
        return _same_kind(image.resize((round(share * width), round(share * height)), Image.Resampling.LANCZOS), data)
    across, down = round(0.9 * width), round(0.9 * height)
    left, top = draws.randint(0, width - across), draws.randint(0, height - down)
    return _same_kind(image.crop((left, top, left + across, top + down)), data)
