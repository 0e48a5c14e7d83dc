"""What metrics hand out: numbers with intervals, and lines and tables for reports."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Triple = tuple[float, float | None, float | None]  # a value, and the low and high end of its interval


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None: not computed."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in results.json."""
        return asdict(self)


@dataclass(frozen=True)
class Corrected(Estimate):
    """An estimate of what is biased on few images, with what it is without bias; None: too few images for that."""

    corrected: float | None = None


@dataclass(frozen=True)
class AtThreshold(Estimate):
    """The share of unfamiliar images that pass a threshold, and what the threshold is.

    Attributes:
        tpr: the share of familiar images that must pass.
        threshold: of the score.
        accepted, inside: how many familiar images pass, of how many.
        passed, outside: how many unfamiliar images pass, of how many.
        note: what speaks against the number; "" for nothing.
    """

    tpr: float = 0.95
    threshold: float = 0.0
    accepted: int = 0
    inside: int = 0
    passed: int = 0
    outside: int = 0
    note: str = ""


@dataclass(frozen=True)
class Heat:
    """A table of counts whose cells are coloured by their share of the row.

    Attributes:
        rows, columns: what stands beside and above the counts.
        counts: as many for each row as there are columns.
        corner: what rows and columns are, in a few words.
        note: what to know of it.
        good: whether the diagonal is what should be large, as of a confusion matrix.
        classes: the class index of each row and column, where a cell counts images of one class with one answer.
        totals: what the counts of a row are shares of; (): of their sum.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    corner: str
    note: str = ""
    good: bool = False
    classes: Sequence[int] = ()
    totals: Sequence[int] = ()


@dataclass(frozen=True)
class Line:
    """A line of a table: what was measured, and a number for each model (None: it has none).

    Attributes:
        notes: per model what belongs beside the number; () for nothing.
    """

    label: str
    cells: Sequence[Any]
    unit: str
    better: str | None
    notes: Sequence[str] = ()
