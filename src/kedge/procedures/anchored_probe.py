"""The head alone, trained with drawn and hidden references on a frozen anchored body."""

from kedge.anchoring import PixelModel, anchor
from kedge.catalog import Info
from kedge.probing.features import drawn_features
from kedge.probing.heads import find_head
from kedge.probing.probe import ProbeData
from kedge.procedures._base import Context, Procedure
from kedge.procedures._stages import fit_head, reading

info = Info(
    title="On the Use of Anchoring for Training Vision Models",
    authors="Narayanaswamy et al.",
    venue="NeurIPS",
    year=2024,
    url="https://arxiv.org/abs/2406.00529",
    checked="derived",
)


class AnchoredProbe(Procedure):
    """The head of `Anchored(CrossEntropy, alpha)`: [r, x - r] and, for a share `alpha`, [0, x - r] with even targets.

    The loss is minimised as an expectation over `drawn` references for each image and over masking, with the solver of
    the linear probe. A plain model is converted first, which changes nothing it computes.
    """

    decided_by = ("seed", "head", "references", "strength", "alpha", "drawn")

    def run(self, context: Context) -> PixelModel:
        """The body, anchored, with the head."""
        settings, train = context.settings, context.train
        body = context.with_bank(context.model)
        if not body.count():
            context.record["converted"] = True
            body = context.with_bank(anchor(body))
        body, head = body.to(settings.torch_device()), find_head(body, settings.head)
        rows, masked = drawn_features(
            body, head, train, settings.drawn, settings.alpha > 0, settings.seed, **reading(context)
        )
        drawn = f"{settings.drawn} training images drawn for each image"
        context.record |= {"alpha": settings.alpha, "references": drawn}
        return fit_head(context, body, ProbeData(rows, train.labels, len(train.class_names), masked, settings.alpha))
