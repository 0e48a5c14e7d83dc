"""The gate: whether results meet the bars that were set for a model, judged by intervals and not by points.

A bar is met where the whole 95 % interval lies on its good side, missed where the whole interval lies on the other; in
between the images cannot tell, and how many would is said. `criteria` is the table of what can be asked. Imports
nothing slow: the command line and recipes name the criteria.
"""

from kedge.gate.criteria import CRITERIA, Bar, Criterion, as_gate, failed_checks, measuring
from kedge.gate.verdicts import FAIL, PASS, UNDECIDED, UNMEASURED, Verdict, needed, overall, verdicts

__all__ = [
    "CRITERIA",
    "FAIL",
    "PASS",
    "UNDECIDED",
    "UNMEASURED",
    "Bar",
    "Criterion",
    "Verdict",
    "as_gate",
    "failed_checks",
    "measuring",
    "needed",
    "overall",
    "verdicts",
]
