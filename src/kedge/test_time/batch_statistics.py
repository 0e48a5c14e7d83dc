"""Batch-norm layers normalise with the statistics of the test batch, mixed with the stored ones if wanted."""

from kedge.catalog import Info
from kedge.test_time._base import Adapter

info = Info(
    "Improving robustness against common corruptions by covariate shift adaptation", "Schneider et al.", "NeurIPS",
    2020, "https://arxiv.org/abs/2006.16971", "paper",
)  # fmt: skip


class BatchStatistics(Adapter):
    """μ = (N μ_s + n μ_t) / (N + n), and the variance likewise: n images of the batch, stored statistics worth N.

    No weight changes and nothing is remembered from batch to batch. With `prior` 0 it is prediction-time batch norm
    (Nado et al. 2020, arXiv 2006.10963): what a layer does in training mode, with the biased variance. Statistics of
    few images are noise (below about 100 a prior of 16 or more helps), and those of images sorted by class take the
    class away.

    Args:
        prior: N, in images; rows of an anchored model are its references times the images.
    """
