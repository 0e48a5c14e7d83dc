"""Several networks that are to differ: a critic prices what their features have in common beyond the label."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kedge.catalog import Info
from kedge.members import members_of
from kedge.objectives._base import Objective, check_targets, check_weight
from kedge.objectives._beside import mean_over, present
from kedge.objectives._recording import recording
from kedge.objectives._views import bare
from kedge.objectives.conditional_tc import apart

info = Info(
    "Learning Diverse Representations for Fast Adaptation to Distribution Shift", "Pace, Russo and Shanahan", "arXiv",
    2020, "https://arxiv.org/abs/2006.07119", "abstract",
)  # fmt: skip


class CriticTC(Objective):
    """Σ_m CE(z_m, y) + λ mean_i D(f_1i, ..., f_Mi, y_i), f_m the features of network m of M and D a critic of them.

    D tells the features that the networks have of one image from those of several images of its class, drawn by
    permuting the features of each network but the first over the images of a class in the batch: mean
    softplus(-D(joint)) + softplus(D(permuted)). Where it does so as well as can be, D is the log ratio of the two
    densities, and its mean over the images the conditional total correlation E_y KL(p(f_1, ..., f_M | y) ‖ Π_m p(f_m |
    y)), 0 or more, of all networks together. The critic minimises the one, the networks, which see the critic as it is,
    the other. `ConditionalTC` has the exact form of the answers in place of the features; it needs no critic. The
    network is `--model kedge_members`, as there.

    Our reading, as the estimator and the critic are not in the abstract: logistic density ratio; features are brought
    to mean 0 and variance 1 over an image's own, else they shrink in place of becoming independent; D has two hidden
    layers and reads the features of all networks and the class; it has the optimizer of the networks, one step for one
    of theirs. An estimate by a critic that is not at its optimum is too low, and may be below 0. A class with one image
    in the batch is not permuted, so large batches are better. Images without a label (masking) count in the
    cross-entropy alone.

    `prepare` makes the critic; in a loop of your own call it before the optimizer is made, and give the optimizer
    `objective.parameters()` too. Permutations are drawn by torch's global generator.

    Args:
        weight: λ, 0 or more; 0: the networks are trained independently, and the critic only looks on.
        hidden: units of each of the critic's two hidden layers.
        seed: of the critic's first weights.

    Raises:
        ValueError: for values out of range; when training starts, for a model that is one network; when called, for
            targets that do not fit, soft ones among them.
        RuntimeError: when called before `prepare`.

    Source: Pace, Russo and Shanahan, "Learning Diverse Representations for Fast Adaptation to Distribution Shift",
        arXiv 2006.07119 (abstract).
    """

    targets_kind = "indices"
    reads_layers = True
    in_repr = ("weight", "hidden")

    def __init__(self, weight: float = 1.0, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        check_weight("weight", weight)
        if hidden < 1:
            raise ValueError(f"hidden is how many units a layer of the critic has, 1 or more, got {hidden}")
        self.weight, self.hidden, self.seed = weight, hidden, seed
        self.critic: Any = None  # once the features are known

    def prepare(self, model: nn.Module) -> None:
        """See that the model is made of several networks, and make the critic of their features."""
        _, members = members_of(bare(model))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.critic = nn.Sequential(
                nn.Linear(members.num_features + members.num_classes, self.hidden), nn.ReLU(),
                nn.Linear(self.hidden, self.hidden), nn.ReLU(),
                nn.Linear(self.hidden, 1),
            )  # fmt: skip
        self.critic.to(next(model.parameters()).device)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Loss and price of the networks, and the loss of the critic; `logged["conditional_tc"]` is its estimate."""
        if self.critic is None:
            raise RuntimeError("CriticTC has no critic yet: call objective.prepare(model) before training")
        layer, members = members_of(bare(model))
        with recording(model, [layer]) as outputs:
            mean = model(images)
        if targets.ndim != 1:
            raise ValueError(
                f"CriticTC compares images of one class, and takes class indices [{len(mean)}], not probabilities "
                f"{list(targets.shape)}"
            )
        labels, counts = check_targets(targets, mean), present(model, images)
        logits = apart(members, outputs[layer])
        loss = torch.stack([F.cross_entropy(each, labels) for each in logits.unbind(1)]).sum()
        features = alike(outputs[layer].unflatten(1, (members.members, -1)).to(logits.dtype))
        price, learning = critic_terms(self.critic, features, labels, members.num_classes, counts)
        self.logged["conditional_tc"], self.logged["critic_loss"] = price.detach(), learning.detach()
        return loss + learning + (self.weight * price if self.weight else 0)


def alike(features: Tensor) -> Tensor:
    """Features `[B, M, D]` brought to mean 0 and variance 1 of each image and network, however small they are."""
    return F.layer_norm(features, features.shape[2:], eps=1e-8)


def critic_terms(
    critic: nn.Module, features: Tensor, labels: Tensor, classes: int, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """(mean D of the joint features, with a gradient to these alone; the loss of the critic, with one to it alone).

    Args:
        critic: from `[B, M · D + classes]` to `[B, 1]`.
        features: of M networks, `[B, M, D]`.
        labels: classes of the images, long `[B]`.
        classes: how many classes there are.
        counts: how much each image counts, 1 or 0, `[B]`; those of 0 are permuted among themselves.
    """
    named = F.one_hot(labels, classes).to(features.dtype)
    frozen = {name: value.detach() for name, value in critic.named_parameters()}

    def joined(each: Tensor) -> Tensor:
        return torch.cat([each.flatten(1), named], 1)

    price = mean_over(counts, functional_call(critic, frozen, (joined(features),))[:, 0].to(features.dtype))
    fixed = features.detach()
    groups = torch.where(counts > 0, labels, labels + classes)
    rows = [fixed[:, 0], *(each[permuted_within(groups)] for each in fixed.unbind(1)[1:])]
    both = critic(torch.cat([joined(fixed), joined(torch.stack(rows, 1))]))[:, 0].to(features.dtype)
    joint, product = both.chunk(2)
    return price, mean_over(counts, F.softplus(-joint) + F.softplus(product))


def permuted_within(groups: Tensor) -> Tensor:
    """A permutation of places, long `[B]`, by which each goes to one of its own group, long `[B]`; drawn uniformly."""
    shuffled = torch.randperm(len(groups), device=groups.device)
    there = shuffled[groups[shuffled].argsort(stable=True)]
    places = torch.empty_like(there)
    places[groups.argsort(stable=True)] = there
    return places
