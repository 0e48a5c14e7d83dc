"""The head fitted anew on the frozen body, rare classes filled up from Gaussians that borrow from frequent ones."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.procedures._base import Context, Procedure
from kedge.procedures._stages import bank_features, fit_head
from kedge.seeds import generator

info = Info(
    title="When Noisy Labels Meet Long Tail Dilemmas: A Representation Calibration Method",
    authors="Zhang et al.",
    venue="ICCV",
    year=2023,
    url="https://arxiv.org/abs/2211.10955",
    checked="abstract",
)
FACTOR_OF = 20  # neighbours of the outlier factor, as many as its authors and scikit-learn advise
UNLIKE = 1.5  # the factor of an outlier, where no share of them is known; inside a cluster it is about 1


class Rcal(Procedure):
    """The linear probe, on features of which every class has as many as the most frequent, for labels partly wrong.

    RCAL's distributional calibration; see `GaussianClasses`. All images stay, and what is drawn from the Gaussians
    joins them. The strength is chosen by the likelihood of the classes on average; in cross-validation the Gaussians
    are of the folds that are fitted on.

    What else RCAL does stands elsewhere, as all of it acts on weights that are frozen here: features learnt without
    labels are those of any body that one starts from; its pull of features towards them is the objective
    `feature_distill` with that body as the teacher, and Mixup the objective `mixup`.
    """

    decided_by = ("seed", "head", "references", "strength", "outliers", "borrow", "gamma")
    equal_classes = True

    def run(self, context: Context) -> PixelModel:
        """The body with the head."""
        settings, train = context.settings, context.train
        own: dict[str, Any] = {"outliers": settings.outliers, "borrow": settings.borrow, "gamma": settings.gamma}
        resampled = partial(filled_up, seed=settings.seed, **own)
        body = context.with_bank(context.model).to(settings.torch_device())
        data = bank_features(context, body, balanced=True, resampled=resampled)
        classes = GaussianClasses.fit(data.seen[0], train.labels, **own)
        context.record["borrows"] = {train.class_names[label]: of for label, of in classes.names(train.class_names)}
        context.record["left_out"] = classes.left_out
        return fit_head(context, body, data)


def filled_up(
    features: Tensor,
    labels: Tensor,
    seed: int = 0,
    outliers: float | None = None,
    borrow: int = 3,
    gamma: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Real rows first, then ones drawn from the Gaussians, so that every class has as many as the most frequent."""
    classes = GaussianClasses.fit(features, labels, outliers, borrow, gamma)
    counts = torch.bincount(labels)
    rows, names = [features], [labels]
    for label in labels.unique().tolist():
        needed = int(counts.max() - counts[label])
        rows.append(classes.sample(label, needed, generator(seed, "rcal", label)).to(features.dtype))
        names.append(torch.full((needed,), label))
    return torch.cat(rows), torch.cat(names)


@dataclass(frozen=True)
class GaussianClasses:
    """A Gaussian of each class, of features without outliers; rare classes borrow from near frequent ones.

    The local outlier factor of a class's rows (20 neighbours) takes out those that are unlike the others of the class,
    as wrong labels are; the rest have mean m_k and covariance S_k. Frequent are classes with as many images as the
    median class or more. A rarer class k has, over the q frequent classes whose means are nearest to m_k,

        mean g Σ w_c m_c + (1 - g) m_k,  covariance g² Σ w_c S_c + (1 - g)² S_k,  w_c ∝ n_c / |m_c - m_k|.

    A class of which one row is left has no covariance: it takes Σ w_c S_c, or that of the nearest class with one
    where none is borrowed.

    Our reading: the weights, q and g, and how outliers are told apart stand in no text that could be read. Certain are
    the outlier factor, the nearest frequent classes by distance of means, and drawing until classes are balanced.
    Source: Zhang et al., "When Noisy Labels Meet Long Tail Dilemmas", ICCV 2023 (arXiv 2211.10955), abstract and a
    public reading note.

    Attributes:
        parts: by label the rows that are left.
        counts: by label how many images there are.
        sources: by label (of a rare class) the weight w_c of each class that it borrows from.
        gamma: g.
        left_out: how many rows are outliers.
    """

    parts: dict[int, Tensor]
    counts: dict[int, int]
    sources: dict[int, dict[int, float]]
    gamma: float
    left_out: int

    @classmethod
    def fit(
        cls, features: Tensor, labels: Tensor, outliers: float | None = None, borrow: int = 3, gamma: float = 0.2
    ) -> "GaussianClasses":
        """Fit to features `[N, D]` and labels `[N]`.

        Args:
            features, labels: of the images.
            outliers: the share of each class that is left out, rounded down, 0 to 0.5, such as a known share of wrong
                labels; 0 leaves out none; None: those with a factor above 1.5.
            borrow: q, 1 or more.
            gamma: g, 0 to 1; 0: own statistics alone.
        """
        wide = features.double()
        own = {label: wide[labels == label] for label in labels.unique().tolist()}
        parts = {label: rows[inliers(rows, outliers)] for label, rows in own.items()}
        counts = {label: len(rows) for label, rows in own.items()}
        middle = torch.tensor(list(counts.values()), dtype=torch.float64).quantile(0.5)
        heads = [label for label, count in counts.items() if count >= middle]
        means = {label: rows.mean(0) for label, rows in parts.items()}
        sources = {}
        for label in [label for label in counts if label not in heads]:
            far = {head: float((means[head] - means[label]).norm()) for head in heads}
            near = sorted(heads, key=lambda head: (far[head], head))[:borrow]
            sources[label] = weights_of([counts[head] for head in near], [far[head] for head in near], near)
        left_out = sum(counts.values()) - sum(map(len, parts.values()))
        return cls(parts, counts, sources, gamma, left_out)

    def sample(self, label: int, count: int, draws: torch.Generator) -> Tensor:
        """`[count, D]` drawn from the Gaussian of a class, float64."""
        mean, spread = self._mean(label), self._spread(label)
        points = mean.repeat(count, 1)
        for of, weight in spread.items():
            rows = self.parts[of]
            # Normal numbers times centred rows have the covariance of the rows: none is formed, none need be inverted.
            centred = (rows - rows.mean(0)) / math.sqrt(len(rows) - 1)
            points += math.sqrt(weight) * torch.randn(count, len(rows), generator=draws, dtype=torch.float64) @ centred
        return points

    def names(self, class_names: list[str]) -> list[tuple[int, dict[str, float]]]:
        """Of each rare class the names of those that it borrows from, with their weights."""
        return [(k, {class_names[c]: round(w, 4) for c, w in of.items()}) for k, of in self.sources.items()]

    def _mean(self, label: int) -> Tensor:
        own, borrowed = self.parts[label].mean(0), self.sources.get(label, {})
        if not borrowed or not self.gamma:
            return own
        lent = sum((weight * self.parts[of].mean(0) for of, weight in borrowed.items()), torch.zeros_like(own))
        return self.gamma * lent + (1 - self.gamma) * own

    def _spread(self, label: int) -> dict[int, float]:
        """By label the factors of the covariances that make up that of a class."""
        borrowed = {of: w for of, w in self.sources.get(label, {}).items() if len(self.parts[of]) > 1}
        if len(self.parts[label]) > 1:
            share = self.gamma if borrowed else 0.0
            lent = {of: share**2 * weight for of, weight in borrowed.items()}
            return {label: (1 - share) ** 2, **{of: factor for of, factor in lent.items() if factor}}
        if borrowed:
            return borrowed
        own = self.parts[label].mean(0)
        others = [of for of, rows in self.parts.items() if len(rows) > 1]
        near = min(others, key=lambda of: (float((self.parts[of].mean(0) - own).norm()), of), default=None)
        return {} if near is None else {near: 1.0}


def weights_of(counts: list[int], distances: list[float], labels: list[int]) -> dict[int, float]:
    """w_c ∝ n_c / d_c, which sum to 1, by label."""
    tiny = torch.finfo(torch.float64).tiny
    raw = torch.tensor([n / max(d, tiny) for n, d in zip(counts, distances, strict=True)], dtype=torch.float64)
    if not bool(raw.isfinite().all()):  # a mean on top of its own takes it all
        raw = (torch.tensor(distances) <= tiny).double()
    return dict(zip(labels, (raw / raw.sum()).tolist(), strict=True))


def inliers(rows: Tensor, share: float | None) -> Tensor:
    """Which of `[n, D]` are no outliers among them, bool `[n]`; all where `share` is 0 or there are less than three."""
    inside = torch.ones(len(rows), dtype=torch.bool)
    if share == 0 or len(rows) < 3:
        return inside
    from sklearn.neighbors import LocalOutlierFactor

    factors = LocalOutlierFactor(n_neighbors=min(FACTOR_OF, len(rows) - 1)).fit(rows.numpy()).negative_outlier_factor_
    if share is None:
        return torch.from_numpy(-factors <= UNLIKE)
    inside[torch.from_numpy(factors).argsort(stable=True)[: int(share * len(rows))]] = False
    return inside
