"""What every metric says of itself, what it is measured on, and how it is read from results.

A metric is a file of this room and a class in it that is called like the file. Its attributes say how it is shown and
where; of its methods `value` must be written, the others have an answer that suits most.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from kedge.catalog import get, names
from kedge.metrics._bootstrap import interval
from kedge.metrics._cross_fitted import halves
from kedge.metrics._results import Corrected, Estimate, Heat, Line

T = TypeVar("T")
Columns = Mapping[str, Tensor]
Bounds = tuple[float | None, float | None]
NO_BOUNDS: Bounds = (None, None)


class _Sample:
    """What metrics are measured on; what several of them need is computed once."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._computed: dict[Any, Any] = {}

    def once(self, compute: "Callable[[Any], T]") -> T:
        """`compute` of this sample, kept for whoever asks next."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        result: T = self._computed[compute]
        return result


class Answers(_Sample):
    """What a model answered to N labelled images.

    Args:
        columns: `[N]` each: `confidence` and `predicted` class, `log_odds` of the confidence, `rank` of the true class
            (0: right), `nll`, `brier`; the true class, `label`, where it is at hand.
        probs: `[N, C]`, where they are at hand.
        labels: class indices `[N]`, where they are at hand.
        bins: of calibration errors.
        n: resamples of the bootstrap; 0 for none.
        seed: of the resamples.
        settings: what else was asked for, by name, such as `risk`.
    """

    def __init__(
        self,
        columns: Columns,
        probs: Tensor | None = None,
        labels: Tensor | None = None,
        bins: int = 15,
        n: int = 1000,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(n, seed)
        self.columns, self.bins, self.settings = columns, bins, settings
        self._probs, self._labels = probs, labels
        self.correct = columns["rank"] == 0

    def __len__(self) -> int:
        return len(self.columns["rank"])

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    @property
    def probs(self) -> Tensor:
        """`[N, C]`. Raises ValueError where only columns are at hand."""
        if self._probs is None:
            raise ValueError("this metric needs the probabilities of all classes, which are kept of clean images alone")
        return self._probs

    @property
    def labels(self) -> Tensor:
        """Class indices `[N]`. Raises ValueError where they are not at hand."""
        if self._labels is not None:
            return self._labels
        if not self.has_labels:
            raise ValueError("this metric needs the labels, which are not among these columns")
        return self.columns["label"].long()

    @property
    def has_labels(self) -> bool:
        """Whether the labels are at hand."""
        return self._labels is not None or "label" in self.columns

    @property
    def splits(self) -> Tensor:
        """`[n, N]` random halves, those of all samples of this size."""
        return _splits(len(self), self.seed)


class Separation(_Sample):
    """Scores of N in-distribution and M out-of-distribution images, higher = more in-distribution, `[N]` and `[M]`.

    `tpr` is the share of familiar images that must pass, for the metric that is about any such share; None: not asked.
    """

    def __init__(self, inside: Tensor, outside: Tensor, n: int = 1000, seed: int = 0, tpr: float | None = None) -> None:
        super().__init__(n, seed)
        self.inside, self.outside, self.tpr = inside, outside, tpr


class Metric:
    """A number of a set of images, or several that belong together.

    Attributes:
        label: what it is called in tables.
        unit: "%", "%%" (two decimals), "" or "count".
        better: "higher", "lower", or None where neither is.
        top: the largest value there is; None: there is none.
        bottom: the smallest value there is.
        part: where results.json has it, and with which others it is shown: "clean", "calibration", "selective", "ood".
        order: its place among those of its part.
        places: on which images it is measured: "clean", "shift" (corrupted ones, which have columns alone).
        summary: in which parts of the summary it stands: "clean", "shift", "sets" (published ones), "selective".
        compared: where models and groups of seeds are compared by it: "clean", "corrupted".
        claims: what a difference between models is called in sentences, such as "Accuracy"; "" for no sentence.
        judged: whether intervals that lie apart say that a model is better.
        unbiased: whether its interval is about its value without the bias that few images give it.
        classes: from how many classes on the summary has it.
        title: of a table of its own, where it has one (`details`, `heat`).
        words: what it means, for a reader who has not met it; "" where the label says it.
        convention: how exactly it is measured; "" where `words` say it.
        caution: what a reader of its interval must know; "" for nothing.
        phrases: how a sentence about a model puts it, by kind of images ("clean", "shift"); {} stands for the number.
        diagram: what it is called beside a reliability diagram, whose error it is; "" for every other metric.
        of_right_answers: whether it is the share of right answers: two models are compared by who was right on what.
        probs: whether it needs the probabilities of all classes, which columns do not hold.
        results_key: what results.json calls it; "": by its name.
    """

    room: ClassVar[str] = "metrics"
    label: ClassVar[str]
    unit: ClassVar[str] = "%"
    better: ClassVar[str | None] = "higher"
    top: ClassVar[float | None] = 1.0
    bottom: ClassVar[float] = 0.0
    part: ClassVar[str] = "clean"
    order: ClassVar[float] = 100
    places: ClassVar[tuple[str, ...]] = ("clean",)
    summary: ClassVar[tuple[str, ...]] = ()
    compared: ClassVar[tuple[str, ...]] = ()
    claims: ClassVar[str] = ""
    judged: ClassVar[bool] = True
    unbiased: ClassVar[bool] = False
    classes: ClassVar[int] = 0
    title: ClassVar[str] = ""
    words: ClassVar[str] = ""
    convention: ClassVar[str] = ""
    caution: ClassVar[str] = ""
    phrases: ClassVar[Mapping[str, str]] = {}
    diagram: ClassVar[str] = ""
    of_right_answers: ClassVar[bool] = False
    probs: ClassVar[bool] = False
    results_key: ClassVar[str] = ""

    @property
    def key(self) -> str:
        """What it is called in results.json."""
        return self.results_key or self.name

    @property
    def name(self) -> str:
        """The name of its file, in results and in the catalogue."""
        return type(self).__module__.rpartition(".")[2]

    # What it is on a sample.

    def applies(self, sample: Any) -> bool:
        """Whether there is such a number of this sample."""
        return True

    def value(self, sample: Any) -> float:
        """The number."""
        raise NotImplementedError

    def center(self, sample: Any) -> float | None:
        """What models are compared by and the interval is about, where that is not the number: it without bias."""
        return None

    def per_image(self, sample: Any) -> Tensor | None:
        """`[N]` whose mean is `center`, where there are such: resampling them is a matrix product. None: not so."""
        return None

    def resampled(self, sample: Any) -> Callable[[Tensor], Tensor] | None:
        """A function from weights `[R, N]`, how often each image was drawn, to `[R]` numbers; None: there is none."""
        return None

    def exact(self, sample: Any) -> Bounds | None:
        """The interval where it needs no resampling."""
        return None

    def bounds(self, draws: Tensor, value: float, center: float, size: int) -> Bounds:
        """The interval from `draws` `[n]` of `size` images: the basic one, widened where needed to hold the value."""
        low, high = interval(draws, torch.tensor(center, dtype=torch.float64)).tolist()
        return min(low, value), max(high, value)

    def result(self, sample: Any, value: float, center: float, draws: Tensor | None) -> Any:
        """What stands in the results, something with `to_json`; `draws` `[n]` of the resamples."""
        return self.estimate(value, center, draws, len(sample), self.exact(sample))

    def mean(self, samples: Sequence[Any], value: float, center: float, draws: Tensor | None) -> Any:
        """What stands in the results of a mean over several samples."""
        return self.estimate(value, center, draws, min(map(len, samples)))

    def estimate(
        self, value: float, center: float, draws: Tensor | None, size: int, exact: Bounds | None = None
    ) -> Estimate:
        """The number with its interval, within `bottom` and `top`."""
        low, high = exact or (NO_BOUNDS if draws is None else self.bounds(draws, value, center, size))
        if low is not None and high is not None:
            low, high = max(low, self.bottom), high if self.top is None else min(high, self.top)
        if self.unbiased:
            return Corrected(value, low, high, center if center == center else None)
        return Estimate(value, low, high)

    # How it is read from results, where a model has what `to_json` gave, or None.

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        """The lines of tables, from what each model has."""
        return [Line(self.label, values, self.unit, self.better)]

    def comparable(self, values: Sequence[Any]) -> bool:
        """Whether the intervals of these models may be set against each other."""
        biased = self.unbiased and any(isinstance(v, Mapping) and "corrected" not in v for v in values)
        return self.judged and not biased

    def sentence(self, value: Any, class_names: Sequence[str]) -> str:
        """What it says of one model, in words; "" for nothing."""
        return ""

    def details(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        """The lines of a table of its own: what it is made of."""
        return []

    def heat(self, value: Any, class_names: Sequence[str]) -> Heat | None:
        """A table of counts, of one model."""
        return None

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        """(where, metric, number or estimate) for the CSV, of one model."""
        yield "", self.name, value
        for line in self.details([value], class_names):
            yield line.label, self.name, line.cells[0]


class Detection(Metric):
    """Base of the metrics of a `Separation`.

    Attributes:
        positive: the positive class, "in" or "out" of distribution, of a metric that has one.
    """

    part = "ood"
    places = ("ood",)
    positive: ClassVar[str] = ""
    measure: Callable[[Tensor, Tensor], Tensor]  # of the scores of both sides

    def value(self, sample: Separation) -> float:
        return float(self.measure(sample.inside, sample.outside))

    def interval(self, sample: Separation, value: float) -> Bounds:
        """Low and high, in [0, 1], which hold `value`."""
        raise NotImplementedError

    def of(self, sample: Separation) -> Estimate:
        """The estimate; no interval for a sample without resamples."""
        value = self.value(sample)
        return Estimate(value, *(self.interval(sample, value) if sample.n else NO_BOUNDS))

    def told_apart(self, value: Any, score: str, images: str) -> str:
        """What it says of one model that tells `images` from its own by a `score`, in words; "" for nothing."""
        return ""


def class_name(names: Sequence[str], index: int) -> str:
    """The name of a class; its number where there is none."""
    return names[index] if 0 <= index < len(names) else str(index)


@lru_cache(maxsize=2)
def _splits(size: int, seed: int) -> Tensor:
    return halves(size, seed=seed)


@cache
def metrics(part: str | None = None) -> tuple[Metric, ...]:
    """Every metric of the room, or those of one part, in their order."""
    every: list[Metric] = [get("metrics", name)() for name in names("metrics")]
    return tuple(sorted((m for m in every if part in (None, m.part)), key=lambda m: (m.order, m.name)))


def leading(part: str) -> Metric:
    """The first metric of a part: the one by which scores and models are told apart."""
    return metrics(part)[0]


def metric(name: str) -> Metric | None:
    """The metric of this name; None for one that this version does not know."""
    return next((m for m in metrics() if m.name == name), None)
