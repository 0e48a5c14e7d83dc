"""Wrong labels are forgotten most, and what is forgotten least can be left out at no loss against a random choice."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kedge import metrics, selection
from kedge.anchoring import PixelModel
from kedge.claims import Claim, Criterion, judged
from kedge.claims._diet import BATCH, RUNS, clothes, trained
from kedge.data import ImageSet
from kedge.objectives import CrossEntropy
from kedge.seeds import derive_seed, generator
from kedge.selection.forgetting import info as info

EPOCHS, STEPS = 16, 1500  # of the runs that score, and of those on what is chosen
CHOICES: dict[str, dict[str, Any]] = {
    "random": {"order": "random"},
    "least forgotten": {"order": "lowest"},
    "most forgotten": {"order": "highest"},
    "without the most forgotten tenth": {"order": "highest", "offset": 0.1},
}
WRONG = ", 10 % wrong"


class Forgetting(Claim):
    """Fashion-MNIST at 14 px, 2,000 images, labels clean and a tenth wrong; an MLP for 1,500 steps whatever is chosen.

    Forgetting events are counted over the 16 epochs of two runs, and 70 % of the images chosen by their mean. Controls:
    all images, a random part, those that are forgotten least.
    """

    methods = ("selection.forgetting",)
    data = ("fashion_mnist",)
    variants = tuple(name + more for more in ("", WRONG) for name in ("all", *CHOICES))
    seeds = 3
    criteria = (
        Criterion("wrong labels are forgotten most", "AUROC of wrong labels", "all" + WRONG, None, "above", 80),
        Criterion("most forgotten above random", "accuracy", "most forgotten", "random"),
        Criterion("most above least forgotten", "accuracy", "most forgotten", "least forgotten"),
        Criterion("as good as all", "accuracy", "most forgotten", "all", "near", 1),
        Criterion("with wrong labels the most forgotten are better left out", "accuracy",
                  "without the most forgotten tenth" + WRONG, "most forgotten" + WRONG, "above", 5),
    )  # fmt: skip

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy on 3,000 clean test images; how many of the labels trained on are wrong, in percent."""
        share = 0.1 if variant.endswith(WRONG) else 0.0
        train, wrong, test = clothes(seed, share)
        name, events = variant.removesuffix(WRONG), _events(seed, share)
        told = 100 * float(metrics.auroc(events[wrong], events[~wrong])) if share else 50.0
        if name != "all":
            places = selection.choose(events, train.labels, 0.7, seed=seed, **CHOICES[name])
            train, wrong = train.subset(places), wrong[places]
        model, seconds = trained(train, seed, STEPS)
        answers = judged(model, test)
        return {
            "accuracy": 100 * float(metrics.accuracy(answers.probs, answers.labels)),
            "AUROC of wrong labels": told,
            "wrong labels": 100 * float(wrong.double().mean()),
            "never forgotten": 100 * float((events == 0).double().mean()),
            "seconds a step": seconds,
        }


@cache
def _events(seed: int, wrong: float) -> Tensor:
    """Forgetting events of the training images of a seed, the mean over runs."""
    train, _, _ = clothes(seed, wrong)
    runs = [_epochs(train, derive_seed(seed, "run", run)) for run in range(RUNS)]
    return selection.score(runs, train, "forgetting")


def _epochs(train: ImageSet, seed: int) -> Iterator[PixelModel]:
    """The network of the claims about chosen images, as it is after each epoch of a run."""
    model, _ = trained(train, seed, 0)
    images = torch.stack([train[i][0] for i in range(len(train))]) / 255
    objective, draws = CrossEntropy(), generator(seed, "order")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(train), generator=draws).split(BATCH):
            optimizer.zero_grad()
            objective(model, images[batch], train.labels[batch]).backward()
            optimizer.step()
        yield model.eval()
