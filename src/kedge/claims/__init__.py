"""Published claims, a file each: a method against its control, with a criterion that it passes or not.

`kedge reproduce claims` runs them all and writes one table. A claim is small enough for a few minutes of one core; what
it shows is which way an effect points at that size, not what it is at the authors'.
"""

from kedge.claims._base import Claim, Criterion, Curve, claim, claims_of
from kedge.claims._images import cut, held_apart, packed
from kedge.claims._trained import Images, Judged, Trained, judged

__all__ = [
    "Claim",
    "Criterion",
    "Curve",
    "Images",
    "Judged",
    "Trained",
    "claim",
    "claims_of",
    "cut",
    "held_apart",
    "judged",
    "packed",
]
