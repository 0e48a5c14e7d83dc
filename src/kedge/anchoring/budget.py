"""How much passes through a network at a time, by its memory."""

import math

WHOLE = 2**40  # rows: more than any batch has times its references, which then pass together


def budget_of(batch: int, max_rows: int | None) -> int:
    """How many images pass through the network at a time: `max_rows`, by default the larger of the batch and 32."""
    return max(batch, 32) if max_rows is None else max_rows


def references_at_a_time(k: int, batch: int, budget: int) -> int:
    """How many of `k` references share a pass of at most `budget` rows over a batch of `batch` images.

    A pass of c references and budget / c images holds c + budget / c maps of the first layer beside those of its rows.
    All k while that is a small share of the memory; else about the root of the budget, where the sum is least, or as
    many as fill the rows of a small batch.
    """
    if 3 * k <= budget:
        return k
    passes = -(-k // max(1, math.isqrt(budget), budget // batch))
    return -(-k // passes)
