"""Area under the ROC curve: how often a familiar image scores higher than an unfamiliar one."""

from kedge.catalog import Info
from kedge.metrics._base import Bounds, Detection, Separation
from kedge.metrics._detection import auroc, auroc_interval

info = Info(
    "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves", "DeLong et al.",
    "Biometrics", 1988, "https://doi.org/10.2307/2531595", "code",
)  # fmt: skip


class AUROC(Detection):
    """The chance that an in-distribution image scores higher; DeLong's interval on the logit scale."""

    label = "AUROC"
    better = "higher"
    order = 310
    measure = staticmethod(auroc)
    summary = ("ood",)
    words = (
        "Take one familiar and one unfamiliar image: how often does the familiar one get the higher score? 100 % is "
        "perfect, 50 % is guessing, below 50 % is worse than guessing. (Familiar, that is in-distribution, is the "
        "positive class.)"
    )

    def interval(self, sample: Separation, value: float) -> Bounds:
        return auroc_interval(sample.inside, sample.outside)
