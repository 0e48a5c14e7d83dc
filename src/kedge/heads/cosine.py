"""A last layer of cosines: the angle between the features and each class, whatever the length of either."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info

info = Info(
    "SphereFace2: Binary Classification is All You Need for Deep Face Recognition", "Wen et al.", "ICLR", 2022,
    "https://arxiv.org/abs/2108.01513", "code",
)  # fmt: skip
AFFINE = False  # its logits are not W·features + b


class Cosine(nn.Module):
    """Features f `[B, D]` to logits r g(c) + b `[B, C]`, c_k = w_k·f / (‖w_k‖ ‖f‖) and g(c) = 2 ((c + 1) / 2)^t - 1.

    b is one number for all classes. In train mode the gradient is that of a linear g, as in SphereFace2: r for each c;
    in eval mode, where attacks look, it is that of g. With t = 1, as it starts, g(c) = c, and the head goes with
    cross-entropy: a softmax of scaled cosines. `kedge.objectives.SphereFace2` sets r, t and b; a model folder has them.

    The logits are not affine in the features, so what takes features of an affine last layer does not take this one:
    the scores `knn`, `mahalanobis` and `vim` are left out, and `kedge adapt` fits no head anew.

    Our reading: weights are normalised as they are used, not in place before every pass, so that weight decay acts on a
    length that the answers do not have.

    Args:
        features: D.
        outputs: C.

    Attributes:
        scale: r, `[1]`.
        power: t, `[1]`.

    Source: Wen et al., "SphereFace2: Binary Classification is All You Need for Deep Face Recognition", ICLR 2022, arXiv
        2108.01513; the authors' OpenSphere.
    """

    scale: Tensor
    power: Tensor

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, features))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.xavier_normal_(self.weight)
        self.register_buffer("scale", torch.tensor([10.0]))
        self.register_buffer("power", torch.tensor([1.0]))

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        features = features.to(self.weight.dtype)
        with torch.autocast(features.device.type, enabled=False):  # r times the rounding of bfloat16 is half a logit
            cosines = F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))
        curved = bent(cosines, self.power)
        if self.training:
            curved = cosines + (curved - cosines).detach()
        return self.scale * curved + self.bias

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


def bent(cosines: Tensor, power: Tensor | float) -> Tensor:
    """g(c) = 2 ((c + 1) / 2)^t - 1, from -1 to 1; t = 1 leaves the cosines as they are."""
    return 2 * ((cosines + 1) / 2).clamp_min(0) ** power - 1
