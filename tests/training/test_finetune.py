"""Fine-tuning from published weights: from the linear probe, on frozen statistics, and never below its start."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import nn
from torch.nn import functional as F

import kedge
from kedge import data
from kedge.data import TensorSet, with_label_noise
from kedge.probing.features import features
from kedge.probing.heads import find_head
from kedge.probing.set_probe import set_probe
from kedge.training import Recipe, checkpoint_selection, fit
from kedge.training.calibration import predict_logits
from kedge.training.folder import RunFolder
from kedge.training.images import load_sets
from kedge.training.module import Run

pytestmark = pytest.mark.usefixtures("no_report")
NEW = {"model": "kedge_resnet_small", "classes": ["4", "5", "6", "7", "8", "9"], "epochs": 2}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file with the weights of a network that knows four digits."""
    folder = tmp_path_factory.mktemp("published")
    recipe = {"data": "digits", "classes": ["0", "1", "2", "3"], "arguments": {"width": 8}, "epochs": 6, "name": "base"}
    recipe |= {"anchored": False, "batch_size": 64, "references": 3, "device": "cpu", "runs": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)
        network = fit(recipe, progress=False).model.network
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture
def recipe(tiny, published):
    def make(**fields):
        return tiny(**{**NEW, "arguments": {"width": 8}, "weights": str(published), **fields})

    return make


def statistics(state):
    return {k: v for k, v in state.items() if "running_" in k}


@pytest.mark.parametrize("anchored", [False, True])
def test_it_starts_from_the_probe_and_the_statistics_stay(recipe, published, anchored):
    result = fit(recipe(anchored=anchored))
    facts = json.loads((result.folder / "run.json").read_text())
    assert (result.recipe.head, result.recipe.batch_norm, result.recipe.pretrained) == ("probe", "frozen", True)
    before = {k.removeprefix("module."): v for k, v in torch.load(published)["state_dict"].items()}
    after = statistics(result.model.network.state_dict())
    assert len(after) > 4
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    # The probe is scikit-learn's logistic regression on the features of the published network.
    train, val = load_sets(result.recipe)
    assert facts["probe"]["images"] == len(train)
    model = kedge.load(result.folder / "start")
    rows = [features(model, find_head(model), s, references=1).double().numpy() for s in (train, val)]
    mean, scale = rows[0].mean(0), ((rows[0] - rows[0].mean(0)) ** 2).mean() ** 0.5
    c = 1 / (facts["probe"]["strength"] * len(train))
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit((rows[0] - mean) / scale, train.labels)
    assert facts["probe"]["accuracy"] == pytest.approx(theirs.score((rows[1] - mean) / scale, val.labels), abs=0.02)


def test_the_head_is_of_the_size_that_the_loss_of_training_asks_for(recipe):
    """Its loss on the validation images, smoothed as in training, is lowest as it is; no answer is another."""
    smoothed, sharp = (
        fit(recipe(name=name, anchored=False, epochs=1, objective=[{"CrossEntropy": {"label_smoothing": share}}]))
        for name, share in (("smoothed", 0.2), ("sharp", 0.0))
    )
    val = load_sets(smoothed.recipe)[1]
    logits = [predict_logits(kedge.load(run.folder / "start"), val)[0].double() for run in (smoothed, sharp)]
    facts = json.loads((smoothed.folder / "run.json").read_text())["probe"]
    assert "temperature" not in json.loads((sharp.folder / "run.json").read_text())["probe"]
    torch.testing.assert_close(logits[0] * facts["temperature"], logits[1], atol=1e-4, rtol=1e-4)
    loss = [F.cross_entropy(logits[0] * size, val.labels, label_smoothing=0.2) for size in (0.9, 1.0, 1.1)]
    assert loss[1] == min(loss)
    assert facts["accuracy"] == pytest.approx(float((logits[0].argmax(1) == val.labels).double().mean()))


@pytest.mark.parametrize("judged_too", [False, True])
def test_wrong_labels_are_those_of_the_probe_too(recipe, judged_too, monkeypatch):
    """Fitted to the true ones, it would hand training the answers that the recipe takes away."""
    seen = []

    def watch(model, train, val, *more):
        seen.append((train.labels.clone(), val.labels.clone()))
        return set_probe(model, train, val, *more)

    monkeypatch.setattr("kedge.training.prepare.set_probe", watch)
    noise = {"label_noise": 0.4, "label_noise_kind": "pair", "label_noise_val": judged_too}
    result = fit(recipe(epochs=1, **noise), progress=False)
    train, val = load_sets(result.recipe)
    assert torch.equal(seen[0][0], with_label_noise(train, 0.4, 0, "pair").labels)
    judged_by = with_label_noise(val, 0.4, 0, "pair", "val") if judged_too else val
    assert torch.equal(seen[0][1], judged_by.labels)
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["start"]["start"] == pytest.approx(facts["probe"]["accuracy"], abs=1.5 / len(val))


@torch.no_grad()
def test_the_probe_of_a_model_that_was_trained_anchored_asks_its_whole_bank(tiny):
    """Its first reference alone gives other features than those that the model then answers by."""
    with torch.enable_grad():
        before = fit(tiny(name="before", arguments={"width": 8}, epochs=4), progress=False)
        settings = {"arguments": {}, "init_from": str(before.folder), "head": "probe", "epochs": 1}
        result = fit(tiny(name="after", **settings), progress=False)
    facts = json.loads((result.folder / "run.json").read_text())
    start, val = kedge.load(result.folder / "start"), load_sets(result.recipe)[1]
    logits, labels = predict_logits(start, val)
    assert facts["probe"]["nll"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-3)
    one = start(val.images.float() / 255, references=start.references[:1].expand(len(val), -1, -1, -1))
    assert facts["probe"]["nll"] != pytest.approx(float(F.cross_entropy(one, labels)), rel=1e-3)


def test_statistics_follow_the_batches_where_that_is_asked_for(recipe, published):
    result = fit(recipe(batch_norm="train", epochs=1, snapshots=1))
    before = {k.removeprefix("module."): v for k, v in torch.load(published)["state_dict"].items()}
    trained = kedge.load(result.folder / "snapshots" / "epoch-0001")  # what is handed over may be the start
    after = statistics(trained.network.state_dict())
    assert not any(torch.equal(v, before[k]) for k, v in after.items())


def test_what_training_ruins_is_not_handed_over(recipe, caplog, capsys):
    ruined = fit(recipe(optimizer="sgd", lr=0.5, clip=1.0, epochs=1))
    facts = json.loads((ruined.folder / "run.json").read_text())
    said = capsys.readouterr().out
    assert f"linear probe of the frozen network: {100 * facts['probe']['accuracy']:.1f} %" in said
    assert facts["start"]["trained"] < facts["start"]["start"]
    assert facts["start"]["share"] < 1
    assert facts["validation"]["accuracy"] >= facts["probe"]["accuracy"] - 1e-9
    assert "training ended below its start" in caplog.text


def test_an_average_that_is_asked_for_is_given_though_it_be_worse(recipe):
    """1 is the trained weights as they are; other shares lie on the line from the probe, statistics still frozen."""
    ruin = {"optimizer": "sgd", "lr": 0.5, "clip": 1.0, "epochs": 1}
    whole, half = fit(recipe(name="whole", average=1, **ruin)), fit(recipe(name="half", average=0.5, **ruin))
    facts = json.loads((whole.folder / "run.json").read_text())
    assert facts["validation"]["accuracy"] < facts["probe"]["accuracy"]
    start, trained, middle = (
        kedge.load(folder).state_dict()
        for folder in (half.folder / "start", half.folder / "last", half.folder / "model")
    )
    for name, value in whole.model.network.state_dict().items():
        assert torch.equal(value, trained[f"network.{name}"])
    moved = [name for name in middle if name.startswith("network.") and middle[name].is_floating_point()]
    for name in moved:
        torch.testing.assert_close(middle[name], (start[name] + trained[name]) / 2)
    assert any(not torch.equal(start[name], trained[name]) for name in moved)
    assert all(torch.equal(middle[name], start[name]) for name in moved if "running_" in name)


def test_an_average_without_a_start_is_refused_before_training(recipe):
    with pytest.raises(ValueError, match=r"average 0\.5 is with the linear probe .*head: leave, or"):
        fit(recipe(head="leave", average=0.5))
    with pytest.raises(ValueError, match="average is with the weights that the run starts from: name them"):
        fit(recipe(weights=None, average=0.5))


@pytest.mark.parametrize(
    ("of_trained", "share"),
    # the start is right on half of the images
    [
        ({1.0: 0.5}, 1.0),
        ({1.0: 0.4, 0.9: 0.4, 0.8: 0.5, 0.7: 0.9}, 0.8),
        (dict.fromkeys((1.0, *checkpoint_selection.SHARES), 0.4), 0.0),
    ],
)
def test_the_most_of_the_training_that_is_as_right_as_the_start_is_kept(of_trained, share, tmp_path, monkeypatch):
    trained = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), example=(1, 1, 2), mean=[0.0], std=[1.0])
    full = trained.network[1].weight.detach().clone()
    start = copy.deepcopy(trained)
    with torch.no_grad():
        for parameter in start.network.parameters():
            parameter.zero_()
    with pytest.warns(UserWarning, match="has no name"):
        kedge.save(start, tmp_path / "start")

    def accuracy(run, model, by_class):
        assert not by_class
        of = round(float((model.network[1].weight / full).mean().detach()), 3)
        return {0.0: 0.5, **of_trained}[of]

    monkeypatch.setattr(checkpoint_selection, "_accuracy", accuracy)
    images = TensorSet(torch.zeros(4, 1, 1, 2, dtype=torch.uint8), [0, 0, 0, 1], ["a", "b"], "few", "train")
    run = SimpleNamespace(recipe=Recipe(batch_norm="frozen"), train_set=images)
    model, record = checkpoint_selection.not_below_start(run, trained, RunFolder(tmp_path))
    torch.testing.assert_close(model.network[1].weight, share * full)
    assert record["share"] == share
    assert record["accuracy"] == max(0.5, of_trained.get(share, 0))


@pytest.mark.parametrize("asked", [{}, {"class_weights": "balanced"}, {"sampler": "oversampled"}])
def test_where_classes_are_to_count_the_same_their_mean_decides_what_is_kept(asked, recipe):
    """Else the accuracy would take back what weights or a sampler were asked for: of rare classes it knows little."""
    train, val = (data.load("digits", split).only_classes(["4", "5", "6"]) for split in ("train", "val"))
    rare = train.subset([i for i, label in enumerate(train.labels.tolist()) if label == 0 or i % 10 == 0])
    result = fit(recipe(classes=None, epochs=1, snapshots=1, **asked), sets=(rare, val))
    facts = json.loads((result.folder / "run.json").read_text())["start"]
    assert facts.get("by_class", False) is bool(asked)
    trained = kedge.load(result.folder / "snapshots" / "epoch-0001")
    logits, labels = predict_logits(trained, val)
    score = balanced_accuracy_score if asked else accuracy_score
    assert facts["trained"] == pytest.approx(score(labels, logits.argmax(1)))


def test_a_run_killed_in_its_first_epoch_goes_on_from_the_same_probe(recipe, monkeypatch):
    whole = fit(recipe(name="whole"))
    original = Run.training_step

    def step(run, batch, index):
        if index == 2:
            raise KeyboardInterrupt
        return original(run, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe(name="killed"))
    folder = whole.folder.parent / "killed"
    resumed = fit(resume=folder)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_weights_need_a_network_and_no_other_start(recipe):
    with pytest.raises(ValueError, match="of which network"):
        fit(recipe(model="auto"))
    with pytest.raises(ValueError, match="contradict each other"):
        fit(recipe(pretrained=False))
    with pytest.raises(ValueError, match="of another network"):
        fit(recipe(model="test_resnet", arguments={}))


def test_what_fitted_of_the_file_is_said_before_the_first_epoch(recipe, published, capsys):
    fit(recipe(epochs=1))
    said = capsys.readouterr().out
    assert f"weights of {published}: " in said
    assert said.index("tensors of the body; head fresh") < said.index("epoch 1/1")


def test_a_robust_model_is_not_taken_back_for_its_clean_accuracy(tiny, recipe):
    start = fit(recipe(name="clean"))
    attack = {"Adversarial": {"attack": {"PGD": {"eps": 0.3, "steps": 2}}}}
    robust = fit(
        tiny(
            name="robust", init_from=str(start.folder), objective=[attack, "CrossEntropy"], val_pgd_steps=0, data=None,
            classes=None, arguments={}, lr=0.5, optimizer="sgd", epochs=1,
        )
    )  # fmt: skip
    assert "start" not in json.loads((robust.folder / "run.json").read_text())
    before, after = start.model.state_dict(), robust.model.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before if k.endswith("weight"))


def test_averages_are_shown_images_cropped_as_in_training(recipe, monkeypatch):
    crops = []
    whole = checkpoint_selection.NormBatches

    def noted(*arguments, **settings):
        crops.append(settings["crop"])
        return whole(*arguments, **settings)

    monkeypatch.setattr(checkpoint_selection, "NormBatches", noted)
    fit(recipe(optimizer="sgd", lr=0.5, clip=1.0, epochs=1, batch_norm="train", crop=0.7))
    assert set(crops) == {0.7}


def few(sets, counts):
    """The first so many images of each class."""
    order = torch.cat([(sets.labels == label).nonzero().flatten()[:n] for label, n in enumerate(counts)])
    return sets.subset(order)


def test_twelve_photos_are_enough_and_the_probe_is_judged_by_folds(recipe, capsys):
    """Three folds, each class spread over them: scikit-learn's logistic regression, three times."""
    train, val = load_sets(recipe())
    sets = few(train, [3, 3, 3, 0, 0, 0]).only_classes(["4", "5", "6"]), few(val, [1, 1, 1, 0, 0, 0])
    sets = sets[0], sets[1].only_classes(["4", "5", "6"])
    result = fit(recipe(anchored=True, references=10, classes=None, batch_size=None), sets=sets)
    assert result.recipe.references == 9  # the default, where there are fewer images
    facts = json.loads((result.folder / "run.json").read_text())["probe"]
    model = kedge.load(result.folder / "start")
    rows = features(model, find_head(model), sets[0], references=1).double().numpy()
    labels, right, logits = sets[0].labels.numpy(), 0, np.zeros((9, 3))
    for fold in range(3):
        held = [label * 3 + fold for label in range(3)]
        kept = [i for i in range(9) if i not in held]
        mean, scale = rows[kept].mean(0), ((rows[kept] - rows[kept].mean(0)) ** 2).mean() ** 0.5
        theirs = LogisticRegression(C=1 / (facts["strength"] * 6), tol=1e-9, max_iter=9000)
        theirs.fit((rows[kept] - mean) / scale, labels[kept])
        right += (theirs.predict((rows[held] - mean) / scale) == labels[held]).sum()
        logits[held] = theirs.decision_function((rows[held] - mean) / scale)
    assert facts["folds"] == 3
    assert facts["fold_accuracy"] == pytest.approx(right / 9)
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3  # smoothed, as in the training

    def loss(log_t):
        return -(targets * log_softmax(logits / np.exp(log_t), axis=1)).sum()

    best = minimize_scalar(loss, bounds=(-4.6, 4.6), method="bounded").x
    assert facts["temperature"] == pytest.approx(np.exp(best), rel=0.02)
    assert f"{100 * right / 9:.1f} % of those 9 in 3-fold cross-validation" in capsys.readouterr().out


def test_three_photos_make_one_batch(recipe):
    """A default batch is no larger than the set: two of each class leave three to train on."""
    train, val = load_sets(recipe())
    names = ["4", "5", "6"]
    sets = [few(images, [1, 1, 1, 0, 0, 0]).only_classes(names) for images in (train, val)]
    result = fit(recipe(anchored=True, classes=None, batch_size=None, references=10, epochs=1), sets=tuple(sets))
    assert (result.recipe.batch_size, result.recipe.references) == (3, 3)


def test_more_references_than_images_are_refused_where_they_were_asked_for(recipe):
    train, val = load_sets(recipe())
    with pytest.raises(ValueError, match="references is 50, but there are only 12"):
        fit(recipe(anchored=True, references=50, classes=None), sets=(few(train, [2] * 6), few(val, [1] * 6)))


def test_a_class_with_one_photo_is_trained_on(recipe, capsys):
    train, val = load_sets(recipe())
    sets = few(train, [1, 4, 4, 4, 4, 4]), few(val, [0, 1, 1, 1, 1, 1])
    result = fit(recipe(anchored=True, classes=None, epochs=1, batch_size=None), sets=sets)
    facts = json.loads((result.folder / "run.json").read_text())["probe"]
    assert "folds" not in facts  # there is no fold of one image
    assert facts["strength"] == pytest.approx(1 / 21)
    assert "(4 0, 5 1" in capsys.readouterr().out


def test_a_network_without_a_linear_head_starts_from_a_fresh_one_and_says_so(recipe, tmp_path, caplog):
    import torchvision

    torch.manual_seed(0)
    path = tmp_path / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    train, val = load_sets(recipe(image_size=32))
    sets = few(train, [4] * 6), few(val, [1] * 6)
    chosen = recipe(
        model="torchvision/squeezenet1_1",
        weights=str(path),
        arguments={},
        classes=None,
        anchored=False,
        batch_size=None,
    )
    result = fit(chosen, sets=sets)
    assert (result.recipe.head, result.recipe.head_lr) == ("leave", 1.0)
    assert "no linear probe to start from, and so nothing that the run must not fall below" in caplog.text
    assert "Name one with head" not in caplog.text  # --head of kedge train says another thing
