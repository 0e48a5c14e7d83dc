"""Scores of single inputs: higher = more in-distribution, for every score. Needs torch and nothing heavier.

A score has `name`, `needs` (what it reads besides logits), `fit(outputs, labels)` and `score(outputs) -> [B]`.
`outputs_of` runs a model once, and all scores share what it returns.
"""

from kedge.scores.base import Score
from kedge.scores.disagreement import Disagreement
from kedge.scores.energy import Energy
from kedge.scores.last_layer import last_layer
from kedge.scores.msp import MSP
from kedge.scores.outputs import Outputs, outputs_of

__all__ = ["MSP", "Disagreement", "Energy", "Outputs", "Score", "last_layer", "outputs_of"]
