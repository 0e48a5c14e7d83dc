"""Many small heads on frozen features, each trained on a part of the images: memorised, hard and doubtful ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.seeds import generator

__all__ = ["Heads", "reduced", "subsampled"]

info = Info(
    "What Neural Networks Memorize and Why", "Feldman & Zhang", "NeurIPS", 2020, "https://arxiv.org/abs/2008.03703",
    "paper",
)  # fmt: skip
DIMENSIONS, WIDTH = 256, 48
BATCH, RATE, DECAY = 64, 2e-3, 1e-4
EARLY, STEPS = 150, 1000  # steps after which images are scored as hard ones, and in the end


@dataclass(frozen=True)
class Heads:
    """What H heads say of N images.

    Attributes:
        inside: which images each was trained on, bool `[H, N]`.
        right: which it answers right in the end, bool `[H, N]`.
        apart: `[N, C]`, mean probabilities early in training, over the heads that an image was left out of.
        el2n: `[N]`, mean |p - onehot(y)| early in training, over the heads that an image was trained on.
    """

    inside: Tensor
    right: Tensor
    apart: Tensor
    el2n: Tensor

    def memorisation(self) -> Tensor:
        """P[right | trained on] - P[right | left out], `[N]`, in [-1, 1]; NaN where all heads or none have an image."""
        inside, right = self.inside.double(), self.right.double()
        among = (inside * right).sum(0) / inside.sum(0)
        return among - ((1 - inside) * right).sum(0) / (1 - inside).sum(0)


def reduced(features: Tensor, dimensions: int = DIMENSIONS) -> Tensor:
    """The first principal components of features `[N, D]`, centred, with a mean square of 1, float32 `[N, d]`."""
    centred = features.double() - features.double().mean(0)
    if len(centred) <= centred.shape[1]:  # as many components as images: from how images lie to each other
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        centred = (vectors * values.clamp(min=0).sqrt())[:, -dimensions:]
    elif centred.shape[1] > dimensions:
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        centred = centred @ vectors[:, -dimensions:]
    return (centred / centred.square().mean().sqrt().clamp(min=1e-9)).float()


def subsampled(
    features: Tensor,
    labels: Tensor,
    classes: int,
    heads: int = 40,
    share: float = 0.7,
    groups: Tensor | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Heads:
    """Train heads, each on a share of the images drawn at random, and ask them about all.

    A head is a network with one hidden layer of 48 units; all are trained at once, each on batches of its own.
    Images of one group, such as copies of one picture, are in the same parts, as a copy would answer for the image that
    is left out.

    Args:
        features: `[N, D]`, as of `reduced`.
        labels: long `[N]`.
        classes: how many there are, two or more.
        heads: how many.
        share: of the groups that each is trained on, in (0, 1).
        groups: long `[N]`; None: every image by itself.
        steps: of AdamW at a constant rate, on 64 images drawn from the head's own.
        seed: of the parts, the order and the first weights.
        progress: called with (steps done, steps).

    Raises:
        ValueError: a single class, fewer than two heads, a share that is none.
    """
    if classes < 2 or len(labels.unique()) < 2:
        raise ValueError("heads tell classes apart, and the images are of one class")
    if heads < 2 or not 0 < share < 1:
        raise ValueError(f"two heads or more on a share between 0 and 1 of the images, got {heads} on {share}")
    inside = _parts(len(labels), heads, share, groups, seed)
    logits = trained(features, labels, classes, inside, steps, seed, EARLY, progress)
    probs = logits[EARLY].softmax(-1)
    outside = (~inside).float()
    apart = (probs * outside[..., None]).sum(0) / outside.sum(0).clamp(min=1)[:, None]
    apart[outside.sum(0) == 0] = 1 / classes
    away = (probs - F.one_hot(labels, classes)).norm(dim=-1)
    el2n = (away * inside).sum(0) / inside.sum(0).clamp(min=1)
    return Heads(inside, logits[steps].argmax(-1) == labels, apart, el2n)


def trained(
    features: Tensor,
    labels: Tensor,
    classes: int,
    inside: Tensor,
    steps: int = STEPS,
    seed: int = 0,
    early: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Tensor]:
    """Logits `[H, N, C]` of all images in the end, and early, by steps; `inside` as of `Heads`.

    Heads with fewer images see each of them more often: all take as many steps.
    """
    heads, draws = len(inside), generator(seed, "heads")
    layers = [
        torch.randn(heads, features.shape[1], WIDTH, generator=draws) / features.shape[1] ** 0.5,
        torch.zeros(heads, 1, WIDTH),
        torch.randn(heads, WIDTH, classes, generator=draws) / WIDTH**0.5,
        torch.zeros(heads, 1, classes),
    ]
    weights = [nn.Parameter(layer) for layer in layers]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)

    own = [each.nonzero()[:, 0] for each in inside]
    counts = torch.tensor([len(each) for each in own])
    if int(counts.min()) < 1:
        raise ValueError("a head without images cannot be trained")
    table = nn.utils.rnn.pad_sequence(own, batch_first=True)

    def answers(rows: Tensor) -> Tensor:
        """Logits `[H, n, C]` of rows `[H, n, D]`, or `[n, D]` that all heads are asked about."""
        hidden = F.relu(rows @ weights[0] + weights[1])
        return torch.baddbmm(weights[3], hidden, weights[2])

    @torch.no_grad()
    def of_all() -> Tensor:
        return torch.cat([answers(part) for part in features.split(1024)], 1)

    kept: dict[int, Tensor] = {}
    for step in range(1, steps + 1):
        places = (torch.rand(heads, BATCH, generator=draws) * counts[:, None]).long()
        batch = table.gather(1, places)
        loss = F.cross_entropy(answers(features[batch]).flatten(0, 1), labels[batch].flatten(), reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (early, steps):
            kept[step] = of_all()
        if progress is not None and step % 50 == 0:
            progress(step, steps)
    return kept


def _parts(count: int, heads: int, share: float, groups: Tensor | None, seed: int) -> Tensor:
    """Which images each head has, bool `[H, N]`: round(share G) of G groups, one at least and not all."""
    numbers = torch.arange(count) if groups is None else groups.unique(return_inverse=True)[1]
    total, draws = int(numbers.max()) + 1, generator(seed, "parts")
    most = max(1, min(total - 1, round(share * total)))
    inside = torch.zeros(heads, total, dtype=torch.bool)
    for head in inside:
        head[torch.randperm(total, generator=draws)[:most]] = True
    return inside[:, numbers]
