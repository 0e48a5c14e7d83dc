import csv
import io
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import kedge
from kedge import networks
from kedge.cli import parse
from kedge.cli.evaluate import _trained_eps
from kedge.cli.flags import command_line, parser_of
from kedge.cli.resolve_model import Source
from kedge.training.objective import make_objective
from kedge.training.recipe import Recipe


@pytest.fixture
def few_classes(tmp_path):
    """A plain model of the digits 3, 1 and 0, in this order, as a run."""
    from kedge.training import Recipe

    torch.manual_seed(1)
    model = kedge.plain(networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    model.class_names = ["3", "1", "0"]
    folder = tmp_path / "runs" / "few"
    kedge.save(model.eval(), folder / "model")
    recipe = Recipe(name="few", data="digits", image_size=8, classes=["3", "1", "0"], anchored=False)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


def test_json_is_pure_and_the_numbers_are_the_models(command, run_folder, digit_model):
    code, out, err = command("evaluate", run_folder, "--shift", "none", "--format", "json")
    assert code == 0
    results = json.loads(out)
    assert list(results["models"]) == ["first"]
    assert "digits (test)" in err
    test = kedge.data.load("digits", "test")
    predicted = digit_model.predict(test.images.float() / 255)
    model = results["models"]["first"]
    assert model["clean"]["accuracy"]["value"] == pytest.approx(
        float((predicted.label == test.labels).float().mean()), abs=1e-6
    )
    assert model["shift"] is None
    page = run_folder / "evaluation" / "report.html"
    assert f"report: {page}" in err
    assert page.read_text().lstrip().startswith("<!")
    stored = json.loads((page.parent / "results.json").read_text())
    assert stored["models"]["first"]["clean"] == model["clean"]
    assert stored["command"] == f"kedge evaluate {run_folder} --shift none --format json"


def test_several_models_side_by_side_with_corruptions(command, run_folder, model_folder, tmp_path):
    out = tmp_path / "compared"
    _, table, _ = command(
        "evaluate", run_folder, model_folder, "--data", "digits", "--severities", 1, 5, "--shift", "contrast",
        "--limit", 50, "--out", out, "--format", "csv",
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["model"] for row in rows} == {"first", "digit-model", "first - digit-model"}
    assert {"1", "5"} <= {row["severity"] for row in rows}
    assert sorted(p.name for p in out.iterdir()) == [
        "images.csv",
        "parts",
        "report.html",
        "results.csv",
        "results.json",
    ]
    _, table, _ = command("evaluate", run_folder, model_folder, "--limit", 20, "--shift", "none", "--out", out)
    assert "first" in table
    assert "digit-model" in table


def test_classes_are_matched_by_name_and_the_rest_is_outside(command, few_classes):
    _, out, err = command("evaluate", few_classes, "--ood", "digits", "--shift", "none", "--format", "json")
    results = json.loads(out)
    assert results["data"]["class_names"] == ["3", "1", "0"]
    assert "left out, not among the models' classes: 2, 4, 5, 6, 7, 8, 9" in err
    ((name, outside),) = results["ood_sets"].items()
    assert name == "digits (2, 4, 5, 6, 7, ...)"
    test = kedge.data.load("digits", "test")
    assert outside["images"] == int((~torch.isin(test.labels, torch.tensor([0, 1, 3]))).sum())


def test_a_set_with_no_other_classes_is_not_outside(command, run_folder):
    with pytest.raises(ValueError, match="trained on all classes of digits"):
        command("evaluate", run_folder, "--ood", "digits")


def test_data_is_asked_for_when_no_run_says_it(command, model_folder):
    with pytest.raises(ValueError, match="the models belong to no run: say --data NAME"):
        command("evaluate", model_folder)


def test_held_out_images_of_a_folder_without_splits(command, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    from kedge.training import Recipe
    from kedge.training.images import load_sets
    from kedge.training.record import ImageRecord

    digits = load_digits()
    for i in range(60):
        place = tmp_path / "photos" / f"digit {digits.target[i] % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).astype("uint8")).save(place / f"{i}.png")
    model = kedge.plain(networks.create("kedge_resnet_small", 2, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    model.class_names = ["digit 0", "digit 1"]
    folder = tmp_path / "odd-even"
    kedge.save(model.eval(), folder / "model")
    recipe = Recipe(name="odd-even", data=str(tmp_path / "photos"), image_size=8, val_fraction=0.2)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(ValueError, match=r"has no test images .*--split val"):
        command("evaluate", folder, "--split", "test")
    with pytest.raises(ValueError, match="kept no record of the images it trained on"):
        command("evaluate", folder, "--split", "val")
    ImageRecord.of(*load_sets(recipe)).write(folder)
    _, out, err = command("evaluate", folder, "--split", "val", "--shift", "none", "--format", "json")
    count = len(load_sets(recipe)[1])
    assert json.loads(out)["data"]["images"] == count < 60
    assert f"photos (val): {count} images are used, of 60 that were read" in err.splitlines()
    assert json.loads(out)["models"]["odd-even"]["trained_on"] == 0
    _, same, err = command("evaluate", folder, "--shift", "none", "--format", "json")  # as the README calls it
    assert "has no test images: measured is on those that training held out (--split val)" in err
    assert (data := json.loads(same)["data"]) == json.loads(out)["data"]
    assert data["split"] == "val"
    spelt = tmp_path / "odd-even" / ".." / "photos"
    _, same, _ = command("evaluate", folder, "--data", spelt, "--shift", "none", "--format", "json")
    assert json.loads(same)["data"] == data
    (folder / "recipe.yaml").write_text(recipe.to_yaml().replace("folds: null", "folds: 3"))
    with pytest.raises(ValueError, match="No image was held out either"):
        command("evaluate", folder)


def test_command_line_gives_the_same_configuration_again():
    line = ["a b", "c", "--data", "digits", "--severities", "1", "2", "--limit", "5", "--seed", "0"]
    line = command_line("evaluate", parser_of("evaluate").parse_args(line).as_dict())
    assert line == "kedge evaluate 'a b' c --data digits --severities 1 2 --limit 5"


def test_lists_take_commas_and_spaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert parse.separated(["mnist,textures", "x", "a,b"]) == ["mnist", "textures", "x", "a,b"]


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("7.5/255", 7.5 / 255), ("1", 1.0), (None, None)])
def test_a_radius_is_what_training_takes_too(text, value):
    assert parse.radius(text, "linf") == value
    recipe = Recipe(objective=[{"Adversarial": {"attack": {"PGD": {"eps": 1}}}}, "CrossEntropy"], eps=text)
    assert text is None or make_objective(recipe, kedge.data.load("digits", "val")).attack.eps == value


def test_the_margin_loss_is_an_attack_of_its_own():
    words, how = ["pgd", "pgd-margin"], {"norm": "l2", "steps": 10, "seed": 0, "most": 1000}
    parse.check_words(words, [1])
    made = parse.choose_attacks(words, 0.5, kedge.data.load("digits", "test"), **how)
    assert [(name, attack.loss) for name, attack in made.named.items()] == [
        ("PGD-10", "ce"),
        ("PGD-10, margin loss", "margin"),
    ]
    assert {(a.eps, a.norm, a.step_size, a.early_stop) for a in made.named.values()} == {(0.5, "l2", 0.125, True)}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--eps", "8 pixels"], "such as 8/255, 7.5/255 or 0.03; got '8 pixels'"),
        (["--eps", "8"], "8 levels of 255 are 8/255"),
        (["--shift", "gausian_noise"], "did you mean gaussian_noise"),
        (["--shift", "none", "blur"], "stands alone"),
        (["--attack", "pdg"], "no attack 'pdg'"),
        (["--scores", "odin"], "no score 'odin'"),
        (["--severities", "0"], "severities are 1 to 5, got 0"),
        (["--severities", "3,6"], "severities are 1 to 5, got 6"),
        (["--severities", "2.5"], "whole numbers, 1 to 5, got '2.5'"),
        (["--shift", "/no/where"], "no such folder"),
        (["--references", "0"], "must be 1 or more, got 0"),
        (["--ood", "mnist", "--near", "mnist"], "to --ood and to --near"),
    ],
)
def test_wrong_words_are_told_before_a_model_is_loaded(command, run_folder, monkeypatch, flags, said):
    monkeypatch.setattr("kedge.cli.resolve_model.Source.load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=said):
        command("evaluate", run_folder, *flags)


def test_several_processes_are_refused(command, run_folder, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="kedge evaluate is one process: each of 2 would do everything"):
        command("evaluate", run_folder)


def test_the_best_reference_for_each_image(command, digit_model, run_folder):
    with pytest.raises(ValueError, match="first kept none: train with --residuals 1000"):
        command("evaluate", run_folder, "--references", "blt", "--shift", "none")
    train, test = kedge.data.load("digits", "train"), kedge.data.load("digits", "test")
    digit_model.references = kedge.anchoring.choose_references(train, 4, seed=0)
    digit_model.residuals = kedge.anchoring.choose_residuals(train, digit_model.references, 30, seed=0)
    kedge.save(digit_model, run_folder / "model")
    best = ["evaluate", run_folder, "--references", "blt", "--shift", "none", "--format", "json"]
    code, out, _ = command(*best)
    assert code == 0
    results = json.loads(out)
    predicted = digit_model.predict(test.images.float() / 255, references="blt")
    found = results["models"]["first"]
    assert found["references"] == "blt"
    assert found["clean"]["nll"]["value"] == pytest.approx(
        float(-predicted.probs.log()[torch.arange(len(test)), test.labels].mean()), rel=1e-4
    )
    with pytest.raises(ValueError, match="attacks with a number of references"):
        command(*best, "--attack", "pgd")


def test_a_second_call_adds_to_the_first(command, run_folder):
    command("evaluate", run_folder, "--shift", "none", "--limit", 60)
    quick = ["--severities", "1", "--limit", 60]
    _, _, err = command("evaluate", run_folder, "--shift", "contrast", *quick)
    assert "1 parts of it kept from before" in err
    first, second = run_folder / "evaluation", run_folder / "evaluation-2"
    assert (second / "results.json").is_file()
    assert f"report: {second / 'report.html'}  (the newest; {first} holds the first, and nothing was replaced)" in err
    _, _, err = command("check", run_folder, "--min_accuracy", 0.0)
    assert err.startswith(f"judged by {second / 'results.json'}, of ")
    _, _, err = command("evaluate", run_folder, "--shift", "contrast,brightness", *quick)
    assert "2 parts of it kept from before" in err
    _, _, err = command("evaluate", run_folder, "--shift", "none", "--limit", 60, "--fresh")
    assert "kept from before" not in err


def test_all_parts_at_once(command, run_folder, digit_model, tmp_path):
    """What the page can show, from one command: shift, near and far sets, scores that learn, attacks."""
    from PIL import Image

    rng = torch.Generator().manual_seed(0)
    for place in ("stripes (1)", "stripes"):  # a copy's name: it is none of those that --near stands for
        (tmp_path / place / "test" / "thing").mkdir(parents=True)
        (tmp_path / place / "train" / "thing").mkdir(parents=True)
        for i in range(30):
            pixels = torch.randint(0, 256, (8, 1 if place == "stripes" else 8), generator=rng).expand(8, 8)
            for split in ("test", "train"):
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(tmp_path / place / split / "thing" / f"{i}.png")
    _, out, _ = command(
        "evaluate", run_folder, "--shift", "contrast", "--severities", 3,
        "--ood", tmp_path / "stripes (1)", tmp_path / "stripes (1)",
        "--near", tmp_path / "stripes", "--attack", "pgd,curve", "--eps", "8/255", "--steps", 2,
        "--attack_images", 30, "--limit", 60, "--format", "json",
    )  # fmt: skip
    results = json.loads(out)
    model = results["models"]["first"]
    assert set(model["scores"]) == {score.name for score in kedge.scores.usual()} - {
        "masked"
    }  # the run was not masked to uniform
    assert set(model["ood_groups"]) == {"near", "far"}
    assert model["ood_groups"]["near"]["knn"]["sets"] == [str(tmp_path / "stripes")]
    assert model["scores"]["knn"]["fitted_on"] > 100
    assert model["attacks"]["PGD-2"]["images"] == 30
    assert len(model["attack_curve"]["points"]) == 8
    assert model["errors"] == []


def test_seeds_of_one_method(command, run_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # several models: the results go where we are
    _, out, _ = command(
        "evaluate", f"ours={run_folder},{model_folder}", "--shift", "none", "--limit", 50, "--format", "json"
    )
    results = json.loads(out)
    assert len(results["groups"]["ours"]) == 2
    assert results["group_table"]["ours"]["accuracy, clean"]["n"] == 2


def test_an_interruption_says_where_it_goes_on(command, run_folder, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kedge.evaluation.evaluate", stopped)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        command("evaluate", run_folder, "--shift", "none")


def test_a_folder_of_images_without_classes_can_be_outside(command, run_folder, tmp_path):
    from PIL import Image

    (tmp_path / "odd").mkdir()
    for i in range(25):
        pixels = torch.randint(0, 256, (12, 12), generator=torch.Generator().manual_seed(i)).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "odd" / f"{i}.png")
    _, out, _ = command("evaluate", run_folder, "--shift", "none", "--ood", tmp_path / "odd", "--format", "json")
    (outside,) = json.loads(out)["ood_sets"].values()
    assert outside["images"] == 25


def test_parts_that_failed_change_the_exit_status(command, run_folder, monkeypatch):
    import kedge.evaluation.attack_suite as attack_suite

    def broken(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr(attack_suite, "attack_batch", broken)
    code, _, err = command("evaluate", run_folder, "--shift", "none", "--attack", "pgd", "--limit", 30)
    assert code == 3
    assert "first, attacks: RuntimeError: no luck" in err


def test_the_radius_is_that_of_the_training(tmp_path):
    def source(name, **recipe):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return Source(tmp_path / name, tmp_path / name, name)

    def objective(**attack):
        return [{"Adversarial": {"attack": {"PGD": attack}}}, "CrossEntropy"]

    clean = source("clean", objective=["CrossEntropy"])
    eight, again = source("a", objective=objective(eps="8/255")), source("b", objective=objective(eps=8 / 255))
    four = source("c", objective=objective(eps="8/255"), eps="4/255")
    round_ = source("d", objective=objective(eps=0.5, norm="l2"))
    assert _trained_eps({"clean": clean}, "linf") is None
    assert _trained_eps({"clean": clean, "a": eight, "b": again}, "linf") == 8 / 255
    assert _trained_eps({"c": four}, "linf") == 4 / 255
    assert _trained_eps({"a": eight, "c": four}, "linf") is None
    assert _trained_eps({"d": round_}, "linf") is None
    assert _trained_eps({"a": eight, "d": round_}, "l2") == 0.5


def test_stability_a_share_to_pass_and_sets_that_were_seen_by_flags(command, few_classes):
    code, out, _ = command(
        "evaluate", few_classes, "--shift", "none", "--ood", "digits", "--seen", "digits", "--tpr", 0.8, "--stability",
        "--scores", "msp,reverse_anchoring", "--limit", 40, "--format", "json",
    )  # fmt: skip
    assert code == 0
    results = json.loads(out)
    (name,) = results["ood_sets"]
    assert name.startswith("digits (")
    assert results["ood_sets"][name]["seen"] is True
    own = results["models"]["few"]
    assert own["ood"][name]["separability"]["value"] is not None
    assert own["ood"][name]["scores"]["msp"]["fpr_at_tpr"]["accepted"] >= 32
    assert own["stability"]["images"] == 40
    assert "not anchored" in own["skipped_scores"]["reverse_anchoring"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tpr", 95, "--ood", "digits"], "--tpr is a share between 0 and 1"),
        (["--tpr", 0.9], "--tpr 0.9 is for --ood"),
        (["--ood", "digits", "--seen", "mnist"], "--seen mnist is of out-of-distribution sets"),
    ],
)
def test_flags_that_go_with_ood_are_refused_before_a_model_is_loaded(command, flags, words):
    with pytest.raises(ValueError, match=words):
        command("evaluate", "nowhere", *flags)


@pytest.mark.parametrize("shape", [(3, 64, 96), (1, 80, 48)])
def test_a_model_of_oblong_images_is_measured_on_what_it_is_asked_about(command, tmp_path, shape):
    """The middle of a square, enlarged, was another image than `kedge predict` and those who deploy the model see."""
    torch.manual_seed(0)
    network = networks.create("kedge_resnet_small", 2, shape[0], 8, arguments={"width": 4})
    model = kedge.anchor(network, example=shape)
    model.references = torch.rand(2, *shape)
    model.class_names = ["cat", "dog"]
    folder = kedge.save(model.eval(), tmp_path / "model")
    rng = np.random.default_rng(0)
    for i in range(6):
        place = tmp_path / "photos" / "test" / model.class_names[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((150 + 40 * i, 260 - 20 * i)).save(place / f"{i}.png")
    data = tmp_path / "photos"
    _, out, _ = command("predict", folder, data, "--format", "json")
    answers = {row["path"].rsplit("/", 1)[1]: row["confidence"] for row in json.loads(out)}
    code, _, _ = command("evaluate", folder, "--data", data, "--shift", "none", "--out", tmp_path / "measured")
    assert code == 0
    with open(tmp_path / "measured" / "images.csv", newline="") as file:
        measured = {row["file"].rsplit("/", 1)[1]: float(row["confidence"]) for row in csv.DictReader(file)}
    assert measured == pytest.approx(answers, abs=1e-5)
