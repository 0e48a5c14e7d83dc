"""`references="adaptive"`: further references only for the inputs whose answer is not settled.

The references of a bank of K are taken in its order, in stages: the first n for every input, twice as many for those
that X references being a sample of it without replacement, and a stage settles an input when both estimates that
matter have a standard error of at most `tolerance` times their size:

- the decision: the margin, the mean logit of the leading class less that of another, for every other class. With a
  standard deviation s over n references its standard error is s √(1/n - 1/K) (Cochran, Sampling Techniques, section
  2.6). The default of 0.5 asks for a margin of two standard errors.
- the uncertainty, a standard deviation over references. Three values do not say how far off their deviation is; for
  normal ones the relative standard error depends on n and K alone, so that this decides how many references the first
  stage takes: three of ten at a tolerance of 0.5.

A deviation over few references is brought to the scale of the whole bank by two factors that are the same for every
input: c4(K) / c4(n), the bias of the standard deviation of n normal values, and the scatter of all reference terms
against that of the first n, since the first n references may be more alike, or less, than the bank is.

An input's answer comes from that input and the bank alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from kedge.anchoring.budget import budget_of, references_at_a_time
from kedge.anchoring.referenced import ReferencedModel
from kedge.anchoring.stem import at_least_float32

TOLERANCE = 0.5


def c4(n: int) -> float:
    """The expected standard deviation (with n - 1) of n >= 2 normal values of standard deviation 1."""
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))


def deviation_error(n: int, bank: int) -> float:
    """The relative standard error of the standard deviation over n >= 2 of `bank` references, for normal values."""
    return math.sqrt(1 / c4(n) ** 2 - 1) * math.sqrt((bank - n) / (bank - 1))


def stages(bank: int, tolerance: float = TOLERANCE) -> list[int]:
    """How many of `bank` references have been seen after each stage; the last is all of them.

    Raises ValueError for a tolerance that is no finite number of 0 or more.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be a number, 0 or more, got {tolerance!r}: 0 takes the whole bank for all")
    n = next((n for n in range(2, bank) if deviation_error(n, bank) <= tolerance), bank)
    ends = [n]
    while ends[-1] < bank:
        ends.append(min(2 * ends[-1], bank))
    return ends


def scatter(terms: Callable[[int, int], Iterable[Tensor]], ends: list[int]) -> Tensor:
    """The variance of the first n reference terms about their mean, summed over their values, for each n of `ends`.

    `terms(start, stop)` gives those of references start to stop in blocks `[k, ...]`.
    """
    first, total, squares, variances = None, torch.zeros(()), torch.zeros(()), []
    for start, stop in pairwise([0, *ends]):
        for block in terms(start, stop):
            flat = block.flatten(1)
            # About the first of them: terms that are nearly the same would drown in rounding.
            first = flat[0].clone() if first is None else first
            flat = flat - first
            total = total.to(flat) + flat.sum(0)
            squares = squares.to(flat) + torch.linalg.vector_norm(flat).square()
        variances.append((squares - total.square().sum() / stop).clamp(min=0) / max(stop - 1, 1))
    return torch.stack(variances)


def settled(logits: Tensor, bank: int, tolerance: float = TOLERANCE, scale: Tensor | float = 1.0) -> Tensor:
    """`[B]` bool: whether logits `[n, B, C]` with n >= 2 of `bank` references decide as the whole bank would.

    `scale` is what the deviation over the whole bank is expected to be, in deviations over these n.
    """
    n = len(logits)
    leading = logits.mean(0).argmax(-1)
    margins = logits.gather(-1, leading.expand(n, -1)[..., None]) - logits
    error = margins.std(0) * scale * math.sqrt(1 / n - 1 / bank)
    return (error <= tolerance * margins.mean(0)).all(-1)


def adaptively(
    run: Callable[[Tensor, int, int], Tensor],
    terms: Callable[[int, int], Iterable[Tensor]],
    inputs: Tensor,
    bank: int,
    tolerance: float = TOLERANCE,
    decide: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Mean logits `[B, C]`, uncertainty `[B]` (None for a bank of one) and how many references each input got `[B]`.

    Between stages the inputs that go on are gathered, for which the device is waited for once.

    Args:
        run: `run(inputs, start, stop)` gives the logits `[stop - start, b, C]` with those references of the bank.
        terms: what those references add to the first layer, as for `scatter`.
        inputs: `[B, ...]`.
        bank: how many references there are.
        tolerance: as in `settled`.
        decide: what logits go through before their largest is the answer.
    """
    ends = stages(bank, tolerance)
    which = torch.arange(len(inputs), device=inputs.device)
    used = torch.empty_like(which)
    if len(inputs) == 0:
        mean = run(inputs, 0, bank)[0]
        return mean, mean[:, 0] if bank > 1 else None, used
    scatters = scatter(terms, ends)
    for i, (start, stop) in enumerate(pairwise([0, *ends])):
        logits = run(inputs, start, stop)
        logits = logits.to(at_least_float32(logits))
        if start == 0:
            so_far, mean, spread = logits, torch.empty_like(logits[0]), torch.empty_like(logits[0, :, 0])
        else:
            so_far = torch.cat([so_far, logits])
        mean[which], used[which] = so_far.mean(0), stop
        # Right after a conversion no term scatters.
        scale = torch.where(scatters[-1] > 0, (scatters[-1] / scatters[i]).sqrt(), 1.0).to(mean.dtype)
        if stop > 1:
            spread[which] = so_far.sigmoid().std(0).mean(-1) * (scale * (c4(bank) / c4(stop)))
        if stop == bank:
            break
        unsettled = (~settled(decide(so_far), bank, tolerance, scale)).nonzero().squeeze(1)
        if len(unsettled) == 0:
            break
        inputs, so_far, which = inputs[unsettled], so_far[:, unsettled], which[unsettled]
    return mean, spread if bank > 1 else None, used


def predict_adaptively(
    model: ReferencedModel, images: Tensor, tolerance: float | None, max_rows: int | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """`adaptively` with the bank of `model` on images `[B, C, H, W]`, in passes of bounded memory.

    Beside a pass the logits `[n, B, C]` of the inputs that are not settled are held.
    """
    x, count = model.normalise(images), len(model.references)
    budget = budget_of(len(images), max_rows)
    whole = len(images) > 0 and references_at_a_time(count, len(images), budget) == count
    cached = model._bank_terms(count, x) if whole else None

    def terms(start: int, stop: int, batch: int = len(images)) -> Iterator[Tensor]:
        at_a_time = references_at_a_time(stop - start, batch, budget)
        if cached is not None:
            yield from cached[start:stop].split(at_a_time)
            return
        for some in model.references[start:stop].split(at_a_time):
            yield model._terms(some, x)

    def run(inputs: Tensor, start: int, stop: int) -> Tensor:
        if len(inputs) == 0:
            return x.new_zeros(stop - start, 0, model.num_outputs)
        return torch.cat([model._in_passes(inputs, block, budget) for block in terms(start, stop, len(inputs))])

    return adaptively(run, terms, x, count, TOLERANCE if tolerance is None else tolerance, model.decided)
