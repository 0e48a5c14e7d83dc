"""Two heads or more on one body, all right on the labels, and independent of each other on unlabelled images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.experts import experts_of
from kedge.objectives._base import Objective, check_targets, check_weight
from kedge.objectives._beside import beside, mean_over, present
from kedge.objectives._recording import recording
from kedge.objectives._views import bare

info = Info(
    "Diversify and Disambiguate: Out-of-Distribution Robustness via Disagreement", "Lee, Yao and Finn", "ICLR", 2023,
    "https://arxiv.org/abs/2202.03418", "code",
)  # fmt: skip
EXAMPLE = "'[Anchored, DivDis]' --model kedge_resnet18 --arguments '{heads: 2}' --extra '{unlabelled: FOLDER}'"


class DivDis(Objective):
    """mean_h CE(z^h, y) + λ₁ mean_(i<j) MI(p^i, p^j) + λ₂ mean_h KL(q_h ‖ s), for a network with H >= 2 last layers.

    MI = Σ J log(J / M), in nats, is that of the answers of two heads on unlabelled images: J = mean_b p^i_b ⊗ p^j_b,
    M = q_i ⊗ q_j, and q_h = mean_b p^h_b. s is the mean answer of all heads to the training images of the step, without
    a gradient: it keeps each head's shares of the classes on unlabelled images where they are on training images. What
    the labels leave open, heads thus settle in different ways, and a few labels tell which is meant:
    `kedge.expert_weights.disputed` says of which images, `select_head` keeps the best head. Until then the model
    answers with the mean of the logits.

    MI rewards independence: heads that are exactly opposite have the MI of equal ones. So it works best on unlabelled
    images in which what the labels confuse is mixed evenly, and does nothing where they are like the training images;
    see Benoit et al., "Unraveling the key components of OOD generalization via diversification", ICLR 2024.

    The network needs several last layers, `--arguments '{heads: 2}'` with one of kedge's residual networks. Images and
    unlabelled ones go through it as one batch, the latter from the stream `unlabelled`, as many; in an anchored model
    with the reference of the image in their place. Where masking takes away an image's target, the terms of MI and KL
    leave out that row. With both weights 0 it is ordinary training of H heads.

    Args:
        weight: λ₁, 0 or more.
        balance: λ₂, 0 or more.

    Raises:
        ValueError: for weights out of range; by `prepare` for a network with one last layer; when called, for
            unlabelled images of another shape or number, and a model in eval mode.
        RuntimeError: when called without unlabelled images.

    Source: Lee, Yao and Finn, arXiv 2202.03418; weights as in the authors' recorded runs (their toy data: 1). Their
        code leaves pairs with an MI of exactly 0 out of the mean; here they count.
    """

    streams = ("unlabelled",)
    in_repr = ("weight", "balance")
    changes_images = True
    reads_layers = True

    def __init__(self, weight: float = 10.0, balance: float = 10.0) -> None:
        super().__init__()
        check_weight("weight", weight)
        check_weight("balance", balance)
        self.weight = weight
        self.balance = balance

    @property
    def passes(self) -> float:
        """One for the images, one for the unlabelled ones."""
        return 2.0 if self.weight or self.balance else 1.0

    def prepare(self, model: nn.Module) -> None:
        """See that the network has several heads."""
        experts_of(bare(model), 2)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The sum of the three terms."""
        layer, experts = experts_of(bare(model), 2)
        apart = bool(self.weight or self.balance)
        view = beside(self, model, images) if apart else model
        with recording(model, [layer]) as outputs:
            mean = view(images)
        targets = check_targets(targets, mean)
        logits = experts.apart(outputs[layer])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own, theirs = logits[: len(images)], logits[len(images) :].softmax(2)
        loss = torch.stack([F.cross_entropy(own[:, head], targets) for head in range(experts.heads)]).mean()
        if not apart:
            return loss
        counts = present(model, images)
        shared = mutual_information(theirs, counts)
        usual = mean_over(counts, own.detach().softmax(2).mean(1))
        moved = divergence(mean_over(counts, theirs), usual)
        self.logged.update(mutual_information=shared.detach(), class_shift=moved.detach())
        return loss + self.weight * shared + self.balance * moved


def mutual_information(probs: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean over pairs of heads of the mutual information of their answers, in nats, of probs `[B, H, C]`.

    Args:
        probs: of each head; H is 2 or more.
        counts: how much each image counts `[B]`; None: all alike.
    """
    heads = probs.shape[1]
    shares = (probs.new_ones(len(probs)) if counts is None else counts).to(probs)
    shares = shares / shares.sum().clamp(min=1)
    with torch.autocast(probs.device.type, enabled=False):  # rounded to bfloat16, independent answers share something
        joint = torch.einsum("b,bhc,bgd->hgcd", shares, probs, probs)
        of = _log(torch.einsum("b,bhc->hc", shares, probs))
    each = (joint * (_log(joint) - of[:, None, :, None] - of[None, :, None, :])).sum((2, 3))
    one, other = torch.triu_indices(heads, heads, 1, device=probs.device)
    return each[one, other].mean()


def divergence(shares: Tensor, usual: Tensor) -> Tensor:
    """The mean over heads of KL(q_h ‖ s), of shares of classes q `[H, C]` and s `[C]`."""
    return (shares * (_log(shares) - _log(usual))).sum(1).mean()


def _log(values: Tensor) -> Tensor:
    """The logarithm, of 0 a finite one, so that 0 log 0 is 0 and has a gradient."""
    return values.clamp_min(torch.finfo(values.dtype).tiny).log()
