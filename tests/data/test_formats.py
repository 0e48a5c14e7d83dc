"""Images of strangers: only kinds that are read are opened, by no program of the system, and nothing waits for them."""

import ast
import io
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import kedge
import kedge.data as kd
from kedge.data import UnreadableImage, read_image
from kedge.data.corruptions.frost import read_textures
from kedge.data.decode import check, header
from kedge.data.fingerprints import key_of_file
from kedge.data.formats import EXTENSIONS, FORMATS, PLUGINS, UNREAD, opened
from kedge.data.origin import of_encoded
from tests.photo_folder import write_photos

# The second never ends, in an interpreter of PostScript.
SHOWPAGE = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n0 0 16 16 rectfill showpage\n%%EOF\n"
FOREVER = SHOWPAGE.replace(b"0 0 16 16 rectfill showpage", b"{} loop")


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A stand-in for Ghostscript, first of the programs here: the file that it leaves when it is run."""
    mark = tmp_path / "it-ran"
    for name in ("gs", "gswin32c", "gswin64c"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho 10.0\ntouch {mark}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    yield mark
    assert not mark.exists()


def within(seconds, call, *arguments):
    """What the call raises; fails if it takes longer."""
    outcome = []

    def run():
        try:
            outcome.append(call(*arguments))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"{call.__name__} still waits"
    return outcome[0]


def test_the_stand_in_would_be_run(tmp_path, monkeypatch, ghostscript):
    """What the tests below rest on: Pillow by itself hands PostScript to the program, whatever the file is called."""
    (tmp_path / "a.jpg").write_bytes(SHOWPAGE)
    with pytest.raises(Exception), Image.open(tmp_path / "a.jpg") as image:  # noqa: B017
        image.load()
    assert ghostscript.exists()
    ghostscript.unlink()


@pytest.mark.parametrize("content", [SHOWPAGE, FOREVER], ids=["page", "endless"])
def test_postscript_is_refused_wherever_an_image_is_read(tmp_path, ghostscript, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for source in (str(path), path, content):
        for read in (read_image, header, check, of_encoded):
            error = within(5, read, source)
            assert isinstance(error, UnreadableImage), read
            assert "it holds PostScript, which is not read under any name" in str(error)
    (tmp_path / "ice").mkdir()
    path.rename(tmp_path / "ice" / "texture.png")
    assert "PostScript" in str(within(5, read_textures, tmp_path / "ice"))


def test_postscript_among_photos_is_left_out_and_named(tmp_path, ghostscript):
    root = write_photos(tmp_path / "photos", each=60)
    (root / "ant" / "m007.png").write_bytes(FOREVER)
    images = kd.load(root)
    assert len(images) == 179
    assert images.report.skipped[0][1].startswith("it holds PostScript")


def test_postscript_in_a_row_of_parquet_is_left_out(tmp_path, ghostscript):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, "PNG")
    rows = [{"bytes": FOREVER if i == 3 else stream.getvalue(), "path": f"{i}.jpg"} for i in range(150)]
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(150)]}), tmp_path / "train.parquet")
    images = kd.load(tmp_path / "train.parquet")
    assert len(images) == 149
    assert "PostScript" in images.report.skipped[0][1]


def things(folder: Path) -> dict[str, tuple[Path, str]]:
    """What is no file, under the name of an image, and what it is called."""
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s.jpg"))
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    words = {"pipe": "a named pipe", "s": "a socket", "device": "a device", "folder": "a folder"}
    return {name: (folder / f"{name}.jpg", f"{what}, not a file") for name, what in words.items()}


def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    for path, words in things(Path("t")).values():
        for read in (read_image, header, check, of_encoded):
            error = within(5, read, path)
            assert isinstance(error, UnreadableImage)
            assert error.reason == words or str(error).endswith(f"{path} is {words}")
        assert within(5, key_of_file, str(path)) == b""


def test_a_named_pipe_among_photos_holds_up_nothing(tmp_path):
    root = write_photos(tmp_path / "photos", each=60)
    (root / "ant" / "m007.png").unlink()
    os.mkfifo(root / "ant" / "m007.png")
    images = within(20, kd.load, root)
    assert len(images) == 179
    assert "a named pipe, not a file" in images.report.skipped[0][1]


def test_every_kind_that_is_read_has_a_name_and_is_opened():
    Image.init()
    for plugin in PLUGINS:
        plugin.prepare()
    assert {Image.EXTENSION[suffix] for suffix in EXTENSIONS} == {*FORMATS, "MPO"}
    assert not set(EXTENSIONS) & set(UNREAD)
    for kind in FORMATS:
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(stream, kind)
        assert read_image(stream.getvalue()).shape == (3, 8, 8)
    stream = io.BytesIO()  # as some cameras write photos
    frame = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    frame.save(stream, "MPO", save_all=True, append_images=[frame])
    assert read_image(stream.getvalue()).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "DIB"])
def test_no_other_kind_is_opened(kind):
    Image.init()
    stream = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(stream, kind)
    with pytest.raises((ValueError, OSError)), opened(stream.getvalue()):
        pass


def test_one_place_opens_images():
    """By the source: nothing but `opened` calls Pillow's open, and torchvision's readers are not used."""
    callers = set()
    for path in Path(kedge.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).endswith("Image"):
                callers.add(path.name)
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not any(name.startswith(("torchvision.io", "torchvision.datasets")) for name in names), path
    assert callers == {"formats.py"}
