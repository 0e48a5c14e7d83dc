"""Every method measured alike: from its logits on the same test photos, clean and corrupted after its own view."""

import hashlib
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kedge import metrics
from kedge.data.corruptions import corrupt
from kedge.files import whole

CORRUPTIONS = (
    "gaussian_noise", "impulse_noise", "defocus_blur", "motion_blur", "snow", "fog", "pixelate", "jpeg_compression",
)  # fmt: skip  # two of each of the four families
SEVERITIES = (3, 5)
EVERY = 3  # every third test photo is corrupted: sixteen versions of all take longer than a training
CLEAN, SHIPPED = "clean", "clean, as shipped"


def conditions() -> list[str]:
    """Names of all corrupted versions, such as `fog 3`."""
    return [f"{name} {severity}" for name in CORRUPTIONS for severity in SEVERITIES]


def with_corruptions(view: Path, folder: Path) -> Path:
    """A file of the photos of a view, clean [N, 3, H, W] and every third corrupted, uint8, by condition; all labels.

    It is named after the pixels of the view, so that a view that changes is corrupted anew.
    """
    shown = load_file(view)
    path = folder / f"{hashlib.sha256(shown['images'].numpy().tobytes()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        places = torch.arange(0, len(shown["images"]), EVERY)
        images = shown["images"][places].float() / 255
        tensors = {CLEAN: shown["images"], "labels": shown["labels"]}
        for name in CORRUPTIONS:
            for severity in SEVERITIES:
                changed = corrupt(images, name, severity, indices=places)
                tensors[f"{name} {severity}"] = (changed * 255).round().to(torch.uint8)
        with whole(path) as temporary:
            save_file(tensors, temporary)
    return path


def measures(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """Accuracy, smooth calibration error (both in percent) and NLL: clean, and the mean over the corrupted versions.

    `as shipped`: on the clean photos by more than one pass, of a method that answers so; else None.
    """
    each = {CLEAN: _of(logits[CLEAN], labels)}
    each |= {name: _of(logits[name], labels[::EVERY]) for name in conditions()}
    corrupted = [each[name] for name in conditions()]
    return {
        **each[CLEAN],
        **{f"corrupted {key}": statistics.fmean(row[key] for row in corrupted) for key in each[CLEAN]},
        "as shipped": _of(logits[SHIPPED], labels) if SHIPPED in logits else None,
        "conditions": {name: each[name]["accuracy"] for name in conditions()},
    }


def _of(logits: Tensor, labels: Tensor) -> dict[str, float]:
    if logits.shape[0] != len(labels) or not bool(logits.isfinite().all()):
        raise ValueError(f"{list(logits.shape)} logits of {len(labels)} photos, or some of them are not finite")
    probs = logits.double().softmax(1)
    return {
        "accuracy": 100 * float(metrics.accuracy(probs, labels)),
        "smooth ECE": 100 * float(metrics.smooth_calibration_error(probs, labels)),
        "NLL": float(torch.nn.functional.cross_entropy(logits.double(), labels)),
    }
