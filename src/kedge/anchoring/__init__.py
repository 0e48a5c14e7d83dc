"""The core: widen a first layer, hold references, predict, fold. Needs torch and nothing heavier."""

from kedge.anchoring.base import PixelModel, PlainModel, plain
from kedge.anchoring.convert import anchor
from kedge.anchoring.model import AnchoredModel
from kedge.anchoring.prediction import Prediction
from kedge.anchoring.references import choose_references, choose_residuals, derangement

__all__ = [
    "AnchoredModel",
    "PixelModel",
    "PlainModel",
    "Prediction",
    "anchor",
    "choose_references",
    "choose_residuals",
    "derangement",
    "plain",
]
