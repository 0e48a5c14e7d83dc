"""All weights, from the head of the linear probe, at a tenth of the learning rate."""

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.procedures._base import Context, Procedure
from kedge.procedures._search import choose_layer_rates
from kedge.procedures._stages import smoothed, tune
from kedge.procedures.finetune import Finetune

info = Info(
    title="Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
    authors="Kumar et al.",
    venue="ICLR",
    year=2022,
    url="https://arxiv.org/abs/2202.10054",
    checked="paper",
)
GENTLER = 0.1  # of the learning rate of fine-tuning from a fresh head, for a head that fits already


class LpFt(Procedure):
    """Fine-tuning that begins where the linear probe ends; with label smoothing from logits of the size it asks for."""

    decided_by = Finetune.decided_by
    rests_on = ("linear_probe",)

    def run(self, context: Context) -> PixelModel:
        """The trained model."""
        choose_layer_rates(context)
        return tune(context, smoothed(context, context.stage("linear_probe")), GENTLER)
