"""A few epochs into training wrong labels have the highest EL2N and GraNd, and of untrained weights they have not."""

from kedge import selection
from kedge.claims import Claim, Criterion
from kedge.claims._diet import EPOCHS, clothes, early
from kedge.metrics import auroc
from kedge.selection.el2n import info as info

VARIANTS = {
    "EL2N": ("el2n", EPOCHS),
    "GraNd": ("grand", EPOCHS),
    "EL2N, untrained": ("el2n", 0),
    "GraNd, untrained": ("grand", 0),
}


class WrongLabels(Claim):
    """Fashion-MNIST at 14 px, 2,000 images, a tenth of the labels wrong; two MLPs after 8 epochs, and untrained."""

    methods = ("selection.el2n", "selection.grand")
    data = ("fashion_mnist",)
    variants = tuple(VARIANTS)
    seeds = 5
    criteria = (
        Criterion("EL2N tells wrong labels", "AUROC of wrong labels", "EL2N", None, "above", 90),
        Criterion("GraNd tells wrong labels", "AUROC of wrong labels", "GraNd", None, "above", 85),
        Criterion("not before training", "AUROC of wrong labels", "EL2N", "EL2N, untrained", "above", 20),
        Criterion("nor does GraNd", "AUROC of wrong labels", "GraNd", "GraNd, untrained", "above", 20),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """AUROC, and how many of the tenth with the highest scores are wrong, in percent."""
        how, epochs = VARIANTS[variant]
        train, wrong, _ = clothes(seed, 0.1)
        scores = selection.score(early(seed, 0.1, epochs), train, how)
        first = scores.argsort(descending=True, stable=True)[: int(wrong.sum())]
        return {
            "AUROC of wrong labels": 100 * float(auroc(scores[wrong], scores[~wrong])),
            "wrong among the first": 100 * float(wrong[first].double().mean()),
        }
