import json
from dataclasses import replace

import pytest

from kedge import data, evaluation
from kedge.data import DataError
from kedge.experiments.evaluating import _judging, evaluate_one, read_record
from kedge.experiments.experiment import Experiment
from kedge.experiments.measures import value
from kedge.experiments.reproducing import gathered
from kedge.experiments.running import first_here, plan, train_one
from kedge.reporting.reproduction import page, reproduction_markdown


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The runs of one seed of the small experiment, trained and evaluated."""
    return tmp_path_factory.mktemp("small")


@pytest.fixture
def planned(experiment, trained):
    return plan(experiment, "laptop", [0], trained, "digits")


def test_the_plan_takes_all_variants_of_a_seed_before_the_next(experiment, tmp_path):
    changes = {"devices": 2, "nodes": 3, "batch_size": 66}
    found = plan(experiment, "laptop", [0, 3], tmp_path, "digits", ["masked", "standard"], changes)
    assert [each.name for each in found] == ["standard-0", "masked-0", "standard-3", "masked-3"]
    assert found[2].recipe.seed == 3
    assert found[0].recipe.world == 6
    assert found[0].run == tmp_path / "runs" / "standard-0"


def test_changes_that_no_recipe_can_have(experiment, tmp_path):
    with pytest.raises(ValueError, match="small, standard: batch_size 64 is shared out over 3 devices"):
        plan(experiment, "laptop", [0], tmp_path, "digits", changes={"devices": 3})


def test_the_first_data_set_that_is_here(monkeypatch):
    monkeypatch.delenv("KEDGE_DATA", raising=False)
    assert first_here(["nowhere-at-all", "digits"]) == "digits"
    with pytest.raises(DataError, match="Name a folder with --data"):
        first_here(["nowhere-at-all"])


def test_train_evaluate_and_keep(planned, experiment, monkeypatch):
    monkeypatch.delenv("KEDGE_DATA", raising=False)
    standard, masked, four = planned
    with pytest.raises(ValueError, match="has no model yet"):
        evaluate_one(standard)
    for each in planned:
        train_one(each)
        evaluate_one(each)
    assert four.run == masked.run
    written = {each.name: each.record.stat().st_mtime_ns for each in planned}
    models = {each.name: (each.run / "model" / "model.safetensors").stat().st_mtime_ns for each in planned}
    for each in planned:  # called again, nothing is done again
        train_one(each)
        evaluate_one(each)
    assert {each.name: each.record.stat().st_mtime_ns for each in planned} == written
    assert {e.name: (e.run / "model" / "model.safetensors").stat().st_mtime_ns for e in planned} == models
    first, record = read_record(standard), read_record(masked)
    assert record["missing"] == ["nor-this"]
    assert record["images"] == 40
    assert set(record["severities"]) == {"2", "5"}
    assert set(record["corruptions"]) == {"contrast"}
    results = gathered(experiment, "laptop", planned, {e.name: read_record(e) for e in planned}, "kedge reproduce x")
    json.dumps(results, allow_nan=False)
    assert results["unfinished"] == []
    assert results["variants"]["masked-4"]["trained_as"] == "masked"
    assert "nor-this" in results["notes"][-1]
    facts = json.loads((standard.run / "run.json").read_text())
    facts.pop("finished")
    (standard.run / "run.json").write_text(json.dumps(facts))
    standard.record.unlink()
    with pytest.raises(ValueError, match="has a model but is not over: another process is at it"):
        evaluate_one(standard)
    other = {**first, "judged_on": "others", "images": 30}
    second = replace(planned[0], seed=1)
    beside = {"standard-0": first, second.name: other, "masked-0": {**record, "images": 30}}
    notes = gathered(experiment, "laptop", [*planned, second], beside, "")["notes"]
    assert any("seeds 0 and 1 of standard were judged on other images, though of one name" in note for note in notes)
    assert "Tested on fewer images than the others: masked (30)." in notes
    left = gathered(experiment, "laptop", planned, {"standard-0": first}, "")
    assert left["unfinished"] == ["masked-0", "masked-4-0"]
    with pytest.raises(ValueError, match="nothing of small has been measured"):
        gathered(experiment, "laptop", planned, {}, "")


def test_the_numbers_are_those_of_the_suite(planned):
    import kedge
    from kedge.evaluation import evaluate

    standard = planned[0]
    train_one(standard)
    measures = evaluate_one(standard)["measures"]
    test = data.load("digits", "test").only_classes([0, 1, 2])
    own = evaluate({"m": kedge.load(standard.run / "model")}, test, shift=["contrast"], severities=[2, 5], limit=40,
                   resamples=0, examples=0, risk=0.02)["models"]["m"]  # fmt: skip
    assert measures["clean accuracy"] == pytest.approx(100 * own["clean"]["accuracy"]["value"])
    assert measures["corrupted accuracy"] == pytest.approx(100 * own["shift"]["mean"]["accuracy"]["value"])
    assert measures["severity 5 accuracy"] == pytest.approx(100 * own["shift"]["by_severity"][1]["accuracy"]["value"])
    assert measures["corrupted smooth ECE"] == pytest.approx(100 * own["shift"]["mean"]["smooth_ece"]["value"])

    assert measures["clean NLL"] == pytest.approx(own["clean"]["nll"]["value"])  # nats, not percent
    assert measures["corrupted NLL"] == pytest.approx(own["shift"]["mean"]["nll"]["value"])
    assert measures["answered at 2 % risk"] == pytest.approx(100 * own["selective"]["at_risk"]["coverage"])
    assert value({"measures": measures}, "drop under corruption") == pytest.approx(
        measures["clean accuracy"] - measures["corrupted accuracy"]
    )
    assert value({"measures": {"clean accuracy": 1.0}}, "drop under corruption") is None


def test_measures_over_the_epochs(values, tmp_path, monkeypatch):
    monkeypatch.delenv("KEDGE_DATA", raising=False)
    values["base"] |= {"epochs": 3, "snapshots": 1}
    values["evaluation"] |= {"curve": True, "ood": []}
    values["scales"] = {"laptop": {"evaluation.limit": 40}}
    experiment = Experiment.from_dict(values, "small")
    planned = plan(experiment, "laptop", [0], tmp_path, "digits", ["standard", "masked"])
    for each in planned:
        train_one(each)
    records = {each.name: evaluate_one(each) for each in planned}
    for record in records.values():
        assert list(record["curve"]) == ["1", "2", "3"]
        assert record["curve"]["3"] == record["measures"]  # a training from scratch hands over its last epoch
        assert record["curve"]["1"] != record["curve"]["3"]
    results = gathered(experiment, "laptop", planned, records, "kedge reproduce x")
    curve = results["variants"]["masked"]["curve"]["corrupted NLL"]
    assert curve == {e: m["corrupted NLL"] for e, m in records["masked-0"]["curve"].items()}
    assert "## corrupted NLL over epochs, nats" in reproduction_markdown(results)
    assert page(results).count("<svg") > 3


def test_far_sets_have_their_means_where_none_is_near(values, tmp_path, monkeypatch):
    monkeypatch.delenv("KEDGE_DATA", raising=False)
    values["evaluation"] |= {"ood": ["slabs"], "near": []}
    (standard,) = plan(Experiment.from_dict(values, "small"), "laptop", [0], tmp_path, "digits", ["standard"])
    train_one(standard)
    measures = evaluate_one(standard)["measures"]
    assert 0 < measures["far AUROC, energy"] <= 100
    assert "near AUROC, energy" not in measures


def test_means_over_other_sets_are_not_compared(values, tmp_path):
    """Of the far sets one run had both, the other, of earlier results, one."""
    values["evaluation"] |= {"ood": ["slabs", ["nor-this", "nor-that"]]}
    experiment = Experiment.from_dict(values, "small")
    planned = plan(experiment, "laptop", [0], tmp_path, "digits", ["standard", "masked"])
    common = {"images": 40, "network": "n", "parameters": 1, "errors": [], "severities": {}, "corruptions": {},
              "training_seconds": 1.0, "evaluation_seconds": 1.0}  # fmt: skip
    measures = {"clean accuracy": 90.0, "far AUROC, energy": 70.0}
    records = {each.name: {**common, "measures": measures, "missing": []} for each in planned}
    assert {gain["measure"] for gain in gathered(experiment, "laptop", planned, records, "")["gains"]} == set(measures)
    records["standard-0"]["missing"] = ["nor-this"]
    results = gathered(experiment, "laptop", planned, records, "")
    assert [gain["measure"] for gain in results["gains"]] == ["clean accuracy"]
    assert [row["variant"] for row in results["rows"] if row["measure"] == "far AUROC, energy"] == ["masked"]
    assert results["notes"][-1] == "far AUROC is not compared of standard-0: other runs had sets that these had not."
    assert results["variants"]["standard"]["runs"][0]["measures"] == measures  # as it was measured


def test_another_way_of_asking_measures_anew(values, planned, trained):
    from kedge.experiments.experiment import Experiment

    train_one(planned[0])
    evaluate_one(planned[0])
    values["scales"]["laptop"]["evaluation.limit"] = 30
    other = plan(Experiment.from_dict(values, "small"), "laptop", [0], trained, "digits")[0]
    assert read_record(other) is None
    assert evaluate_one(other)["images"] == 30
    # Of a version that ranked images by confidences, which are equal from 1 on in float32.
    record = json.loads(other.record.read_text(encoding="utf-8"))
    del record["asked"]["ranked_by"]
    other.record.write_text(json.dumps(record), encoding="utf-8")
    assert read_record(other) is None


def test_a_run_with_another_recipe_is_not_taken_for_ours(values, planned, trained):
    from kedge.experiments.experiment import Experiment

    train_one(planned[0])
    values["base"]["epochs"] = 2
    values["scales"]["laptop"]["epochs"] = 2
    other = plan(Experiment.from_dict(values, "small"), "laptop", [0], trained, "digits")[0]
    evaluate_one(planned[0])
    assert read_record(planned[0]) is not None
    assert read_record(other) is None  # nor are its numbers taken for those of the new recipe
    with pytest.raises(ValueError, match="epochs is 1 there, not 2"):
        train_one(other)


def test_sets_that_have_come_since_are_measured(planned, monkeypatch):
    from kedge.experiments import evaluating

    train_one(planned[0])
    evaluate_one(planned[0])
    assert read_record(planned[0])["missing"] == ["nor-this"]
    monkeypatch.setattr(evaluating, "_is_here", lambda name: True)
    assert read_record(planned[0]) is None


def test_a_run_broken_off_before_it_had_a_recipe(experiment, tmp_path):
    (standard, *_) = plan(experiment, "laptop", [0], tmp_path, "digits")
    standard.run.mkdir(parents=True)
    train_one(standard)
    assert standard.trained
    (_, masked, _) = plan(experiment, "laptop", [0], tmp_path, "digits")
    masked.run.mkdir()
    (masked.run / "thesis.doc").write_text("precious")
    with pytest.raises(ValueError, match=r"holds thesis\.doc"):
        train_one(masked)
    assert (masked.run / "thesis.doc").read_text() == "precious"


def test_a_run_that_starts_from_another_and_is_judged_on_what_is_left(values, tmp_path, monkeypatch):
    monkeypatch.delenv("KEDGE_DATA", raising=False)
    values["variants"] = {
        "standard": {"anchored": False, "objective": ["CrossEntropy"]},
        "converted": {"after": "standard", "anchored": True, "average": 1.0, "batch_norm": "train"},
        "views": {"same_as": "standard", "evaluation.views": 3},
    }
    values["evaluation"] |= {"part": "rest"}
    values["base"] |= {"train_images": 600}
    values |= {"expected": {}, "contrasts": {}, "scales": {"laptop": {"evaluation.limit": 40}}}
    experiment = Experiment.from_dict(values, "small")
    standard, converted, views = plan(experiment, "laptop", [1], tmp_path, "digits")
    assert converted.start == standard.run
    with pytest.raises(ValueError, match="train that first"):
        train_one(converted)
    for each in (standard, converted):
        train_one(each)
    asked = []
    evaluated = evaluation.evaluate

    def seen(models, images, **keywords):
        asked.append((models, images, keywords))
        return evaluated(models, images, **keywords)

    monkeypatch.setattr(evaluation, "evaluate", seen)
    records = [evaluate_one(each) for each in (standard, converted, views)]
    train = data.load("digits", "train")
    left = train.subset(range(600, len(train))).only_classes([0, 1, 2])
    assert all(images.fingerprint() == left.fingerprint() for _, images, _ in asked)
    assert [record["trained_on"] for record in records] == [0, 0, 0]
    assert "references" not in asked[2][2]
    assert asked[2][0]["views-1"].count == 3
    assert records[2]["measures"] != records[0]["measures"]
    assert read_record(views) == records[2]
    assert read_record(converted) == records[1]


def test_the_rest_of_all_images_is_nothing(values, planned, tmp_path):
    values["evaluation"] |= {"part": "rest"}
    values["base"] |= {"train_images": 1400}
    (standard,) = plan(Experiment.from_dict(values, "small"), "laptop", [0], tmp_path, "digits", ["standard"])
    with pytest.raises(ValueError, match=r"beyond train_images \(1400\), and digits has"):
        _judging(standard, 8, 1, True)
