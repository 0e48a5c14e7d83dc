"""With StableMax losses do not round to zero as with softmax, and addition modulo 47 is learned without decay."""

import torch
from torch import nn

from kedge.claims import Criterion
from kedge.claims._modular import Modular
from kedge.objectives import CrossEntropy, Objective
from kedge.objectives import StableMax as Map
from kedge.objectives.stable_max import info as info
from kedge.optim import AdamW


class StableMax(Modular):
    """Cross-entropy in float32 and, as the control that precision is the cause, in float64; StableMax, two rates."""

    methods = ("objectives.stable_max", "postprocess.stable_max")
    variants = ("cross-entropy", "cross-entropy, float64", "StableMax", "StableMax, lr 0.01")
    criteria = (
        Criterion("losses round to 0", "zero losses", "cross-entropy", None, "above", 10),
        Criterion("by precision", "zero losses", "cross-entropy, float64", "cross-entropy", "below", 10),
        Criterion("with StableMax not", "zero losses", "StableMax", "cross-entropy", "below", 10),
        Criterion("which learns the rule", "test accuracy", "StableMax", "cross-entropy", "above", 20),
        Criterion("at the authors' rate", "test accuracy", "StableMax, lr 0.01", "cross-entropy", "above", 20),
    )

    def objective(self, variant: str) -> Objective:
        """Cross-entropy of the logits, or of mapped ones."""
        return Map(CrossEntropy()) if variant.startswith("StableMax") else CrossEntropy()

    def optimizer(self, variant: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The authors' code has lr 0.01 for StableMax, over 80,000 steps."""
        return AdamW(parameters, lr=0.01 if variant == "StableMax, lr 0.01" else 3e-3, weight_decay=0)

    def dtype(self, variant: str) -> torch.dtype:
        """float64 for the control."""
        return torch.float64 if variant.endswith("float64") else torch.float32
