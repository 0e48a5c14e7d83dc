"""Expected calibration error over bins that hold equally many images."""

from kedge.catalog import Info
from kedge.metrics._base import Answers
from kedge.metrics._cross_fitted import CrossFitted, cross_fitted_error
from kedge.metrics._families import Binned

info = Info(
    "Posterior calibration and exploratory analysis for natural language processing models", "Nguyen & O'Connor",
    "EMNLP", 2015, "https://arxiv.org/abs/1508.05154", "paper",
)  # fmt: skip


class ECEMass(Binned):
    """ECE over bins of equal mass; equal confidences stay in one bin."""

    label = "ECE, bins of equal mass"
    order = 110
    binning = "mass"

    def fitted(self, sample: Answers) -> CrossFitted:
        return cross_fitted_error(sample["confidence"], sample.correct, sample.bins, "mass", sample.splits)
