import json

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import kedge
from kedge import evaluation, networks, reporting
from kedge.data import TensorSet
from kedge.deploy.card_text import escaped, hub_name, path_word
from kedge.deploy.model_card import MARKER, is_ours, model_card

NASTY = "<script>alert(1)</script> | [x](http://evil.example) `a` **b** www.evil.example\n# no\x1b[2J"


def make(names=("cat", "dog", "frog")):
    torch.manual_seed(0)
    model = kedge.anchor(networks.create("kedge_resnet_small", 3, 3, 8, arguments={"width": 8}), example=(3, 8, 8))
    model.references = torch.rand(4, 3, 8, 8)
    model.class_names = list(names)
    model.reject = {"score": "confidence", "threshold": 0.25, "coverage": 0.9, "validation_accuracy": 0.7}
    return model.eval()


def evaluated(model, name, data="toys", split="test", **settings):
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    found = TensorSet(images, torch.arange(30) % 3, model.class_names, data, split)
    return evaluation.evaluate({name: model}, found, **{"shift": (), "resamples": 20, **settings})


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "mine"
    kedge.save(make(), folder / "model")
    recipe = {"name": "mine", "data": str(tmp_path / "toys"), "anchored": True, "references": 4, "choose": "stratified"}
    recipe |= {"objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"], "seed": 0, "lr": 0.1, "ema": None}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    facts = {"kedge": "0.1.0", "torch": "2.9", "data": {"train": 27, "val": 3}, "validation": {"accuracy": 0.5}}
    (folder / "run.json").write_text(json.dumps({**facts, "finished": "2020-01-01T00:00:00+0000"}))
    return folder


def parsed(card):
    """(metadata as the hub's client reads it, HTML as a Markdown renderer makes it)."""
    found = ModelCard(card)
    return found.data, MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(found.text)


def test_the_numbers_are_those_of_the_report(run):
    model = make()
    results = evaluated(model, "mine", shift=("gaussian_noise",), severities=(2,))
    reporting.write_results(results, run / "evaluation" / "results.json")
    card = model_card(model, run, "ada/toys", "mit")
    data, page = parsed(card)
    (own,) = results["models"].values()
    assert data.license == "mit"
    assert data.library_name == "kedge"
    values = [(r.metric_type, r.metric_value, r.dataset_name, r.dataset_split) for r in data.eval_results]
    assert ("accuracy", round(own["clean"]["accuracy"]["value"], 4), "toys", "test") in values
    assert ("accuracy", round(own["shift"]["mean"]["accuracy"]["value"], 4), "toys", "test") in values
    # every cell of the terminal's table is one of the page
    from kedge.reporting.files import check_results
    from kedge.reporting.summary import summary_rows

    for row in summary_rows(check_results(results)):
        assert f">{row.text(0)}</td>" in page
        assert row.label.replace("&", "&amp;") in page
    assert 'kedge.from_pretrained("ada/toys")' in card
    assert "kedge predict hf-hub:ada/toys photo.jpg" in card
    assert "Anchored (alpha 0.25), CrossEntropy" in page
    assert "<td>seed</td>\n<td>0</td>" in page
    assert "27 images of toys; 3 were held out for validation, of which it got 50.0 % right" in page
    assert "below 0.250 should be rejected" in page
    assert "training photos as a rule" in page
    assert "attacks" in page.partition("Limits")[2]
    assert "shift" not in page.partition("Limits")[2].partition("</ul>")[0]
    assert str(run.parent) not in card


def test_without_an_evaluation_the_card_says_so_and_how_to_get_one(run, tmp_path):
    model = make()
    data, page = parsed(model_card(model, run))
    assert "This model was not evaluated. <code>kedge evaluate mine</code>" in page
    assert data.eval_results is None
    assert "everything but the accuracy on validation images" in page
    assert "None was stated, so nobody is permitted anything" in page
    assert "license" not in data.to_dict()
    assert "How it was trained is not recorded" in model_card(model)


def test_an_evaluation_of_another_state_of_the_model_is_not_shown(run):
    model = make()
    results = evaluated(model, "mine")
    reporting.write_results(results, run / "evaluation" / "results.json")
    assert "95 % interval" in model_card(model, run)
    model.set_temperature(2.0)
    assert "of the model with no temperature, before that changed" in model_card(model, run)
    changed = model_card(make(), run, changed="It was folded.")
    assert "Measured before the model was changed, and not of the files here." in changed
    assert "model-index" not in changed
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "finished": "2999-01-01T00:00:00+0000"}))
    assert "older than the training" in model_card(make(), run)


def test_the_newest_evaluation_is_taken_and_one_of_others_left_out(run):
    model = make()
    old, new = evaluated(model, "mine"), evaluated(model, "mine", seed=7)
    others = {**evaluated(model, "a"), "models": {n: evaluated(model, "a")["models"]["a"] for n in ("a", "b")}}
    for name, results, created in (("", new, "2026-03-01"), ("-2", old, "2026-02-01"), ("-3", others, "2026-04-01")):
        reporting.write_results({**results, "created": created}, run / f"evaluation{name}" / "results.json")
    assert "Measured on 2026-03-01 with kedge" in model_card(model, run)
    assert ", seed 7" in model_card(model, run)


@pytest.mark.parametrize("where", ["limited", "references"])
def test_a_quick_look_is_no_result_for_the_hub(run, where):
    model = make()
    results = evaluated(model, "mine")
    assert "model-index" in _card_with(model, run, results)
    if where == "limited":
        results["data"]["limited"] = True
    else:
        results["settings"]["references"] = 1
    assert "model-index" not in _card_with(model, run, results)


def _card_with(model, run, results):
    reporting.write_results({**results, "created": "2026-03-02"}, run / "evaluation" / "results.json")
    return model_card(model, run)


def test_validation_images_stand_in_for_test_images_and_are_called_that(run):
    model = make()
    test, val = evaluated(model, "mine"), evaluated(model, "mine", split="val")
    estimate = {"title": "of confidence", "value": 0.61, "low": None, "high": None}
    probed = {"images": 9, "headline": "c", "estimates": {"c": estimate}, "unlike": None, "warnings": ["far away"]}
    for results, created, place in ((val, "2026-03-02", "evaluation-2"), (test, "2026-03-01", "evaluation")):
        for own in results["models"].values():
            own["unlabelled"] = {"validation": None, "sets": {"the-secret-folder": probed}}
        reporting.write_results({**results, "created": created}, run / place / "results.json")
    card = model_card(model, run)
    assert "toys (test)" in parsed(card)[1]
    assert "Measured on 2026-03-01" in card
    assert "validation images, not on test images" not in card
    assert "model-index" in card
    for words in ("secret", "Without labels", "far away"):
        assert words not in card
    (run / "evaluation" / "results.json").unlink()
    card = model_card(model, run)
    data, page = parsed(card)
    assert "toys (val)" in page
    assert "<strong>Measured on validation images, not on test images.</strong> Those of the run set the reject" in page
    assert "<li>test images</li>" in page.partition("Limits")[2]
    assert data.eval_results is None
    assert "model-index" not in card
    assert "accuracy" not in card.split("---\n")[1]
    for words in ("secret", "Without labels", "far away"):
        assert words not in card


def test_published_corrupted_images_are_not_called_made_here(run):
    model = make()
    results = evaluated(model, "mine", shift=["contrast"])
    assert "Corruptions are made by kedge" in _card_with(model, run, results)
    results["settings"]["shift_source"] = "CIFAR-10-C"
    results["shift_notes"] = {"CIFAR-10-C": ["1 of the 15 corruptions is lacking here: *fog*"]}
    card = _card_with(model, run, results)
    assert "made by kedge" not in card
    assert "Corrupted images are published ones: CIFAR" in card
    assert r"1 of the 15 corruptions is lacking here: \*fog\*" in card


def test_names_of_users_stay_names(run):
    model = make((NASTY, "<img src=x onerror=alert(1)>", "{{ x }} $a$ @ada"))
    (run / "recipe.yaml").write_text(yaml.safe_dump({"data": NASTY, "model": NASTY, "anchored": True}))
    results = evaluated(model, "mine", NASTY)
    reporting.write_results(results, run / "evaluation" / "results.json")
    card = model_card(model, run, "ada/toys", NASTY)
    _, page = parsed(card)
    for tag in ("<script", "<img", '<a href="http://evil', "<code>a", "<strong>b", "\x1b"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<h1>") == 1
    assert yaml.safe_load(card.split("---\n")[1])["license"] == NASTY


def test_escaping():
    assert escaped("plain words, 95 %") == "plain words, 95 %"
    assert escaped("a_b|c") == "a\\_b\\|c"
    assert "\n" not in escaped("a\nb")
    assert len(escaped("x" * 1000)) <= 201


def test_only_names_of_the_hub_are_linked_as_data(run, monkeypatch, tmp_path):
    assert hub_name("uoft-cs/cifar10", run) == "uoft-cs/cifar10"
    (tmp_path / "private" / "photos").mkdir(parents=True)
    assert hub_name("private/photos", run) is None  # beside runs/, wherever we are now
    for other in ("cifar10", "/data/x", "./a/b", "../a", "a/b/c", None, 3):
        assert hub_name(other, run) is None


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("runs/mine", "mine"),
        ("ada/runs/low-on-digits/all-0/linear-probe", "low-on-digits/all-0/linear-probe"),
        ("runs/old/runs/new", "new"),
        ("elsewhere/mine", "RUN"),
        ("runs/my `run`", "RUN"),
    ],
)
def test_the_commands_of_the_card_find_the_run(tmp_path, monkeypatch, folder, word):
    from kedge.cli.resolve_model import find

    run = tmp_path / folder
    kedge.save(make(), run / "model")
    assert path_word(run) == word
    assert f"`kedge evaluate {word}`" in model_card(make(), run)
    if word != "RUN":
        monkeypatch.chdir(str(run).removesuffix(f"runs/{word}"))
        assert find(word).run.resolve() == run


def test_an_adapted_model_is_described_by_what_was_done(tmp_path):
    from kedge.adaptation import adapt

    torch.manual_seed(3)
    names = ["cat", "dog"]
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    train = TensorSet(images, torch.arange(8) % 2, names, "toys", "train")
    val = TensorSet(images.flip(0), torch.arange(8).flip(0) % 2, names, "toys", "val")
    out = tmp_path / "runs" / "low-on-toys" / "4-0"
    given = {"out": out, "epochs": 1, "device": "cpu", "source": "/home/ada/runs/low", "data": "pics/toys"}
    made = adapt(make(), train, val, how="wise-ft", share=0.25, **given).model
    (tmp_path / "pics" / "toys").mkdir(parents=True)
    cards = {how: model_card(made, out / how) for how in ("wise-ft", "linear-probe", "lp-ft")}
    pages = {how: parsed(card)[1].replace("</td>\n<td>", " = ") for how, card in cards.items()}
    for how, page in pages.items():
        assert "adapted with kedge" in page
        assert "Adapted to 8 images of toys; 8 were held out" in page
        assert f"how = {how}: " in page
        assert "from = low<" in page
        assert "shots = 4 of each class" in page
        assert "started from" not in page
        assert "/home/ada" not in cards[how]
        assert "pics/" not in cards[how]  # a folder beside runs/, and no name of the hub
        assert ("epochs = 1<" in page) == ("optimizer = " in page) == ("learning rate" in page) == (how == "lp-ft")
    assert "share = 0.25 of lp-ft<" in pages["wise-ft"]
    assert "[Wortsman et al., CVPR 2022](https://arxiv.org/abs/2109.01903)" in cards["wise-ft"]
    assert "2109.01903" not in cards["lp-ft"]
    strength = json.loads((out / "linear-probe" / "run.json").read_text())["adaptation"]["strength"]
    assert f"strength = {strength:.3g} (by NLL" in pages["linear-probe"]
    assert "strength" not in pages["lp-ft"]


def test_a_card_of_the_user_is_known(tmp_path):
    assert is_ours(tmp_path / "README.md")
    (tmp_path / "README.md").write_text(f"# x\n{MARKER}\n")
    assert is_ours(tmp_path / "README.md")
    (tmp_path / "README.md").write_text("# x\n")
    assert not is_ours(tmp_path / "README.md")


def test_plain_and_other_models():
    flat = kedge.plain(torch.nn.Sequential(torch.nn.Linear(5, 2)), example=(5,), task="regression").eval()
    data, page = parsed(model_card(flat))
    assert data.pipeline_tag is None
    assert "The model holds no images" in page
    assert "kedge predict" not in page
    many = make()
    many.class_names = None
    assert "prediction.label" in model_card(many)


def test_rules_and_samplers_are_cited_and_shown():
    from kedge.deploy import card_text

    recipe = {"optimizer": [{"sam": {"rho": 0.1}}, "adamw"], "momentum": 0.9, "sampler": "class-balanced"}
    papers = card_text.papers(recipe, None)
    for paper in ("2010.01412", "1711.05101", "1710.05381"):  # SAM, AdamW, Buda et al.
        assert paper in papers
    rows = card_text.training({**recipe, "data": "digits"}, {}, None)
    assert "class-balanced" in rows
    assert "momentum" not in rows  # which AdamW does not take
    assert "sampler" not in card_text.training({"data": "digits", "sampler": "shuffled"}, {}, None)


def test_further_images_are_shown():
    from kedge.deploy import card_text

    recipe = {"data": "digits", "extra": {"outliers": "/home/me/photos/other_things"}}
    facts = {"extra": {"outliers": {"images": 1500, "sha256": "x"}, "unlabelled": {"images": 7, "sha256": "y"}}}
    rows = card_text.training(recipe, facts, None)
    assert "| further images | outliers: 1,500 of other\\_things, unlabelled: 7 |" in rows
    assert "/home" not in rows
    assert "| further images | outliers: other\\_things |" in card_text.training(recipe, {}, None)
    assert "further" not in card_text.training({"data": "digits"}, {}, None)


def test_the_steps_of_a_model_are_cited_and_numbers_from_before_them_called_that(run):
    model = make()
    page = model_card(model, run)
    assert "before its labels" not in page
    assert "1706.04599" not in page.partition("## Papers")[2] or "(ECE)" in page
    model.set_temperature(1.3)
    model.set_step("class_prior", {"target": [0.5, 0.3, 0.2], "train": [0.2, 0.3, 0.5]})
    page = model_card(model, run)
    assert "https://doi.org/10.1162/089976602753284446" in page.partition("## Papers")[2]  # Saerens et al.
    assert "https://arxiv.org/abs/1706.04599" in page.partition("## Papers")[2]  # Guo et al.


def test_papers_are_those_of_the_numbers_that_the_card_shows():
    from kedge.deploy import card_text
    from kedge.metrics._base import metrics
    from kedge.scores import SCORES

    scores = [score() for score in SCORES.values()]
    values = {s.name: {"auroc": {"value": 0.9 if s.name == "knn" else 0.5, "low": None, "high": None}} for s in scores}
    results = {
        "models": {"m": {"ood": {"far": {"scores": values}}}},
        "citations": kedge.catalog.citations([*metrics(), *scores]),
    }
    papers = card_text.papers({}, results)
    for shown in ("1706.04599", "2407.01032", "1610.02136", "2204.06507"):  # ECE, AUGRC, MSP and the best, KNN
        assert shown in papers
    for left_out in ("1910.12656", "2203.10807", "1807.03888"):  # the classwise error, ViM, Mahalanobis
        assert left_out not in papers
