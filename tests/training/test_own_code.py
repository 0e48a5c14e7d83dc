"""Names of one's own code: nothing is imported unless the command line, or the calling program, says so."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import kedge
from kedge import networks, own_code
from kedge.cli.foreign import load_callable
from kedge.data import load
from kedge.procedures._base import Context
from kedge.procedures._settings import Settings
from kedge.procedures._stages import tune
from kedge.training import fit, load_recipe
from kedge.training.facts import EarlierRun, check_run
from kedge.training.folder import RunFolder
from kedge.training.objective import objective_class

KEDGE = Path(sys.executable).with_name("kedge")
EVIL = """\
import pathlib
from torch import nn

pathlib.Path(__file__).with_name("marker").touch()


class Loss(nn.CrossEntropyLoss):
    def forward(self, model, images, targets):
        return super().forward(model(images), targets)
"""
NUDGE = """\
from kedge.attacks import Attack


class Nudge(Attack):
    eps, norm = 0.1, "linf"

    def __call__(self, model, images, targets):
        return (images + self.eps).clamp(0, 1)
"""
STARTS = [[str(KEDGE)], [sys.executable, "-m", "kedge"]]


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A working folder with evil.py, which leaves a marker where it is run, and a recipe that names it."""
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "recipe.yaml").write_text("objective: ['evil:Loss']\nepochs: 1\ndata: nowhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    return tmp_path


def command(start, *words):
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.skipif(not KEDGE.is_file(), reason="kedge is not installed here")
@pytest.mark.parametrize(
    "words",
    [
        ("train", "--config", "recipe.yaml"),
        ("train", "--objective", "['evil:Loss']"),
        ("train", "--objective", "['nowhere_at_all:Loss']"),
    ],
)
def test_without_the_flag_nothing_runs_and_both_ways_say_the_same(evil, words):
    one, other = (command(start, *words) for start in STARTS)
    assert one == other
    assert one[0] == 1
    assert "--allow-code" in one[1]
    if "nowhere_at_all" not in words[-1]:
        assert str(evil / "evil.py") in one[1]
    assert not (evil / "marker").exists()


@pytest.mark.skipif(not KEDGE.is_file(), reason="kedge is not installed here")
@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS, ids=["kedge", "python -m kedge"])
def test_with_the_flag_the_module_of_the_working_folder_is_taken(evil, start):
    """Objectives are looked at before the images, of which this folder has none."""
    (evil / "empty").mkdir()
    code, said = command(start, "train", "--config", "recipe.yaml", "--data", "empty", "--allow-code")
    assert (code, "empty" in said, "evil" in said) == (1, True, False), said
    assert (evil / "marker").exists()


@pytest.mark.skipif(not KEDGE.is_file(), reason="kedge is not installed here")
def test_what_is_called_like_a_library_is_not_taken_for_it(evil):
    """`python -m` looks into the working folder first."""
    (evil / "yaml.py").write_text(EVIL)
    code, said = command(STARTS[1], "train", "--config", "recipe.yaml", "--print-config")
    assert code == 0, said
    assert not (evil / "marker").exists()


def test_a_file_never_says_so_itself(evil, tiny):
    text = tiny(objective=["evil:Loss"], anchored=False).to_yaml()
    (evil / "own.yaml").write_text(text)
    for reader in (load_recipe, fit):
        with pytest.raises(ValueError, match=r"objective evil:Loss is Python code.*evil\.py.*--allow-code"):
            reader(evil / "own.yaml")
    assert not (evil / "marker").exists()
    with own_code.allow_code():
        assert load_recipe(evil / "own.yaml").objective == ["evil:Loss"]
    assert load_recipe(evil / "own.yaml", allow_code=True).objective == ["evil:Loss"]
    for key in ("optimizer", "schedule", "sampler"):
        (evil / "other.yaml").write_text(f"data: digits\n{key}: {{'evil:Loss': {{}}}}\n")
        with pytest.raises(ValueError, match=rf"{key} evil:Loss is Python code"):
            load_recipe(evil / "other.yaml")
    assert not (evil / "marker").exists()  # reading is not running


def test_a_programs_own_recipe_runs_and_its_resumption_is_asked_again(evil, tiny, no_report, monkeypatch, caplog):
    monkeypatch.syspath_prepend(evil)
    recipe = tiny(objective=["evil:Loss"], anchored=False, epochs=1)
    with pytest.raises(ValueError, match="evil:Loss is Python code"):
        fit(recipe, progress=False, allow_code=False)
    assert not (evil / "marker").exists()
    assert fit(recipe, progress=False).recipe.objective == ["evil:Loss"]
    assert (evil / "marker").exists()
    folder = Path(recipe.runs) / "run"
    for path in (folder / "model").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="evil:Loss is Python code"):
        fit(resume=folder, progress=False)
    with (evil / "evil.py").open("a") as file:
        file.write("# edited\n")
    assert fit(resume=folder, progress=False, allow_code=True).recipe.objective == ["evil:Loss"]
    assert "the module evil was changed since the run began" in caplog.text


def test_an_experiment_never_says_so_itself(evil, tmp_path):
    from kedge.experiments import load_experiment, plan

    (evil / "own.yaml").write_text(
        "title: t\nsource: s\ndata: digits\nbase: {epochs: 1, anchored: false}\nscales: {laptop: {}}\n"
        "variants: {own: {objective: ['evil:Loss']}}\n"
    )
    experiment = load_experiment(evil / "own.yaml")
    with pytest.raises(ValueError, match="evil:Loss is Python code"):
        plan(experiment, "laptop", [0], tmp_path, "digits")
    assert not (evil / "marker").exists()


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "builtins:exec"])
def test_a_model_is_none_of_pythons_own_functions(name):
    with pytest.raises(ValueError, match="is a module of Python itself and none of yours"):
        load_callable(name)


def test_names_are_looked_for_before_anything_runs(evil, monkeypatch):
    (evil / "pack").mkdir()
    (evil / "pack" / "__init__.py").write_text(EVIL.replace("marker", "../marker"))
    monkeypatch.syspath_prepend(evil)
    with own_code.allow_code():
        for name, words in {
            "os:system": "a module of Python itself",
            "subprocess:Popen": "a module of Python itself",
            "sys:exit": "a module of Python itself",
            "pack.nowhere:Loss": "there is no module 'pack.nowhere'",
            "evill:Loss": "there is no module 'evill'.*did you mean evil",
            "evil:Loss()": "not of the form",
            "evil.py:Loss:x": "not of the form",
        }.items():
            with pytest.raises(ValueError, match=words):
                objective_class(name)
        assert not (evil / "marker").exists()
        with pytest.raises(ValueError, match="evil has no 'Los'; did you mean Loss"):
            objective_class("evil:Los")
        with pytest.raises(ValueError, match="not a class of nn"):
            objective_class("evil:pathlib")
        assert objective_class("evil:Loss").__module__ == "evil"


def test_code_named_as_the_value_of_an_argument_is_named_digested_and_asked_for(evil, tiny, no_report, monkeypatch):
    """Its digest is that of hashlib; a text of the same form which names data is none."""
    (evil / "mine.py").write_text(NUDGE)
    attacked = [{"Adversarial": {"attack": "mine:Nudge"}}, "CrossEntropy"]
    recipe = tiny(objective=attacked, anchored=False, epochs=1, val_pgd_steps=0)
    (evil / "own.yaml").write_text(recipe.to_yaml())
    with pytest.raises(ValueError, match=r"objective mine:Nudge is Python code.*--allow-code"):
        load_recipe(evil / "own.yaml")
    (evil / "bank.yaml").write_text("objective: [{Anchored: {reference_set: 'stream:photos'}}, CrossEntropy]\n")
    assert "stream:photos" in str(load_recipe(evil / "bank.yaml").objective)
    assert "mine" not in sys.modules
    monkeypatch.syspath_prepend(evil)
    try:
        folder = fit(recipe, progress=False).folder
        facts = RunFolder(folder).facts()
        digest = hashlib.sha256((evil / "mine.py").read_bytes()).hexdigest()
        assert facts["code"] == {"mine": digest}
        (folder / "model" / "config.json").unlink()
        with (evil / "mine.py").open("a") as file:
            file.write("# edited\n")
        words = check_run(EarlierRun(RunFolder(folder), facts))
        assert [line for line in words if "module mine was changed since the run began" in line]
        assert [
            line for line in check_run(EarlierRun(RunFolder(folder), {**facts, "code": {}})) if "module mine" in line
        ]
    finally:
        sys.modules.pop("mine", None)


def test_code_that_only_a_stage_of_an_adaptation_names_is_not_run(evil, tiny, monkeypatch):
    """A folder from anybody can hold a recipe with such an attack; the program that adapts named nothing of it."""
    (evil / "adapted").mkdir()
    recipe = tiny(objective=[{"Adversarial": {"attack": "evil:Loss"}}, "CrossEntropy"], anchored=False)
    (evil / "adapted" / "recipe.yaml").write_text(recipe.to_yaml())
    (evil / "adapted" / "run.json").write_text("{}")
    monkeypatch.syspath_prepend(evil)
    images = load("digits", "val").subset(range(20))
    context = Context(
        "adapted", kedge.plain(networks.create("kedge_resnet_small", 10, 1)), images, None, Settings(), evil
    )
    with pytest.raises(ValueError, match="evil:Loss is Python code"):
        tune(context, context.model)
    assert not (evil / "marker").exists()
