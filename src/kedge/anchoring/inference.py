"""Many references for a batch in passes of bounded memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from kedge.anchoring.budget import budget_of, references_at_a_time
from kedge.anchoring.referenced import ReferencedModel


def through(model: ReferencedModel, x: Tensor, terms: Tensor, budget: int) -> Tensor:
    """The logits `[K, B, C]` of normalised `x` with K reference terms, at most `budget` rows at a time."""
    k = len(terms)
    return torch.cat([model._through(part, terms).unflatten(0, (k, -1)) for part in x.split(budget // k)], 1)


def per_reference(
    model: ReferencedModel, images: Tensor, references: int | Tensor | None, max_rows: int | None
) -> Iterator[Tensor]:
    """The logits of some of the references at a time, `[k, B, C]`; arguments as in `AnchoredModel.predict`."""
    x = model.normalise(images)
    own = not isinstance(references, Tensor)
    if isinstance(references, Tensor):
        bank = model._checked_bank("references", references)
    else:
        held = len(model.references)
        k = held if references is None else references
        if not isinstance(k, int) or isinstance(k, bool):
            raise TypeError(f'references must be a whole number, a tensor, "blt" or "adaptive", got {references!r}')
        if not 1 <= k <= held:
            raise ValueError(
                f"references={k}, but the bank holds {held}; assign more to model.references "
                "(see kedge.anchoring.choose_references) or pass a tensor"
            )
        bank = model.references[:k]
    if len(images) == 0:
        yield x.new_zeros(len(bank), 0, model.num_outputs)
        return
    budget = budget_of(len(images), max_rows)
    for some in bank.split(references_at_a_time(len(bank), len(images), budget)):
        terms = model._bank_terms(len(bank), x) if own and len(some) == len(bank) else model._terms(some, x)
        yield through(model, x, terms, budget)
