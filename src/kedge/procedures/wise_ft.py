"""Nothing more is trained: the average of the weights of the linear probe and of lp-ft."""

import logging
from collections.abc import Sequence

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.data import ImageSet
from kedge.evaluation.model_selection import Measure, best
from kedge.probing.set_probe import FEW
from kedge.procedures._base import Context, Procedure
from kedge.procedures._settings import Settings
from kedge.procedures._stages import smoothed
from kedge.weights.wise_ft import between, wise_ft_curve

info = Info(
    title="Robust fine-tuning of zero-shot models",
    authors="Wortsman et al.",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2109.01903",
    checked="paper",
)
log = logging.getLogger("kedge")
SHARES = tuple(n / 10 for n in range(11))


class WiseFt(Procedure):
    """The model between the start of lp-ft, which is the linear probe (share 0), and its end (share 1).

    Batch-norm statistics are averaged too. Where 30 validation images or more are there, a share that was set is not
    taken if fewer of them are right with it than with the linear probe: that one is handed over.
    """

    decided_by = ("share",)
    rests_on = ("linear_probe", "lp_ft")

    def check(self, settings: Settings, val: ImageSet | None) -> None:
        """Raise ValueError if the share is to be chosen on validation images that are not there."""
        if settings.share == "val" and val is None:
            raise ValueError(
                "share val is chosen on validation images, and there are none here (as with few shots): give a number"
            )

    def run(self, context: Context) -> PixelModel:
        """The average, its share as it was set or the best of eleven on the validation images."""
        device, val, share = context.settings.torch_device(), context.val, context.settings.share
        probe, tuned = (context.stage(each).to(device) for each in self.rests_on)
        probe = smoothed(context, probe)  # as lp-ft began, so that neither head outweighs the other
        if isinstance(share, str):  # check() has refused it without validation images
            share = best(_curve(context, probe, tuned, SHARES), "clean")["alpha"]
        elif val is not None and len(val) >= FEW:
            start, there = _curve(context, probe, tuned, (0.0, share))
            if there["clean"] < start["clean"]:
                log.warning(
                    "wise-ft with %g of the fine-tuned weights is below the linear probe on validation images: %.1f "
                    "against %.1f %%; handed over is the probe",
                    *(share, 100 * there["clean"], 100 * start["clean"]),
                )
                share = 0.0
        context.record["share"] = share
        model: PixelModel = between(probe, tuned, share)
        return model


def _curve(context: Context, probe: PixelModel, tuned: PixelModel, shares: Sequence[float]) -> list[dict[str, float]]:
    """The accuracies on the validation images at these shares, which the record gets too."""
    settings = context.settings
    measure = Measure(context.val, batch_size=settings.batch_size, workers=settings.workers, seed=settings.seed)
    curve = wise_ft_curve(probe, tuned, shares, measure)
    context.record["curve"] = [{"share": row["alpha"], "accuracy": row["clean"]} for row in curve]
    return curve
