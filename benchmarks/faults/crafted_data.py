"""Crafted images and data sets: PostScript, bombs, pipes and devices called .jpg; parquet, tar, folders that lie."""

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.crafted_texts import DEEP, NOT_TEXT, Prepare, both, fifo, folder, linked, put, without
from benchmarks.faults.tries import TINY, _digits

POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(MARKER) (w) file closefile\n{} loop\n%%EOF\n"


def _png(width: int, height: int, data: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = b"".join(chunk(*each) for each in chunks) + chunk(b"IDAT", data or zlib.compress(bytes(9 * 8)))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def saved(shape: str) -> bytes:
    """A digit in a format of Pillow."""
    out = io.BytesIO()
    _digits()[0].convert("RGB").save(out, shape)
    return out.getvalue()


def images() -> dict[str, bytes]:
    """Files that no image reader should take, by the name that they get."""
    bomb = zlib.compress(bytes(1 << 28), 9)
    text = zlib.compress(b"A" * (1 << 28), 9)
    return {
        "postscript.jpg": POSTSCRIPT.encode(),
        "postscript.png": POSTSCRIPT.encode(),
        "postscript.bmp": b"\xc5\xd0\xd3\xc6"
        + struct.pack("<II", 32, len(POSTSCRIPT))
        + bytes(20)
        + POSTSCRIPT.encode(),
        "pdf.jpg": b"%PDF-1.4\n1 0 obj << >> endobj\n%%EOF\n",
        "text.jpg": b"no image",
        "empty.jpg": b"",
        "html.jpg": b"<html><script>alert(1)</script></html>",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/hostname'/></svg>",
        "pixels-bomb.png": _png(60000, 60000, bomb),
        "wide-bomb.png": _png(2**31 - 1, 1, bomb),
        "text-bomb.png": _png(8, 8, b"", (b"zTXt", b"k\0\0" + text), (b"iCCP", b"k\0\0" + text)),
        "lying-size.png": _png(4000, 4000),
        "no-size.png": _png(0, 0),
        "torn.png": saved("PNG")[:60],
        "torn.jpg": saved("JPEG")[:200],
        "lying.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20),
        "lying.tiff": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + NOT_TEXT,
        "loop.tiff": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8),
        "negative.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 62, 0, 0, 54, 40, -8, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        "lying.webp": b"RIFF" + struct.pack("<I", 2**31) + b"WEBPVP8 " + bytes(64),
        "binary.jpg": NOT_TEXT,
        "mpo.jpg": saved("JPEG")[:-2] + b"\xff\xe2\xff\xffMPF\0" + NOT_TEXT,
        "exif.jpg": saved("JPEG")[:2] + b"\xff\xe1\xff\xf0Exif\0\0" + b"MM\0*" + b"\xff" * 65514 + saved("JPEG")[2:],
        "fits.jpg": b"SIMPLE  =                    T" + b" " * 50 + b"NAXIS1  = 99999999999999" + b" " * 3000,
        "wmf.jpg": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "icns.png": b"icns" + struct.pack(">I", 2**31 - 1) + b"ic10" + struct.pack(">I", 8),
        "mic.jpg": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "psd.jpg": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + bytes(64),
        "palm.jpg": b"P7\n332\n99999999 99999999\n255\n",
        "pnm-huge.png": b"P6\n99999999 99999999\n255\n",
        "spider.jpg": struct.pack(">27f", *[1.0] * 27) * 100,
    }


def table(
    rows: Callable[[], list[dict[str, Any]]] | None = None, features: str | None = None, name: str = "x.parquet"
) -> Prepare:
    """A parquet file of digits in the Hugging Face layout, with other rows or another text as metadata."""

    def prepare(work: Path, marker: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        made = rows() if rows is not None else digit_rows()
        for row in made:
            if isinstance(row.get("image"), dict) and isinstance(row["image"].get("bytes"), bytes):
                row["image"]["bytes"] = row["image"]["bytes"].replace(b"MARKER", str(marker).encode())
        written = pa.Table.from_pylist(made)
        if features is not None:
            written = written.replace_schema_metadata({"huggingface": features})
        pq.write_table(written, work / name)

    return prepare


def digit_rows(label: Any = None, image: Any = None, count: int = 12) -> list[dict[str, Any]]:
    """Rows of digits; `label` and `image` take the place of those of the first row."""
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": saved("PNG"), "path": f"{n}.png"}, "label": n % 2} for n in range(count)
    ]
    if label is not None:
        for row in rows if isinstance(label, str | float | list) else rows[:1]:
            row["label"] = label
    if image is not None:
        rows[0]["image"] = image
    return rows


def archive(name: str, *members: tuple[str, bytes, str]) -> Prepare:
    """A tar file with members that lead outside: files, links, devices."""

    def prepare(work: Path, marker: Path) -> None:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(work / name, "w") as file:
            for n in range(8):
                for suffix, content in (("png", saved("PNG")), ("cls", str(n % 2).encode())):
                    member = tarfile.TarInfo(f"{n:04d}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
            for path, content, kind in members:
                member = tarfile.TarInfo(path)
                if kind:
                    member.type, member.linkname = kind.encode(), content.decode().replace("MARKER", str(marker))
                    file.addfile(member)
                else:
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content.replace(b"MARKER", str(marker).encode())))

    return prepare


def photos(name: str, content: bytes | None = None, good: int = 6) -> Prepare:
    """A folder of two classes, and a stranger's file in the first."""

    def prepare(work: Path, marker: Path) -> None:
        for label in ("a", "b"):
            (work / "photos" / label).mkdir(parents=True, exist_ok=True)
            for n in range(good):
                _digits()[n % 4].save(work / "photos" / label / f"{n}.png")
        if content is not None:
            put(f"photos/a/{name}", content)(work, marker)

    return prepare


def raw_name(work: Path, marker: Path) -> None:
    """A photo whose name is no UTF-8, one with an escape sequence and one that a spreadsheet would compute."""
    for name in (b"\xff\xfe.png", b"\x1b[31mred\n.png", b"=cmd.png"):
        with open(os.fsencode(work / "images") + b"/" + name, "wb") as file:
            file.write(saved("PNG"))


def crafts() -> Iterator[tuple[Any, ...]]:
    for name, content in images().items():
        command = ["predict", "base", "images", "--format", "csv"]
        may = name in ("exif.jpg", "mpo.jpg", "text-bomb.png", "torn.jpg")  # some readers answer: the pixels are there
        yield f"image/{name}", "run", put(f"images/{name}", content), command, not may, False, "3.png"
    odd: dict[str, Prepare] = {
        "fifo.jpg": fifo("images/fifo.jpg"),
        "dev-zero.jpg": linked("images/dev-zero.jpg", "/dev/zero"),
        "dangling.jpg": linked("images/dangling.jpg", "/nowhere"),
        "loop.jpg": linked("images/loop.jpg", "loop.jpg"),
        "folder.jpg": folder("images/folder.jpg"),
        "loop-folder": linked("images/again", "."),
    }
    for name, prepare in odd.items():
        found = ["predict", "base", "images", "--format", "csv"]  # a search may pass by what is no file
        yield f"image/{name}", "run", prepare, found, False, False, "3.png"
        if name != "loop-folder":
            named = ["predict", "base", f"images/{name}", "images/3.png", "--format", "csv"]
            yield f"image/{name}-named", "run", prepare, named, True, False, None if name == "folder.jpg" else "3.png"
    for shape in ("table", "csv", "json"):
        command = ["predict", "base", "images", "--format", shape]
        yield f"image/names-{shape}", "run", raw_name, command, False, False, "3.png"
    fit = ["train", *without(TINY, "data: x\ntrain_images: x\n"), "--name", "p", "--val_fraction", "0.5"]
    fit_photos = [*fit, "--data", "photos"]
    for name in ("postscript.jpg", "pixels-bomb.png", "text.jpg", "torn.png"):
        yield f"folder/{name}", "empty", photos(name, images()[name]), fit_photos, False
    yield "folder/fifo.jpg", "empty", both(photos("x"), fifo("photos/a/fifo.jpg")), fit_photos, False
    yield "folder/dev-zero.jpg", "empty", both(photos("x"), linked("photos/a/z.jpg", "/dev/zero")), fit_photos, False
    yield "folder/loop", "empty", both(photos("x"), linked("photos/a/again", "..")), fit_photos, False
    yield "folder/empty", "empty", photos("x", good=0), fit_photos
    rows: dict[str, tuple[Prepare, bool]] = {
        "good": (table(), False),
        "postscript": (
            table(lambda: digit_rows(image={"bytes": POSTSCRIPT.encode(), "path": "0.jpg"})), False,
        ),
        "path-outside": (table(lambda: digit_rows(image={"bytes": None, "path": "../../../../etc/hostname"})), False),
        "path-url": (table(lambda: digit_rows(image={"bytes": None, "path": "http://127.0.0.1:9/x.png"})), False),
        "image-null": (table(lambda: digit_rows(image={"bytes": None, "path": None})), False),
        "label-huge": (table(lambda: digit_rows(label=10**12)), True),
        "label-negative": (table(lambda: digit_rows(label=-1)), True),
        "label-null": (table(lambda: [{**r, "label": None} for r in digit_rows()]), True),
        "label-nan": (table(lambda: digit_rows(label=float("nan"))), True),
        "label-list": (table(lambda: digit_rows(label=[1, 2])), True),
        "no-label": (table(lambda: [{"image": r["image"]} for r in digit_rows()]), True),
        "no-rows": (table(lambda: [{"image": r["image"], "label": 0} for r in digit_rows()][:1]), True),
        "images-numbers": (table(lambda: [{"image": n, "label": n % 2} for n in range(12)]), True),
        "features-text": (table(features="not JSON"), False),
        "features-list": (table(features="[1, 2]"), False),
        "features-null": (table(features='{"info": null}'), False),
        "features-odd": (table(features='{"info": {"features": [1, 2]}}'), False),
        "features-deep": (table(features="[" * DEEP + "]" * DEEP), False),
        "features-names": (
            table(features='{"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", '
                  '"names": 7}}}}'), True,
        ),
        "features-code": (
            table(features='{"info": {"features": {"image": {"_type": "os.system"}, "label": {"_type": "eval"}}}}'),
            False,
        ),
        "text": (put("x.parquet", "no table"), True),
        "empty": (put("x.parquet", b""), True),
        "footer": (put("x.parquet", b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1"), True),
        "binary": (put("x.parquet", b"PAR1" + NOT_TEXT + struct.pack("<I", 2000) + b"PAR1"), True),
        "fifo": (fifo("x.parquet"), True),
    }  # fmt: skip
    for name, (prepare, must_fail) in rows.items():
        yield f"parquet/{name}", "empty", prepare, [*fit, "--data", "x.parquet"], must_fail
    tars: dict[str, Prepare] = {
        "good": archive("shards/train-000000.tar"),
        "outside": archive("shards/train-000000.tar", ("../../outside.png", saved("PNG"), "")),
        "absolute": archive("shards/train-000000.tar", ("/MARKER.png", b"MARKER", "")),
        "symlink": archive("shards/train-000000.tar", ("0009.png", b"MARKER", "2"), ("0009.png", b"x", "")),
        "device": archive("shards/train-000000.tar", ("0009.png", b"", "3")),
        "fifo-inside": archive("shards/train-000000.tar", ("0009.png", b"", "6")),
        "pickle": archive("shards/train-000000.tar", ("0009.pyd", b"cposix\nsystem\n(S'touch MARKER'\ntR.", "")),
        "postscript": archive("shards/train-000000.tar", ("0009.jpg", POSTSCRIPT.encode(), ""), ("0009.cls", b"1", "")),
        "text": put("shards/train-000000.tar", "no archive"),
        "torn": both(archive("shards/train-000000.tar"), lambda work, marker: os.truncate(
            work / "shards/train-000000.tar", 3000)),
    }  # fmt: skip
    for name, prepare in tars.items():
        yield f"shards/{name}", "empty", prepare, [*fit, "--data", "shards"], False
        yield f"shards/{name}-file", "empty", prepare, [*fit, "--data", "shards/train-000000.tar"], False
