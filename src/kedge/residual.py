"""Residual networks for small images, registered with timm: `kedge_resnet18`, `kedge_wrn_40_2`, `kedge_resnet_small`.

Sources: He et al., "Deep Residual Learning", 2016 (the CIFAR stem: 3×3, no pooling); Zagoruyko and Komodakis,
"Wide Residual Networks", 2016 (WRN-40-2, pre-activation blocks); Wu and He, "Group Normalization", 2018.
"""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

from kedge.experts import Experts

__all__ = ["NORMS", "ResidualNetwork"]  # register_model adds the networks

NORMS = ("batch", "group")
_CFG = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": None,
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),  # of CIFAR-10's training images
    "std": (0.2470, 0.2435, 0.2616),
    "first_conv": "stem",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({"kedge_resnet18": _CFG, "kedge_resnet_small": _CFG, "kedge_wrn_40_2": _CFG})


def _norm(kind: str, channels: int) -> nn.Module:
    """The normalisation of `channels` maps; in groups: as many as divide them, 32 at most, of 4 channels or more."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = max(g for g in range(1, min(32, max(1, channels // 4)) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class _Block(nn.Module):
    """Two 3×3 convolutions and a skip, `[B, in, H, W]` -> `[B, out, H/stride, W/stride]`."""

    def __init__(self, inputs: int, outputs: int, stride: int, preactivation: bool, norm: str) -> None:
        super().__init__()
        self.preactivation = preactivation
        self.norm1 = _norm(norm, inputs if preactivation else outputs)
        self.norm2 = _norm(norm, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = skip if preactivation else nn.Sequential(skip, _norm(norm, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.preactivation:
            out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
            return F.relu(out + self.skip(x))
        active = F.relu(self.norm1(x))
        # The projection sees the activated input (as in the paper's code), the identity the raw one.
        skip = x if isinstance(self.skip, nn.Identity) else self.skip(active)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(active))))


class ResidualNetwork(nn.Module):
    """Residual network with a 3×3 stem and no pooling: images `[B, C, H, W]` -> logits `[B, classes]`.

    `stem`: channels after the stem; `widths`: channels of each stage, the later ones halve H and W;
    `blocks`: blocks in each stage; `norm`: "batch", or "group" for group normalisation, in which no image's output
    depends on the others of its batch; `heads`: last layers side by side, whose mean is the answer (see
    `kedge.experts`). Takes any H and W of 4 or more.
    """

    def __init__(
        self,
        stem: int,
        widths: tuple[int, ...],
        blocks: int,
        preactivation: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        norm: str = "batch",
        heads: int = 1,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm is {' or '.join(NORMS)}, not {norm!r}")
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is 'avg' or '' (no pooling) here, not {global_pool!r}")
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, widths[-1], widths[-1]
        self.drop_rate, self.global_pool = drop_rate, global_pool
        self.stem = nn.Conv2d(in_chans, stem, 3, 1, 1, bias=False)
        self.norm_stem = nn.Identity() if preactivation else nn.Sequential(_norm(norm, stem), nn.ReLU())
        layers, inputs = [], stem
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Block(inputs, width, stride, preactivation, norm))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.Sequential(_norm(norm, inputs), nn.ReLU()) if preactivation else nn.Identity()
        self.heads = heads
        self.fc = self._last(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's networks do."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a fresh one with `num_classes` outputs (0: none)."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.fc = self._last(num_classes)

    def _last(self, num_classes: int) -> nn.Module:
        if num_classes <= 0:
            return nn.Identity()
        if self.heads == 1:
            return nn.Linear(self.num_features, num_classes)
        return Experts(self.num_features, num_classes, self.heads)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, C, H, W]` -> feature maps `[B, num_features, h, w]`."""
        return self.norm(self.blocks(self.norm_stem(self.stem(x))))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature maps -> logits `[B, classes]`, or pooled features with `pre_logits`."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, C, H, W]` -> logits `[B, classes]`."""
        return self.forward_head(self.forward_features(x))


@register_model
def kedge_resnet18(pretrained: bool = False, width: int = 64, **kwargs: Any) -> ResidualNetwork:
    """ResNet-18 for 32 px: 3×3 stem, no pooling, stages of `width` × 1, 2, 4, 8; 11.2 M parameters."""
    sizes: dict[str, Any] = {"stem": width, "widths": (width, 2 * width, 4 * width, 8 * width), "blocks": 2}
    return build_model_with_cfg(ResidualNetwork, "kedge_resnet18", pretrained, **sizes, **kwargs)


@register_model
def kedge_wrn_40_2(pretrained: bool = False, width: int = 2, depth: int = 40, **kwargs: Any) -> ResidualNetwork:
    """Wide ResNet, pre-activation: `depth` 6n + 4 layers, `width` times the channels; 2.2 M parameters."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"the depth of a wide ResNet is 6n + 4 (10, 16, 22, 28, 40, ...), not {depth}")
    widths = (16 * width, 32 * width, 64 * width)
    sizes: dict[str, Any] = {"stem": 16, "widths": widths, "blocks": (depth - 4) // 6, "preactivation": True}
    return build_model_with_cfg(ResidualNetwork, "kedge_wrn_40_2", pretrained, **sizes, **kwargs)


@register_model
def kedge_resnet_small(pretrained: bool = False, width: int = 32, **kwargs: Any) -> ResidualNetwork:
    """Small residual CNN for 8 to 32 px: one block in each of three stages; 0.3 M parameters at width 32."""
    sizes: dict[str, Any] = {"stem": width, "widths": (width, 2 * width, 4 * width), "blocks": 1}
    return build_model_with_cfg(ResidualNetwork, "kedge_resnet_small", pretrained, **sizes, **kwargs)
