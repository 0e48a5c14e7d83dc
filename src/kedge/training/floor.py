"""What a run that starts from a trained model must not fall below: that model, on validation images."""

import copy
import logging
from collections.abc import Callable
from typing import Any

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.pretrained import read_weights
from kedge.training.checkpoint_selection import norm_batches
from kedge.training.folder import RunFolder
from kedge.training.module import Run
from kedge.training.recipe import Recipe
from kedge.training.threshold import predict_logits
from kedge.weights.wise_ft import between

__all__ = ["most_trained", "not_below_start", "on_the_way", "start_of"]

log = logging.getLogger("kedge")
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of the trained weights, in the averages that are tried


def not_below_start(run: Run, trained: PixelModel, folder: RunFolder) -> tuple[PixelModel, dict[str, Any]]:
    """The trained model, unless the one it started from is right more often on the validation images.

    Then the average of their weights (Wortsman et al., arXiv 2109.01903) with the most of the trained ones that is
    right as often as the start, else the start. `trained` is on the CPU or the device of the run, and is not changed.

    Returns:
        The model, and the record: accuracy of start and trained, which share of the trained weights was kept.
    """
    start = start_of(trained, folder)
    model = trained

    def accuracy(share: float) -> float:
        nonlocal model
        model = on_the_way(start, trained, share, run.recipe, run.train_set)
        return _accuracy(run, model)

    share, accuracies = most_trained(accuracy)
    if share in (0.0, 1.0):
        model = trained if share else start
    if share < 1:
        kept = "the start" if share == 0 else f"the average with {share:g} of the trained weights"
        log.warning(
            "training ended below its start on the validation images: %.1f against %.1f %%; kept is %s, %.1f %%",
            *(100 * accuracies[1.0], 100 * accuracies[0.0], kept, 100 * accuracies[share]),
        )
    record = {"start": accuracies[0.0], "trained": accuracies[1.0], "share": share, "accuracy": accuracies[share]}
    return model, record


def most_trained(accuracy: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The largest share of the trained weights, 1 or one of nine, that is right as often as none of them; else 0.

    Not the best of them: that is chance where few images judge, and takes back more of the training. Gives what
    `accuracy` said of each share that it was asked of, too.
    """
    accuracies = {1.0: accuracy(1.0), 0.0: accuracy(0.0)}
    if accuracies[1.0] >= accuracies[0.0]:
        return 1.0, accuracies
    for share in SHARES:
        accuracies[share] = accuracy(share)
        if accuracies[share] >= accuracies[0.0]:
            return share, accuracies
    return 0.0, accuracies


def start_of(trained: PixelModel, folder: RunFolder) -> PixelModel:
    """The model that a run began with, by the weights in its folder."""
    start = copy.deepcopy(trained)
    start.load_state_dict(read_weights(folder.start / "model.safetensors"))
    return start


def on_the_way(start: PixelModel, trained: PixelModel, share: float, recipe: Recipe, train: ImageSet) -> PixelModel:
    """The average with `share` of the trained weights, with statistics of batch norm of its own; an end as it is."""
    if share in (0.0, 1.0):
        return trained if share else start
    # Frozen statistics are the same at both ends.
    batches = None if recipe.batch_norm == "frozen" else norm_batches(recipe, train)
    model: PixelModel = between(start, trained, share, batches, recipe.seed)
    return model


def _accuracy(run: Run, model: PixelModel) -> float:
    rows, workers = max(64, run.recipe.batch_size or 0), run.recipe.workers or 0
    logits, labels = predict_logits(model, run.val_set, rows, workers)
    return float(metrics.accuracy(logits.softmax(1), labels))
