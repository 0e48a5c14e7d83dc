"""Further images, teachers and weights of an objective's own in a run: met alike, kept apart, found again."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import kedge
from kedge import data
from kedge.data import TensorSet
from kedge.data.batches import EndlessBatches
from kedge.objectives import CrossEntropy, Distill
from kedge.training import Recipe, fit
from kedge.training.module import Run
from kedge.training.named_models import model_digest
from kedge.training.record import ImageRecord

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def outliers(tmp_path: Path) -> Path:
    """A folder of 150 grey images of 8 px."""
    folder = tmp_path / "outliers"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(150):
        pixels = torch.randint(256, (8, 8), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:03}.png")
    return folder


class Killed(Exception):
    """What stands for the end of a process."""


def broken_off_and_resumed(monkeypatch, recipe, at, between=lambda: None, **more):
    """The result of a run that stops before a step, (epoch, index), and of its resumption."""
    step = Run.training_step

    def training_step(run, batch, index):
        if (run.current_epoch, index) == at:
            raise Killed
        return step(run, batch, index)

    monkeypatch.setattr(Run, "training_step", training_step)
    with pytest.raises(Killed):
        fit(recipe, progress=False, **more)
    monkeypatch.setattr(Run, "training_step", step)
    between()
    return fit(resume=Path(recipe.runs) / recipe.name, progress=False, **more)


def checkpoint(result):
    return torch.load(result.folder / "last.ckpt", weights_only=True)


def assert_same(one, other):
    one, other = checkpoint(one), checkpoint(other)
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    for mine, theirs in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert len(mine["state"]) == len(theirs["state"])
        for number, state in mine["state"].items():
            tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
            assert all(torch.equal(value, theirs["state"][number][name]) for name, value in tensors.items())


def batches(count, size, steps, epoch, rank=0, world=1):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    made = EndlessBatches(
        TensorSet(images, torch.zeros(count).long(), ["x"]), steps, batch_size=size, seed=3, rank=rank, world=world,
        augment="auto", workers=0,
    )  # fmt: skip
    made.set_epoch(epoch)
    return [rows.flatten().tolist() for rows, _ in made]


@pytest.mark.parametrize(("count", "size"), [(7, 4), (3, 8), (50, 4), (1, 2)])
def test_further_images_come_in_whole_batches_each_as_often(count, size):
    epochs = [batches(count, size, 5, epoch) for epoch in range(4)]
    assert all(len(batch) == size for epoch in epochs for batch in epoch)
    drawn = [place for epoch in epochs for batch in epoch for place in batch]
    passes = [drawn[i : i + count] for i in range(0, len(drawn) - count + 1, count)]
    assert all(sorted(each) == list(range(count)) for each in passes)  # every image before any comes again
    assert count != 7 or passes[0] != passes[1]
    assert batches(count, size, 5, 2) == epochs[2]  # whatever came before


def test_ranks_share_further_batches():
    whole = batches(20, 6, 3, 1)
    shares = [batches(20, 3, 3, 1, rank, 2) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [batch[0::2], batch[1::2]] == parts


def test_a_run_with_outliers_resumes_to_the_same_bits_from_a_folder_that_moved(tiny, outliers, tmp_path, monkeypatch):
    objective = [{"anchored": {"alpha": 0.25}}, "outlier_exposure", "cross_entropy"]
    fields = {"objective": objective, "extra": {"outliers": str(outliers)}, "epochs": 3, "ema": 0.9}
    whole = fit(tiny(**fields, name="whole"), progress=False)

    def moved():
        place = tmp_path / "elsewhere"
        outliers.rename(place)
        for i, path in enumerate(sorted(place.iterdir())):
            path.rename(place / f"renamed-{977 * i % 1000}.png")
        recipe = tmp_path / "run" / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(str(outliers), str(place)))

    assert_same(broken_off_and_resumed(monkeypatch, tiny(**fields), (1, 3), moved), whole)
    assert [entry if isinstance(entry, str) else next(iter(entry)) for entry in whole.recipe.objective] == [
        "Anchored", "OutlierExposure", "CrossEntropy",
    ]  # fmt: skip
    facts = json.loads((whole.folder / "run.json").read_text())
    assert facts["extra"]["outliers"]["images"] == 150
    assert "outlier_loss" in whole.history[-1]
    keys = set(data.load_images(outliers if outliers.exists() else tmp_path / "elsewhere", "train").keys())
    record = ImageRecord.read(whole.folder)
    assert not record.known  # files cannot be compared with pixels
    assert keys.isdisjoint(record.trained)
    without = fit(tiny(objective=[objective[0], "cross_entropy"], epochs=3, ema=0.9, name="without"), progress=False)
    assert any(not torch.equal(a, b) for a, b in zip(whole.model.parameters(), without.model.parameters(), strict=True))


def test_the_first_lines_name_further_images_and_the_sampler(tiny, outliers, capsys):
    fields = {"objective": ["OutlierExposure", "CrossEntropy"], "anchored": False, "epochs": 1}
    fit(tiny(**fields, extra={"outliers": str(outliers)}, sampler="class-balanced"), progress=True)
    lines = capsys.readouterr().out
    assert f"outliers: 150 further images, {outliers}\n" in lines
    assert ", sampler class-balanced, on 1 cpu" in lines
    further = data.load_images(outliers, "train", 8, 1)
    fit(tiny(**fields, name="memory"), extra={"outliers": further}, progress=True)
    lines = capsys.readouterr().out
    assert "outliers: 150 further images, handed over\n" in lines
    assert "sampler" not in lines


def test_other_outliers_are_refused_on_resumption(tiny, outliers, monkeypatch):
    fields = {"objective": ["OutlierExposure", "CrossEntropy"], "extra": {"outliers": str(outliers)}, "anchored": False}
    with pytest.raises(ValueError, match=r"extra: the images outliers changed .*150 then, 149 now.*put them back"):
        broken_off_and_resumed(monkeypatch, tiny(**fields), (1, 1), (outliers / "003.png").unlink)


def test_further_images_in_memory_are_not_the_held_out_ones(tiny, caplog):
    train, val = data.load("digits", "train"), data.load("digits", "val")
    further = TensorSet(
        torch.cat([val.images[:40], 255 - train.images[:60]]), torch.zeros(100).long(), ["further"], "negatives"
    )
    recipe = tiny(objective=["OutlierExposure", "CrossEntropy"], classes=None, anchored=False, epochs=1)
    result = fit(recipe, sets=(train, val), extra={"outliers": further}, progress=False)
    assert "40 of the 100 images of negatives (outliers) are validation images of this run" in caplog.text
    record = ImageRecord.read(result.folder)
    assert set(further.keys()[40:]) <= record.seen
    assert record.held_out.isdisjoint(further.keys()[40:])
    assert json.loads((result.folder / "run.json").read_text())["extra"]["outliers"]["images"] == 60


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"objective": ["OutlierExposure", "CrossEntropy"]}, "needs outliers beside the training .*extra: {outliers"),
        ({"objective": ["OutlierExposure", "CrossEntropy"], "extra": {"outlier": "x"}}, "extra names outlier"),
        ({"extra": {"outliers": "x"}}, r"extra names outliers, and nothing .*\(CrossEntropy\) takes that"),
        ({"objective": ["Distill", "CrossEntropy"]}, "Distill needs teacher: {Distill: {teacher: ...}}, the name of"),
        ({"objective": [{"Distill": {"techer": "x"}}, "CrossEntropy"]}, "no argument 'techer'; did you mean teacher"),
    ],
)  # fmt: skip
def test_what_is_missing_or_unused_is_said_before_data_is_read(tiny, fields, words):
    with pytest.raises(ValueError, match=words):
        fit(tiny(data="nowhere", **fields), progress=False)


def test_the_command_line_takes_extra(tmp_path, capsys):
    from kedge.cli import main

    assert main(["train", "--extra", "{outliers: photos/other}", "--print_config"]) == 0
    assert "extra:\n  outliers: photos/other" in capsys.readouterr().out
    with pytest.raises(ValueError, match="extra is names and the data"):
        Recipe.from_dict({"extra": {"outliers": 3}})


def test_a_teacher_is_a_run_by_name_and_the_run_resumes_to_the_same_bits(tiny, tmp_path, monkeypatch):
    teacher = fit(tiny(name="teacher", anchored=False, epochs=1), progress=False)
    weights = (teacher.folder / "model" / "model.safetensors").read_bytes()
    objective = [{"distill": {"teacher": str(teacher.folder), "weight": 0.8, "temperature": "4.0"}}, "cross_entropy"]
    whole = fit(tiny(objective=objective, anchored=False, name="whole", epochs=3), progress=False)
    again = broken_off_and_resumed(monkeypatch, tiny(objective=objective, anchored=False, epochs=3), (2, 1))
    assert_same(again, whole)
    assert (teacher.folder / "model" / "model.safetensors").read_bytes() == weights
    saved = checkpoint(whole)
    assert not [name for name in saved["state_dict"] if "teacher" in name]
    count = sum(parameter.requires_grad for parameter in whole.model.parameters())
    assert sum(len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]) == count
    facts = json.loads((whole.folder / "run.json").read_text())
    assert facts["models"] == {str(teacher.folder): model_digest(kedge.load(teacher.folder))}
    # In memory it is the same model, and so the same run.
    fields = {"objective": [{"Distill": {"weight": 0.8}}, "CrossEntropy"], "anchored": False, "epochs": 3}
    memory = fit(tiny(**fields, name="memory"), models={"teacher": kedge.load(teacher.folder)}, progress=False)
    assert_same(memory, whole)


def test_another_teacher_is_refused_on_resumption(tiny, tmp_path, monkeypatch):
    fields = {"anchored": False, "epochs": 2}
    models = {
        "teacher": kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), example=(1, 8, 8))
    }
    kedge.save(fit(tiny(name="first", **fields), progress=False).model, tmp_path / "teacher")

    def other():
        kedge.save(kedge.load(fit(tiny(name="second", seed=1, **fields), progress=False).folder), tmp_path / "teacher")

    objective = [{"Distill": {"teacher": str(tmp_path / "teacher")}}, "CrossEntropy"]
    with pytest.raises(ValueError, match=r"teacher is not the model that the run began with.*Put it back"):
        broken_off_and_resumed(monkeypatch, tiny(objective=objective, **fields), (1, 1), other)
    with pytest.raises(ValueError, match="not the model that the run began with"):
        fit(resume=tmp_path / "run", models=models, progress=False)
    with pytest.raises(ValueError, match=r"models has a guide, and nothing in the objective \(CrossEntropy\)"):
        fit(tiny(name="third"), models={"guide": models["teacher"]}, progress=False)


def test_weights_of_the_objective_are_trained_and_resume_to_the_same_bits(tiny, monkeypatch):
    teacher = kedge.plain(torch.nn.Sequential(torch.nn.Conv2d(1, 7, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
                                              torch.nn.Linear(448, 4)), example=(1, 8, 8))  # fmt: skip
    objective = [
        {"Anchored": {"alpha": 0}},
        {"FeatureDistill": {"layer": "stem", "teacher_layer": "1"}},
        "CrossEntropy",
    ]
    fields = {"objective": objective, "epochs": 3, "clip": 1.0}
    whole = fit(tiny(**fields, name="whole"), models={"teacher": teacher}, progress=False)
    again = broken_off_and_resumed(monkeypatch, tiny(**fields), (2, 1), models={"teacher": teacher})
    assert_same(again, whole)
    state, begun = checkpoint(whole)["state_dict"], {}
    monkeypatch.setattr(
        Run, "on_fit_start", lambda run: begun.update({n: v.clone() for n, v in run.state_dict().items()})
    )
    fit(tiny(**fields, name="third"), models={"teacher": teacher}, progress=False)
    own = [name for name in state if "projection" in name]
    assert len(own) == 2
    assert all(not torch.equal(state[name], begun[name]) for name in own)
    assert not [name for name in kedge.load(whole.folder).state_dict() if "projection" in name]


def test_half_precision(tiny, outliers):
    teacher = fit(tiny(name="teacher", epochs=1), progress=False)
    objective = [
        {"Anchored": {"alpha": 0}},
        "OutlierExposure",
        {"Distill": {"teacher": str(teacher.folder)}},
        {"FeatureDistill": {"teacher": str(teacher.folder), "layer": "stem"}},
        "CrossEntropy",
    ]
    result = fit(tiny(objective=objective, extra={"outliers": str(outliers)}, precision="bf16"), progress=False)
    assert all(parameter.isfinite().all() for parameter in result.model.parameters())


def test_a_run_that_learns_from_one_trained_on_its_validation_images_says_so(tiny, capsys):
    teacher = fit(tiny(name="teacher", epochs=1, seed=3), progress=False)
    sets = teacher.recipe
    train = data.load("digits", "train").only_classes(sets.classes)
    halves = train.subset(range(0, 400)), train.subset(range(200, 400))
    fit(
        tiny(objective=[{"Distill": {"teacher": str(teacher.folder)}}, "CrossEntropy"], anchored=False, epochs=1),
        sets=halves, progress=True,
    )  # fmt: skip
    assert "was trained on" in capsys.readouterr().out


def test_a_teacher_that_saw_what_the_folds_judge_by_is_said(tiny, outliers, tmp_path, capsys):
    for i, path in enumerate(sorted(outliers.iterdir())[:20]):
        place = tmp_path / "photos" / "ab"[i % 2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    fields = {"classes": None, "data": str(tmp_path / "photos"), "epochs": 1, "batch_size": 10, "anchored": False}
    teacher = fit(tiny(name="teacher", val_fraction=0.2, **fields), progress=False)
    objective = [{"Distill": {"teacher": str(teacher.folder)}}, "CrossEntropy"]
    fit(tiny(objective=objective, folds=2, **fields), progress=True)
    assert "was trained on 16 of its 20 images that its 2 folds judge by" in capsys.readouterr().out


def test_a_student_at_weight_0_trains_as_without_a_teacher(tiny):
    teacher = fit(tiny(name="teacher", epochs=1), progress=False)
    objective = [{"Distill": {"teacher": str(teacher.folder), "weight": 0}}, "CrossEntropy"]
    one = fit(tiny(objective=objective, anchored=False, name="one"), progress=False)
    other = fit(tiny(objective=["CrossEntropy"], anchored=False, name="other"), progress=False)
    assert all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))
    assert isinstance(Distill(CrossEntropy(), kedge.load(teacher.folder)).teacher.model, kedge.AnchoredModel)


def test_folds_train_with_the_same_further_images_and_teacher(tiny, outliers, tmp_path):
    for i, path in enumerate(sorted(outliers.iterdir())[:40]):
        place = tmp_path / "photos" / "ab"[i % 2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    teacher = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), example=(1, 8, 8))
    fields = {"classes": None, "data": str(tmp_path / "photos"), "folds": 2, "epochs": 1, "batch_size": 10}
    objective = ["OutlierExposure", "Distill", "CrossEntropy"]
    recipe = tiny(objective=objective, extra={"outliers": str(outliers)}, anchored=False, **fields)
    result = fit(recipe, models={"teacher": teacher}, progress=False)
    for place in (result.folder, result.folder / "folds" / "1"):
        facts = json.loads((place / "run.json").read_text())
        assert list(facts["models"]) == ["teacher (in memory)"]
        assert facts["extra"]["outliers"]["images"] == 110
    assert result.folds["images"] == 40
