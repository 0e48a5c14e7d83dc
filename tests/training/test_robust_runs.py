"""Adversarial fine-tuning as a run: which weights are kept, what is recorded, what a broken-off run comes back to."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

import kedge
from kedge.attacks import FGSM, PGD
from kedge.cli import resolve_model
from kedge.data import generator
from kedge.objectives import Adversarial, Anchored
from kedge.training import Recipe, TrainingStopped, epochs, fit
from kedge.training.cost import Cost
from kedge.training.images import load_sets
from kedge.training.module import Run
from kedge.training.objective import make_objective

pytestmark = pytest.mark.usefixtures("no_report")
SIZE = {"data": "digits", "classes": ["0", "1", "2", "3"], "batch_size": 64, "device": "cpu", "references": 3}
SIZE |= {"familiar": None}  # a rule for unknown images takes longer to choose than such an epoch takes
ATTACKED = [{"Adversarial": {"attack": {"PGD": {"eps": 0.1, "steps": 2, "step_size": 0.06}}}}, "CrossEntropy"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A plain and an anchored run of two epochs to start from."""
    made = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)
        for name in ("plain", "anchored"):
            fields = {"name": name, "anchored": name == "anchored", "epochs": 2, "runs": str(made)}
            fit(Recipe(**SIZE, **fields, arguments={"width": 4}), progress=False)
    return made


@pytest.fixture
def tuned(home, tmp_path):
    """Fine-tune: two epochs, three steps of PGD on 40 validation images after each."""

    def make(source="plain", **fields):
        settings = {**SIZE, "epochs": 2, "objective": ATTACKED, "val_pgd_steps": 3, "val_pgd_images": 40, "lr": 0.02}
        settings |= {"schedule": "slow-start-fast-decay", "init_from": str(home / source), "name": "run"}
        return Recipe(**{**settings, "runs": str(tmp_path), **fields})

    return make


def facts(folder):
    return json.loads((folder / "run.json").read_text())


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def scripted(monkeypatch):
    """Say what accuracy under attack each epoch has; gives the weights after each."""

    def script(*values):
        seen = []
        original = Run.on_validation_epoch_end

        def end(run):
            original(run)
            run.results["pgd"] = float(torch.tensor(values[run.current_epoch]))  # float32, as a metric gives it
            seen.append(state(run.evaluated))

        monkeypatch.setattr(Run, "on_validation_epoch_end", end)
        return seen

    return script


# The whole run


def test_a_run_by_hand(tuned, home, capsys):
    result = fit(tuned(seed=4))
    folder = result.folder
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [
            "images.safetensors",
            "last",
            "last.ckpt",
            "last.ckpt.sha256",
            "metrics.csv",
            "model",
            "recipe.yaml",
            "run.json",
            "start",
        ]
    )
    assert same(state(kedge.load(folder / "start")), _stripped(home / "plain"))
    table, record = rows(folder), facts(folder)["robust"]
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert record == result.robust
    ball = {"eps": 0.1, "norm": "linf", "steps": 3, "images": 40, "kept": "best"}
    assert {key: record[key] for key in ball} == ball
    best = max(range(2), key=lambda i: float(table[i]["val_pgd"]))
    assert (record["best"]["epoch"], record["last"]["epoch"]) == (best + 1, 2)
    # The accuracy under attack, by hand: another loop over the images, one at a time.
    _, val = load_sets(result.recipe)
    for name, key in (("model", "best"), ("last", "last")):
        model = kedge.load(folder / name)
        kept = []
        # A random subset, drawn from the seed.
        places = torch.randperm(len(val), generator=generator(4, "validation attack"))[:40].tolist()
        for i in places:
            image, label = val.images[i : i + 1] / 255, val.labels[i : i + 1]
            found = PGD(0.1, 3, seed=4)(model, image, label, indices=[i])
            kept.append(bool(model(found).argmax(1) == label))
        assert record[key]["pgd"] == pytest.approx(sum(kept) / 40, abs=1e-6)
        with torch.no_grad():
            right = model(val.images / 255).argmax(1) == val.labels
        assert record[key]["accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-5)
    out = capsys.readouterr().out
    assert re.search(r"epoch 2/2 .* under PGD \d+\.\d %", out)
    assert "cost: " in out


def _stripped(run):
    return state(kedge.load(run))


def test_the_cost_by_hand(tuned, home):
    """Every image takes two passes for the attack and one for the step; the start took one for each of two epochs."""
    first = fit(tuned(epochs=1), progress=False)
    images = facts(first.folder)["data"]["train"]
    cost = {"passes": images * 3.0, "earlier": images * 2.0, "from_scratch": 100 * images * 3.0}
    assert facts(first.folder)["cost"] == pytest.approx(cost)
    ramp = [{"Adversarial": {**ATTACKED[0]["Adversarial"], "hold": 0.5}}, "CrossEntropy"]
    then = fit(tuned(name="then", init_from=str(first.folder), objective=ramp, anchored=True), progress=False)
    # Half of two epochs without the attack: (1 + 3) / 2 passes on average; eight steps an epoch.
    cost = {"passes": images * 2 * 2.0, "earlier": images * 5.0, "from_scratch": 100 * images * 3.0}
    assert facts(then.folder)["cost"] == pytest.approx(cost)
    plain = fit(tuned(name="scratch", init_from=None, epochs=1, objective=["CrossEntropy"], anchored=False, lr=None))
    assert facts(plain.folder)["cost"] == pytest.approx({"passes": images, "earlier": 0, "from_scratch": 100 * images})


def test_the_cost_in_words():
    said = str(Cost(11e6, 5e6, 160e6))
    assert "11 million passes" in said
    assert "after 5 million for the model it starts from" in said
    assert "160 million, 10.0 times as many" in said
    assert "4,180 passes" in str(Cost(4180.0, 0.0, 2e6))
    assert "what it starts from not counted" in str(Cost(1e6, None, 2e6))


# Which weights are kept


def test_the_best_under_attack_is_the_model_and_the_last_is_beside_it(tuned, scripted):
    seen = scripted(0.3, 0.6, 0.4)
    result = fit(tuned(epochs=3), progress=False)
    assert same(state(result.model), seen[1])
    assert same(state(kedge.load(result.folder / "model")), seen[1])
    assert same(state(kedge.load(result.folder / "last")), seen[2])
    assert (result.robust["best"]["epoch"], result.robust["last"]["epoch"]) == (2, 3)
    found = facts(result.folder)
    _, val = load_sets(result.recipe)
    for name, key in (("model", "validation"), ("last", "validation_last")):
        right = kedge.load(result.folder / name).predict(val.images / 255).label == val.labels
        assert found[key]["accuracy"] == pytest.approx(float(right.float().mean()))
    assert not (result.folder / "best.safetensors").exists()


@pytest.mark.parametrize("value", [1 / 3, 0.7, 0.1, 0.9])
def test_of_equals_the_first_is_kept_and_named(tuned, scripted, value):
    """metrics.csv holds six digits: what was rounded down must not be beaten by itself."""
    seen = scripted(value, value)
    result = fit(tuned(), progress=False)
    assert result.robust["best"]["epoch"] == 1
    assert same(state(result.model), seen[0])
    assert same(state(kedge.load(result.folder / "last")), seen[1])


def test_the_last_can_be_the_model_and_the_best_beside_it(tuned, scripted):
    seen = scripted(0.6, 0.4)
    result = fit(tuned(keep="last"), progress=False)
    assert same(state(result.model), seen[1])
    assert same(state(kedge.load(result.folder / "model")), seen[1])
    assert same(state(kedge.load(result.folder / "best")), seen[0])
    assert not (result.folder / "last").exists()
    record = facts(result.folder)["robust"]
    assert record == result.robust
    assert (record["kept"], record["best"]["epoch"], record["last"]["epoch"]) == ("last", 1, 2)
    # It can be started from and resumed like any other.
    again = fit(resume=result.folder, progress=False)
    assert again.robust == record
    fit(tuned(name="more", init_from=str(result.folder / "best"), epochs=1, keep="last"), progress=False)
    assert facts(result.folder.parent / "more")["cost"]["earlier"] == pytest.approx(
        facts(result.folder)["cost"]["passes"] + facts(result.folder)["cost"]["earlier"]
    )
    assert resolve_model.find(str(result.folder / "best")).name == "run-best"


def test_without_an_attack_on_validation_images_the_last_is_kept(tuned):
    result = fit(tuned(val_pgd_steps=0), progress=False)
    assert result.robust is None
    assert "val_pgd" not in rows(result.folder)[0]
    assert not (result.folder / "last").exists()
    weights = torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[f"model.{name}"], value) for name, value in state(result.model).items())


def test_a_temperature_is_fitted_to_each_model_once(tuned, scripted):
    scripted(0.4, 0.6)  # the best is the last
    result = fit(tuned(temperature=True), progress=False)
    _, val = load_sets(result.recipe)
    for name, key in (("model", "validation"), ("last", "validation_last")):
        model = kedge.load(result.folder / name)
        assert model.steps["temperature"]["value"] != 1
        probs = model.predict(val.images / 255).probs
        expected = torch.nn.functional.nll_loss(probs.log(), val.labels)
        assert facts(result.folder)[key]["nll"] == pytest.approx(float(expected), rel=1e-3)


def test_an_average_with_the_start(tuned, scripted):
    seen = scripted(0.6, 0.4)
    result = fit(tuned(average=0.25, augment="none"), progress=False)
    start, made = state(kedge.load(result.folder / "start")), state(result.model)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in made.items():
        if not name.endswith(statistics):
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * seen[0][name])
    assert same(state(kedge.load(result.folder / "last")), seen[1])
    # The statistics of the first normalisation fit the stem of the average on training images under attack.
    train, _ = load_sets(result.recipe)
    model = result.model
    met = PGD(0.1, 2, step_size=0.06)(model, train.images / 255, train.labels)
    with torch.no_grad():
        clean = model.network.stem(model.normalise(train.images / 255))
        out = model.network.stem(model.normalise(met))
    first = model.network.norm_stem[0]
    torch.testing.assert_close(first.running_mean, out.mean((0, 2, 3)), atol=0.03, rtol=0.05)
    torch.testing.assert_close(first.running_var, out.var((0, 2, 3)), atol=0.03, rtol=0.1)
    assert (first.running_var - out.var((0, 2, 3))).norm() < 0.3 * (first.running_var - clean.var((0, 2, 3))).norm()
    midway = 0.75 * start["network.norm_stem.0.running_var"] + 0.25 * seen[0]["network.norm_stem.0.running_var"]
    assert not torch.allclose(first.running_var, midway, atol=1e-3)
    averaged = facts(result.folder)["robust"]["averaged"]
    _, val = load_sets(result.recipe)
    images, labels = val.images[:40] / 255, val.labels[:40]
    found = PGD(0.1, 3)(model, images, labels)
    assert averaged == {"share": 0.25, "pgd": pytest.approx(float((model(found).argmax(1) == labels).float().mean()))}


def test_a_breakdown_is_said(tuned, scripted, caplog):
    scripted(0.5, 0.05)
    fit(tuned(), progress=False)
    assert "epoch 2: accuracy under PGD fell from 50.0 % to 5.0 %: catastrophic overfitting" in caplog.text
    caplog.clear()
    scripted(0.5, 0.4)
    fit(tuned(name="sound"), progress=False)
    assert "catastrophic" not in caplog.text


# The attack of an anchored model


def test_anchored_is_put_round_the_attack(tuned, home):
    result = fit(tuned("anchored", epochs=1), progress=False)
    assert result.recipe.objective == [{"Anchored": {"alpha": 0.0}}, *ATTACKED]
    assert yaml.safe_load((result.folder / "recipe.yaml").read_text())["objective"] == result.recipe.objective
    assert torch.equal(result.model.references, kedge.load(home / "anchored").references)
    made = make_objective(result.recipe, load_sets(result.recipe)[0])
    assert isinstance(made, Anchored)
    assert made.alpha == 0
    assert isinstance(made.inner, Adversarial)
    mixed = fit(tuned("anchored", name="b", epochs=1, objective=[{"Mixup": {"alpha": 0.2}}, *ATTACKED]), progress=False)
    assert [next(iter(e)) if isinstance(e, dict) else e for e in mixed.recipe.objective] == [
        "Mixup", "Anchored", "Adversarial", "CrossEntropy"
    ]  # fmt: skip
    own = [{"Anchored": {"alpha": 0.3}}, *ATTACKED]
    assert fit(tuned("anchored", name="c", epochs=1, objective=own), progress=False).recipe.objective == own


def test_a_plain_start_can_become_anchored_in_the_run(tuned):
    result = fit(tuned(anchored=True, epochs=1), progress=False)
    assert type(kedge.load(result.folder / "start")) is kedge.AnchoredModel
    assert len(result.model.references) == 3
    assert result.recipe.objective[0] == {"Anchored": {"alpha": 0.0}}


# What a recipe says of an attack


def attack_of(tuned, written, **fields):
    recipe = tuned(objective=[{"Adversarial": {"attack": written, **fields}}, "CrossEntropy"])
    return make_objective(recipe, kedge.data.load("digits", "val"))


def test_an_attack_as_written(tuned):
    made = attack_of(tuned, {"PGD": {"eps": "8/255", "steps": 10, "step_size": "2/255", "norm": "l2"}}, ramp=0.5)
    assert made.attack == PGD(8 / 255, 10, 2 / 255, "l2").training()
    assert made.ramp == 0.5
    made = attack_of(tuned, {"FGSM": {"eps": "1e-1", "variant": "rs"}})
    assert made.attack == FGSM(0.1, variant="rs").training()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"PGD": {"eps": -0.1}}, "eps must be a number, 0 or more.*got -0.1"),
        ({"PGD": {"eps": "-8/255"}}, "eps must be a number, 0 or more"),
        ({"PGD": {"eps": 8}}, "8 levels of 255 are 8/255"),
        ({"PGD": {"eps": "8/0"}}, "eps: '8/0' is not a number"),
        ({"PGD": {"eps": "eight"}}, "'eight' is not a number, such as .*8/255"),
        ({"PGD": {"eps": 0.1, "steps": 0}}, "steps must be a whole number, 1 or more, got 0"),
        (
            {"PGD": {"eps": 0.1, "step": 3}},
            "Adversarial: attack: attack PGD has no argument 'step'",
        ),
        ({"PGD": {"steps": 3}}, "attack PGD needs eps: {PGD: {eps"),
        ({"PGD": {"eps": 0.1, "early_stop": True}}, "early_stop is for evaluation"),
        ({"PGB": {"eps": 0.1}}, "no 'PGB'.*did you mean pgd"),
        ({"FGMS": {"eps": 0.1}}, "no 'FGMS'.*did you mean fgsm"),
        ("PGD", "attack PGD needs eps"),
        ({"PGD": 0.1}, r"is named as NAME or {NAME: {argument: value}}"),
        # Forgotten name of the attack, and things that are no mapping.
        ({"eps": 0.1, "steps": 2}, r"is named as NAME or {NAME: {argument: value}}, not {'eps'"),
        ([{"PGD": {"eps": 0.1}}], r"attack of Adversarial is called with .*got \["),
        (None, r"needs an attack, such as kedge.attacks.PGD"),
    ],
)
def test_attacks_that_cannot_be(tuned, tmp_path, written, words):
    with pytest.raises(ValueError, match=words):
        fit(tuned(objective=[{"Adversarial": {"attack": written}}, "CrossEntropy"]), progress=False)
    assert not (tmp_path / "run").exists()


def test_objectives_that_cannot_be(tuned, tmp_path):
    for objective, words in (
        (["Adversarial", "CrossEntropy"], "Adversarial needs an attack"),
        ([ATTACKED[0]], "wraps another objective: name one after it"),
        ([ATTACKED[0], "Anchored", "CrossEntropy"], "Anchored"),
        ([{"Adversarail": {}}, "CrossEntropy"], "did you mean adversarial"),
        ([{"Adversarial": {**ATTACKED[0]["Adversarial"], "hald": 0.1}}, "CrossEntropy"], "did you mean hold"),
        ([{"TRADES": {"attack": {"FGSM": {"eps": 0.1}}}}, "CrossEntropy"], "TRADES needs random_start"),
        (["Attacking", "CrossEntropy"], "objective has no 'Attacking'"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(tuned(objective=objective), progress=False)
        assert not (tmp_path / "run").exists()


# The same again


@pytest.mark.parametrize("source", ["plain", "anchored"])
def test_the_same_seed_gives_the_same_run(tuned, source):
    first, second = (fit(tuned(source, name=name), progress=False) for name in "ab")
    assert same(state(first.model), state(second.model))
    drop = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows(r.folder)] for r in (first, second)]
    assert drop[0] == drop[1]
    other = fit(tuned(source, name="c", seed=1), progress=False)
    assert not same(state(first.model), state(other.model))


def test_how_many_steps_validation_takes_does_not_change_what_is_learnt(tuned):
    weights = [
        torch.load(fit(tuned(name=f"v{n}", val_pgd_steps=n), progress=False).folder / "last.ckpt", weights_only=True)
        for n in (0, 2)
    ]
    assert same(*(each["state_dict"] for each in weights))


def test_a_full_disk_while_the_best_is_kept(tuned, tmp_path, monkeypatch):
    whole = fit(tuned(name="whole"), progress=False)
    with monkeypatch.context() as patch:

        def save(tensors, path):
            path.write_bytes(b"some of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(epochs, "save_file", save)
        with pytest.raises(TrainingStopped, match="disk is full"):
            fit(tuned(), progress=False)
    assert not [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith((".", "best"))]
    assert same(state(fit(resume=tmp_path / "run", progress=False).model), state(whole.model))


@pytest.mark.parametrize("content", [b"rubbish", None])
def test_best_weights_that_cannot_be_read_are_said(tuned, scripted, monkeypatch, content):
    scripted(0.6, 0.4)
    original = Run.on_train_epoch_start

    def spoil(run):
        best = Path(run.trainer.default_root_dir) / "best-1.safetensors"
        if run.current_epoch == 1:
            best.unlink() if content is None else best.write_bytes(content)
        original(run)

    monkeypatch.setattr(Run, "on_train_epoch_start", spoil)
    with pytest.raises(ValueError, match=r"best-1\.safetensors.*epoch 1.*last\.ckpt"):
        fit(tuned(), progress=False)


FIT = """
    import json, os, shutil, signal, sys
    from kedge import run_page
    from kedge.training import fit
    from kedge.training.module import Run

    run_page.write_run_report = lambda *arguments: None
    size = dict(data="digits", classes=["0", "1"], batch_size=32, device="cpu", references=3, runs="runs")
    attack = {"PGD": {"eps": "15/100", "steps": 2, "step_size": 0.1}}
    objectives = {
        "adversarial": (True, [{"Adversarial": {"attack": attack, "ramp": 0.5}}, "CrossEntropy"]),
        "cure": (False, [{"CURE": {"attack": attack, "decay": 0.9}}, "CrossEntropy"]),
    }

    def train(name, kill_at=None, resume=False):
        original = Run.training_step

        def training_step(run, batch, index):
            if [run.current_epoch, index] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(run, batch, index)

        Run.training_step = training_step
        if resume:
            return fit(resume=f"runs/{name}", progress=False)
        if name == "plain":
            recipe = dict(epochs=1, anchored=False, arguments={"width": 4})
        else:
            anchored, objective = objectives[name.split("-")[0]]
            recipe = dict(init_from="runs/plain", anchored=anchored, objective=objective, epochs=3, lr=0.05)
            recipe |= dict(schedule="slow-start-fast-decay", val_pgd_steps=3, val_pgd_images=40, keep="best")
        fit({**size, **recipe, "name": name}, progress=False)

    def child(*arguments):  # a fresh process for each, but the imports, which take longest, once
        if (pid := os.fork()) == 0:
            train(*arguments)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    statuses = [child("plain")]
    for name in objectives:
        statuses += [child(f"{name}-whole"), child(f"{name}-late", [2, 3])]
    statuses += [child("adversarial-early", [0, 2])]
    shutil.rmtree("runs/plain")
    for name in ("adversarial-late", "adversarial-early", "cure-late"):
        statuses += [child(name, None, True)]
    print(json.dumps(statuses))
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_comes_back_to_the_same_weights_without_its_start(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(FIT))
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=250,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    killed = -signal.SIGKILL
    assert json.loads(done.stdout) == [0, 0, killed, 0, killed, killed, 0, 0, 0]
    runs = tmp_path / "runs"
    for name in ("adversarial", "cure"):
        whole = torch.load(runs / f"{name}-whole" / "last.ckpt", weights_only=True)
        assert any("revision" in key for key in whole["state_dict"]) == (name == "cure")
        for how in ("late", "early") if name == "adversarial" else ("late",):
            folder = runs / f"{name}-{how}"
            assert same(torch.load(folder / "last.ckpt", weights_only=True)["state_dict"], whole["state_dict"])
            for kept in ("model", "last", "start"):
                files = [(f / kept / "model.safetensors").read_bytes() for f in (folder, runs / f"{name}-whole")]
                assert files[0] == files[1], (name, how, kept)
            assert facts(folder)["robust"] == facts(runs / f"{name}-whole")["robust"]
            assert facts(folder)["cost"] == facts(runs / f"{name}-whole")["cost"]
            assert sorted(p.name for p in folder.iterdir()) == sorted(
                p.name for p in (runs / f"{name}-whole").iterdir()
            )
