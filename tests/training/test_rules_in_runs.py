"""Runs by the rules of the optimizer room and by the samplers: two passes are one step, and broken off they go on."""

import json
from dataclasses import replace

import pytest
import torch

import kedge
from kedge import catalog
from kedge.training import fit
from kedge.training.build import make_optimizer, step_passes
from kedge.training.cost import _moments
from kedge.training.module import Run
from kedge.training.sharding import check_shardable

pytestmark = pytest.mark.usefixtures("no_report")
# Everything that draws at random or counts: augmentation, references and masks, dropout, averages, limits.
BUSY = {
    "ema": 0.9,
    "clip": 1.0,
    "arguments": {"width": 4, "drop_rate": 0.2},
    "lr": 0.05,
    "train_images": 300,
    "batch_size": 32,
}
MASKED = [{"Mixup": {"alpha": 0.3}}, {"Anchored": {"alpha": 0.5}}, "CrossEntropy"]
STILL = [{"sam": {"rho": 0.0}}, "sgd"]


def state(result):
    return torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(result):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


ONE_STEP = {"attack": {"FGSM": {"eps": "4/255", "variant": "rs"}}}
TWO_STEPS = {"attack": {"PGD": {"eps": "4/255", "steps": 2, "random_start": True}}}
OBJECTIVES = {
    "masked": (MASKED, BUSY),
    "half precision": (MASKED, {**BUSY, "precision": "bf16"}),
    "attacked": ([{"Anchored": {"alpha": 0.0}}, {"AAER": ONE_STEP}, "CrossEntropy"], {"val_pgd_steps": 0}),
    "gradients edited, weights that follow": (
        [{"CURE": {**TWO_STEPS, "decay": 0.5, "update_probability": 0.5}}, "CrossEntropy"],
        {"anchored": False, "clip": 0.5, "val_pgd_steps": 0},
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_passes_of_sam_draw_alike_and_are_counted_once(tiny, name):
    """At no distance the second pass is the first one again: weights, averages, statistics and numbers are SGD's."""
    objective, fields = OBJECTIVES[name]
    fields = {"train_images": 300, "batch_size": 32, **fields}
    plain = fit(tiny(objective=objective, optimizer="sgd", **fields), progress=False)
    sharp = fit(tiny(objective=objective, optimizer=STILL, name="sharp", **fields), progress=False)
    assert same(state(plain), state(sharp))
    assert rows(plain) == rows(sharp)
    costs = [json.loads((r.folder / "run.json").read_text())["cost"] for r in (plain, sharp)]
    assert costs[1]["passes"] == 2 * costs[0]["passes"]
    assert costs[1]["from_scratch"] == 2 * costs[0]["from_scratch"]


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": [{"sam": {"rho": 0.1}}, "adamw"]},
        {"optimizer": ["orthograd", {"sgd": {"momentum": 0.5}}]},
        {"sampler": "class-balanced", "precision": "bf16"},
        {"optimizer": [{"sam": {"rho": 0.1}}, "orthograd", "sgd"], "schedule": {"cosine": {"floor": 0.1}}},
    ],
)
def test_a_run_that_was_broken_off_ends_as_it_would_have(tiny, fields, break_off):
    recipe = {**BUSY, "objective": MASKED, "epochs": 3, **fields}
    break_off(tiny(**recipe))
    resumed = fit(resume=tiny().runs + "/run", progress=False)
    whole = fit(tiny(**recipe, name="whole"), progress=False)
    assert same(state(resumed), state(whole))
    assert rows(resumed) == rows(whole)


def test_the_wrapped_rule_is_in_the_lines_of_the_run(tiny, capsys):
    fit(tiny(epochs=1, optimizer=["sam", "sgd"]), progress=True)
    text = capsys.readouterr().out
    assert "sam round sgd at" in text
    assert "passes forward and backward" in text


def test_what_cannot_be_with_two_passes_or_whole_weights(tiny):
    recipe = tiny(optimizer=["sam", "sgd"])
    assert step_passes(recipe) == 2
    with pytest.raises(ValueError, match=r"sam computes the gradients of a step more than once.*bf16 or 32"):
        step_passes(replace(recipe, precision="16"))
    with pytest.raises(ValueError, match="orthograd looks at whole weights"):
        check_shardable(tiny(optimizer=["orthograd", "sgd"], devices=2), torch.nn.Identity())


@pytest.mark.parametrize(
    ("fields", "moments"),
    [
        ({"optimizer": "sgd"}, 1),
        ({"optimizer": "sgd", "momentum": 0.0}, 0),
        ({"optimizer": "adamw"}, 2),
        ({"optimizer": ["sam", "adamw"]}, 2),
    ],
)
def test_room_is_asked_for_what_the_rule_keeps(tiny, fields, moments):
    assert _moments(tiny(lr=0.1, weight_decay=0.0, **fields)) == moments


@pytest.mark.usefixtures("own_code_allowed")
def test_a_rule_of_ones_own_is_given_the_rate_and_its_settings(tiny, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Slow(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, momentum=0.5, factor=1.0):\n"
        "        super().__init__(params, lr=lr * factor, momentum=momentum)\n"
        "def halves(optimizer, steps, warmup):\n"
        "    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 if step < warmup else 1.0)\n"
        "def backwards(labels, epoch, seed):\n    return torch.arange(len(labels)).flip(0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = tiny(
        optimizer={"mine:Slow": {"lr": 0.1, "factor": 0.5}}, schedule="mine:halves", sampler="mine:backwards", epochs=1
    )
    optimizer = make_optimizer(replace(recipe, weight_decay=0.0), torch.nn.Linear(2, 2))
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.05, 0.5)
    facts = json.loads((fit(recipe, progress=False).folder / "run.json").read_text())
    assert list(facts["code"]) == ["mine"]
    with pytest.raises(ValueError, match="say lr"):
        fit(tiny(optimizer="mine:Slow", name="none"), progress=False)


def test_the_classes_of_a_run_are_drawn_equally_often(tiny):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = Run.training_step

        def step(run, batch, index):
            seen.append(batch[1])
            return original(run, batch, index)

        patch.setattr(Run, "training_step", step)
        fit(tiny(sampler="class-balanced", train_images=300, epochs=1), progress=False)
    counts = torch.cat(seen).bincount()
    assert len(counts) == 4
    assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("name", catalog.names("optim.schedules"))
def test_every_schedule_runs_in_a_recipe(tiny, name):
    fields = {"milestones": [1.0]} if name == "multistep" else {}
    rates = [row["lr"] for row in fit(tiny(schedule=name, lr=0.1, **fields), progress=False).history]
    assert len(rates) == 2
    assert max(rates) <= 0.1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule": {"cosine": {"floor": "low"}}}, "cosine: floor: 'low' is not a number"),
        ({"schedule": {"cosine": {"floor": 1.5}}}, "floor .* 0 to 1, got 1.5"),
        ({"optimizer": [{"sam": {"rho": -1}}, "sgd"]}, "rho is a distance"),
        ({"objective": ["Distill", "CrossEntropy"], "anchored": False}, "outputs of the teacher, 7, are not"),
    ],
)
def test_what_cannot_be_trained_is_said_before_a_run_has_a_folder(tiny, tmp_path, fields, words):
    teacher = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7)), example=(1, 8, 8))
    with pytest.raises(ValueError, match=words):
        fit(tiny(**fields), models={"teacher": teacher} if "objective" in fields else None, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_of_a_schedule_may_be_a_text_that_is_a_number(tiny):
    """As YAML reads 1e-1."""
    rates = [
        fit(tiny(schedule={"cosine": {"floor": floor}}, name=str(floor)), progress=False).history[-1]["lr"]
        for floor in ("1e-1", 0.1, 0.0)
    ]
    assert rates[0] == rates[1] > rates[2]


def test_ones_own_schedule_refuses_a_setting_that_it_does_not_have(tiny, tmp_path, monkeypatch):
    (tmp_path / "own_rates.py").write_text(
        "from torch.optim.lr_scheduler import LambdaLR\n"
        "def level(optimizer, steps, share=0.5):\n    return LambdaLR(optimizer, lambda step: share)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"no argument 'shear'.*share"):
        fit(tiny(schedule={"own_rates:level": {"shear": 0.1}}), progress=False)
    assert not (tmp_path / "run").exists()
    result = fit(tiny(schedule={"own_rates:level": {"share": 0.25}}, lr=0.04), progress=False)
    assert result.history[-1]["lr"] == 0.01


def test_weights_of_an_objective_that_it_makes_for_the_model_are_not_shared_out(tiny, tmp_path):
    teacher = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), example=(1, 8, 8))
    objective = [{"FeatureDistill": {"layer": "fc", "teacher_layer": "network.1"}}, "CrossEntropy"]
    recipe = tiny(objective=objective, anchored=False, devices=2, shard=True)
    with pytest.raises(ValueError, match="FeatureDistill has weights of its own"):
        fit(recipe, models={"teacher": teacher}, progress=False)
    assert list(tmp_path.iterdir()) == []
