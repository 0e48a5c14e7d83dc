"""The linear probe that fine-tuning starts from: the best linear head on the network as it was published."""

import time
import warnings
from typing import Any

import torch
from torch import Tensor

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.data import ImageSet, generator
from kedge.postprocess.temperature import fit_temperature
from kedge.probing.features import features
from kedge.probing.heads import find_head
from kedge.probing.probe import ProbeData, fit_probe, fold_logits

__all__ = ["FEW", "set_probe", "smoothed_size"]

FEW = 30  # validation images below which the strength is chosen, and the probe judged, by folds of the training images
MOST = 20_000  # training images that the head is fitted on; more change little and take minutes


@torch.no_grad()
def set_probe(
    model: PixelModel,
    train: ImageSet,
    val: ImageSet,
    seed: int,
    batch_size: int,
    workers: int,
    smoothing: float = 0.0,
    whole_bank: bool = False,
) -> dict[str, Any]:
    """Set the last layer of `model`, in place, to the linear probe of its frozen features; gives what it reaches.

    An anchored model that was just converted is the same function whatever its reference, so one is asked. One that was
    trained anchored is not: with `whole_bank` features are means over its references, as predictions are, of a training
    image over those that it does not equal. The strength of regularisation is the one with the lowest NLL on `val`,
    where that is fewer than 30 images in cross-validation among the training images.

    With a training of label `smoothing` ahead the head is divided by the temperature at which its logits have the
    smallest such loss on these images (of folds: by the heads of the other folds): no answer changes. Where nearly all
    are right the NLL chooses hardly any regularisation, and logits of a size that the first steps of training would
    have to undo.

    Returns:
        accuracy and nll on `val`, unless that is empty, strength, images that the head was fitted on, seconds; with few
        validation images also folds and fold_accuracy, of heads fitted on the other folds of the training images;
        with smoothing also the temperature. The nll is of the head before it is divided.

    Raises:
        ValueError: if the network has no linear last layer.
        DataError: if more than 1 % of the images cannot be read.
    """
    began = time.perf_counter()
    head, train = find_head(model), train.sample
    if len(train) > MOST:
        order = torch.randperm(len(train), generator=generator(seed, "probe"))
        train = train.subset(order[:MOST].sort().values)
    train = train.readable()[0]  # of more images than loading looks at some may be damaged
    references = None if whole_bank else 1
    fitted_on = features(model, head, train, batch_size, workers, others=whole_bank, references=references)
    judged_on = features(model, head, val, batch_size, workers, references=references) if len(val) else fitted_on[:0]
    layer: Any = model.network.get_submodule(head) if head else model.network
    data, few = ProbeData(fitted_on[None], train.labels, model.num_outputs), len(val) < FEW
    probe = fit_probe(data, None if few else (judged_on, val.labels), intercept=layer.bias is not None)
    folds = fold_logits(data, probe.strength, layer.bias is not None) if few else None
    record: dict[str, Any] = {"strength": probe.strength, "images": len(train)}
    logits, labels = judged_on @ probe.weight.T + (0 if probe.bias is None else probe.bias), val.labels
    if len(val):
        probs = logits.softmax(1)
        record |= {"accuracy": float(metrics.accuracy(probs, labels)), "nll": float(metrics.nll(probs, labels))}
    if folds is not None:
        count, logits, labels = folds
        record |= {"folds": count, "fold_accuracy": float(metrics.accuracy(logits.softmax(1), labels))}
    size = 1.0
    if smoothing and (folds is not None or not few):
        record["temperature"] = size = smoothed_size(logits, labels, smoothing)
    layer.weight.copy_(probe.weight.view_as(layer.weight) / size)
    if probe.bias is not None:
        layer.bias.copy_(probe.bias / size)
    return {**record, "seconds": time.perf_counter() - began}


def smoothed_size(logits: Tensor, labels: Tensor, smoothing: float) -> float:
    """What the head of a probe with these logits `[N, C]` is divided by before a training with label smoothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of features that tell no classes apart: the accuracy says it
        return fit_temperature(logits, labels, smoothing)
