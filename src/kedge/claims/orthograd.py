"""Without weight decay OrthoGrad learns addition modulo 47, which cross-entropy alone learns by heart."""

import torch
from torch import nn

from kedge.claims import Criterion
from kedge.claims._modular import Modular
from kedge.optim import AdamW
from kedge.optim import OrthoGrad as Rule
from kedge.optim.rules.orthograd import info as info


class OrthoGrad(Modular):
    """AdamW without decay, with decay 1, and inside OrthoGrad, there at the authors' rate and β2 too."""

    methods = ("optim.rules.orthograd",)
    variants = ("cross-entropy", "weight decay 1", "OrthoGrad", "OrthoGrad, lr 0.01")
    criteria = (
        Criterion("cross-entropy learns by heart", "train accuracy", "cross-entropy", None, "above", 99),
        Criterion("and not the rule", "test accuracy", "cross-entropy", None, "below", 10),
        Criterion("its losses round to 0", "zero losses", "cross-entropy", None, "above", 10),
        Criterion("OrthoGrad learns the rule", "test accuracy", "OrthoGrad", None, "above", 95),
        Criterion("more of it than without", "test accuracy", "OrthoGrad", "cross-entropy", "above", 20),
        Criterion("at the authors' rate", "test accuracy", "OrthoGrad, lr 0.01", None, "above", 95),
    )

    def optimizer(self, variant: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The authors' code has lr 0.01 and β2 0.99 for OrthoGrad."""
        if variant == "OrthoGrad, lr 0.01":
            return Rule(AdamW(parameters, lr=0.01, betas=(0.9, 0.99), weight_decay=0))
        inner = AdamW(parameters, lr=3e-3, weight_decay=1 if variant == "weight decay 1" else 0)
        return Rule(inner) if variant == "OrthoGrad" else inner
