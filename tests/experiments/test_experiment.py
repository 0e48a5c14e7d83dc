import subprocess
import sys

import pytest
import yaml

from kedge.experiments.experiment import Experiment, experiment_names, load_experiment
from kedge.training import Recipe


def test_changes_reach_into_mappings_and_into_the_list_of_objectives(experiment):
    standard, masked, _ = experiment.variants_at("laptop")
    assert standard.recipe["objective"] == ["CrossEntropy"]
    assert standard.recipe["anchored"] is False
    assert masked.recipe["objective"] == [{"Anchored": {"alpha": 0.25}}, {"CrossEntropy": {"label_smoothing": 0.1}}]
    assert masked.recipe["arguments"] == {"width": 4}
    assert masked.evaluation["limit"] == 40
    assert experiment.base["objective"] == [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"]  # untouched


def test_a_scale_changes_all_variants_and_keeps_some(experiment):
    large = experiment.variants_at("large")
    assert [v.name for v in large] == ["standard", "masked"]
    assert large[1].recipe["objective"][0] == {"Anchored": {"alpha": 0.5}}
    assert all(v.recipe["arguments"] == {"width": 8} for v in large)


def test_the_scale_comes_before_what_makes_the_variant(values):
    values["variants"]["plain-anchored"] = {"objective.Anchored.alpha": 0.0}
    values["scales"]["large"].pop("variants")
    values["variants"]["standard"] = {"objective": ["CrossEntropy"], "objective.Anchored.alpha": 0.1}
    with pytest.raises(ValueError, match="standard"):  # without Anchored there is no alpha to change
        Experiment.from_dict(values, "small")
    values["variants"]["standard"] = {"anchored": False, "objective": ["CrossEntropy"]}
    made = Experiment.from_dict(values, "small").variants_at("large")
    assert made[-1].recipe["objective"][0] == {"Anchored": {"alpha": 0.0}}


def test_the_same_runs_asked_in_another_way(experiment):
    _, masked, four = experiment.variants_at("laptop")
    assert four.runs == "masked"
    assert four.recipe == masked.recipe
    assert (masked.evaluation["references"], four.evaluation["references"]) == (1, 4)


def test_what_comes_after_another_brings_it_along(values):
    values["variants"]["longer"] = {"after": "masked", "lr": 0.01, "average": 1.0}
    values["variants"]["longer-4"] = {"same_as": "longer", "evaluation.references": 4}
    made = Experiment.from_dict(values, "small")
    assert [v.name for v in made.variants_at("laptop", ["longer"])] == ["masked", "longer"]
    assert [(v.name, v.after, v.runs) for v in made.variants_at("laptop", ["longer-4"])] == [
        ("masked", None, "masked"),
        ("longer-4", "masked", "longer"),
    ]


def test_a_base_that_starts_from_a_shipped_recipe(values):
    values["base"] = {"recipe": "digits", "epochs": 2}
    values["variants"] = {"one": {}}
    values["scales"] = {"laptop": {}}
    values["expected"] = values["contrasts"] = {}
    (one,) = Experiment.from_dict(values, "small").variants_at("laptop")
    assert one.recipe["epochs"] == 2
    assert "seed" not in one.recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variant": {}}, "no experiment key is named 'variant'; did you mean variants"),
        ({"variants": {"a": {"lr": -1}}}, "variant a at scale laptop: lr must be above 0, not -1"),
        ({"variants": {"a": {"epoch": 3}}}, "no recipe key is named 'epoch'"),
        ({"variants": {"a": {"objective.Anchord.alpha": 0}}}, "the list of objectives has no 'Anchord'"),
        ({"variants": {"a": {"epochs.x": 0}}}, "nothing lies below it"),
        ({"variants": {"a": {"evaluation.shifts": []}}}, "the evaluation has no 'shifts'; did you mean shift"),
        ({"variants": {"a": {"seed": 3}}}, "seed is not a variant's to say"),
        ({"variants": {"a": {"same_as": "b"}}}, "no variant is named 'b'"),
        ({"variants": {"a": {}, "b": {"same_as": "a", "epochs": 2}}}, "only evaluation.KEY may differ"),
        ({"variants": {"a": {}, "b": {"after": "c"}}}, "no variant is named 'c'"),
        ({"variants": {"b": {"after": "a"}, "a": {}}}, "write it below that"),
        ({"variants": {"a": {}, "b": {"after": "a"}, "c": {"after": "b"}}}, "starts from no other"),
        ({"variants": {"a": {}, "b": {"after": "a", "init_from": "x"}}}, "leave out init_from"),
        ({"variants": {"a": {"evaluation.part": "rest"}}}, "say how many are trained on"),
        ({"variants": {"a": {"evaluation.part": "tests"}}}, "did you mean test"),
        ({"variants": {"a": {"evaluation.curve": True}}}, "say after how many epochs each, as snapshots"),
        ({"variants": {"a": {"evaluation.curve": 5, "snapshots": 1}}}, "curve is true or false, not 5"),
        ({"variants": {}}, "one variant and one scale or more"),
        ({"expected": {"clean acuracy": {"standard": 1}}}, "did you mean clean accuracy"),
        ({"expected": {"clean accuracy": {"standrd": 1}}}, "did you mean standard"),
        ({"contrasts": {"why": ["masked"]}}, "needs two variants"),
        ({"scales": {"laptop": {"variants": ["maskd"]}}}, "did you mean masked"),
        ({"scales": []}, "scales is a mapping"),
        ({"scales": {"laptop": 4}}, "laptop is a mapping of changes, not 4"),
        ({"scales": {"laptop": {"variants": "masked"}}}, "variants is a list of names, not 'masked'"),
        ({"variants": {"a": 3}}, "a is a mapping of changes, not 3"),
        ({"data": 3}, "data is text, or a list of texts, not 3"),
        ({"notes": [3]}, "notes is text, or a list of texts, not [3]"),
        ({"seeds": 0}, "seeds is how many, 1 or more, not 0"),
        ({"seeds": [0, 5]}, "seeds is how many, 1 or more, not [0, 5]"),
        ({"expected": {"clean accuracy": {"masked": "eighty"}}}, "clean accuracy is a mapping of variants to numbers"),
        ({"expected": {"clean accuracy": 80}}, "clean accuracy is a mapping of variants to numbers, not 80"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(values, change, words):
    if "variants" in change:
        values |= {"expected": {}, "contrasts": {}, "scales": {"laptop": {}}}
    with pytest.raises(ValueError) as error:
        Experiment.from_dict({**values, **change}, "small", "small.yaml: ")
    assert words in str(error.value)
    assert str(error.value).startswith("small.yaml: ")


def test_an_experiment_is_a_mapping_with_all_it_needs(values):
    with pytest.raises(ValueError, match="not list"):
        Experiment.from_dict([values])
    del values["source"]
    with pytest.raises(ValueError, match="needs source"):
        Experiment.from_dict(values)


def test_files_and_names(values, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_experiment(path).name == "mine"
    path.write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_experiment(path)
    path.write_text("!!python/object/apply:os.system [echo no]")
    with pytest.raises(ValueError, match="of the kind !!python"):
        load_experiment(path)
    with pytest.raises(FileNotFoundError, match="did you mean cifar10-masking"):
        load_experiment("cifar10-maskin")


@pytest.mark.parametrize("name", experiment_names())
def test_the_experiments_that_ship(name):
    experiment = load_experiment(name)
    # What no paper did has no scale of one.
    assert {"laptop"} | ({"paper", "gpu-hour"} if "arXiv" in experiment.source else set()) <= set(experiment.scales)
    for scale in experiment.scales:
        for variant in experiment.variants_at(scale):
            Recipe.from_dict(variant.recipe)


def test_the_six_ways_of_training():
    found = {v.name: v for v in load_experiment("cifar10-masking").variants_at("paper")}
    drawn = {
        name: tuple(v.recipe["objective"][0]["Anchored"][key] for key in ("alpha", "mask_target", "mask_per"))
        for name, v in found.items()
        if name != "standard"
    }
    assert drawn["anchored"][0] == 0
    assert drawn["masked-uniform-batch"] == (0.25, "uniform", "batch")  # the paper
    assert drawn["masked-label-batch"] == (0.25, "label", "batch")  # the released code
    assert drawn["masked-uniform-sample"] == (0.25, "uniform", "sample")
    assert drawn["masked-label-sample"] == (0.25, "label", "sample")
    assert found["standard"].recipe["anchored"] is False


def test_listing_them_imports_no_torch():
    code = (
        "import sys; from kedge.experiments.experiment import load_experiment; load_experiment('digits-masking'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
