"""Area under the ROC curve: how often a familiar image scores higher than an unfamiliar one."""

from typing import Any

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
    positive = "in"
    words = (
        "Take one familiar and one unfamiliar image: how often does the familiar one get the higher score? 100 % is "
        "perfect, 50 % is guessing, below 50 % is worse than guessing. (Familiar, that is in-distribution, is the "
        "positive class.)"
    )

    def interval(self, sample: Separation, value: float) -> Bounds:
        return auroc_interval(sample.inside, sample.outside)

    def told_apart(self, value: Any, score: str, images: str) -> str:
        text = (
            f"Shown one familiar image and one of {images}, its {score} ranks the familiar one higher "
            f"{100 * value['value']:.1f} times in 100 (50 is guessing)"
        )
        low, high = value.get("low"), value.get("high")
        if low is not None and low <= 0.5 <= high:
            text += ", which on so few images cannot be told from guessing"
        elif high is not None and high < 0.5:
            text += ", worse than guessing: unfamiliar images look more familiar to it than familiar ones"
        return f"{text}."
