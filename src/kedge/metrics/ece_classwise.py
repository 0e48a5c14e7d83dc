"""Calibration error of each class's probability, averaged over classes."""

from kedge.catalog import Info
from kedge.metrics._families import ClassBins

info = Info(
    "Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with Dirichlet calibration",
    "Kull et al.", "NeurIPS", 2019, "https://arxiv.org/abs/1910.12656", "paper",
)  # fmt: skip


class ECEClasswise(ClassBins):
    """Static calibration error (Nixon et al., CVPR workshops 2019); of many classes it is small."""

    label = "class-wise ECE"
    unit = "%%"
    better = "lower"
    top = 1.0
    order = 120
