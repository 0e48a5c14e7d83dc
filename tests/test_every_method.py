"""Every file of every room: where it comes from, and what all methods of its kind have in common."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kedge
from kedge import catalog, data
from kedge.training import fit
from tests.killing import afterwards, killed, places, watched
from tests.settings import BY_HAND, RUNS, TINY

ROOMS = [
    "attacks", "claims", "data.corruptions", "heads", "metrics", "objectives", "optim.rules", "optim.schedules",
    "postprocess", "procedures", "samplers", "scores",
]  # fmt: skip
METHODS = [(room, name) for room in ROOMS for name in catalog.names(room)]
TRIED = [(room, name) for room in RUNS for name in RUNS[room]]


def test_every_method_of_a_run_has_its_settings():
    for room, settings in RUNS.items():
        assert {*settings, *BY_HAND.get(room, ())} == set(catalog.names(room)), room


@pytest.mark.parametrize(("room", "name"), METHODS)
def test_it_says_what_it_is_and_where_it_comes_from(room, name):
    method, info = catalog.get(room, name), catalog.info(room, name)
    assert info is not None
    assert info.title
    assert not info.url or (info.authors and info.year and info.url.startswith("https://")), info
    summary = catalog.summary(room, name)
    assert 10 <= len(summary) <= 120
    assert summary.endswith(".")
    assert inspect.getdoc(method)
    assert method.__module__ == f"kedge.{room}.{name}"
    assert catalog.resolve(room, method.__name__) == name


@pytest.fixture(scope="module")
def outliers(tmp_path_factory) -> str:
    """A folder of noise."""
    folder = tmp_path_factory.mktemp("outliers")
    draws = np.random.default_rng(0)
    for i in range(50):
        path = folder / ("one" if i % 2 else "two") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8), "L").save(path)
    return str(folder)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> str:
    """A folder of digits by class that no run trains on."""
    images, folder = data.load("digits", "test").subset(range(60)), tmp_path_factory.mktemp("labelled")
    for i, (label, pixels) in enumerate(zip(images.labels.tolist(), images.images, strict=True)):
        path = folder / images.class_names[label] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[0].numpy(), "L").save(path)
    return str(folder)


def recipe(room: str, name: str, place: Path, outliers: str, labelled: str) -> dict[str, Any]:
    settings = {**TINY, **RUNS[room][name], "runs": str(place), "name": "run"}
    if "extra" in settings:
        settings["extra"] = {n: labelled if v == "LABELLED" else outliers for n, v in settings["extra"].items()}
    if "init_from" in settings:
        settings = {
            key: value for key, value in settings.items() if key not in ("model", "arguments", "anchored", "references")
        }
    return settings


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name"), TRIED)
def test_a_run_with_it_that_is_killed_ends_as_one_that_was_not(room, name, tmp_path, outliers, labelled):
    """Killed as it puts the checkpoint of its first epoch in its place, and once more a little later."""
    with watched(tmp_path / "whole") as events:
        whole = fit(recipe(room, name, tmp_path / "whole", outliers, labelled), progress=False, report=False)
    assert all(np.isfinite(row["train_loss"]) for row in whole.history)
    renames = places(events, ("os.rename",))
    for at in (renames[len(renames) // 3], renames[len(renames) // 2]):
        place = tmp_path / f"killed-{at}"
        with killed(place, at):
            fit(recipe(room, name, place, outliers, labelled), progress=False, report=False)
        with afterwards():
            if (place / "run").exists():
                fit(resume=place / "run", progress=False, report=False)
            else:
                fit(recipe(room, name, place, outliers, labelled), progress=False, report=False)
        expected = whole.model.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in kedge.load(place / "run").state_dict().items()), at


@pytest.mark.slow
@pytest.mark.parametrize(("room", "name"), TRIED)
def test_a_run_with_it_in_half_precision(room, name, tmp_path, outliers, labelled):
    settings = {**recipe(room, name, tmp_path, outliers, labelled), "precision": "bf16"}
    result = fit(settings, progress=False, report=False)
    assert np.isfinite(result.history[0]["train_loss"])
    assert all(value.isfinite().all() for value in result.model.state_dict().values() if value.is_floating_point())
