"""Share of unfamiliar images that are accepted when a share of the familiar ones, of one's own choice, is."""

from kedge.catalog import Info
from kedge.metrics._base import Separation
from kedge.metrics._detection import fpr95
from kedge.metrics._separation import USUAL, AtRecall

info = Info(
    "Anomaly Detection Optimization Using Big Data and Deep Learning to Reduce False-Positive", "Al Jallad et al.",
    "arXiv", 2022, "https://arxiv.org/abs/2209.13965", "derived",
)  # fmt: skip


class FPRAtTPR(AtRecall):
    """False positives at a threshold that keeps the share of familiar images that was asked for (`--tpr`)."""

    label = "FPR at the TPR asked for"
    order = 345
    measure = staticmethod(fpr95)
    summary = ("ood",)
    words = (
        "Set the threshold so that the share of familiar images passes that was asked for (--tpr): which share of the "
        "unfamiliar ones passes too? 0 % is perfect."
    )
    convention = (
        "share of out-of-distribution images accepted at the highest threshold that at least the share of "
        "in-distribution ones asked for reaches; an image at the threshold is accepted; interval: bootstrap"
    )

    def applies(self, sample: Separation) -> bool:
        return sample.tpr is not None and sample.tpr != USUAL
