"""Draws by validation error: shares by hand, smoothing, and a run that goes on bitwise where it was broken off."""

import math

import pytest
import torch
from PIL import Image

import kedge
from kedge.data import TensorSet
from kedge.samplers import make_sampler
from kedge.samplers.error_proportional import error_proportional, smoothed
from kedge.training import fit
from kedge.training import module as modules
from tests.settings import TINY

LABELS = torch.tensor([0] * 60 + [1] * 7 + [2] * 30 + [4] * 3)  # class 3 has none


def counts(errors, epoch=1, labels=LABELS, **settings):
    return labels[error_proportional(labels, epoch, 0, errors, **settings)].bincount(minlength=5).tolist()


def test_equal_errors_and_the_first_epoch_balance():
    assert counts([[0.3] * 5]) == [25, 25, 25, 0, 25]
    assert counts([[0.9, 0, 0, 0, 0]], epoch=0) == [25, 25, 25, 0, 25]
    assert counts([]) == [25, 25, 25, 0, 25]
    assert counts([[0.9, 0.1, 0, 1, 0]], exponent=0) == [25, 25, 25, 0, 25]
    assert counts([[0.0] * 5]) == [25, 25, 25, 0, 25]


def test_shares_go_with_the_root_of_the_error():
    # (e + 0.05)^(1/2) is 1, 1/2, 1/2, -, 1/2
    assert counts([[0.95, 0.2, 0.2, 0.7, 0.2]]) == [40, 20, 20, 0, 20]


def test_errors_are_smoothed_over_the_epochs_before_and_no_later_one():
    rows = [[0.8, 0.2], [0.4, 0.6], [0.0, 1.0]]
    assert smoothed(rows, 0.75).tolist() == pytest.approx([0.75 * (0.75 * 0.8 + 0.25 * 0.4), 0.25 + 0.75 * 0.3])
    assert smoothed(rows, 0).tolist() == [0, 1]
    even = torch.arange(100) % 2
    for epoch in (1, 2):
        assert counts(rows, epoch, even) == counts(rows[:epoch], epoch, even)


def test_a_class_without_validation_images_counts_as_the_mean_of_the_others():
    assert smoothed([[0.2, math.nan, 0.4]], 0.5).tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_within_a_class_images_come_equally_often_and_the_seed_decides():
    errors = [[0.5, 0.1, 0.9, 0, 0.3]]
    order = error_proportional(LABELS, 1, 0, errors)
    assert (order.dtype, order.shape) == (torch.long, LABELS.shape)
    times = order.bincount(minlength=100)
    assert all(int(times[k == LABELS].max() - times[k == LABELS].min()) <= 1 for k in (0, 1, 2, 4))
    assert torch.equal(order, error_proportional(LABELS, 1, 0, errors))
    assert not torch.equal(order, error_proportional(LABELS, 1, 1, errors))
    assert error_proportional(torch.zeros(5, dtype=torch.long), 1, 0, [[0.5]]).sort().values.tolist() == [*range(5)]


@pytest.mark.parametrize("setting", [{"exponent": 0.8}, {"exponent": -0.1}, {"memory": 1}, {"floor": 0}])
def test_settings_out_of_range(setting, tmp_path):
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        make_sampler({"error-proportional": setting})(LABELS, 0, 0)
    if name == "exponent":  # before anything is trained
        with pytest.raises(ValueError, match="exponent"):
            fit({**TINY, "sampler": {"error-proportional": setting}, "runs": str(tmp_path)}, progress=False)
    with pytest.raises(ValueError, match="'errors'"):
        make_sampler({"error-proportional": {"errors": [[1]]}})


def recipe(place, **more):
    settings = {key: value for key, value in {**TINY, **more}.items() if key != "report"}
    return {**settings, "sampler": "error-proportional", "runs": str(place), "name": "run"}


def test_a_run_tells_the_sampler_its_validation_errors(tmp_path, monkeypatch):
    runs = []
    finish = modules.Run.on_validation_epoch_end

    def watched(self):
        finish(self)
        runs.append(self)

    monkeypatch.setattr(modules.Run, "on_validation_epoch_end", watched)
    result = fit(recipe(tmp_path, epochs=3, keep="last"), progress=False, report=False)
    run = runs[-1]
    assert len(run.validation.errors) == 3
    # The accuracy of the row is what the errors say, weighed by the validation images.
    shares = torch.bincount(run.val_set.labels, minlength=10) / len(run.val_set)
    for errors, row in zip(run.validation.errors, result.history, strict=True):
        wrong = sum(e * s for e, s in zip(errors, shares.tolist(), strict=True) if s)
        assert 1 - wrong == pytest.approx(row["val_accuracy"], abs=1e-5)
    batches = run._batches.training
    batches.set_epoch(2)
    labels = run.train_set.labels
    expected = error_proportional(labels, 2, run.recipe.seed, run.validation.errors)
    assert torch.equal(torch.cat(batches.indices()), expected)
    assert labels[expected].bincount().tolist() != labels[error_proportional(labels, 0, 0)].bincount().tolist()


def test_a_run_that_was_broken_off_goes_on_bitwise(tmp_path, monkeypatch):
    whole = fit(recipe(tmp_path / "whole", epochs=4), progress=False, report=False)
    starts, begin = [], modules.Run.on_train_epoch_start

    def broken(self):
        starts.append(self.current_epoch)
        if self.current_epoch == 2:
            raise RuntimeError("broken off")
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(modules.Run, "on_train_epoch_start", broken)
        with pytest.raises(RuntimeError, match="broken off"):
            fit(recipe(tmp_path / "cut", epochs=4), progress=False, report=False)
    assert starts == [0, 1, 2]
    on = fit(resume=tmp_path / "cut" / "run", progress=False, report=False)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in on.model.state_dict().items())


def test_without_validation_images_it_is_refused(tmp_path):
    draws = torch.Generator().manual_seed(0)
    for i in range(24):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(256, (8, 8), generator=draws, dtype=torch.uint8).numpy()).save(path)
    settings = {key: value for key, value in recipe(tmp_path).items() if key != "train_images"}
    settings |= {"data": str(tmp_path / "photos"), "folds": 2, "batch_size": 4, "image_size": 8, "workers": 0}
    with pytest.raises(ValueError, match="draws by the errors on validation images"):
        fit(settings, progress=False, report=False)
    assert not (tmp_path / "run").exists()


def test_a_sampler_of_ones_own_may_ask_for_them_too(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def worst_first(labels, epoch, seed, errors=()):\n"
        "    assert len(errors) == epoch, (len(errors), epoch)\n"
        "    return (labels + seed * 0).argsort()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**recipe(tmp_path / "runs"), "sampler": "mine:worst_first"}
    assert len(fit(settings, allow_code=True, progress=False, report=False).history) == 2


def test_no_class_prior_is_set_on_top(tmp_path):
    from kedge.cli.calibrate import _weighs

    fit(recipe(tmp_path), progress=False, report=False)
    assert kedge.load(tmp_path / "run") is not None
    assert _weighs(tmp_path / "run") == "sampler error-proportional"


def test_correcting_twice_is_refused(tmp_path):
    uneven = TensorSet(torch.zeros(100, 1, 8, 8, dtype=torch.uint8), LABELS.clamp(max=3), list("abcd"))
    settings = {**recipe(tmp_path), "class_weights": "balanced", "objective": ["CrossEntropy"], "anchored": False}
    with pytest.raises(ValueError, match="one of the two is enough"):
        fit(settings, sets=(uneven, uneven), progress=False, report=False)
