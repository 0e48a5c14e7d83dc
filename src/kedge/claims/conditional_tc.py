"""Two networks that are to have little in common given the label adapt faster to a shift than two independent ones."""

import statistics
from typing import Any

import torch

from kedge.claims import Criterion, Images, Trained
from kedge.claims._dominoes import dominoes
from kedge.data import ImageSet
from kedge.objectives.conditional_tc import apart, conditional_tc
from kedge.objectives.conditional_tc import info as info
from kedge.probing.features import features
from kedge.probing.heads import find_head
from kedge.probing.probe import ProbeData, fit_probe

TWO = {"model": "kedge_members", "arguments": {"members": 2, "width": 8}}
SHOTS, DRAWS = 20, 5


class ConditionalTC(Trained):
    """Zeros or ones above coats or dresses that agree with them; a new head from 20 images where they do not.

    The shift: the upper, easy half is of either class, whatever the label. A head on the features of all networks is
    fitted on 20 such images, five times on others, its strength by cross-validation.
    """

    methods = ("objectives.conditional_tc",)
    variants = ("one network", "λ 0", "λ 1", "λ 5")
    seeds = 5
    criteria = (
        Criterion("two networks adapt better than one", "adapted accuracy", "λ 0", "one network"),
        Criterion("the price is paid", "conditional TC", "λ 1", "λ 0", "below"),
        Criterion("they adapt better for it", "adapted accuracy", "λ 1", "λ 0", "above", 2),
        Criterion("and at a higher price", "adapted accuracy", "λ 5", "λ 0", "above", 2),
    )
    data = ("mnist", "fashion_mnist")
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "augment": "none",
        "epochs": 8,
        "batch_size": 64,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }
    changes = {
        "λ 0": {**TWO, "objective": [{"ConditionalTC": {"weight": 0}}]},
        "λ 1": {**TWO, "objective": [{"ConditionalTC": {"weight": 1}}]},
        "λ 5": {**TWO, "objective": [{"ConditionalTC": {"weight": 5}}]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """1,000 and 200 images whose halves agree, 1,500 test images where they agree half of the time."""
        self._seed = seed
        train, val = dominoes("train", 1000, 1.0, seed, "train"), dominoes("train", 200, 1.0, seed, "val", start=600)
        return Images(train, val, dominoes("test", 1500, 0.5, seed, "test"), {})

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy on the shifted test images, as trained and adapted, and how much the networks share."""
        head = find_head(model)
        test = features(model, head, images.test)
        adapted = []
        for draw in range(DRAWS):
            few = dominoes("train", SHOTS, 0.5, self._seed, f"few {draw}", start=1000)
            probe = fit_probe(ProbeData(features(model, head, few)[None], few.labels, 2))
            assert probe.bias is not None
            right = (test @ probe.weight.T + probe.bias).argmax(1) == images.test.labels
            adapted.append(100 * float(right.double().mean()))
        own = super().measure(model, images)
        return {
            "accuracy": own["accuracy"],
            "adapted accuracy": statistics.fmean(adapted),
            **_shared(model, images.test),
        }


@torch.no_grad()
def _shared(model: Any, images: ImageSet) -> dict[str, float]:
    """The conditional TC of the networks' answers to images, where there are several."""
    if not hasattr(model.network, "apart"):
        return {"conditional TC": 0.0}
    logits = apart(model.network, features(model, "fc", images))
    classes = torch.nn.functional.one_hot(images.labels, 2).float()
    return {"conditional TC": float(conditional_tc(logits.softmax(2), classes))}
