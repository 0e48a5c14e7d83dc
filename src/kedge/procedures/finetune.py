"""All weights, from the body and a fresh head."""

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.probing.heads import find_head, with_head
from kedge.procedures._base import Context, Procedure
from kedge.procedures._search import choose_layer_rates
from kedge.procedures._stages import tune

info = Info(
    title="How transferable are features in deep neural networks?",
    authors="Yosinski et al.",
    venue="NeurIPS",
    year=2014,
    url="https://arxiv.org/abs/1411.1792",
    checked="abstract",
)


class Finetune(Procedure):
    """A run with the recipe, checkpoints and metrics of any; an anchored body goes on with its masking."""

    decided_by = (
        "seed",
        "head",
        "references",
        "epochs",
        "lr",
        "layer_lr",
        "stages",
        "budget",
        "pull",
        "objective",
        "augment",
    )

    def run(self, context: Context) -> PixelModel:
        """The trained model."""
        choose_layer_rates(context)
        settings, names = context.settings, context.train.class_names
        head = find_head(context.model, settings.head)
        return tune(context, with_head(context.with_bank(context.model), head, names, seed=settings.seed))
