"""Which stages of a network learn, and how fast: candidates judged on held-out images, and what choosing adds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from kedge.seeds import generator

__all__ = ["Candidate", "Search", "search_layer_rates"]

CHOICES = (0.0, 0.01, 0.1, 1.0)
RESAMPLES = 1000


@dataclass(frozen=True)
class Candidate:
    """Factors on the learning rate, one for each group, and how it did.

    Attributes:
        rates: of the groups, as they are handed over; 0 is frozen.
        right: which of the held-out images are right `[N]`, bool.
    """

    rates: tuple[float, ...]
    right: Tensor

    @property
    def accuracy(self) -> float:
        """The share of held-out images that are right."""
        return float(self.right.double().mean())


@dataclass(frozen=True)
class Search:
    """All candidates in the order in which they were tried.

    Attributes:
        candidates: all of them.
        seed: of the resamples.
        exhaustive: whether there are no others.
    """

    candidates: list[Candidate]
    seed: int
    exhaustive: bool

    @property
    def best(self) -> Candidate:
        """The one with the most images right; of several the one that moves least."""
        return max(self.candidates, key=_merit)

    @property
    def optimism(self) -> float:
        """By how much the accuracy of the best is too high for having been chosen on the same images.

        The mean over resamples of the held-out images, all candidates on the same ones, of the accuracy of the
        resample's winner there less its accuracy on all of them. Source: Efron, "Estimating the error rate of a
        prediction rule", 1983.
        """
        order = sorted(self.candidates, key=_merit, reverse=True)
        right = torch.stack([each.right for each in order]).double()
        count = right.shape[1]
        draws = torch.randint(count, (RESAMPLES, count), generator=generator(self.seed, "optimism"))
        times = torch.zeros(RESAMPLES, count, dtype=torch.double).scatter_add_(
            1, draws, torch.ones(draws.shape).double()
        )
        resampled = times @ right.T / count
        # Of equals the one that moves least wins here too.
        least = torch.tensor([sum(each.rates) for each in order]).double()
        winners = (resampled - 1e-9 * least).argmax(1, keepdim=True)
        return float((resampled.gather(1, winners)[:, 0] - right.mean(1)[winners[:, 0]]).mean())


def search_layer_rates(
    adapt: Callable[[tuple[float, ...]], Tensor],
    groups: int,
    choices: Sequence[float] = CHOICES,
    budget: int = 12,
    seed: int = 0,
) -> Search:
    """Try factors on the learning rates of groups of layers: all that there are, or so many by evolution.

    With more than `budget` of them: nothing but the head, and everything, at the least and the largest choice; random
    ones up to half of the budget; then children of two of the best quarter, each factor from one of them, one or more
    changed. No candidate is tried twice. Source: P-Transfer, Shen et al., AAAI 2021 (arXiv 2102.03983, abstract), for
    stages in place of layers; the size of its populations is not known.

    Args:
        adapt: trains with the factors and says which held-out images are right `[N]`, bool, the same images each time.
        groups: how many groups, 1 or more.
        choices: the factors, 0 or more.
        budget: how many candidates at most, 2 or more.
        seed: of the draws.

    Raises:
        ValueError: for values out of range; where `adapt` judges no images, or not the same number of them each time.
    """
    levels = sorted({float(each) for each in choices})
    if groups < 1 or budget < 2:
        raise ValueError(f"a search takes groups, 1 or more, and a budget of 2 or more, got {groups} and {budget}")
    if not levels or not all(0 <= each < float("inf") for each in levels):
        raise ValueError(f"choices are factors on the learning rate, 0 or more, got {list(choices)}")
    tried: dict[tuple[float, ...], Candidate] = {}

    def attempt(rates: tuple[float, ...]) -> None:
        if rates in tried:
            return
        right = adapt(rates).bool().cpu()
        counts = {len(each.right) for each in tried.values()} or {len(right)}
        if right.ndim != 1 or len(right) == 0 or counts != {len(right)}:
            raise ValueError(f"adapt says of the same held-out images which are right, [N], got {list(right.shape)}")
        tried[rates] = Candidate(rates, right)

    exhaustive = len(levels) ** groups <= budget
    if exhaustive:
        for rates in product(levels, repeat=groups):
            attempt(rates)
        return Search(list(tried.values()), seed, True)
    draws = generator(seed, "layer rates")

    def drawn(count: int) -> int:
        return int(torch.randint(count, (1,), generator=draws))

    attempt((levels[0],) * groups)
    attempt((levels[-1],) * groups)
    while len(tried) < budget:
        if len(tried) < (budget + 1) // 2:
            child = [levels[drawn(len(levels))] for _ in range(groups)]
        else:
            best = sorted(tried.values(), key=_merit, reverse=True)[: max(2, budget // 4)]
            one, other = best[drawn(len(best))], best[drawn(len(best))]
            child = [(one, other)[drawn(2)].rates[group] for group in range(groups)]
            while tuple(child) in tried:
                child[drawn(groups)] = levels[drawn(len(levels))]
        attempt(tuple(child))
    return Search(list(tried.values()), seed, False)


def _merit(candidate: Candidate) -> tuple[int, float]:
    return int(candidate.right.sum()), -sum(candidate.rates)
