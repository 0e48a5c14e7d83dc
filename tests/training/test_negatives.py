"""Photos of the place without the object: what the recipe becomes, what is refused, and that a run is the same run."""

import json

import pytest
import torch
from tests.photo_folder import write_photo, write_photos

from kedge.objectives import OutlierExposure
from kedge.training import Recipe, fit
from kedge.training.negatives import with_negatives

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", each=40)


@pytest.fixture
def negatives(tmp_path):
    """Thirty pictures that are none of the photos, in a folder without folders."""
    for i in range(30):
        write_photo(tmp_path / "without" / f"{i}.png", 50_000 + i)
    return tmp_path / "without"


@pytest.fixture
def recipe(photos, negatives, tmp_path):
    values = {
        "data": str(photos),
        "negatives": str(negatives),
        "model": "kedge_resnet_small",
        "epochs": 1,
        "name": "run",
    }
    values |= {
        "arguments": {"width": 4},
        "image_size": 8,
        "references": 3,
        "device": "cpu",
        "runs": str(tmp_path / "runs"),
    }
    return lambda **more: Recipe(**{**values, **more})


@pytest.mark.parametrize(("objective", "becomes"), [
    (["CrossEntropy"], ["OutlierExposure", "CrossEntropy"]),
    ([{"Anchored": {"alpha": 0}}, "Brier"], ["OutlierExposure", {"Anchored": {"alpha": 0}}, "Brier"]),
    ([{"MixOE": {"op": "cutmix"}}, "CrossEntropy"], [{"MixOE": {"op": "cutmix"}}, "CrossEntropy"]),
    ([{"outlier_exposure": {"weight": 2}}, "CrossEntropy"], [{"OutlierExposure": {"weight": 2}}, "CrossEntropy"]),
    (["Anchored", "StableMax", "CrossEntropy"], ["Anchored", "StableMax", "OutlierExposure", "CrossEntropy"]),
])  # fmt: skip
def test_what_the_recipe_becomes(objective, becomes):
    resolved = with_negatives(Recipe(objective=objective, negatives="without", extra={"pool": "others"}))
    assert resolved.objective == becomes
    assert resolved.extra == {"pool": "others", "outliers": "without"}
    assert resolved.negatives is None
    assert with_negatives(resolved) is resolved


def test_a_run_is_that_with_the_objective_written_out(recipe, negatives):
    short = fit(recipe(), progress=False)
    names = [each if isinstance(each, str) else next(iter(each)) for each in short.recipe.objective]
    assert names == ["OutlierExposure", "Anchored", "CrossEntropy"]
    assert json.loads((short.folder / "run.json").read_text())["extra"]["outliers"]["images"] == 30
    written = recipe(negatives=None, extra={"outliers": str(negatives)}, objective=short.recipe.objective, name="other")
    long = fit(written, progress=False)
    assert all(map(torch.equal, short.model.state_dict().values(), long.model.state_dict().values()))
    assert "outlier_loss" in short.history[0]
    without = fit(recipe(negatives=None, name="without"), progress=False)
    assert any(map(lambda a, b: not torch.equal(a, b), short.model.parameters(), without.model.parameters()))
    again = fit(resume=short.folder, progress=False)  # the folder says it all
    assert all(map(torch.equal, short.model.state_dict().values(), again.model.state_dict().values()))


def test_a_photo_cannot_have_a_class_and_be_of_none(recipe, photos, negatives, tmp_path):
    for name in ("ant", "cow"):
        (negatives / f"{name}.png").write_bytes((photos / name / "m000.png").read_bytes())
    words = r"negatives: \d of the \d+ images of .*without are training images too, of class .*An image cannot"
    with pytest.raises(ValueError, match=words):
        fit(recipe(val_fraction=0.01), progress=False)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="are training images too, of class ant, bee, cow"):
        fit(recipe(negatives=str(photos)), progress=False)


def test_folders_that_are_empty_or_not_there(recipe, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing holds no files"):
        fit(recipe(negatives=str(tmp_path / "nothing")), progress=False)
    with pytest.raises(ValueError, match="no data called"):
        fit(recipe(negatives=str(tmp_path / "nowhere")), progress=False)
    with pytest.raises(ValueError, match="negatives is empty"):
        Recipe.from_dict({"negatives": " "})
    assert not (tmp_path / "runs").exists()


def test_negatives_beside_other_outliers(recipe, tmp_path):
    with pytest.raises(ValueError, match="extra has outliers too, others: leave out one of them"):
        fit(recipe(extra={"outliers": "others"}, data=str(tmp_path / "nowhere")), progress=False)
    with pytest.raises(ValueError, match="too, that were handed over"):
        with_negatives(recipe(), {"outliers": None})


def test_they_nest_round_an_objective_that_is_chosen_by_the_data(recipe):
    result = fit(recipe(anchored=False), progress=False)
    assert result.recipe.objective == ["OutlierExposure", "CrossEntropy"]
    assert OutlierExposure.streams == ("outliers",)
