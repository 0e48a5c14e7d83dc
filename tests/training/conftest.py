import pytest

from kedge.own_code import allow_code
from kedge.training import Recipe


@pytest.fixture
def tiny(tmp_path):
    """A recipe that trains in about a second: four digits, a very small network, two epochs."""

    def make(**fields):
        settings = {"data": "digits", "classes": ["0", "1", "2", "3"], "arguments": {"width": 4}, "epochs": 2}
        settings |= {"batch_size": 64, "references": 3, "device": "cpu", "runs": str(tmp_path), "name": "run"}
        return Recipe(**{**settings, **fields})

    return make


@pytest.fixture
def no_report(monkeypatch):
    """The page takes longer than such a training."""

    monkeypatch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)


@pytest.fixture
def own_code_allowed():
    """Objectives named module:Class are imported."""
    with allow_code():
        yield
