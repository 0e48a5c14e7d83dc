"""How near features are to the prototypes of a model: what its rule for `unknown` may read, in the same pass."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

PROTOTYPES = "prototypes"  # the score of `kedge.scores` that is this, the tensor of a model, the entry of its file


def reads_features(rule: Mapping[str, Any] | None) -> bool:
    """Whether a model's rule for `unknown` is by its prototypes, and so by the features of a pass."""
    return rule is not None and rule.get("score") == PROTOTYPES


def nearest(features: Tensor, prototypes: Tensor) -> Tensor:
    """`[B]` in [-1, 1], the largest cosine of features `[B, D]` with one of K directions `[K, D]` of length 1."""
    features = features.to(prototypes.dtype)
    # Written out: of `F.normalize` the shape inference that onnxruntime quantises a file with cannot tell the shape.
    lengths = features.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    cosines: Tensor = (features / lengths) @ prototypes.T
    return cosines.amax(dim=1)
