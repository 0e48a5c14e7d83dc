import pytest

from kedge.own_code import allow_code
from kedge.training import Recipe, fit
from kedge.training.module import Run


@pytest.fixture(scope="session")
def recipes():
    """Of a folder of runs: recipes that train in about a second, four digits, a very small network, two epochs."""

    def of(folder):
        settings = {"data": "digits", "classes": ["0", "1", "2", "3"], "arguments": {"width": 4}, "epochs": 2}
        settings |= {"batch_size": 64, "references": 3, "device": "cpu", "runs": str(folder), "name": "run"}
        settings |= {"familiar": None}  # to choose a rule for unknown images takes as long as two such epochs
        return lambda **fields: Recipe(**{**settings, **fields})

    return of


@pytest.fixture
def tiny(recipes, tmp_path):
    """A recipe that trains in about a second."""
    return recipes(tmp_path)


@pytest.fixture
def no_report(monkeypatch):
    """The page takes longer than such a training."""

    monkeypatch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)


@pytest.fixture
def own_code_allowed():
    """Objectives named module:Class are imported."""
    with allow_code():
        yield


@pytest.fixture(scope="session")
def break_off():
    """Train by a recipe until a batch of the second epoch, where Ctrl-C comes."""

    def train(recipe, batch=2):
        original = Run.training_step

        def step(run, images, index):
            if run.current_epoch == 1 and index == batch:
                raise KeyboardInterrupt
            return original(run, images, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "training_step", step)
            with pytest.raises(KeyboardInterrupt):
                fit(recipe, progress=False)

    return train
