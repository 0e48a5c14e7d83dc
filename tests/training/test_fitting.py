import csv
import errno
import itertools
import json
import math
import os
import pickle
import shutil
import warnings

import pytest
import torch
from torch import nn

import kedge
from kedge import data
from kedge.training import Recipe, TrainingStopped, epochs, fit, load_recipe
from kedge.training.calibration import reject_rule
from kedge.training.images import load_sets
from kedge.training.module import Run

pytestmark = pytest.mark.usefixtures("no_report")


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder(tiny, capsys):
    recipe = tiny()
    result = fit(recipe)
    folder = result.folder
    files = ["images.safetensors", "last.ckpt", "last.ckpt.sha256", "metrics.csv", "model", "recipe.yaml", "run.json"]
    assert sorted(p.name for p in folder.iterdir()) == files
    assert load_recipe(folder / "recipe.yaml") == result.recipe
    assert result.recipe.model == "kedge_resnet_small"
    facts = json.loads((folder / "run.json").read_text())
    assert facts["seed"] == 0
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert facts["data"]["classes"] == ["0", "1", "2", "3"]
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]
    steps = -(-facts["data"]["train"] // 64)
    assert [int(row["step"]) for row in rows(folder)] == [steps, 2 * steps]
    assert result.history[-1]["val_accuracy"] == pytest.approx(float(rows(folder)[-1]["val_accuracy"]))
    out = capsys.readouterr().out
    assert "epoch 2/2" in out
    assert "Lightning" not in out

    loaded = kedge.load(folder / "model")
    assert same(weights(loaded), weights(result.model))
    assert not any(module.training for module in loaded.modules())
    assert loaded.class_names == ["0", "1", "2", "3"]
    assert all(p.requires_grad for p in result.model.parameters())

    _, val = load_sets(result.recipe)
    prediction = loaded.predict(val.images / 255)
    kept = kedge.rejection.answered(loaded.reject, prediction.confidence, prediction.log_odds)
    assert float(kept.float().mean()) >= recipe.coverage
    right = (prediction.label == val.labels)[kept].float().mean()
    assert float(right) == pytest.approx(loaded.reject["validation_accuracy"])
    assert result.validation["accuracy"] == pytest.approx(float((prediction.label == val.labels).float().mean()))


def test_a_reject_rule_for_a_risk():
    confidence = torch.tensor([0.95, 0.9, 0.8, 0.7, 0.6])
    logits, labels = torch.stack([confidence, 1 - confidence], 1).log(), torch.tensor([0, 0, 0, 1, 0])
    assert reject_rule(logits, labels, 0.95, risk=0.0) == {
        "score": "confidence",
        "threshold": pytest.approx(0.8),
        "log_odds": pytest.approx(math.log(4)),
        "risk": 0.0,
        "validation_coverage": 0.6,
        "validation_accuracy": 1.0,
    }
    assert reject_rule(logits, labels, risk=0.2)["validation_coverage"] == 1.0
    with pytest.warns(UserWarning, match="among 5 validation images down to 0.1"):
        rule = reject_rule(logits, 1 - labels, risk=0.1)
    assert (rule["validation_coverage"], rule["validation_accuracy"]) == (0.0, None)
    assert 0.95 < rule["threshold"] < 0.951


def test_the_columns_of_a_row_are_what_they_say(tiny):
    """Validation by hand: the last row against the saved model with one reference, as the loop validates."""
    result = fit(tiny(epochs=1))
    _, val = load_sets(result.recipe)
    with torch.no_grad():
        logits = result.model(val.images / 255)
    row = result.history[0]
    assert row["val_nll"] == pytest.approx(float(nn.functional.cross_entropy(logits, val.labels)), rel=1e-4)
    assert row["val_accuracy"] == pytest.approx(float((logits.argmax(1) == val.labels).float().mean()), rel=1e-4)


def test_a_seed_decides_the_run_and_leaves_the_callers_draws_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = fit(tiny(name="a", epochs=1), progress=False)
    assert torch.equal(torch.rand(3), expected)
    second = fit(tiny(name="b", epochs=1), progress=False)
    other = fit(tiny(name="c", epochs=1, seed=1), progress=False)
    assert same(weights(first.model), weights(second.model))
    assert not same(weights(first.model), weights(other.model))


def test_a_plain_model_learns(tiny):
    result = fit(tiny(anchored=False, epochs=4, batch_size=16), progress=False)
    assert type(result.model).__name__ == "PlainModel"
    assert result.validation["accuracy"] > 0.9


def test_own_sets(tiny):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[20:] //= 4  # dark against bright
    labels = torch.tensor([0] * 20 + [1] * 20)
    own = data.TensorSet(images, labels, ["bright", "dark"])
    result = fit(tiny(classes=None, batch_size=8, data="mine"), sets=data.split_validation(own, 0.25), progress=False)
    assert result.model.class_names == ["bright", "dark"]


def test_nothing_is_printed_when_told_so(tiny, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tiny(epochs=1), progress=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_run_folder_is_never_overwritten(tiny):
    fit(tiny(epochs=1), progress=False)
    with pytest.raises(FileExistsError, match=r"run is there already.*--resume .*another name"):
        fit(tiny(epochs=1), progress=False)


def test_runs_without_a_name_find_one(tiny):
    recipe = tiny(name=None, epochs=1)
    first, second = fit(recipe, progress=False), fit(recipe, progress=False)
    assert first.folder != second.folder
    assert first.folder.name.startswith("digits-kedge_resnet_small-20")


def test_the_moving_average_is_validated_and_saved(tiny, monkeypatch):
    """Against the average computed by hand from the weights before training and after each step."""
    seen = []
    original = Run.on_train_batch_end

    def after(run, *arguments):
        seen.append(weights(run.model))
        original(run, *arguments)

    monkeypatch.setattr(Run, "on_train_start", lambda run: seen.append(weights(run.model)))
    monkeypatch.setattr(Run, "on_train_batch_end", after)
    result = fit(tiny(ema=0.9, batch_size=32), progress=False)
    saved = weights(result.model)
    average = seen[0]
    for step, state in enumerate(seen[1:], start=1):
        decay = min(0.9, 1 - step ** (-2 / 3))  # timm's warm-up of the average
        for name, value in state.items():
            blend = decay * average[name] + (1 - decay) * value
            average[name] = blend if value.is_floating_point() else value
    assert all(torch.allclose(saved[name], average[name], atol=1e-5) for name in saved)
    assert not torch.allclose(seen[-1]["network.fc.weight"], saved["network.fc.weight"], atol=1e-4)
    checkpoint = torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(checkpoint["model.network.fc.weight"], seen[-1]["network.fc.weight"])
    assert torch.equal(checkpoint["ema.module.network.fc.weight"], saved["network.fc.weight"])


class Tied(nn.Module):
    """Two layers that share one weight and one batch normalisation."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.second.weight = self.first.weight
        self.norm = self.again = nn.BatchNorm1d(64)

    def forward(self, x):
        return self.head(self.again(self.second(self.norm(self.first(x.flatten(1))).relu())))


@pytest.mark.filterwarnings("ignore:Tied has no name")
def test_a_shared_weight_moves_once_a_step(tiny, monkeypatch):
    averaged = []
    original = Run.on_train_batch_end

    def after(run, *arguments):
        before = {
            name: weights(model)["network.first.weight"]
            for name, model in (("mean", run.evaluated), ("now", run.model))
        }
        original(run, *arguments)
        kept = run.ema.get_decay(run.global_step)
        average = weights(run.evaluated)
        averaged.append(
            torch.allclose(
                average["network.first.weight"], kept * before["mean"] + (1 - kept) * before["now"], atol=1e-7
            )
        )
        assert torch.equal(average["network.first.weight"], average["network.second.weight"])
        assert int(average["network.norm.num_batches_tracked"]) == 2 * len(averaged)  # it is called twice a step

    monkeypatch.setattr(Run, "on_train_batch_end", after)
    start = kedge.plain(Tied(), example=(1, 8, 8))
    start.class_names = ["0", "1", "2", "3"]
    fit(tiny(ema=0.9, epochs=1, anchored=False), start=start, progress=False)
    assert averaged
    assert all(averaged)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "adamw", "clip": 0.5, "schedule": "constant"},
        {"schedule": "multistep", "milestones": [1.0], "momentum": 0.0},
        {"class_weights": "balanced", "augment": "none", "residuals": 4},
        {
            "objective": [
                {"CutMix": {"alpha": 1.0}},
                {"Anchored": {"alpha": 0.5, "mask_target": "label"}},
                "CrossEntropy",
            ]
        },
        {"objective": [{"CrossEntropy": {"label_smoothing": 0.1}}]},
        {"precision": "bf16", "choose": "mean", "augment": "randaugment"},
        {"augment": "trivial", "label_noise": 0.2, "arguments": {"width": 4, "norm": "group"}},
        {"model": "test_vit", "arguments": {"img_size": 8, "patch_size": 4}, "pretrained": False},
    ],
)
def test_every_part_of_a_recipe_runs(tiny, fields):
    result = fit(tiny(epochs=2, **fields) if "epochs" not in fields else tiny(**fields), progress=False)
    assert all(value.isfinite().all() for value in weights(result.model).values())
    assert result.recipe.residuals == (0 if getattr(result.model, "residuals", None) is None else 4)


def test_clipping_limits_the_gradient(tiny):
    """With SGD without momentum and a constant rate, no step can be longer than lr times the clip."""
    seen = []
    original = Run.on_train_batch_end

    def spy(run, *arguments):
        seen.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
        original(run, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "on_train_batch_end", spy)
        settings = {"clip": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
        fit(tiny(epochs=1, lr=0.5, **settings), progress=False)
    longest = max(float((b - a).norm()) for a, b in itertools.pairwise(seen))
    assert 0.9 * 0.005 < longest < 1.01 * 0.005


def test_a_last_batch_of_one_is_dropped(tiny):
    train, val = load_sets(tiny())
    odd = train.subset(range(65))
    result = fit(tiny(epochs=1), sets=(odd, val), progress=False)
    assert result.history[0]["step"] == 1


def test_published_weights_that_cannot_be_had_are_said_loudly(tiny, monkeypatch, caplog):
    from kedge import networks
    from kedge.training import build

    original = networks.create

    def create(name, outputs, channels, size, pretrained, arguments):
        if pretrained:
            raise networks.PretrainedUnavailable("the published weights of 'test_resnet' could not be had: no network")
        return original(name, outputs, channels, size, pretrained, arguments)

    monkeypatch.setattr(build.networks, "create", create)
    result = fit(tiny(epochs=1, model="test_resnet", arguments={}, pretrained=True), progress=False)
    assert "no network" in caplog.text
    assert "RANDOM WEIGHTS" in caplog.text
    assert result.recipe.pretrained is False
    assert load_recipe(result.folder / "recipe.yaml").pretrained is False


# Stops


class Breaks(nn.Module):
    """Cross-entropy that does `what` in one step of epoch 2."""

    def __init__(self, what):
        super().__init__()
        self.what, self.calls = what, 0

    def forward(self, model, images, targets):
        self.calls += 1
        loss = nn.functional.cross_entropy(model(images), targets)
        return self.what(loss) if self.calls == 10 else loss


def raises(error):
    def what(loss):
        raise error

    return what


@pytest.fixture
def breaking(monkeypatch):
    from kedge.training import fitting

    return lambda what: monkeypatch.setattr(fitting, "make_objective", lambda *arguments: Breaks(what))


def checkpoint_of(folder):
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in state["state_dict"].values() if value.is_floating_point())
    return state


def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, breaking):
    breaking(lambda loss: loss * float("nan"))
    with pytest.raises(TrainingStopped) as stop:
        fit(tiny(epochs=3), progress=False)
    # Eight steps in an epoch, so the tenth call is step 2 of epoch 2.
    assert "epoch 2, step 2 of 8" in str(stop.value)
    assert "learning rate 0.0" in str(stop.value)
    assert f"{tmp_path / 'run' / 'last.ckpt'} (epoch 1)" in str(stop.value)
    assert checkpoint_of(tmp_path / "run")["epoch"] == 0
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1"]


def test_a_run_that_diverges_at_once(tiny, tmp_path):
    with pytest.raises(TrainingStopped, match=r"epoch 1, step .*No checkpoint had been written.*lower lr"):
        fit(tiny(lr=1e30, schedule="constant", warmup=0.0), progress=False)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_outputs_that_are_not_finite_on_validation_images_stop_the_run(tiny, tmp_path, monkeypatch):
    """All weights are finite, and large enough for an overflow that the batches of training do not show."""

    def enlarge(run, *arguments):
        if run.current_epoch == 1 and run.trainer.is_last_batch:
            run.model.network.fc.bias.data[0] = float(torch.finfo(torch.float32).max)
            run.model.network.fc.weight.data[0] = 1e37

    monkeypatch.setattr(Run, "on_train_batch_end", enlarge)
    with pytest.raises(TrainingStopped, match=r"outputs became NaN or infinite in epoch 2, .*lower lr"):
        fit(tiny(epochs=3), progress=False)
    assert checkpoint_of(tmp_path / "run")["epoch"] == 0


def test_a_weight_that_is_not_finite_is_never_saved(tiny, tmp_path, monkeypatch):
    def poison(run, *arguments):
        if run.current_epoch == 1 and run.trainer.is_last_batch:
            run.model.network.fc.bias.data[0] = float("nan")

    monkeypatch.setattr(Run, "on_train_batch_end", poison)
    with pytest.raises(TrainingStopped, match="a weight became NaN or infinite in epoch 2"):
        fit(tiny(), progress=False)
    assert checkpoint_of(tmp_path / "run")["epoch"] == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_which_batch_size_to_try(tiny, breaking, error):
    breaking(raises(error))
    with pytest.raises(TrainingStopped, match="out of memory with batch_size 64: try batch_size 32"):
        fit(tiny(), progress=False)


def test_other_errors_stay_what_they_are(tiny, breaking):
    breaking(raises(ZeroDivisionError("mine")))
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(tiny(), progress=False)


def test_ctrl_c_says_how_to_go_on(tiny, tmp_path, breaking):
    import signal

    breaking(raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match=f"after epoch 1; go on with --resume {tmp_path / 'run'}"):
        fit(tiny(), progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_leaves_the_earlier_checkpoint(tiny, tmp_path, monkeypatch):
    original = torch.save
    calls = []

    def save(thing, file):
        calls.append(1)
        if len(calls) == 2:
            file.write(b"some of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(thing, file)

    monkeypatch.setattr(epochs.torch, "save", save)
    with pytest.raises(TrainingStopped, match=r"disk is full.*intact"):
        fit(tiny(), progress=False)
    assert checkpoint_of(tmp_path / "run")["epoch"] == 0
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".")]
    monkeypatch.undo()
    resumed = fit(resume=tmp_path / "run", progress=False)
    assert same(weights(resumed.model), weights(fit(tiny(name="whole"), progress=False).model))


# Resuming


NESTED = [{"Mixup": {"alpha": 0.3}}, "Anchored", "CrossEntropy"]


@pytest.fixture(scope="module")
def broken_off_once(recipes, break_off, tmp_path_factory):
    """A run of three epochs that was interrupted in its second."""
    folder = tmp_path_factory.mktemp("broken-off")
    break_off(recipes(folder)(epochs=3, ema=0.95, objective=NESTED), batch=3)
    return folder


@pytest.fixture
def broken_off(broken_off_once, tmp_path):
    """That run, as if it had been broken off here."""
    run = shutil.copytree(broken_off_once / "run", tmp_path / "run")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(broken_off_once), str(tmp_path)))
    return run


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tiny, broken_off):
    resumed = fit(resume=broken_off, progress=False)
    recipe = tiny(name="whole", epochs=3, ema=0.95, objective=NESTED)
    whole = fit(recipe, progress=False)
    states = [torch.load(r.folder / "last.ckpt", weights_only=True)["state_dict"] for r in (resumed, whole)]
    assert same(*states)
    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]


def test_an_epoch_whose_row_was_written_but_not_its_checkpoint_is_not_doubled(broken_off):
    with open(broken_off / "metrics.csv", "a") as file:
        file.write("2,99,0.1,1,1,1,1,1\n")
    assert [row["epoch"] for row in fit(resume=broken_off, progress=False).history] == [1, 2, 3]


def test_a_run_without_a_checkpoint_starts_over(tiny, tmp_path, broken_off):
    (broken_off / "last.ckpt").unlink()
    recipe = tiny(name="whole", epochs=3, ema=0.95, objective=NESTED)
    assert same(weights(fit(resume=broken_off, progress=False).model), weights(fit(recipe, progress=False).model))


def test_the_page_can_be_written_by_what_is_handed_over(tiny):
    calls = []

    def write(model, folder, images, path, *_):
        calls.append((folder, len(images)))
        path.write_text("a page of my own")

    result = fit(tiny(epochs=1), progress=False, report=write)
    assert calls == [(result.folder, result.images)]
    assert result.report.read_text() == "a page of my own"
    assert fit(tiny(epochs=1, name="none"), progress=False, report=lambda *_: None).report is None


def test_a_finished_run_says_so(tiny, capsys):
    first = fit(tiny(epochs=1), progress=False)
    again = fit(resume=first.folder, report=False)
    assert "nothing is left to do" in capsys.readouterr().out
    assert same(weights(first.model), weights(again.model))
    assert again.validation == first.validation


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100, b"\x80\x04}q\x00."])
def test_a_damaged_checkpoint_is_said(broken_off, content):
    (broken_off / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged, or not a checkpoint of a run.*Delete it") as told:
        fit(resume=broken_off, progress=False)
    assert "weights_only" not in str(told.value)  # torch's advice, to run what is in the file


def test_a_cut_off_checkpoint_is_said(broken_off):
    whole = (broken_off / "last.ckpt").read_bytes()
    (broken_off / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        fit(resume=broken_off, progress=False)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["KEDGE_TEST_BOMB"],))


def test_a_checkpoint_never_runs_code(broken_off, tmp_path, monkeypatch):
    monkeypatch.setenv("KEDGE_TEST_BOMB", str(tmp_path / "exploded"))
    torch.save({"state_dict": Bomb()}, broken_off / "last.ckpt")
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        fit(resume=broken_off, progress=False)
    (broken_off / "last.ckpt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        fit(resume=broken_off, progress=False)
    assert not (tmp_path / "exploded").exists()


def test_another_kind_of_checkpoint_is_said(broken_off):
    torch.save({"state_dict": {}}, broken_off / "last.ckpt")
    with pytest.raises(ValueError, match="it lacks epoch, global_step, loops"):
        fit(resume=broken_off, progress=False)


def test_a_resumed_run_keeps_its_recipe(tiny, broken_off):
    with pytest.raises(ValueError, match="epochs is 3 there, not 5"):
        fit({"epochs": 5}, resume=broken_off, progress=False)
    with pytest.raises(ValueError, match=r"lr is 0\.05 there, not 0\.5"):
        fit({"workers": 0, "lr": 0.5}, resume=broken_off, progress=False)
    same_recipe = tiny(epochs=3, ema=0.95, objective=[{"Mixup": {"alpha": 0.3}}, "Anchored", "CrossEntropy"])
    assert fit(same_recipe, resume=broken_off, progress=False).recipe.epochs == 3


def test_data_that_changed_is_said(broken_off, tiny):
    train, val = load_sets(tiny())
    with pytest.raises(ValueError, match="the data changed since the run began"):
        fit(resume=broken_off, sets=(train.subset(range(100)), val), progress=False)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder at"):
        fit(resume=tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        fit(resume=tmp_path)


def test_recipes_are_checked_before_anything_else(tmp_path):
    with pytest.raises(ValueError, match="'epocs'"):
        fit({"epocs": 3})
    with pytest.raises(ValueError, match="epochs must be"):
        fit(Recipe(epochs=0))


def test_compiling_is_for_the_training_step_alone(tiny, monkeypatch):
    class Compiled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model
            self.calls = []

        def forward(self, *arguments, **named):
            self.calls.append(self.training)
            return self._orig_mod(*arguments, **named)

    made = []
    monkeypatch.setattr(torch, "compile", lambda model: made.append(Compiled(model)) or made[0])
    result = fit(tiny(compile=True, epochs=1), progress=False)
    assert len(made[0].calls) == result.history[0]["step"]
    keys = torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in keys if "_orig_mod" in key]
    assert type(result.model) is kedge.AnchoredModel
    plain = fit(tiny(name="plain", epochs=1), progress=False)
    assert same(weights(plain.model), weights(result.model))


def test_a_run_killed_after_its_last_epoch_is_only_finished(tiny, monkeypatch):
    from kedge.training import outcome

    def killed(*arguments):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(outcome, "save", killed)
        with pytest.raises(SystemExit):
            fit(tiny(), progress=False)
    folder = load_recipe(tiny()).runs + "/run"
    before = torch.load(f"{folder}/last.ckpt", weights_only=True)["state_dict"]
    result = fit(resume=folder, progress=False)
    held = weights(result.model)
    assert all(torch.equal(before[f"model.{name}"], value) for name, value in held.items())
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert (result.folder / "model" / "model.safetensors").is_file()
