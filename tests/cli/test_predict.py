import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import kedge
from kedge.cli import file_answers, predict
from kedge.cli.resolve_model import Source
from kedge.rejection import rule_from


def test_json_is_the_models_own_answer(command, digit_model, model_folder, photos):
    code, out, err = command("predict", model_folder, photos, "--format", "json")
    rows = json.loads(out)
    assert code == 3
    assert [r["path"] for r in rows] == sorted(r["path"] for r in rows)
    good = [r for r in rows if r["error"] is None]
    assert len(good) == 10
    assert {r["path"].rsplit("/", 1)[1] for r in rows if r["error"]} == {"broken.jpg", "empty.png"}
    from PIL import Image

    for row in good:
        pixels = torch.from_numpy(np.array(Image.open(row["path"]).convert("L"))).float()[None, None] / 255
        expected = digit_model.predict(pixels)
        assert row["label"] == str(int(expected.label))
        assert row["confidence"] == pytest.approx(float(expected.confidence), abs=1e-4)
        assert row["uncertainty"] == pytest.approx(float(expected.uncertainty), abs=1e-4)
        assert row["reject"] is (row["confidence"] < 0.15)
        assert row["log_odds"] == pytest.approx(np.log(row["confidence"] / (1 - row["confidence"])), abs=1e-4)
    assert "broken.jpg: " in err
    assert "10 of 12 images answered" in err
    assert "confidence below 0.150, set to keep 90% of the validation images" in err


def test_what_is_no_image_of_a_kind_that_is_read_is_answered_by_what_it_is(command, model_folder, photos):
    import os

    (photos / "ps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{} loop\n")
    os.mkfifo(photos / "pipe.png")
    asked = photos / "d1.png", photos / "ps.jpg", photos / "pipe.png", "/dev/zero"
    code, out, _ = command("predict", model_folder, *asked, "--format", "json")
    good, page, pipe, device = json.loads(out)
    assert code == 3
    assert good["error"] is None
    assert page["error"].startswith("it holds PostScript, which is not read under any name")
    assert pipe["error"] == "a named pipe, not a file"
    assert device["error"] == "a device, not a file"
    # In a folder a pipe is passed over, as it is no file.
    assert "pipe.png" not in command("predict", model_folder, photos, "--format", "json")[1]


def test_csv_and_table(command, model_folder, photos):
    _, out, _ = command("predict", model_folder, photos / "d1.png", photos / "broken.jpg", "--format", "csv")
    first, second = csv.DictReader(io.StringIO(out))
    columns = "path answer label confidence uncertainty reject unknown error log_odds"
    assert list(first) == columns.split()
    assert first["error"] == ""
    assert second["label"] == ""
    assert second["error"]
    code, out, _ = command("predict", model_folder, photos / "d1.png", photos / "broken.jpg", "--threshold", "1")
    lines = out.splitlines()
    assert lines[0].split() == ["image", "answer", "label", "confidence", "uncertainty"]
    assert lines[1].split()[1] == "unsure"
    assert "(unreadable)" in lines[2]
    assert code == 3


def test_exit_codes(command, model_folder, photos):
    assert command("predict", model_folder, photos / "d1.png")[0] == 0
    code, out, err = command("predict", model_folder, photos / "nothing.png", "--format", "json")
    assert code == 1
    assert json.loads(out)[0]["error"] == "no such file"
    assert "nothing.png: no such file" in err


def test_nan_is_rejected_and_never_an_answer(command, digit_model, model_folder, photos, monkeypatch):
    with torch.no_grad():
        next(module for module in digit_model.modules() if isinstance(module, torch.nn.Linear)).bias[3] = torch.nan
    monkeypatch.setattr(Source, "load", lambda self, device: digit_model)
    asked = photos / "d1.png", photos / "broken.jpg"
    for threshold in ([], ["--threshold", "0"]):
        code, out, err = command("predict", model_folder, *asked, "--format", "json", *threshold)
        lost, unreadable = json.loads(out)
        assert code == 1
        assert (lost["label"], lost["confidence"], lost["reject"]) == (None, None, True)
        assert lost["error"] == "the model's output is NaN: no answer"
        assert unreadable["reject"] is None
        assert "0 of 2 images answered: 0 with a label, none unknown (the model has no rule for that), 0 unsure" in err
    lines = command("predict", model_folder, *asked)[1].splitlines()
    assert "(no answer)" in lines[1]
    assert "(unreadable)" in lines[2]


def test_batches_and_number_of_references(command, model_folder, photos):
    whole = json.loads(command("predict", model_folder, photos, "--format", "json")[1])
    alone = json.loads(command("predict", model_folder, photos, "--format", "json", "--batch_size", 1)[1])
    for a, b in zip(whole, alone, strict=True):
        assert a["path"] == b["path"]
        assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-5)
    one = json.loads(command("predict", model_folder, photos / "d1.png", "--format", "json", "--references", 1)[1])
    assert one[0]["uncertainty"] is None


def test_thresholds_of_the_whole_bank_are_said_to_meet_fewer_references(command, digit_model, photos, tmp_path):
    digit_model.reject = {"threshold": 0.5}
    digit_model.unknown = {"score": "energy", "threshold": -1e9}
    kedge.save(digit_model, tmp_path / "model")
    call = "predict", tmp_path / "model", photos / "d1.png"
    words = "careful: its threshold for unsure and unknown was set on answers with 4 references, and is met here by"
    assert words in command(*call, "--references", 1)[2]
    assert "threshold for unknown was set" in command(*call, "--references", 1, "--threshold", 0.5)[2]
    for others in ((), ("--references", 4), ("--references", "adaptive")):
        assert "careful" not in command(*call, *others)[2]


def test_adaptive_references_say_how_many_were_used(command, digit_model, model_folder, photos):
    _, out, err = command("predict", model_folder, photos, "--format", "json", "--references", "adaptive")
    rows = [row for row in json.loads(out) if row["error"] is None]
    used = [row["references_used"] for row in rows]
    assert all(2 <= n <= 4 for n in used)
    assert f"{sum(used) / len(used):.1f} references used for an image, on average" in err
    pixels = file_answers.read(photos / "d1.png", (1, 8, 8))[None].float() / 255
    (row,) = (row for row in rows if row["path"].endswith("d1.png"))
    expected = digit_model.predict(pixels, "adaptive")
    assert row["confidence"] == pytest.approx(float(expected.confidence), abs=1e-5)
    assert row["references_used"] == int(expected.references_used)
    out = command("predict", model_folder, photos, "--format", "csv", "--references", "adaptive")[1]
    assert list(next(csv.DictReader(io.StringIO(out))))[-1] == "references_used"
    assert "references used" not in command("predict", model_folder, photos)[2]
    assert command("predict", model_folder, photos, "--references", "adapting")[0] == 2


def test_an_exported_file_answers_as_the_folded_model(command, digit_model, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    path = kedge.deploy.export(digit_model, tmp_path / "digits.onnx").path
    code, out, err = command("predict", path, photos / "d1.png", photos / "d2.png", "--format", "json")
    assert code == 0
    pixels = torch.stack([file_answers.read(photos / f"d{i}.png", (1, 8, 8)) for i in (1, 2)]).float() / 255
    expected = digit_model.predict(pixels, references=1)
    for i, row in enumerate(json.loads(out)):
        assert row["label"] == str(int(expected.label[i]))
        assert row["confidence"] == pytest.approx(float(expected.confidence[i]), abs=1e-4)
        assert row["uncertainty"] is None
    assert "below 0.150" in err
    with pytest.raises(ValueError, match="--references is for anchored models"):
        command("predict", path, photos / "d1.png", "--references", 2)


def test_answers_with_a_confidence_of_1_are_told_apart(command, photos, tmp_path):
    """The model, its folder and its exported file, by a stored threshold and by one of the command line."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(3)
    network = kedge.networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    model = kedge.plain(network, example=(1, 8, 8)).eval()
    files = sorted(photos.glob("d*.png"))[:6]
    pixels = torch.stack([file_answers.read(path, (1, 8, 8)) for path in files]).float() / 255
    two = model(pixels).topk(2).values
    with torch.no_grad():
        for parameter in model.network.fc.parameters():
            parameter.mul_(28 / (two[:, 0] - two[:, 1]).median())
    said = model.predict(pixels)
    ordered = said.log_odds.sort().values
    # Between two images: exactly at one of them the rounding of onnxruntime decides.
    model.reject = rule_from(float(ordered[2:4].mean()))
    rejected = (said.log_odds < ordered[3]).tolist()
    assert said.confidence.tolist() == [1.0] * 6
    path = kedge.deploy.export(model, tmp_path / "sure.onnx", check_images=pixels).path
    folder = kedge.save(model, tmp_path / "sure")
    for source in (folder, path):
        code, out, err = command("predict", source, *files, "--format", "json")
        rows = json.loads(out)
        assert (code, [row["reject"] for row in rows]) == (0, rejected)
        np.testing.assert_allclose([row["log_odds"] for row in rows], said.log_odds, rtol=1e-4)
        assert f"{sum(rejected)} unsure (confidence below 1 - " in err
    middle = float(ordered[1:3].mean())
    asked = f"{1 / (1 + np.exp(-middle)):.17g}"
    out = command("predict", folder, *files, "--format", "json", "--threshold", asked)[1]
    assert [row["reject"] for row in json.loads(out)] == (said.log_odds < middle).tolist()


def test_find_images(photos, tmp_path):
    found = predict.find_images([str(photos)])
    assert len(found) == 12  # ten digits, two broken; no text, nothing hidden
    assert predict.find_images([str(photos / "*.png")]) == sorted(map(str, photos.glob("*.png")))
    assert len(predict.find_images([str(photos / "**/*.png")])) == 11
    assert predict.find_images([str(photos / "d1.png"), str(photos)])[0] == str(photos / "d1.png")
    assert len(predict.find_images([str(photos), str(photos)])) == 12
    odd = photos / "[1].png"
    odd.write_bytes(b"")
    assert predict.find_images([str(odd)]) == [str(odd)]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        predict.find_images([str(photos / "*.bmp")])
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in the folder"):
        predict.find_images([str(tmp_path / "bare")])


def test_kinds_that_are_not_read_are_answered_by_why(command, model_folder, photos, tmp_path):
    (photos / "deep" / "IMG_1.DNG").write_bytes(b"no image to us")
    (photos / ".x.dng").write_bytes(b"")
    code, out, err = command("predict", model_folder, photos, "--format", "csv")
    assert code == 3
    assert len(out.splitlines()) == 1 + 13
    assert "IMG_1.DNG: .dng is a kind that is not read. Convert them to JPEG or PNG" in err
    assert "10 of 13 images answered" in err
    only = tmp_path / "phone"
    only.mkdir()
    (only / "a.dng").write_bytes(b"x")
    assert command("predict", model_folder, only)[0] == 1


def test_photos_of_phones_are_answered_as_the_same_picture_elsewhere(command, model_folder, tmp_path):
    from PIL import Image

    from kedge.data.formats import PLUGINS

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 2), dtype=np.uint8)).resize((64, 64))
    (tmp_path / "phone").mkdir()
    picture.save(tmp_path / "phone" / "a.png")
    for plugin in PLUGINS:
        plugin.prepare()
        picture.save(tmp_path / "phone" / f"b{plugin.suffixes[0]}", plugin.format, quality=95)
    code, out, _ = command("predict", model_folder, tmp_path / "phone", "--format", "json")
    rows = json.loads(out)
    assert code == 0
    assert [Path(row["path"]).name for row in rows] == ["a.png", "b.avif", "b.heic", "b.jp2"]
    assert {row["label"] for row in rows} == {rows[0]["label"]}
    assert [row["confidence"] for row in rows] == pytest.approx([rows[0]["confidence"]] * 4, abs=0.01)


def test_photos_are_prepared_as_in_evaluation(tmp_path):
    from PIL import Image

    from kedge import data

    generator = np.random.default_rng(0)
    for i in range(3):
        pixels = generator.integers(0, 256, (90, 130, 3), dtype=np.uint8)
        (tmp_path / "set" / f"c{i}").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / f"c{i}" / "x.png")
    images = data.load(tmp_path / "set", "train", image_size=72)
    for i in range(3):
        assert torch.equal(file_answers.read(tmp_path / "set" / f"c{i}" / "x.png", (3, 72, 72)), images[i][0])
    assert file_answers.read(tmp_path / "set" / "c0" / "x.png", (1, 30, 40)).shape == (1, 30, 40)


def test_bad_arguments_are_explained(command, model_folder, photos, monkeypatch):
    with pytest.raises(ValueError, match=r"--threshold is a probability, 0 to 1, got 1\.5"):
        command("predict", model_folder, photos, "--threshold", 1.5)
    with pytest.raises(ValueError, match="--batch_size must be 1 or more"):
        command("predict", model_folder, photos, "--batch_size", 0)
    vectors = kedge.plain(torch.nn.Linear(3, 2), example=(3,), task="regression")
    monkeypatch.setattr(Source, "load", lambda self, device: vectors)
    with pytest.raises(ValueError, match="is a regression model for inputs of shape"):
        command("predict", model_folder, photos)


def test_a_model_of_oblong_images_sees_no_squashed_ones(tmp_path):
    from PIL import Image

    from kedge.cli.file_answers import read

    # A disc in the middle of a wide picture is as wide as it is high in a narrow one.
    y, x = torch.meshgrid(torch.arange(60) - 29.5, torch.arange(200) - 99.5, indexing="ij")
    Image.fromarray(((x**2 + y**2 < 400) * torch.tensor(255.0)).byte().numpy()).save(tmp_path / "disc.png")
    disc = read(tmp_path / "disc.png", (1, 30, 40))[0] > 127
    assert disc.shape == (30, 40)
    assert int(disc.any(0).sum()) == int(disc.any(1).sum()) == 20


def with_sets(folder, tmp_path, coverage=0.9, name="with_sets", **stated):
    """The model of a folder with prediction sets, saved anew."""
    model = kedge.load(folder)
    kedge.training.calibrate(model, kedge.data.load("digits", "val"), "prediction_sets", coverage=coverage, **stated)
    return model, kedge.save(model, tmp_path / name)


def digits_as_files(tmp_path, n=60):
    from PIL import Image

    folder = tmp_path / "digits"
    folder.mkdir()
    for i, image in enumerate(kedge.data.load("digits", "test").images[:n]):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    return folder


def test_prediction_sets_stand_beside_the_answers(command, model_folder, photos, tmp_path):
    model, folder = with_sets(model_folder, tmp_path, sets="aps")
    code, out, err = command("predict", folder, photos, "--sets", "0.9", "--format", "json")
    assert code == 3
    rows = json.loads(out)
    from PIL import Image

    for row in rows:
        if row["error"] is not None:
            assert row["set"] is None
            continue
        pixels = torch.from_numpy(np.array(Image.open(row["path"]).convert("L"))).float()[None, None] / 255
        prediction = model.predict(pixels)
        fits = model.set_rule(0.9).sets(prediction)[0]
        assert set(row["set"]) == {str(k) for k in fits.nonzero()[:, 0].tolist()}
        assert row["set"][0] == row["label"]  # the most probable first, and aps has it always
        probs = prediction.probs[0, [int(k) for k in row["set"]]]
        assert torch.equal(probs, probs.sort(descending=True).values)
        assert row["expected_right"] in (True, False)
    good = [row for row in rows if row["error"] is None]
    assert (
        f"{np.mean([len(row['set']) for row in good]):.2f} classes in a set on average, 0 of 10 sets are empty" in err
    )
    assert "whether the coverage of 90 % holds for 10 images cannot be told: that takes 50 or more" in err
    _, plain, _ = command("predict", folder, photos, "--format", "json")
    assert [{k: v for k, v in row.items() if k not in ("set", "expected_right", "unfamiliar")} for row in rows] == (
        json.loads(plain)
    )
    _, table, _ = command("predict", folder, photos, "--sets", "0.9")
    assert table.splitlines()[0].split() == ["image", "answer", "label", "confidence", "uncertainty", "set"]
    _, text, _ = command("predict", folder, photos / "d1.png", "--sets", "0.9", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert json.loads(row["set"])[0] == row["label"]


def test_the_promise_is_said_to_hold_or_not(command, model_folder, tmp_path):
    model, folder = with_sets(model_folder, tmp_path)
    shown = digits_as_files(tmp_path)
    _, _, err = command("predict", folder, shown, "--sets", "0.9", "--out", tmp_path / "a.csv")
    assert "nothing speaks against the coverage of 90 % for these images: an expected" in err
    value = model.steps["prediction_sets"]["value"]
    model.set_step("prediction_sets", {**value, "usual": {**value["usual"], "energy": 1e6}})
    command("predict", kedge.save(model, folder), shown, "--sets", "0.9", "--out", tmp_path / "b.csv")
    _, _, err = command("predict", folder, shown, "--sets", "0.9")
    assert "careful: the coverage of 90 % is not to be relied on for these images, they are unlike those" in err
    assert "100% look unfamiliar, against 5%" in err


def test_sets_that_cannot_be_had_are_refused_before_anything_is_read(command, model_folder, photos, tmp_path):
    with pytest.raises(ValueError, match=r"no prediction sets: kedge calibrate MODEL --coverage 0\.9 sets"):
        command("predict", model_folder, photos, "--sets", "0.9")
    _, folder = with_sets(model_folder, tmp_path)
    with pytest.raises(ValueError, match=r"is for a coverage of 0\.9, and 0\.95 has another"):
        command("predict", folder, photos, "--sets", "0.95")
    for references, words in (("1", "answers with 1:"), ("adaptive", "references='adaptive'")):
        with pytest.raises(ValueError, match=f"set on answers with 4 references.*{words}"):
            command("predict", folder, photos, "--sets", "0.9", "--references", references)


def test_members_of_a_mean_vote_on_the_set(command, model_folder, photos, tmp_path):
    one, first = with_sets(model_folder, tmp_path, 0.95, "one")
    two, second = with_sets(model_folder, tmp_path, 0.95, "two", sets="aps")
    code, out, _ = command("predict", f"mean({first},{second})", photos / "d1.png", "--sets", "0.9", "--format", "json")
    assert code == 0
    (row,) = json.loads(out)
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(photos / "d1.png").convert("L"))).float()[None, None] / 255
    both = [model.set_rule().sets(model.predict(pixels))[0] for model in (one, two)]
    assert set(row["set"]) == {str(k) for k in (both[0] & both[1]).nonzero()[:, 0].tolist()}
    with pytest.raises(ValueError, match=r"for 0\.95 of their majority, each needs 0\.975"):
        command("predict", f"mean({first},{second})", photos / "d1.png", "--sets", "0.95")


def test_what_is_not_read_of_files_is_said_in_a_line(command, model_folder, photos):
    from PIL import Image

    frames = [Image.new("L", (8, 8), grey) for grey in (0, 100, 200)]
    frames[0].save(photos / "moves.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (8, 8)).save(photos / "clear.png")
    for arguments in ((), ("--out", photos.parent / "answers.csv")):
        _, _, err = command("predict", model_folder, photos, *arguments)
        (line,) = [each for each in err.splitlines() if "the first image is read" in each]
        assert line == (
            f"kedge predict: 1 animated or of several pages (the first image is read), such as {photos / 'moves.gif'}; "
            "1 with an alpha channel (left out: what is transparent shows the colour stored there), such as "
            f"{photos / 'clear.png'}"
        )
    assert "the first image is read" not in command("predict", model_folder, photos / "d1.png")[2]
