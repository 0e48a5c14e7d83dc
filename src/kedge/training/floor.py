"""What a run that starts from a trained model must not fall below: that model, on validation images."""

import copy
import logging
from typing import Any

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.pretrained import read_weights
from kedge.training.checkpoint_selection import norm_batches
from kedge.training.folder import RunFolder
from kedge.training.module import Run
from kedge.training.threshold import predict_logits
from kedge.weights.wise_ft import between

__all__ = ["not_below_start"]

log = logging.getLogger("kedge")
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of the trained weights, in the averages that are tried


def not_below_start(run: Run, trained: PixelModel, folder: RunFolder) -> tuple[PixelModel, dict[str, Any]]:
    """The trained model, unless the one it started from is right more often on the validation images.

    Then the average of their weights (Wortsman et al., arXiv 2109.01903) with the most of the trained ones that is
    right as often as the start, else the start. Not the best of them: that is chance where few images judge, and takes
    back more of the training. `trained` is on the CPU or the device of the run, and is not changed.

    Returns:
        The model, and the record: accuracy of start and trained, which share of the trained weights was kept.
    """
    start = copy.deepcopy(trained)
    start.load_state_dict(read_weights(folder.start / "model.safetensors"))
    accuracies = {1.0: _accuracy(run, trained), 0.0: _accuracy(run, start)}
    model, share = trained, 1.0
    if accuracies[1.0] < accuracies[0.0]:
        # Frozen statistics are the same at both ends.
        batches = None if run.recipe.batch_norm == "frozen" else norm_batches(run)
        for share in SHARES:
            model = between(start, trained, share, batches, run.recipe.seed)
            accuracies[share] = _accuracy(run, model)
            if accuracies[share] >= accuracies[0.0]:
                break
        else:
            model, share = start, 0.0
        kept = "the start" if share == 0 else f"the average with {share:g} of the trained weights"
        log.warning(
            "training ended below its start on the validation images: %.1f against %.1f %%; kept is %s, %.1f %%",
            *(100 * accuracies[1.0], 100 * accuracies[0.0], kept, 100 * accuracies[share]),
        )
    record = {"start": accuracies[0.0], "trained": accuracies[1.0], "share": share, "accuracy": accuracies[share]}
    return model, record


def _accuracy(run: Run, model: PixelModel) -> float:
    rows, workers = max(64, run.recipe.batch_size or 0), run.recipe.workers or 0
    logits, labels = predict_logits(model, run.val_set, rows, workers)
    return float(metrics.accuracy(logits.softmax(1), labels))
