"""Where results come from: versions and machine, without names of users, hosts or folders; conventions and papers."""

import os
import platform
from collections.abc import Iterable
from typing import Any

import torch

from kedge._version import __version__
from kedge.metrics._base import metrics


def machine() -> dict[str, Any]:
    """Versions, operating system, processor count and accelerators."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "kedge": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": gpus,
    }


def peak_memory() -> float | None:
    """The most memory that this process has used, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if platform.system() == "Darwin" else peak / 1024


CONVENTIONS = {
    "ood": "in-distribution is the positive class; a higher score means more in-distribution; AUROC's interval: "
    "DeLong's variance on the logit scale",
    "near and far": "unweighted means over the sets of the group, as OpenOOD 1.5 averages; their intervals are "
    "means of the sets' bounds, wider than the truth",
    "aupr_in, aupr_out": "average precision with in-distribution, and with out-of-distribution as the positive class",
    "confidence": "images are ranked and rejected by its log odds, log(p / (1 - p)): p is 1 in float32 from 17 on",
    "attack": "accuracy on attacked images of a stated random subset; interval: exact binomial (Clopper-Pearson)",
    "corruptions": "generated on the batch, deterministic in (image index, name, severity, seed); "
    "not the published corrupted files; frost has textures of kedge's own unless a folder of pictures is named, "
    "as hard as the published within a point at severities 1 to 4, 2 points harder at 5, on two CIFAR-10 networks",
}
_ARXIV = "https://arxiv.org/abs/"
CITATIONS = {
    "ood": [
        ("Near and far sets", "OpenOOD 1.5, Zhang et al. 2023", f"{_ARXIV}2306.09301"),
    ],
    "attack": [
        ("Signs of masked gradients", "Athalye et al., ICML 2018", f"{_ARXIV}1802.00420"),
    ],
    "seen": [
        ("Out-of-distribution classes seen in pre-training", "Miyai et al. 2023", f"{_ARXIV}2310.00847"),
    ],
    "unlabelled": [
        ("Average thresholded confidence", "Garg et al., ICLR 2022", f"{_ARXIV}2201.04234"),
        ("Difference of confidences", "Guillory et al., ICCV 2021", f"{_ARXIV}2107.03315"),
        ("Disagreement of references", "Thiagarajan et al., NeurIPS 2022", f"{_ARXIV}2207.07235"),
    ],
}


def conventions() -> dict[str, str]:
    """How everything was measured, word to words: each metric says it itself."""
    return {**{m.name: m.convention for m in metrics() if m.convention}, **CONVENTIONS}


def citations(kinds: Iterable[str]) -> list[dict[str, str]]:
    """What to cite for metrics and checks; methods are cited by `kedge.catalog.citations`."""
    return [{"what": what, "cite": cite, "url": url} for kind in kinds for what, cite, url in CITATIONS[kind]]
