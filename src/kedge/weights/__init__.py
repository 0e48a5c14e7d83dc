"""Edits and averages of weights: state dicts to a state dict. Needs torch and nothing heavier."""

from kedge.weights.batch_norm import freeze_statistics, reestimate_batch_norm
from kedge.weights.interpolate import interpolate, interpolate_models
from kedge.weights.wise_ft import wise_ft_curve

__all__ = ["freeze_statistics", "interpolate", "interpolate_models", "reestimate_batch_norm", "wise_ft_curve"]
