"""What is kept of every test image, and which are shown."""

import csv
import io
import json

import torch

from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.evaluation.each_image import file_names, repeated
from kedge.evaluation.figures import behind_cells, shared_out
from kedge.reporting import images_csv

EVERY = torch.arange(3)


def test_files_are_named_below_the_folder_they_share():
    assert file_names(None, EVERY) is None
    paths = [
        "/home/someone/photos/test/ant/1.jpg",
        "/home/someone/photos/test/bee/1.jpg",
        "/home/someone/photos/a/b.png",
    ]
    assert file_names(paths, EVERY) == ["test/ant/1.jpg", "test/bee/1.jpg", "a/b.png"]
    assert file_names(paths, torch.tensor([1])) == ["test/bee/1.jpg"]
    flat = ["/x/photos/1.jpg", "/x/photos/2.jpg", "/x/photos/3.jpg"]
    assert file_names(flat, EVERY) == ["photos/1.jpg", "photos/2.jpg", "photos/3.jpg"]
    assert file_names(["only.jpg"], EVERY[:1]) == ["only.jpg"]
    assert file_names(["", "a"], EVERY[:2]) == ["", "a"]
    assert file_names([], EVERY[:0]) == []


def test_what_is_there_again():
    assert repeated([b"a", b"b", b"a", b"a", b"", b""]) == 2


def test_each_cell_gets_an_image_before_any_gets_a_second():
    #                         cell 0→1 (three), 1→1 (two), 2→0 (one)
    columns = {
        "label": torch.tensor([0, 0, 0, 1, 1, 2]),
        "predicted": torch.tensor([1, 1, 1, 1, 1, 0]),
        "log_odds": torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 0.0]),
    }
    # The most certain mistake of each cell, the least certain right answer, then the next ones.
    assert behind_cells(columns, 6) == [1, 5, 4, 2, 3, 0]
    assert behind_cells(columns, 2) == [1, 5]
    assert behind_cells(columns, 6, chosen=[1, 4]) == [5, 2, 3, 0]
    assert behind_cells(columns, 0) == []


def test_several_models_share_the_images_that_are_shown():
    assert shared_out(24, 1) == (24, 160)
    assert shared_out(24, 2) == (12, 80)
    assert shared_out(24, 9) == (8, 17)
    assert shared_out(5, 3) == (5, 53)
    assert shared_out(0, 1) == (0, 0)


def small(paths=None, **names) -> TensorSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8, generator=generator)
    images[7] = images[3]
    return TensorSet(images, torch.arange(30) % 3, ["=cmd()", "b", "@c"], "few", "test", paths=paths, **names)


def answer(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, :3] * 4


def rows(results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(images_csv(results))))


def test_a_line_for_every_image_that_no_spreadsheet_computes():
    data = small([f"/far/off/=x{i}/+{i}.png" for i in range(30)])
    results = json.loads(json.dumps(evaluate({"=mine": answer}, data, shift=(), resamples=0)))
    lines = rows(results)
    logits = answer(data.images.float() / 255)
    assert len(lines) == 30
    assert [line["label"].lstrip("'") for line in lines] == [data.class_names[c] for c in logits.argmax(1).tolist()]
    assert [line["right"] == "True" for line in lines] == (logits.argmax(1) == data.labels).tolist()
    assert torch.allclose(
        torch.tensor([float(line["confidence"]) for line in lines]), logits.softmax(1).amax(1), atol=1e-5
    )
    assert lines[4]["file"] == "'=x4/+4.png"
    assert {line["model"] for line in lines} == {"'=mine"}
    assert {line["truth"] for line in lines} == {"'=cmd()", "b", "'@c"}
    assert not any(value.startswith(("=", "+", "@")) for line in lines for value in line.values())
    assert results["data"]["repeated"] == 1


def test_sets_without_files_go_by_their_places():
    results = evaluate(answer, small(), shift=(), resamples=0, limit=10, seed=1)
    assert {line["file"] for line in rows(results)} == {""}
    places = [int(line["index"]) for line in rows(results)]
    assert places == torch.randperm(30, generator=torch.Generator().manual_seed(1))[:10].sort().values.tolist()
    shown = {e["index"] for entries in results["models"]["model"]["images"].values() for e in entries}
    assert shown <= set(places)
    assert all(e["path"] is None for entries in results["models"]["model"]["images"].values() for e in entries)


def test_what_the_stored_threshold_leaves_to_a_person_is_unsure():
    import kedge

    data = small()
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)), example=data.images[:2] / 255)
    confidence = model.predict(data.images.float() / 255).confidence
    model.reject = {"score": "confidence", "threshold": float(confidence.median()), "coverage": 0.5}
    lines = rows(evaluate(model, data, shift=(), resamples=0))
    unsure = [line["answer"] == "unsure" for line in lines]
    assert 10 <= sum(unsure) <= 15
    assert unsure == (confidence < confidence.median()).tolist()
    assert all(line["answer"] == line["label"] for line, not_sure in zip(lines, unsure, strict=True) if not not_sure)
