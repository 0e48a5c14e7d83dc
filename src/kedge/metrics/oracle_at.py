"""Oracle accuracy: how often any of several members, references or passes is right."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import Answers, Bounds, Metric
from kedge.metrics._ensembles import errors_of
from kedge.metrics._results import Estimate, Line

info = Info(
    "Large Language Monkeys: Scaling Inference Compute with Repeated Sampling", "Brown et al.", "arXiv", 2024,
    "https://arxiv.org/abs/2407.21787", "derived",
)  # fmt: skip


@dataclass(frozen=True)
class Oracle(Estimate):
    """The share of images that any member gets right, with its interval.

    Attributes:
        at: of 1, 2, ..., M members drawn at random; the first is the mean accuracy of one.
        of: "members" or "references".
    """

    at: Sequence[float] = ()
    of: str = "members"


def oracle_at(predictions: Tensor, labels: Tensor, n: int | None = None) -> Tensor:
    """Share of images that any of `n` of M members gets right, the mean over which `n` they are; a scalar in [0, 1].

    The ceiling of every rule that chooses one of the answers: with w of M wrong on an image it is
    1 - C(w, n) / C(M, n). At n = 1 it is the mean accuracy of a member, it never falls with n, and at n = M it is 1
    less the share that all get wrong. Members are those of an ensemble, references of an anchored model, or other
    passes, such as shifted images.

    Args:
        predictions: predicted classes `[M, N]`.
        labels: class indices `[N]`.
        n: 1 to M; None: M.

    Raises:
        ValueError: for logits, other shapes, no images, and an `n` out of range.

    Source: coverage, or pass@k, of repeated sampling; Brown et al., arXiv 2407.21787.
    """
    errors = errors_of(predictions, labels)
    n = len(errors) if n is None else n
    if not 1 <= n <= len(errors):
        raise ValueError(f"n is a number of members, 1 to {len(errors)}, not {n}")
    return _any_right(errors, n).mean()


def _any_right(errors: Tensor, n: int) -> Tensor:
    """`[N]` float64: the chance that any of n members drawn without putting back is right, of errors `[M, N]`."""
    members = len(errors)
    chances = [1 - math.comb(w, n) / math.comb(members, n) for w in range(members + 1)]
    return torch.tensor(chances, dtype=torch.float64)[errors.sum(0)]


class OracleAt(Metric):
    """The share of images that any member of an ensemble, or any reference of a bank, gets right by itself."""

    label = "right in any (oracle)"
    better = None
    order = 80
    judged = False
    probs = True
    summary = ("clean",)
    words = (
        "Each member of an ensemble, or each reference of an anchored model, answers by itself, and the image counts "
        "as right if any of them is: what the best choice among them could reach, and no more. The rest is wrong in "
        "all of them, which no choice mends."
    )
    convention = "right in any member or reference; of fewer than all, the mean over which; interval: Wilson"

    def applies(self, sample: Answers) -> bool:
        return sample.settings.get("members") is not None

    def value(self, sample: Answers) -> float:
        return float(_any_right(sample.once(errors), len(sample.once(errors))).mean())

    def per_image(self, sample: Answers) -> Tensor:
        return _any_right(sample.once(errors), len(sample.once(errors)))

    def exact(self, sample: Answers) -> Bounds:
        return accuracy_interval(int((~sample.once(errors)).any(0).sum()), len(sample))

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> Oracle:
        wrong = sample.once(errors)
        shares = [float(_any_right(wrong, n).mean()) for n in range(1, len(wrong) + 1)]
        return Oracle(value, *self.exact(sample), shares, sample.settings.get("members_are", "members"))

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        notes = [f"of {len(v['at'])} {v['of']}" if v else "" for v in values]
        single = [{"value": v["at"][0], "low": None, "high": None} if v else None for v in values]
        missed = [_complement(v) if v else None for v in values]
        return [
            Line("accuracy of one member or reference", single, self.unit, None, notes),
            Line(self.label, values, self.unit, None),
            Line("wrong in all of them", missed, self.unit, None),
        ]

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        yield "", self.name, value
        for n, share in enumerate(value["at"] if value else (), 1):
            yield f"{n} of {len(value['at'])} {value['of']}", self.name, share


def errors(sample: Answers) -> Tensor:
    """Which images of a sample each member gets wrong, `[M, N]` bool."""
    return errors_of(sample.settings["members"].long().T, sample.labels)


def _complement(value: Any) -> dict[str, Any]:
    ends = {"low": value["high"], "high": value["low"]}
    return {"value": 1 - value["value"], **{key: None if end is None else 1 - end for key, end in ends.items()}}
