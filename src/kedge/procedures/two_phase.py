"""Fine-tuning, then the head fitted anew on the frozen body with every class counted the same: for rare classes."""

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.procedures._base import Context, Procedure
from kedge.procedures._stages import bank_features, fit_head

info = Info(
    title="Decoupling Representation and Classifier for Long-Tailed Recognition",
    authors="Kang et al.",
    venue="ICLR",
    year=2020,
    url="https://arxiv.org/abs/1910.09217",
    checked="abstract",
)


class TwoPhase(Procedure):
    """Classifier re-training (cRT): features learnt from the images as they come, the head from class-balanced ones.

    The head's loss on class-balanced batches is minimised as an expectation, with the solver of the linear probe:
    every image counts by one over the number of its class. It begins at no weights of the first phase.
    """

    decided_by = ("seed", "head", "strength")
    rests_on = ("finetune",)
    equal_classes = True

    def run(self, context: Context) -> PixelModel:
        """The fine-tuned body with the new head."""
        body = context.stage("finetune").to(context.settings.torch_device())
        return fit_head(context, body, bank_features(context, body, balanced=True), unseen=False)
