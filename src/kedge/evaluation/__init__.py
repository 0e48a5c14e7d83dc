"""The suite: one protocol over clean, shifted and out-of-distribution images, for any classifier."""

from kedge.evaluation.suite import FORMAT_VERSION, evaluate

__all__ = ["FORMAT_VERSION", "evaluate"]
