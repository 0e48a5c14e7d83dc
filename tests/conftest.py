import gc
import os
import sys
from pathlib import Path

import pytest

from tests.dropping import drop as drop
from tests.hub_stand_in import serving

# Tests import onnxruntime by themselves, which else writes an identifier of the machine below the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def pytest_collection_finish():
    """What was imported stays: without looking through it for garbage again and again tests take a tenth less."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Libraries complain at the end of what was not freed."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_code_forgotten(tmp_path_factory):
    """Modules that a test wrote and imported are gone after it: the next one may write another of that name.

    Only those below the folder of this session's tests: an environment may itself lie in a temporary folder.
    """
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hugging Face hub, which its own client is pointed at, with an empty cache and no token."""
    from huggingface_hub import constants

    with serving() as (stand_in, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        for name in (
            "HF_HUB_OFFLINE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ):
            monkeypatch.delenv(name, raising=False)
        yield stand_in
