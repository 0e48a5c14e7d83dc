"""`mean(A,B)`: the mean of several models on the command line."""

import json
from pathlib import Path

import pytest
import torch

import kedge
from kedge.cli.resolve_model import find, find_groups, leaves


@pytest.fixture
def three(digit_model, tmp_path):
    """Three runs, of which the second has other weights and the third other ones."""
    folders = []
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in digit_model.network.parameters():
                parameter.add_(0.05 * seed * torch.randn_like(parameter))
        folders.append(kedge.save(digit_model, tmp_path / name))
    return folders


def test_what_is_named(three, tmp_path, monkeypatch):
    a, b, c = three
    source = find(f"mean({a}, {b},{c})", several=True)
    assert source.name == "mean(a,b,c)"
    assert [member.path for member in source.members] == three
    sources, groups = find_groups([str(a), f"both=mean({a},{b})", f"two=mean({a},{b}),{c}"])
    assert list(sources) == ["a", "both", "mean(a,b)", "c"]
    assert groups == {"two": ["mean(a,b)", "c"]}
    assert list(leaves({"both": sources["both"], "c": sources["c"]})) == ["a", "b", "c"]
    for wrong, words in (
        (f"mean({a})", "fewer than two"),
        (f"mean({a},)", "fewer than two"),
        (f"mean({a},{a})", "twice"),
        ("mean(nowhere,nothing)", "no model at 'nowhere'"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            find(wrong, several=True)
    with pytest.raises(ValueError, match="evaluate, predict and export take"):
        find(f"mean({a},{b})")
    monkeypatch.chdir(tmp_path)
    folder = Path("mean(x,y)")
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    assert find(str(folder), several=True).members == ()  # a path that exists comes first


def test_only_what_kedge_saved_may_have_been_masked(command, three, tmp_path, monkeypatch):
    """Beside runs that were not masked to uniform, a file or a function does not bring the score `masked` back."""
    (tmp_path / "named.py").write_text("def zeros(images):\n    return images.new_zeros(len(images), 10)\n")
    monkeypatch.chdir(tmp_path)
    sources, _ = find_groups([str(three[0]), "named:zeros"])
    assert [source.saved for source in sources.values()] == [True, False]
    of_recipes = []
    monkeypatch.setattr("kedge.cli.evaluate.choose_scores", lambda words, recipes: of_recipes.append(list(recipes)))
    for model in ("named:zeros", three[0]):
        assert command("evaluate", model, "--data", "digits", "--shift", "none", "--limit", 5)[0] == 0
    assert of_recipes == [[], [{}]]


def test_predict_answers_with_the_mean(command, three, photos):
    out = command("predict", f"mean({','.join(map(str, three))})", photos / "d1.png", "--format", "json")[1]
    (row,) = json.loads(out)
    ensemble = kedge.Ensemble([kedge.load(folder) for folder in three])
    image = kedge.data.read_image(photos / "d1.png", 8, 1)[None].float() / 255
    prediction = ensemble.predict(image)
    assert row["label"] == ensemble.class_names[int(prediction.label)]
    assert row["confidence"] == pytest.approx(float(prediction.confidence), rel=1e-4)
    assert row["uncertainty"] == pytest.approx(float(prediction.uncertainty), rel=1e-3)
    assert row["uncertainty"] > 0


@pytest.mark.slow
def test_export_folds_the_members(command, three, tmp_path):
    pytest.importorskip("onnxscript")
    name, file = f"mean({three[0]},{three[1]})", tmp_path / "both.onnx"
    members = [kedge.load(folder) for folder in three[:2]]
    assert members[0].count() > 1
    code, out, _ = command("export", name, "--out", file)
    assert code == 0
    assert f"one reference each (of {members[0].count()}, {members[1].count()})" in out
    images = kedge.data.load("digits", "test").images.float() / 255
    for member in members:
        member.references = member.references[:1]  # without images to choose by the first
    expected = kedge.Ensemble(members).predict(images)
    torch.testing.assert_close(kedge.deploy.load_onnx(file).predict(images).probs, expected.probs, atol=1e-4, rtol=1e-3)
    code, out, _ = command("export", name, "--out", file, "--data", "digits")
    assert code == 0
    assert f"its {2 * kedge.load(three[0]).count()} references in all members" in out


def test_evaluate_measures_the_mean_beside_a_member(command, three, tmp_path):
    name = f"mean({three[0]},{three[1]})"
    out = tmp_path / "out"
    words = ["--data", "digits", "--shift", "none", "--attack", "pgd", "--attack_images", "10"]
    code, *_ = command("evaluate", three[0], name, *words, "--steps", 2, "--out", out)
    assert code == 0
    results = json.loads((out / "results.json").read_text())
    both = results["models"]["mean(a,b)"]
    assert both["kind"] == "ensemble"
    assert both["network"] == "mean of 2: kedge_resnet_small"
    ensemble = kedge.Ensemble([kedge.load(folder) for folder in three[:2]])
    images = kedge.data.load("digits", "test")
    right = ensemble.predict(images.images.float() / 255).label == images.labels
    assert both["clean"]["accuracy"]["value"] == pytest.approx(float(right.double().mean()), abs=1e-6)
    assert results["complete"]
    assert "Lakshminarayanan et al., NeurIPS 2017" in [each["cite"] for each in results["citations"]]
