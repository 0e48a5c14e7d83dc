"""The head that a procedure fits on a frozen body."""

from typing import Any

from kedge.anchoring import PixelModel
from kedge.probing.features import features
from kedge.probing.heads import find_head, with_head
from kedge.probing.probe import ProbeData, fit_probe
from kedge.procedures._base import Context

__all__ = ["bank_features", "fit_head", "reading"]


def reading(context: Context) -> dict[str, Any]:
    """How images are read where nothing is trained."""
    return {"batch_size": context.settings.batch_size, "workers": context.settings.workers}


def bank_features(context: Context, body: PixelModel, balanced: bool = False) -> ProbeData:
    """What the head of `body` reads of the training images; of an anchored one means over its bank."""
    head, train = find_head(body, context.settings.head), context.train
    if (bank := getattr(body, "references", None)) is not None:
        context.record["references"] = f"the mean over the bank of {len(bank)}, no image with itself"
    rows = features(body, head, train, others=True, **reading(context))
    return ProbeData(rows[None], train.labels, len(train.class_names), balanced=balanced)


def fit_head(context: Context, body: PixelModel, data: ProbeData) -> PixelModel:
    """`body` with the best linear head on `data`; the record says how strongly it is regularised, and why."""
    head, settings, val = find_head(body, context.settings.head), context.settings, context.val
    validation = None if val is None else (features(body, head, val, **reading(context)), val.labels)
    layer: Any = body.network.get_submodule(head) if head else body.network
    probe = fit_probe(data, validation, settings.strength, layer.bias is not None)
    context.record |= {"strength": probe.strength, "chosen": probe.chosen}
    context.record["nll"] = {f"{strength:.3g}": nll for strength, nll in probe.nll.items()}
    return with_head(body.cpu(), head, context.train.class_names, probe.weight, probe.bias)
