"""The body frozen, in eval mode; a new linear head on its features, which takes seconds."""

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.procedures._base import Context, Procedure
from kedge.procedures._stages import bank_features, fit_head

info = Info(
    title="Understanding intermediate layers using linear classifier probes",
    authors="Alain and Bengio",
    venue="arXiv",
    year=2016,
    url="https://arxiv.org/abs/1610.01644",
    checked="abstract",
)


class LinearProbe(Procedure):
    """Logistic regression on the features, solved to its minimum; of an anchored model on means over its bank."""

    decided_by = ("seed", "head", "references", "strength")

    def run(self, context: Context) -> PixelModel:
        """The body with the head."""
        body = context.with_bank(context.model).to(context.settings.torch_device())
        return fit_head(context, body, bank_features(context, body))
