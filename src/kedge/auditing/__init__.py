"""What is wrong with a data set: copies, wrong labels, bad photos, memorised, hard and opposing images."""

from kedge.auditing.checking import Checked, Seen, check_data
from kedge.auditing.findings import KINDS, Finding, suspects
from kedge.auditing.gathering import Pool, gather
from kedge.auditing.learning_curve import Curve, learning_curve
from kedge.auditing.looks import Looks, look
from kedge.auditing.opposing import edge_losses, largest_rise, opposing_groups
from kedge.auditing.subsampled import Heads, reduced, subsampled
from kedge.auditing.whole import Audit, audit
from kedge.data.near import Pair, near_duplicates

__all__ = [
    "KINDS",
    "Audit",
    "Checked",
    "Curve",
    "Finding",
    "Heads",
    "Looks",
    "Pair",
    "Pool",
    "Seen",
    "audit",
    "check_data",
    "edge_losses",
    "gather",
    "largest_rise",
    "learning_curve",
    "look",
    "near_duplicates",
    "opposing_groups",
    "reduced",
    "subsampled",
    "suspects",
]
