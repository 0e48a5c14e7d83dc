"""Scores of single inputs: higher = more in-distribution, for every score. Needs torch and nothing heavier.

A score has `name`, `needs` (what it reads besides logits), `fits` (whether it learns from training images),
`fit(outputs, labels)` and `score(outputs) -> [B]`. `outputs_of` runs a model once, and all scores share what it
returns. `SCORES` has them all by name.
"""

from kedge.scores.amp import AMP
from kedge.scores.base import Score, usable
from kedge.scores.disagreement import Disagreement
from kedge.scores.energy import Energy
from kedge.scores.entropy import Entropy
from kedge.scores.knn import KNN
from kedge.scores.last_layer import last_layer
from kedge.scores.mahalanobis import Mahalanobis
from kedge.scores.masked import Masked
from kedge.scores.max_logit import MaxLogit
from kedge.scores.msp import MSP
from kedge.scores.outputs import Outputs, outputs_of
from kedge.scores.pytorch_ood import PytorchOOD
from kedge.scores.vim import ViM

SCORES: dict[str, type[Score]] = {
    score.name: score for score in (MSP, MaxLogit, Energy, Entropy, Disagreement, AMP, Masked, KNN, Mahalanobis, ViM)
}

__all__ = [
    "AMP",
    "KNN",
    "MSP",
    "SCORES",
    "Disagreement",
    "Energy",
    "Entropy",
    "Mahalanobis",
    "Masked",
    "MaxLogit",
    "Outputs",
    "PytorchOOD",
    "Score",
    "ViM",
    "last_layer",
    "outputs_of",
    "usable",
]
