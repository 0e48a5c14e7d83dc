import pytest

from kedge.experiments.experiment import Experiment


@pytest.fixture
def values():
    """A small experiment on digits, as its file is read."""
    return {
        "title": "Small",
        "source": "nowhere, table 1 | 2",
        "data": ["not-here-at-all", "digits"],
        "base": {
            "model": "kedge_resnet_small",
            "arguments": {"width": 4},
            "objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"],
            "classes": [0, 1, 2],
            "epochs": 1,
            "batch_size": 64,
        },
        "variants": {
            "standard": {"anchored": False, "objective": ["CrossEntropy"]},
            "masked": {"objective.CrossEntropy.label_smoothing": 0.1},
            "masked-4": {"same_as": "masked", "evaluation.references": 4},
        },
        "evaluation": {"shift": ["contrast"], "severities": [2, 5], "references": 1, "ood": ["nor-this"]},
        "scales": {
            "laptop": {"evaluation.limit": 40},
            "large": {"arguments.width": 8, "objective.Anchored.alpha": 0.5, "variants": ["standard", "masked"]},
        },
        "seeds": 2,
        "expected": {"clean accuracy": {"standard": 90, "masked": 95.5}},
        "contrasts": {"Does masking help?": ["masked", "standard"]},
    }


@pytest.fixture
def experiment(values):
    return Experiment.from_dict(values, "small")
