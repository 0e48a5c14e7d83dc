"""The example in JavaScript, run by node on photos: its answers are those of kedge predict."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from kedge.cli.file_answers import predict_files
from kedge.deploy import as_photo, export_photo, load_onnx
from tests.deploy.test_photo_export import photos, picture, small_model  # noqa: F401

EXAMPLE = Path(__file__).parents[2] / "examples" / "photo"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A copy of the example with its packages; skips where they cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here")
    folder = tmp_path_factory.mktemp("node") / "photo"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install took more than four minutes")
    if done.returncode:
        pytest.skip(f"npm cannot install the packages: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
def test_the_example_answers_as_kedge_predict_does(node, photos, tmp_path):  # noqa: F811
    pytest.importorskip("onnxruntime")
    path = export_photo(small_model(), tmp_path / "m.onnx", "onnx", photos).path
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(150, 101).save(tmp_path / "side.jpg", exif=exif, quality=90, subsampling=2)
    picture(131, 100).convert("RGBA").save(tmp_path / "alpha.png")
    picture(131, 100).convert("L").save(tmp_path / "grey.png")
    picture(131, 100).convert("L").save(tmp_path / "grey.jpg")
    picture(159, 140).save(tmp_path / "plain.png")
    picture(640, 480).save(tmp_path / "whole.png")  # kedge predict averages it down first, see below
    picture(79, 60).save(tmp_path / "small.jpg")
    files = sorted([*tmp_path.glob("*.png"), *tmp_path.glob("*.jpg")])
    loaded = load_onnx(path)
    expected = list(predict_files(loaded, files, loaded.reject))

    def run(**more):
        command = ["node", str(node / "photo.mjs"), str(path), *map(str, files)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **more}, timeout=120, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    rows = run()
    assert len(rows) == len(files) == 7
    whole = loaded.answer(as_photo(Image.open(files[-1])))
    last = rows.pop()
    assert (last["answer"], last["label"]) == (whole["answer"][0], int(whole["label"][0]))
    assert last["confidence"] == pytest.approx(float(whole["confidence"][0]), abs=1e-4)
    for row, own in zip(rows, expected[:-1], strict=True):
        assert row["photo"] == own["path"]
        assert loaded.class_names[row["label"]] == own["label"]
        assert row["confidence"] == pytest.approx(own["confidence"], abs=1e-4)
        assert row["answer"] == ("unsure" if own["reject"] else own["label"])
    assert {row["answer"] for row in run(LEAST="1000")} == {"unsure"}
