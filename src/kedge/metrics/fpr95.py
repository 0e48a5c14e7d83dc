"""Share of unfamiliar images that are accepted when 95 % of the familiar ones are."""

from kedge.catalog import Info
from kedge.metrics._detection import fpr95
from kedge.metrics._separation import USUAL, AtRecall

info = Info(
    "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks", "Liang et al.", "ICLR", 2018,
    "https://arxiv.org/abs/1706.02690", "derived",
)  # fmt: skip


class FPR95(AtRecall):
    """False positives at a threshold that keeps 95 % of the familiar images, with the threshold and both counts."""

    label = "FPR95"
    order = 340
    recall = USUAL
    measure = staticmethod(fpr95)
    summary = ("ood",)
    words = (
        "Set the threshold so that 95 % of familiar images pass: which share of the unfamiliar ones passes too? 0 % is "
        "perfect."
    )
    convention = "share of out-of-distribution images accepted when 95 % of in-distribution ones are"
