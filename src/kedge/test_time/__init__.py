"""Models that change while they predict: to the statistics of a batch, or by what it makes them unsure of.

    adapting = kedge.test_time.Adapting(model, "tent", Brake.of(validation, model))
    adapting.predict(images)          batch after batch of a stream: each answer before the step that it leads to
    adapting.reset()                  before another stream: weights, optimizer and brake as at first

A method is a file of this room: a class called like the file that extends `Adapter`. What the brake rests on are
labelled images that were kept, in `_brake.py`.
"""

from typing import Any

from kedge import catalog
from kedge.test_time._adapting import Adapting
from kedge.test_time._base import Adapter
from kedge.test_time._brake import Brake

__all__ = [*catalog.class_names("test_time"), "Adapter", "Adapting", "Brake"]


def __getattr__(name: str) -> Any:
    return catalog.exported(__name__, name)


def __dir__() -> list[str]:
    return __all__
