"""Few photos: all are trained on, and folds judge, each image once and by a model that did not see it."""

import contextlib
import copy
import io
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from torch.nn import functional as F

import kedge
from kedge import data, run_page
from kedge.binomial import accuracy_interval, folds_interval
from kedge.data.sets import TensorSet
from kedge.probing import set_probe
from kedge.training import Recipe, checkpoint_selection, fit, folds, outcome
from kedge.training.cost import least_room
from kedge.training.folds import fold_places
from kedge.training.held_out import RunImages
from kedge.training.module import Run
from kedge.training.record import ImageRecord
from kedge.training.resolve import resolve_folds

COUNTS = {"4": 9, "5": 10, "6": 8, "7": 1}  # 28 images, one class of a single one


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of few digits, and made-up published weights: of a network that was trained on four other digits."""
    folder = tmp_path_factory.mktemp("few")
    recipe = {"data": "digits", "classes": ["0", "1", "2", "3"], "arguments": {"width": 8}, "epochs": 6, "name": "base"}
    recipe |= {"anchored": False, "batch_size": 64, "references": 3, "device": "cpu", "runs": str(folder)}
    torch.save(fit(recipe, progress=False, report=False).model.network.state_dict(), folder / "weights.pth")
    train = data.load("digits", "train")
    for name, count in COUNTS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for i in (train.labels == int(name)).nonzero()[:count, 0].tolist():
            Image.fromarray(train.images[i, 0].numpy()).save(folder / "photos" / name / f"{i}.png")
    return folder


def of(place, runs, **fields):
    settings = {"data": str(place / "photos"), "model": "kedge_resnet_small", "arguments": {"width": 8}}
    settings |= {"weights": str(place / "weights.pth"), "epochs": 2, "references": 3, "device": "cpu"}
    return Recipe(**{**settings, "runs": str(runs), "name": "run", **fields})


@pytest.fixture
def recipe(place, tmp_path):
    return lambda **fields: of(place, tmp_path, **fields)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """A run with three folds, what it printed, and what its page was asked for."""
    page = {}

    def asked(model, folder, images, path, seed, record, about):
        page.update(folder=folder, images=images, path=path, about=about)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("kedge.run_page.write_run_report", asked)
        result = fit(of(place, tmp_path_factory.mktemp("whole")))
    return SimpleNamespace(result=result, said=said.getvalue(), page=page)


def images(counts, seed=0, shade=256):
    """As many random images of each class."""
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    pixels = torch.randint(0, shade, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return TensorSet(pixels.byte(), labels, [str(c) for c in range(len(counts))], "made", "train")


def ends(folder):
    """What the fold in `folder` began with and what its training came to, whatever it handed over."""
    start, trained = kedge.load(folder / "start"), kedge.load(folder / "model")
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    trained.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
    return start.eval(), trained.eval()


def averaged(start, trained, share):
    before, after = start.state_dict(), trained.state_dict()
    model = copy.deepcopy(start)
    mixed = {k: v + share * (after[k] - v) if v.is_floating_point() else v for k, v in before.items()}
    model.load_state_dict(mixed)
    return model


# How many, and when


def chosen(images, own_part=False, continued=False, **fields):
    fields = {"model": "resnet18", "pretrained": True, "anchored": True, "device": "cpu", **fields}
    return resolve_folds(Recipe(**fields), images, own_part, continued).folds


def test_they_are_chosen_for_fewer_than_a_hundred_images_and_published_weights():
    assert chosen(images([33, 33, 33])) == 3
    assert chosen(images([34, 33, 33])) == 0
    assert chosen(images([33, 33, 33]), folds=0) == 0
    assert chosen(images([33, 33, 33]), folds=5) == 5
    assert chosen(images([34, 33, 33]), folds=4) == 4
    assert chosen(images([9, 9]), pretrained=False) == 0
    assert chosen(images([9, 9]), head="leave") == 0
    assert chosen(images([9, 9]), own_part=True) == 0
    assert chosen(images([9, 9]), continued=True) == 0
    assert chosen(images([9, 9]), devices=2) == 0
    assert chosen(images([9, 9]), objective=["Adversarial", "CrossEntropy"]) == 0
    assert chosen(None) == 0
    assert chosen(images([3, 3, 1])) == 3  # most classes have three
    assert chosen(images([3, 3, 1, 2])) == 0
    assert chosen(images([60, 60, 9, 9]), classes=["2", "3"]) == 3  # of the classes that are trained on
    assert chosen(images([60, 60, 1, 2]), classes=["2", "3"]) == 0
    assert chosen(images([9, 9]), val_fraction=0.3) == 0  # which asks for that part
    assert chosen(images([9, 9]), init_from="timm/resnet18", average=0.5) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": None}, "were handed over"),
        ({"own_part": True}, "validation images of its own"),
        ({"continued": True}, "trained before"),
        ({"devices": 2}, "several processes"),
        ({"objective": ["Adversarial", "CrossEntropy"]}, "attacks"),
        ({"init_from": "timm/resnet18", "average": 0.5}, "average says"),
        ({"val_fraction": 0.3}, "val_fraction says"),
    ],
)
def test_where_they_cannot_be_they_are_refused_in_words(given, words):
    with pytest.raises(ValueError, match=f"folds is 3, but .*{words}.*: leave folds out"):
        chosen(**{"images": images([9, 9]), "folds": 3, **given})


def test_one_fold_is_none():
    with pytest.raises(ValueError, match=r"folds is 0 .*, or 2 or more, not 1"):
        Recipe.from_dict({"folds": 1})


# Which images


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_class_is_spread_and_the_order_of_files_decides_nothing(folds):
    given = images([7, 12, 5, 2, 1])
    places = fold_places(given, folds, seed=3)
    judged = torch.cat(places).tolist()
    assert sorted(judged) == list(range(26))  # each once, without the class of one
    sizes = [len(each) for each in places]
    assert max(sizes) - min(sizes) <= 1
    for each in places:
        counts = torch.bincount(given.labels[each], minlength=5)
        for have, of in zip(counts.tolist(), [7, 12, 5, 2, 0], strict=True):
            assert of // folds <= have <= -(-of // folds)
            assert have < max(of, 1)  # some of the class are trained on
    keys = given.keys()
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(9))
    other = given.subset(order)
    again = [{other.keys()[i] for i in each.tolist()} for each in fold_places(other, folds, seed=3)]
    assert again == [{keys[i] for i in each.tolist()} for each in places]
    assert [e.tolist() for e in fold_places(given, folds, seed=4)] != [e.tolist() for e in places]


def test_equal_images_go_together():
    given = images([6, 6])
    given.images[1] = given.images[0]
    given.images[7] = given.images[0]  # in another class
    fold_of = {i: n for n, each in enumerate(fold_places(given, 3, seed=0)) for i in each.tolist()}
    assert fold_of[0] == fold_of[1] == fold_of[7]


def test_a_class_whose_images_are_all_equal_stays_in_training():
    given = images([6, 3])
    given.images[6:] = given.images[6].clone()
    assert sorted(torch.cat(fold_places(given, 3, seed=0)).tolist()) == list(range(6))


def test_fewer_images_than_folds_are_refused_in_words():
    with pytest.raises(ValueError, match=r"folds is 5, but there are only 4 images to judge by .* of 5 images"):
        fold_places(images([2, 2, 1]), 5, seed=0)


# A run


def test_each_image_is_judged_once_by_a_model_that_did_not_see_it(whole):
    result, said = whole.result, whole.said
    assert (
        "28 images are few: none is held out; 3-fold cross-validation judges (3 trainings of two thirds, then one of "
        "all)"
    ) in said
    assert said.index("cross-validation judges") < said.index("fold 1 of 3: ") < said.index("epoch 1/2  loss")
    assert "val accuracy" not in said
    assert "; 1 more in no fold: alone in a class, or unreadable" in said
    whole = load_file(result.folder / "images.safetensors")
    everything = {bytes(key.tolist()) for key in whole["trained"]}
    assert len(everything) == 28
    assert len(whole["held"]) == 0
    judged = []
    for n in (1, 2, 3):
        fold = load_file(result.folder / "folds" / str(n) / "images.safetensors")
        trained, held = ({bytes(key.tolist()) for key in fold[name]} for name in ("trained", "held"))
        assert not trained & held
        assert trained | held == everything
        judged += held
    assert len(judged) == len(set(judged)) == 27  # the class of one is trained on alone
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["data"] | {"train": 28, "val": 0} == facts["data"]
    assert facts["folds"]["images"] == result.images == 27
    assert facts["validation"]["accuracy"] == pytest.approx(facts["folds"]["accuracy"])
    assert [each["images"] for each in facts["folds"]["each"]] == [9, 9, 9]
    right = sum(each["accuracy"] * each["images"] for each in facts["folds"]["each"])
    assert facts["folds"]["accuracy"] == pytest.approx(right / 27)
    assert facts["folds"]["accuracy"] >= facts["folds"]["start"]
    assert all("val_accuracy" not in row and "train_loss" in row for row in result.history)
    assert facts["recipe"]["folds"] == 3
    assert not (result.folder / "folds" / "1" / "report.html").exists()


def test_the_share_is_the_rule_of_the_floor_on_all_images_together(recipe, no_report, monkeypatch):
    """By brute force: weights averaged by hand, each fold asked one by one."""
    monkeypatch.setattr(outcome, "sweep_folds", lambda *arguments: None)
    result = fit(recipe(optimizer="sgd", lr=0.3, clip=1.0, temperature=True, coverage=0.8), progress=False)
    facts = json.loads((result.folder / "run.json").read_text())
    logits, labels = {}, []
    for n in (1, 2, 3):
        folder = result.folder / "folds" / str(n)
        val = RunImages(folder).val
        labels.append(val.labels)
        start, trained = ends(folder)
        for share in (1.0, *checkpoint_selection.SHARES, 0.0):
            model = averaged(start, trained, share)
            with torch.no_grad():
                pixels = torch.stack([image for image, _ in val]).float() / 255
                logits.setdefault(share, []).append(model.predict(pixels).logits)
    labels = torch.cat(labels)
    right = {share: int((torch.cat(each).argmax(1) == labels).sum()) for share, each in logits.items()}
    share = next((s for s in (1.0, *checkpoint_selection.SHARES) if right[s] >= right[0.0]), 0.0)
    assert right[1.0] < right[0.0]  # such a rate ruins it
    assert facts["folds"]["share"] == share
    for name, at in (("start", 0.0), ("trained", 1.0), ("accuracy", share)):
        assert facts["folds"][name] == pytest.approx(right[at] / 27)
    # All images trained on: handed over is the average of that start and that end.
    mixed = averaged(*ends(result.folder), share).state_dict()
    for name, value in result.model.state_dict().items():
        torch.testing.assert_close(value, mixed[name], msg=name)
    # The temperature is that of the lowest NLL on those logits, the threshold keeps four fifths of those images.
    pooled = torch.cat(logits[share]).double()
    best = minimize_scalar(
        lambda log: float(F.cross_entropy(pooled / torch.tensor(log).exp(), labels)), bounds=(-4, 4), method="bounded"
    )
    assert facts["validation"]["nll"] == pytest.approx(best.fun, abs=1e-3)
    confidence = (pooled / result.model.steps["temperature"]["value"]).softmax(1).max(1).values
    threshold = facts["reject"]["threshold"]
    assert int((confidence >= threshold - 1e-6).sum()) == pytest.approx(0.8 * 27, abs=1)


@pytest.mark.parametrize(("at", "left"), [(7, 10), (15, 2)])  # of four steps each: in the second fold, in the last
def test_killed_anywhere_it_goes_on_to_the_same_bits(recipe, whole, no_report, monkeypatch, at, left, tmp_path):
    original, steps = Run.training_step, []

    def step(run, batch, index):
        steps.append(index)
        if len(steps) == at:
            raise KeyboardInterrupt
        return original(run, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "training_step", step)
        with pytest.raises(KeyboardInterrupt) as stopped:
            fit(recipe(name="killed"), progress=False)
    assert "folds/" not in str(stopped.value).partition("--resume")[2]
    counted = []
    with monkeypatch.context() as patch:
        patch.setattr(Run, "training_step", lambda run, *rest: counted.append(1) or original(run, *rest))
        resumed = fit(resume=tmp_path / "killed", progress=False)
    assert len(counted) == left  # what was over is not trained again
    whole = whole.result
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.validation == whole.validation
    assert resumed.model.reject == whole.model.reject
    assert resumed.folds == whole.folds == json.loads((whole.folder / "run.json").read_text())["folds"]
    over = fit(resume=tmp_path / "killed", progress=False, report=False)
    assert (over.folds, over.images, over.validation) == (whole.folds, 27, whole.validation)


def test_without_folds_some_are_held_out_as_before(recipe, no_report, place, capsys):
    result = fit(recipe(folds=0))
    said = "tell little.* A larger val_fraction, or a folder val, gives more; --folds 3 judges by all 28 images"
    assert re.search(said, capsys.readouterr().out)
    record = ImageRecord.read(result.folder)
    every = data.load(str(place / "photos"), "train")
    train, val = data.split_validation(every, 0.1, 0)
    assert list(record.held) == val.keys()
    assert list(record.trained) == train.keys()
    assert (result.folds, result.images) == (None, len(val))
    assert not (result.folder / "folds").exists()
    assert "val_accuracy" in result.history[0]


def test_where_the_weights_cannot_be_had_some_are_held_out(recipe, no_report, monkeypatch):
    from kedge.networks import PretrainedUnavailable
    from kedge.training import prepare

    original = prepare.make_network

    def none(recipe, train):
        if recipe.pretrained:
            raise PretrainedUnavailable("no network here")
        return original(recipe, train)

    monkeypatch.setattr(prepare, "make_network", none)
    result = fit(recipe(weights=None, pretrained=True, epochs=1), progress=False)
    assert (result.recipe.folds, result.folds) == (0, None)
    assert result.images > 0


def test_a_network_from_scratch_can_be_judged_by_folds_too(recipe, no_report):
    result = fit(recipe(weights=None, folds=2, epochs=1), progress=False)
    assert (result.folds["share"], result.folds["images"]) == (1.0, 27)
    assert "start" not in result.folds


def test_none_is_left_to_evaluate_the_run_by_and_the_folds_are_named(whole, capsys):
    folder, page = whole.result.folder, whole.page
    with pytest.raises(ValueError, match=r"0 others are too few to measure on.* It held none out.*folds/1 --split val"):
        RunImages(folder).val  # noqa: B018
    first = RunImages(folder / "folds" / "1")
    assert len(first.val) == 9
    # The page is of that model on those images, and says so.
    assert set(page["images"].keys()) == set(first.val.keys())
    assert (page["folder"], page["path"]) == (folder / "folds" / "1", folder / "report.html")
    name, words = page["about"]
    assert name == "run, fold 1 of 3"
    assert "trained on 19 images and is judged here by 9 others" in words
    assert f"{100 * whole.result.validation['accuracy']:.1f} % of 27 images" in words
    from kedge.cli import main

    assert main(["evaluate", str(folder)]) != 0
    assert "cross-validation judged the training" in capsys.readouterr().err


def test_the_page_begins_with_what_it_is_of(whole):
    first = whole.result.folder / "folds" / "1"
    path = whole.result.folder / "page.html"
    model, page = kedge.load(first / "model"), whole.page
    run_page.write_run_report(model, first, page["images"], path, 0, ImageRecord.read(first), page["about"])
    text = path.read_text(encoding="utf-8")
    assert "How far to trust run, fold 1 of 3" in text
    assert text.index("This page is of the model of the first of 3 folds") < text.index("Summary")


@pytest.mark.parametrize(("correct", "total"), [(0, 30), (18, 30), (30, 30), (80, 90)])
def test_the_interval_of_folds_is_that_of_half_as_many_images(correct, total):
    theirs = binomtest(correct // 2, total // 2).proportion_ci(method="wilson")
    assert folds_interval(correct, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    with pytest.raises(ValueError, match="31 and 30"):
        folds_interval(31, 30)


def test_the_interval_of_folds_holds_what_one_model_of_all_images_has_on_others():
    """Nearest class means of made-up features, whose accuracy on 4,000 others is counted: 95 of 100 draws, nearly."""
    torch.manual_seed(0)
    classes, few, holds = 6, 30, {"folds": 0, "binomial": 0}
    centres = 1.1 * torch.randn(classes, 12)

    def drawn(count):
        labels = torch.randint(classes, (count,))
        return centres[labels] + torch.randn(count, 12), labels

    def right(own, labels, others, truth):
        means = torch.stack(
            [own[labels == c].mean(0) if (labels == c).any() else own.mean(0) + 99 for c in range(classes)]
        )
        return torch.cdist(others, means).argmin(1) == truth

    for seed in range(400):
        (own, labels), (others, truth) = drawn(few), drawn(4000)
        pixels = torch.randint(0, 256, (few, 1, 4, 4), dtype=torch.uint8)
        places = fold_places(TensorSet(pixels, labels, [str(c) for c in range(classes)], "made", "train"), 3, seed)
        correct = 0
        for held in places:
            rest = torch.ones(few, dtype=torch.bool).index_fill(0, held, False)
            correct += int(right(own[rest], labels[rest], own[held], labels[held]).sum())
        accuracy = float(right(own, labels, others, truth).double().mean())
        judged = sum(map(len, places))
        for name, interval in (("folds", folds_interval), ("binomial", accuracy_interval)):
            low, high = interval(correct, judged)
            holds[name] += low <= accuracy <= high
    assert holds["folds"] >= 0.94 * 400 > holds["binomial"], holds


def test_the_last_lines_say_by_how_many_folds(whole, monkeypatch, capsys):
    from kedge import training
    from kedge.cli import train

    monkeypatch.setattr(training, "fit", lambda *arguments, **settings: whole.result)
    train._train(Recipe(), None, False)
    said = capsys.readouterr().out
    right, low, high = (
        whole.result.validation["accuracy"],
        *folds_interval(round(27 * whole.result.folds["accuracy"]), 27),
    )
    assert f"accuracy {100 * right:.1f} % of 27 images by 3 folds, each by a model that was not trained on it" in said
    assert f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)" in said
    assert f"kedge evaluate {whole.result.folder}/folds/1 --split val" in said


def test_the_file_of_such_a_run_is_checked_on_its_training_images_and_not_called_right(whole, tmp_path, capsys):
    from kedge.cli import main

    out = tmp_path / "model.pt2"
    assert main(["export", str(whole.result.folder), "--to", "torch", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "checking on 28 images of photos (train)" in said.err
    assert "how many of its answers are right was not measured: run held out no image, as 3 folds judged it" in said.out
    assert "its threshold is the one that was set for the whole bank" in said.out


# What a fold may know of the images that it judges


def test_the_probe_of_a_fold_is_not_chosen_by_the_images_that_it_judges(recipe, no_report, monkeypatch):
    asked, fit_probe = [], set_probe.fit_probe

    def spy(fitted, judged, **settings):
        asked.append(judged)
        return fit_probe(fitted, judged, **settings)

    monkeypatch.setattr(set_probe, "FEW", 5)  # as if the nine of a fold were many
    monkeypatch.setattr(set_probe, "fit_probe", spy)
    fit(recipe(epochs=1), progress=False)
    assert asked == [None] * 4


@pytest.mark.slow
def test_each_fold_hands_over_what_it_is_judged_as(recipe, no_report, monkeypatch, caplog):
    """The average with the share of all folds, not with the one that is best on its own images."""
    monkeypatch.setattr(outcome, "sweep_folds", lambda *arguments: None)
    settings = {"optimizer": "sgd", "lr": 0.3, "clip": 1.0, "coverage": 0.8, "temperature": True}
    result = fit(recipe(**settings), progress=False)
    assert "below its start" not in caplog.text
    written = sum(path.stat().st_size for path in result.folder.rglob("*") if path.is_file())
    assert 0.7 * written < least_room(result.recipe, result.model, resumed=False, attacking=False) <= written
    for n, record in enumerate(result.folds["each"], 1):
        folder = result.folder / "folds" / str(n)
        model, mixed = kedge.load(folder / "model"), averaged(*ends(folder), result.folds["share"]).state_dict()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, mixed[name], msg=name)
        assert model.reject == result.model.reject
        assert {k: v["value"] for k, v in model.steps.items()} == {k: v["value"] for k, v in result.model.steps.items()}
        facts = json.loads((folder / "run.json").read_text())
        assert facts["validation"]["accuracy"] == record["accuracy"]
        assert (facts["reject"], facts["steps"]) == (model.reject, model.steps)
    # Gone on with, what a fold handed over is not taken for what it trained.
    (result.folder / "run.json").write_text(
        json.dumps({k: v for k, v in json.loads((result.folder / "run.json").read_text()).items() if k != "finished"})
    )
    assert fit(resume=result.folder, progress=False).folds == result.folds


@pytest.mark.slow
def test_only_their_models_are_left_of_folds(recipe, no_report, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(outcome, "sweep_folds", lambda *arguments: None)  # killed before it
        fit(recipe(epochs=1, schedule="constant", warmup=0), progress=False)
    folds = tmp_path / "run" / "folds"
    assert (folds / "1" / "last.ckpt").is_file()
    fit(resume=tmp_path / "run", progress=False)
    for n in "123":
        left = {path.name for path in (folds / n).iterdir()}
        assert left == {"model", "images.safetensors", "metrics.csv", "recipe.yaml", "run.json"}
    assert (tmp_path / "run" / "last.ckpt").is_file()
    # More epochs need them again.
    more = fit({"epochs": 2}, resume=tmp_path / "run", progress=False)
    whole = fit(recipe(epochs=2, schedule="constant", warmup=0, name="whole"), progress=False)
    assert more.folds == whole.folds
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, more.model.state_dict()[name]), name
    # One of the folds can be gone on with too: nothing is left to do.
    assert fit(resume=folds / "2", progress=False, report=False).images == 9


def test_a_run_with_folds_does_not_go_on_in_several_processes(whole, tmp_path):
    shutil.copytree(whole.result.folder, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    with pytest.raises(ValueError, match=r"cross-validation.* 3 folds.* one process.*--devices 1"):
        fit({"devices": 2}, resume=tmp_path / "run", progress=False)


def test_the_words_about_the_threshold_say_who_set_it(whole, place, capsys):
    from kedge.cli import main

    photo = next((place / "photos" / "4").iterdir())
    assert main(["predict", str(whole.result.folder), str(photo)]) == 0
    assert "set to keep 95% of the images of 3 folds)" in capsys.readouterr().err
    assert main(["card", str(whole.result.folder), "--out", str(whole.result.folder / "card.md")]) == 0
    card = (whole.result.folder / "card.md").read_text()
    right = 100 * whole.result.validation["accuracy"]
    assert f"27 of them were each judged by a model that was not trained on it, and {right:.1f} % were right" in card
    assert "95.0 % of the images of 3 folds are answered" in card
    assert "validation images" not in card


def test_killed_while_the_folds_hand_over_it_goes_on_to_the_same_bits(recipe, whole, no_report, monkeypatch, tmp_path):
    original, asked = folds.judge, []

    def judge(*arguments, **settings):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(folds, "judge", judge)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe(temperature=True), progress=False)
    resumed = fit(resume=tmp_path / "run", progress=False)
    assert resumed.folds == whole.result.folds
    for name, value in whole.result.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_where_the_model_is_gone_its_folds_are_trained_again(whole, no_report, tmp_path):
    """What is left of them is no more than what they handed over."""
    shutil.copytree(whole.result.folder, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    again = fit(resume=tmp_path / "run", progress=False)
    assert again.folds == whole.result.folds
    assert again.model.reject == whole.result.model.reject


def test_a_set_with_a_test_part_is_evaluated_next_and_has_training_images_to_publish_with(
    place, whole, monkeypatch, capsys
):
    from kedge import training
    from kedge.cli import train
    from kedge.cli.push import run_images
    from kedge.cli.resolve_model import find

    source = find(str(whole.result.folder))
    images, validation = run_images(source, whole.result.model.input_shape)
    assert (len(images), validation) == (28, None)
    monkeypatch.setattr(training, "fit", lambda *arguments, **settings: whole.result)
    for parts, after in ((["all"], "kedge predict"), (["train", "test"], "kedge evaluate")):
        monkeypatch.setattr(data, "splits", lambda name, parts=parts: parts)
        train._train(Recipe(), None, False)
        assert f"next:\n  {after} {whole.result.folder}" in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "share"), [({}, 0.0), ({"class_weights": "balanced"}, 1.0)])
def test_where_classes_are_to_count_the_same_their_mean_over_all_folds_decides(asked, share):
    """The start knows the frequent class alone: 8 of 10 are right, 50 % by class; trained 6 are, 56 % by class."""
    images = TensorSet(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), [0, 0, 0, 0, 1], ["a", "b"], "few", "val")
    answers = {0.0: [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], 1.0: [[0, 0, 0, 1, 1], [1, 0, 0, 1, 0]]}
    answers |= {between: [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]] for between in checkpoint_selection.SHARES}

    def fold(number):
        return SimpleNamespace(
            start=True, recipe=Recipe(**asked), train=images, val=images, familiarity=lambda share: None,
            logits=lambda share: F.one_hot(torch.tensor(answers[share][number]), 2).double(),
        )  # fmt: skip

    twice = TensorSet(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), [0, 0, 0, 0, 1] * 2, ["a", "b"], "few", "val")
    pooled = folds._pooled([fold(0), fold(1)], twice, 10)
    assert pooled.share == share
    record = pooled.record
    assert [record[key] for key in ("start", "trained", "accuracy")] == [0.8, 0.6, 0.6 if share else 0.8]
    assert ("by_class" in record) is bool(asked)
    if asked:
        assert record["by_class"] == {"start": 0.5, "trained": 0.5625, "accuracy": 0.5625}
        assert "in the mean of the classes 50.0 and 56.2 %, so the trained weights are kept" in folds._summary(record)
