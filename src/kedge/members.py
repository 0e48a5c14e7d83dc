"""Several whole networks side by side as one, whose mean is the answer: what `ConditionalTC` trains to differ."""

import math
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from kedge.residual import _CFG

__all__ = ["MEMBERS", "Members", "members_of"]

MEMBERS = ("kedge_resnet_small", "kedge_resnet18", "kedge_wrn_40_2")  # what a network of members may be made of
default_cfgs = generate_default_cfgs({"kedge_members": _CFG})


class Members(nn.Module):
    """M networks with nothing in common, images `[B, C, H, W]` -> the mean of their logits `[B, classes]`.

    The mean is linear in the features of all, so that the last layer is one linear layer on them, `[B, M · D]`: a head
    fitted anew, as by `kedge adapt`, reads what every member has learnt. Member m's own logits are
    M W_m f_m + b, W_m its part of that layer. Their first layers are one convolution too, so that the whole can be
    anchored; it holds each member's filters, which nothing else reads. Only the bias b is shared.

    Args:
        network: of each member, by name, see `MEMBERS`.
        members: M, 2 or more.
        num_classes, in_chans: as of any network.
        **sizes: of each member, such as width, norm, drop_rate.
    """

    def __init__(
        self,
        network: str = MEMBERS[0],
        members: int = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        **sizes: Any,
    ) -> None:
        super().__init__()
        if members < 2:
            raise ValueError(f"members is the number of networks side by side, 2 or more, not {members}")
        if network not in MEMBERS:
            raise ValueError(f"network, of each member, is {' or '.join(MEMBERS)}, not {network!r}")
        if not global_pool:
            raise ValueError("members have pooled features: leave global_pool out")
        each: list[Any] = [
            timm.create_model(network, num_classes=0, in_chans=in_chans, **sizes) for _ in range(members)
        ]
        first = [one.stem for one in each]
        self.stem: Any = nn.Conv2d(in_chans, sum(one.out_channels for one in first), 3, 1, 1, bias=False)
        with torch.no_grad():
            self.stem.weight.copy_(torch.cat([one.weight for one in first]))
        for one in each:
            one.stem = nn.Identity()
        self.members, self.global_pool = members, global_pool
        self.each = nn.ModuleList(each)
        self.num_features = self.head_hidden_size = sum(one.num_features for one in each)
        self.features = nn.Identity()
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's networks do."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a fresh one with `num_classes` outputs (0: none)."""
        self.num_classes = num_classes
        last = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if isinstance(last, nn.Linear):
            with torch.no_grad():  # M times its part is then as large as the last layer of a member alone
                last.weight.div_(math.sqrt(self.members))
        self.fc: Any = last

    def apart(self, features: Tensor) -> Tensor:
        """The logits of every member `[B, M, classes]`, of the features of all `[B, M · D]`."""
        parts = self.fc.weight.unflatten(1, (self.members, -1))
        own = torch.einsum("bmd,cmd->bmc", features.unflatten(1, (self.members, -1)), parts.to(features.dtype))
        return self.members * own + self.fc.bias.to(features.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> the feature maps of all members `[B, M · D, h, w]`."""
        parts = self.stem(x).chunk(self.members, 1)
        maps: list[Tensor] = [one.forward_features(part) for one, part in zip(self.each, parts, strict=True)]  # type: ignore[operator]
        return torch.cat(maps, 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits `[B, classes]`, or pooled features with `pre_logits`."""
        parts = x.chunk(self.members, 1)
        pooled = [one.forward_head(part, pre_logits=True) for one, part in zip(self.each, parts, strict=True)]  # type: ignore[operator]
        features = self.features(torch.cat(pooled, 1))
        return features if pre_logits else self.fc(features)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> logits `[B, classes]`."""
        return self.forward_head(self.forward_features(x))


@register_model
def kedge_members(pretrained: bool = False, **kwargs: Any) -> Members:
    """`members` (2) networks, each a `network` (kedge_resnet_small) of `width`, and the mean of their logits."""
    return build_model_with_cfg(Members, "kedge_members", pretrained, **kwargs)


def members_of(model: nn.Module) -> tuple[str, Members]:
    """(name of the layer of their features, the members) of a network or a model.

    Raises:
        ValueError: if it is made of no members.
    """
    for name, module in model.named_modules():
        if isinstance(module, Members):
            return f"{name}.features" if name else "features", module
    raise ValueError(
        f"{type(getattr(model, 'network', model)).__name__} is one network, and several side by side are needed: "
        "--model kedge_members --arguments '{members: 2}' makes them"
    )
