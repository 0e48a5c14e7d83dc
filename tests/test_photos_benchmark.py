"""The comparison with other tools, on noise, with a small random network, all steps in this process."""

import io
import json
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.photos import __main__ as program
from benchmarks.photos import by_loop, worker
from benchmarks.photos.measuring import CORRUPTIONS, conditions, measures
from benchmarks.photos.sets import SETS, PhotoSet, balanced, folder_of
from benchmarks.photos.table import difference, summary, tables
from PIL import Image
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss

METHODS = ["kedge", "probe", "loop-adamw", *(["fastai-4"] if find_spec("fastai") else [])]


def write_pack(root, counts, seed=0):
    """A pack of photos of noise, `counts` of each class, with the classes mixed."""
    draw = np.random.default_rng(seed)
    (root / "noise").mkdir(parents=True)
    names = [f"class{c}" for c in range(len(counts))]
    described = {"info": {"features": {"label": {"names": names}}}}
    for split in ("train", "test"):
        labels = draw.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
        images = []
        for _ in labels:
            file = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(file, "JPEG")
            images.append({"bytes": file.getvalue(), "path": ""})
        table = pa.table({"image": images, "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
        pq.write_table(table, root / "noise" / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A small set, and steps that run in this process; gives the steps that ran."""
    write_pack(tmp_path / "packs", (14, 12))
    monkeypatch.setenv("KEDGE_DATA", str(tmp_path / "packs"))
    monkeypatch.setitem(SETS, "noise", PhotoSet("noise", "noise", drawn=20))
    monkeypatch.setattr("benchmarks.photos.measuring.CORRUPTIONS", CORRUPTIONS[:1])
    steps = []

    def run(args, step, method, **options):
        steps.append((step, method, options.get("seed")))
        flags = {"network": args.network, "size": args.size, "threads": 1, **options}
        threads = torch.get_num_threads()
        worker.main([step, "--method", method, *(str(w) for k, v in flags.items() for w in (f"--{k}", v))])
        torch.set_num_threads(threads)
        return 2.0, 1.0

    monkeypatch.setattr(program, "run", run)
    return tmp_path, steps


def call(folder, methods, *more, seeds=("0", "1")):
    """The program on the small set; its exit status."""
    words = ["--out", str(folder / "out"), "--network", "test_resnet", "--sets", "noise", "--size", "32"]
    return program.main([*words, "--seeds", *seeds, "--methods", *methods, "--result", str(folder / "r.json"), *more])


@pytest.mark.slow
def test_every_method_gets_a_row_and_finished_rows_are_not_run_again(here, capsys):
    folder, steps = here
    assert call(folder, METHODS, seeds=("0",)) == 0
    assert [s for s in steps if s[0] == "train"] == [("train", method, 0) for method in METHODS]
    rows = program.read_rows(folder / "out")
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        assert (row["train photos"], row["test photos"], row["size"], row["weights"]) == (20, 26, 32, None)
        assert set(row["conditions"]) == {f"{CORRUPTIONS[0]} {severity}" for severity in (3, 5)}
        assert 0 <= row["accuracy"] <= 100
        assert (row["as shipped"] is not None) == (row["method"] == "kedge")  # which is anchored here
    steps.clear()
    assert call(folder, METHODS, seeds=("0",)) == 0
    assert steps == []
    text = (folder / "r.json").read_text()
    assert str(folder) not in text
    assert "Difference: kedge minus the other" in text
    assert "kedge with the mean over its bank" in text
    assert capsys.readouterr().out.count("kedge train, ") >= 1


def test_a_row_that_fails_is_named_and_the_others_go_on(here, capsys):
    folder, _ = here
    assert call(folder, ["loop-adamw", "probe"], seeds=("0",)) == 1  # how long the loop may take is not known
    assert [row["method"] for row in program.read_rows(folder / "out")] == ["probe"]
    assert "kedge must run first" in capsys.readouterr().err
    assert call(folder, ["probe"], "--test", "2", seeds=("0",)) == 2  # other test photos in one table
    assert "name another --out" in capsys.readouterr().err


def test_epochs_of_a_seed_that_has_run_take_the_place_of_kedges_seconds(here):
    folder, _ = here
    words = ["--out", str(folder), "--sets", "noise", "--methods", "loop-adamw"]
    (folder / "rows.jsonl").write_text(
        json.dumps({"set": "noise", "method": "kedge", "seed": 1, "cpu seconds": 7.5}) + "\n"
        + json.dumps({"set": "noise", "method": "loop-adamw", "seed": 0, "epochs": 2}) + "\n"
    )  # fmt: skip
    assert program.length(program.arguments(words), 1, "noise", "loop-adamw") == {"budget": 7.5}
    same_epochs = program.arguments([*words, "--epochs-as", "0"])
    assert program.length(same_epochs, 1, "noise", "loop-adamw") == {"epochs": 2}
    with pytest.raises(RuntimeError, match="loop-sgd has no row of seed 0"):
        program.length(same_epochs, 1, "noise", "loop-sgd")
    photos = folder_of(SETS["noise"], 0, folder / "photos")
    for epochs in (2, 3):
        out = folder / f"{epochs}"
        program.run(same_epochs, "train", "loop-adamw", photos=photos, seed=0, out=out, epochs=epochs)
        assert json.loads((out / "record.json").read_text())["epochs"] == epochs


def test_kedge_is_first_and_the_others_take_turns():
    args = program.arguments(["--out", "x", "--seeds", "0", "1", "--sets", "ants-bees", "--methods", *METHODS[:3]])
    order = [method for _, _, method in program.plan(args)]
    assert order == ["kedge", "probe", "loop-adamw", "kedge", "loop-adamw", "probe"]


def test_photos_are_drawn_by_the_seed_and_balanced_as_far_as_there_are_enough(here):
    labels = [0] * 50 + [1] * 3 + [2] * 50
    for seed in range(5):
        rows = balanced(labels, list(range(103)), 21, seed)
        assert len(set(rows)) == 21
        assert [sum(labels[row] == c for row in rows) for c in range(3)] == [9, 3, 9]
    assert balanced(labels, list(range(103)), 21, 0) == balanced(labels, list(range(103)), 21, 0)
    assert balanced(labels, list(range(103)), 21, 0) != rows
    with pytest.raises(ValueError, match="104 photos are wanted, and there are 103"):
        balanced(labels, list(range(103)), 104, 0)
    folder, _ = here
    chosen = folder_of(PhotoSet("noise", "", first=2, test=3), 0, folder / "photos")
    assert len(list((chosen / "train").rglob("*.jpg"))) == 4
    assert len(list((chosen / "test").rglob("*.jpg"))) == 6
    with pytest.raises(FileNotFoundError, match="no nothing/train"):
        folder_of(PhotoSet("nothing", ""), 0, folder / "photos")


def test_measures_are_those_of_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (60,), generator=draw)
    logits = {name: torch.randn(60, 3, generator=draw) * (i + 1) / 5 for i, name in enumerate(["clean", *conditions()])}
    logits = {name: one if name == "clean" else one[::3] for name, one in logits.items()}  # every third is corrupted
    row = measures(logits, labels)
    each = [
        (
            100 * accuracy_score(labels[:: 60 // len(one)], one.argmax(1)),
            log_loss(labels[:: 60 // len(one)], one.double().softmax(1), labels=[0, 1, 2]),
        )
        for one in logits.values()
    ]
    assert (row["accuracy"], row["NLL"]) == pytest.approx(each[0])
    corrupted = np.mean(each[1:], axis=0)
    assert (row["corrupted accuracy"], row["corrupted NLL"]) == pytest.approx(tuple(corrupted))
    with pytest.raises(ValueError, match="not finite"):
        measures({**logits, "clean": logits["clean"] * torch.inf}, labels)


def test_differences_are_paired_by_seed_with_students_interval():
    ours, theirs = np.array([80.0, 82, 81, 84, 83]), np.array([75.0, 79, 74, 80, 79])
    known = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    got = difference((ours - theirs).tolist(), higher=True)
    assert got["interval"] == pytest.approx(list(known))
    assert (got["mean"], got["pairs"], got["kedge"]) == (pytest.approx(4.6), 5, "ahead")
    assert difference((ours - theirs).tolist(), higher=False)["kedge"] == "behind"
    assert difference([1.0, -1.0, 0.5], higher=True)["kedge"] == "within"
    # Of 334 photos two seeds agree exactly in one of eleven comparisons of equals: that tells nothing.
    assert difference([0.1 + 0.2, 0.3], higher=True)["kedge"] == "within"
    assert difference([1.0], higher=True) | {"mean": 0} == {"mean": 0, "interval": None, "pairs": 1, "kedge": ""}


def test_only_seeds_that_both_have_are_compared():
    names = ("accuracy", "smooth ECE", "NLL", "corrupted accuracy", "corrupted smooth ECE", "corrupted NLL")

    def row(method, seed, value):
        common = {"set": "a", "recipe": method, "cpu seconds": 1.0, "seconds": 1.0, "test photos": 9}
        return {"method": method, "seed": seed, **common, **dict.fromkeys(names, value)}

    rows = [row("kedge", s, 90.0 + s) for s in range(3)] + [row("probe", s, 80.0) for s in (2, 1, 7)]
    lines = summary(rows, {"a": "words of the set"})
    apart = next(line for line in lines if line["method"] == "probe")["kedge minus this"]["accuracy"]
    assert (apart["mean"], apart["pairs"]) == (pytest.approx(11.5), 2)
    assert tables(lines, {"a": "words of the set"})[0]["title"].startswith("words of the set: 9 test photos, 3 seeds,")
    rows = [*rows, row("fastai-4", 0, 90.04)]
    table = tables(summary(rows, {"a": "words of the set"}), {"a": "words of the set"})[0]
    assert table["title"].startswith("words of the set: 9 test photos, 1 to 3 seeds,")
    assert table["rows"][-1][2] == "+0.0"  # and not -0.0


def test_the_view_of_the_whole_shorter_side_shows_more_than_the_usual_one(tmp_path):
    (tmp_path / "a").mkdir()
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    Image.fromarray(ramp.copy()).save(tmp_path / "a" / "x.png")
    usual, whole = (by_loop.centre_crop(tmp_path, 64, share)[0] for share in (0.875, 1.0))
    assert usual.shape == whole.shape == (1, 3, 64, 64)
    assert int(usual.max()) - int(usual.min()) == pytest.approx(87.5, abs=3)
    assert int(whole.max()) - int(whole.min()) == pytest.approx(100, abs=3)
