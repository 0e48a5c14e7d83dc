"""What a step after the logits is, and how the steps of a model are checked, applied and described."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from kedge import catalog
from kedge.own_code import near_names

Records = Mapping[str, Mapping[str, Any]]


class Step:
    """Logits to logits `[..., C]`, by one value that JSON can hold.

    Attributes:
        stage: where it stands among others: -1 is part of what was trained, set by training and by nothing else, 0
            makes the network's answers fit the images it was trained for, 1 moves fitting answers on to other images.
            A step is put before those of later stages.
        changes_labels: whether the most probable class may become another.
        keeps_logits: whether the logits stay as they are, and the step says something else of them, which rests on all
            steps before it.
        sentence: what it does, for a model card, without a full stop.
    """

    room = "postprocess"
    stage: ClassVar[int] = 0
    changes_labels: ClassVar[bool] = False
    keeps_logits: ClassVar[bool] = False
    sentence: ClassVar[str]

    def __init__(self, value: Any) -> None:
        self.value = value

    def check(self, classes: int | None = None) -> None:
        """Raise ValueError unless the value can be applied to logits of so many `classes` (None: of any number)."""
        raise NotImplementedError

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits `[..., C]` after the step, in their dtype."""
        raise NotImplementedError

    def undo(self, logits: Tensor) -> Tensor:
        """The logits `[..., C]` from before the step."""
        raise NotImplementedError

    def __str__(self) -> str:
        """In words, such as `temperature 1.32`."""
        raise NotImplementedError

    def facts(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """What is to be known of a step that keeps the logits, of those `[N, C]` that it was set on."""
        return {}

    def again(self) -> dict[str, Any]:
        """What `fit` takes to set it anew on other logits as it was set before."""
        return {}

    def formula(self) -> str:
        """What a program does with an exported file of which the step is no part; "" where it is part of it."""
        return ""

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor) -> Any:
        """The value for validation logits `[N, C]` and labels `[N]`; a step of training has none.

        Other arguments are taken from what the caller knows, by name: `prior` and `train_prior` as they were stated,
        `train_counts` (images of each class in training, or None).
        """
        raise NotImplementedError


# The classes of steps that a model has had: looked up once, and in the hot path by name alone.
_KINDS: dict[str, type[Step]] = {}


def kind_of(name: str) -> type[Step]:
    """The class of a step, by its name in the room. Raises ValueError for what is no name of one."""
    if name not in _KINDS:
        known = catalog.names("postprocess")
        if name not in known:  # nor code of one's own: a model folder names none
            raise ValueError(f"there is no step {name!r}; there are {', '.join(known)}{near_names(name, list(known))}")
        _KINDS[name] = catalog.get("postprocess", name)
    return _KINDS[name]


def check_steps(steps: Any, task: str = "classification", classes: int | None = None) -> None:
    """Raise ValueError unless `steps` maps names to records with a `value` that can be applied."""
    if not isinstance(steps, Mapping):
        raise ValueError(f"steps must map names to records, got {type(steps).__name__}")
    for name, record in steps.items():
        kind = kind_of(name)
        kind(record.get("value") if isinstance(record, Mapping) else None).check(classes)
        if task != "classification":
            raise ValueError(f"the step {name!r} is for classification, and the task is {task}")


def apply(steps: Records, logits: Tensor, first: float = -math.inf, last: float = math.inf) -> Tensor:
    """The logits `[..., C]` after the steps, in their order; of the stages `first` to `last`."""
    for name, record in steps.items():
        kind = _KINDS[name] if name in _KINDS else kind_of(name)
        if first <= kind.stage <= last:
            logits = kind(record["value"])(logits)
    return logits


def trained_through(steps: Records) -> dict[str, dict[str, Any]]:
    """Those that are part of what was trained: they stay where answers change that others were set on."""
    return {name: dict(record) for name, record in steps.items() if kind_of(name).stage < 0}


def changes_labels(steps: Records) -> bool:
    """Whether the most probable class may be another after the steps."""
    return any(kind_of(name).changes_labels for name in steps)


def undo(steps: Records, logits: Tensor) -> Tensor:
    """What the network said, of logits `[..., C]` after the steps, up to rounding."""
    for name, record in reversed(list(steps.items())):
        logits = kind_of(name)(record["value"]).undo(logits)
    return logits


def placed(steps: Records, name: str, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The steps with another one: in the place of one of its name, else before those of later stages."""
    if name in steps:
        return {**{key: dict(value) for key, value in steps.items()}, name: dict(record)}
    stage = kind_of(name).stage
    before = {key: dict(value) for key, value in steps.items() if kind_of(key).stage <= stage}
    return {**before, name: dict(record), **{k: dict(v) for k, v in steps.items() if k not in before}}


def describe_steps(steps: Records) -> list[str]:
    """In words, such as `temperature 1.32`."""
    return [str(kind_of(name)(record["value"])) for name, record in steps.items()]


class Stepped(nn.Module):
    """A network and the steps after its logits: what folding makes of a model that has some."""

    def __init__(self, network: nn.Module, steps: Records) -> None:
        super().__init__()
        self.network = network
        self.steps = {name: {"value": record["value"]} for name, record in steps.items()}

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return ", ".join(describe_steps(self.steps))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` after the steps."""
        return apply(self.steps, self.network(images))
