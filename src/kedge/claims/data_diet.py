"""Trained at equal steps on the 70 % with the highest EL2N a network is better than on a random 70 %."""

from typing import Any

from kedge import metrics, selection
from kedge.claims import Claim, Criterion, judged
from kedge.claims._diet import EPOCHS, clothes, early, trained
from kedge.selection.el2n import info as info

STEPS = 1500
HARDEST: dict[str, Any] = {"order": "highest", "offset": 0.1}
CHOICES: dict[str, dict[str, Any]] = {
    "random": {"order": "random"},
    "lowest": {"order": "lowest"},
    "highest": {"order": "highest"},
    "without the hardest tenth": HARDEST,
    "in each class": {"order": "highest", "floor": 0.7},
}
WRONG = ", 10 % wrong"


class DataDiet(Claim):
    """Fashion-MNIST at 14 px, 2,000 images, labels clean and a tenth wrong; an MLP for 1,500 steps whatever is chosen.

    Chosen are 70 % of the images by the EL2N of two models after 8 epochs. Controls: all images, a random part, the
    lowest scores.
    """

    methods = ("selection.el2n",)
    data = ("fashion_mnist",)
    variants = tuple(name + more for more in ("", WRONG) for name in ("all", *CHOICES))
    seeds = 5
    criteria = (
        Criterion("highest above random", "accuracy", "highest", "random"),
        Criterion("highest above lowest", "accuracy", "highest", "lowest"),
        Criterion("as good as all", "accuracy", "highest", "all", "near", 1),
        Criterion("with wrong labels the hardest are better left out", "accuracy", "without the hardest tenth" + WRONG,
                  "highest" + WRONG, "above", 5),
        Criterion("and then it is above random", "accuracy", "without the hardest tenth" + WRONG, "random" + WRONG),
    )  # fmt: skip

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy on 3,000 clean test images; how many of the labels trained on are wrong, in percent."""
        share = 0.1 if variant.endswith(WRONG) else 0.0
        train, wrong, test = clothes(seed, share)
        name = variant.removesuffix(WRONG)
        if name != "all":
            scores = selection.score(early(seed, share, EPOCHS), train)
            places = selection.choose(scores, train.labels, 0.7, seed=seed, **CHOICES[name])
            train, wrong = train.subset(places), wrong[places]
        model, seconds = trained(train, seed, STEPS)
        answers = judged(model, test)
        return {
            "accuracy": 100 * float(metrics.accuracy(answers.probs, answers.labels)),
            "wrong labels": 100 * float(wrong.double().mean()),
            "seconds a step": seconds,
        }
