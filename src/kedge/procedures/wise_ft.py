"""Nothing more is trained: the average of the weights of the linear probe and of lp-ft."""

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.data import ImageSet
from kedge.evaluation.model_selection import Measure, best
from kedge.procedures._base import Context, Procedure
from kedge.procedures._settings import Settings
from kedge.weights.wise_ft import between, wise_ft_curve

info = Info(
    title="Robust fine-tuning of zero-shot models",
    authors="Wortsman et al.",
    venue="CVPR",
    year=2022,
    url="https://arxiv.org/abs/2109.01903",
    checked="paper",
)
SHARES = tuple(n / 10 for n in range(11))


class WiseFt(Procedure):
    """The model between the linear probe (share 0) and lp-ft (share 1); batch-norm statistics are averaged too."""

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
        settings, device = context.settings, context.settings.torch_device()
        probe, tuned = (context.stage(each).to(device) for each in self.rests_on)
        share = settings.share
        if isinstance(share, str):
            assert context.val is not None  # check() asks before anything is trained
            rows, workers = settings.batch_size, settings.workers
            measure = Measure(context.val, batch_size=rows, workers=workers, seed=settings.seed)
            curve = wise_ft_curve(probe, tuned, SHARES, measure)
            share = best(curve, "clean")["alpha"]
            context.record["curve"] = [{"share": row["alpha"], "accuracy": row["clean"]} for row in curve]
        context.record["share"] = share
        model: PixelModel = between(probe, tuned, share)
        return model
