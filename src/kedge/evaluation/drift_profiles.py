"""Which corruption a change of images looks most like, and how strongly: the nearest of measured profiles.

A profile is by how much the means of what is measured of images (statistics of pixels, features of a model) move when
the images are corrupted. The profiles of one corruption at rising severities, from no change on, are a path of straight
pieces; the change that is asked about belongs to the path that comes nearest, at the place where it does. Distances are
those of Mahalanobis, by the covariance of images within a condition.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.seeds import generator

RIDGE = 0.02  # of a correlation matrix, so that what hardly varies on its own counts for no more than it should
QUANTILE = 0.95  # of changes that are one of the corruptions, the share that is not to be called none of them
LEAST_LIMIT = 0.1  # unexplained share that is allowed at least: with few images all that is simulated is sampling noise
HALVES = 20  # random divisions of the profile's images that the simulation is of


@dataclass(frozen=True)
class Nearest:
    """Where changes `[R]` lie among the paths.

    Attributes:
        corruption: long `[R]`, the place of the nearest one.
        severity: `[R]`, from 0 to the highest, in between where the path's nearest point is.
        residual: `[R]`, the share of the squared change that the path leaves unexplained, sampling noise taken off.
        distances: `[R, C]` squared distances to each path.
    """

    corruption: Tensor
    severity: Tensor
    residual: Tensor
    distances: Tensor


class Whitening:
    """Makes the Mahalanobis distance the plain one: `whiten(differences)` `[R, D]`."""

    def __init__(self, covariance: Tensor) -> None:
        spread = covariance.diagonal().clamp(min=0).sqrt()
        # What never varies tells nothing.
        self.scale = torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), torch.zeros_like(spread))
        correlation = covariance * self.scale[:, None] * self.scale
        values, vectors = torch.linalg.eigh(correlation + RIDGE * torch.eye(len(spread), dtype=covariance.dtype))
        self.matrix = vectors * values.clamp(min=RIDGE / 2).rsqrt()

    @property
    def dimensions(self) -> int:
        """How many of the columns vary."""
        return int((self.scale > 0).sum())

    def __call__(self, differences: Tensor) -> Tensor:
        """Differences `[..., D]` in units in which their length is the distance."""
        return differences.double() * self.scale @ self.matrix


class Profiles:
    """The paths of corruptions.

    Args:
        clean: `[P, D]` what is measured of P images.
        corrupted: `[C, S, P, D]` of the same images, corrupted.
        severities: S of them, rising.
    """

    def __init__(self, clean: Tensor, corrupted: Tensor, severities: list[int]) -> None:
        conditions = torch.cat([clean[None], corrupted.flatten(0, 1)]).double()
        centred = conditions - conditions.mean(1, keepdim=True)
        count = len(conditions) * max(1, clean.shape[0] - 1)
        self.whiten = Whitening(torch.einsum("kpd,kpe->de", centred, centred) / count)
        self.severities = torch.tensor([0.0, *severities], dtype=torch.float64)
        self._clean, self._corrupted = self.whiten(clean), self.whiten(corrupted)
        self.points = self._paths(slice(None))

    def _paths(self, chosen: Tensor | slice) -> Tensor:
        """`[C, S + 1, D]`: from no change to the highest severity."""
        moves = self._corrupted[:, :, chosen].mean(2) - self._clean[chosen].mean(0)
        return torch.cat([torch.zeros_like(moves[:, :1]), moves], 1)

    def nearest(self, change: Tensor, noise: float) -> Nearest:
        """Where changes `[R, D]`, not yet whitened, lie; `noise`: 1 / N + 1 / M of the images they are means of."""
        return self._nearest(self.whiten(change), self.points, self.severities, noise)

    def _nearest(self, change: Tensor, points: Tensor, severities: Tensor, noise: float) -> Nearest:
        starts, steps = points[:, :-1], points.diff(dim=1)
        lengths = steps.square().sum(2)
        from_start = change[:, None, None] - starts
        along = ((from_start * steps).sum(3) / lengths.clamp(min=1e-12)).clamp(0, 1)
        squared = (from_start - along[..., None] * steps).square().sum(3)  # [R, C, S]
        distances, piece = squared.min(2)
        corruption = distances.argmin(1)
        rows = torch.arange(len(change))
        place = piece[rows, corruption]
        share = along[rows, corruption, place]
        severity = severities[place] + share * severities.diff()[place]
        sampling = noise * self.whiten.dimensions
        left = (distances[rows, corruption] - sampling).clamp(min=0)
        total = (change.square().sum(1) - sampling).clamp(min=1e-12)
        return Nearest(corruption, severity, (left / total).clamp(max=1), distances)

    def simulate(self, seed: int) -> "Simulated":
        """What is answered where the truth is known: profiles of one half of the images, asked about the other.

        For the limit from which on a change is none of the corruptions, inner severities are also asked about with
        their own point left out of the path, as true ones lie between those that were measured.
        """
        corruptions, severities = self._corrupted.shape[:2]
        named = torch.zeros(corruptions, corruptions)
        residuals, errors = [], []
        draws = generator(seed, "drift", "halves")
        truth = torch.arange(corruptions).repeat_interleave(severities)
        strength = self.severities[1:].repeat(corruptions)
        for _ in range(HALVES):
            ours, theirs = torch.randperm(len(self._clean), generator=draws).tensor_split(2)
            noise = 1 / len(ours) + 1 / len(theirs)
            points = self._paths(ours)
            asked = (self._corrupted[:, :, theirs].mean(2) - self._clean[ours].mean(0)).flatten(0, 1)
            answer = self._nearest(asked, points, self.severities, noise)
            named.index_put_((truth, answer.corruption), torch.ones(len(truth)), accumulate=True)
            residuals.append(answer.residual)
            errors.append((answer.severity - strength)[answer.corruption == truth].abs())
            for left_out in range(1, severities):
                rest = [place for place in range(severities + 1) if place != left_out]
                inner = asked[left_out - 1 :: severities]
                residuals.append(self._nearest(inner, points[:, rest], self.severities[rest], noise).residual)
        limit = max(LEAST_LIMIT, float(torch.cat(residuals).quantile(QUANTILE)))
        return Simulated(named / named.sum(1, keepdim=True), limit, float(torch.cat(errors).mean()))


@dataclass(frozen=True)
class Simulated:
    """What the nearest profile answers to changes whose truth is known.

    Attributes:
        named: `[C, C]`, of a corruption (row) the share of cases in which each (column) was named.
        limit: residual above which a change is none of the corruptions; below it are 95 % of those that are, or more.
        severity_error: mean distance of the severity from the true one, where the name was right.
    """

    named: Tensor
    limit: float
    severity_error: float

    @property
    def right(self) -> float:
        """The share of cases in which the name was right."""
        return float(self.named.diagonal().mean())

    def trust(self, corruption: int) -> list[tuple[int, float]]:
        """(corruption, share) of what it truly was where `corruption` was named, the most frequent first."""
        column = self.named[:, corruption]
        shares = column / column.sum().clamp(min=1e-12)
        return [(int(i), float(shares[i])) for i in shares.argsort(descending=True) if shares[i] > 0]
