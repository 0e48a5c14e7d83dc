"""Area under the ROC curve: how often a familiar image scores higher than an unfamiliar one."""

from kedge.catalog import Info
from kedge.metrics import _detection
from kedge.metrics._base import Bounds, Detection, Separation

info = Info(
    "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves", "DeLong et al.",
    "Biometrics", 1988, "https://doi.org/10.2307/2531595", "code",
)  # fmt: skip


class AUROC(Detection):
    """The chance that an in-distribution image scores higher; DeLong's interval on the logit scale."""

    label = "AUROC"
    better = "higher"
    order = 310
    summary = ("ood",)
    words = (
        "Take one familiar and one unfamiliar image: how often does the familiar one get the higher score? 100 % is "
        "perfect, 50 % is guessing, below 50 % is worse than guessing. (Familiar, that is in-distribution, is the "
        "positive class.)"
    )

    def value(self, sample: Separation) -> float:
        return float(_detection.auroc(sample.inside, sample.outside))

    def interval(self, sample: Separation, value: float) -> Bounds:
        return _detection.auroc_interval(sample.inside, sample.outside)
