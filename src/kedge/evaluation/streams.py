"""Models that adapt while they are evaluated: the order of their images, what they cannot be asked, what they did."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.evaluated_model import Subject
from kedge.seeds import generator


def check_adapting(subjects: Sequence[Subject], ood: Mapping[str, Any], attacks: Any) -> bool:
    """Whether some of the models adapt while they predict.

    Raises:
        ValueError: where out-of-distribution sets or attacks are asked of one that does.
    """
    adapting = [subject.name for subject in subjects if subject.model.adapts]
    if adapting and ood:
        raise ValueError(
            f"{adapting[0]} adapts to each set on its own, so a set of other images would be told by having been "
            "adapted to alone: leave out the out-of-distribution sets (ood), or mix them into one stream in Python "
            "(docs: Adapting at test time)"
        )
    if adapting and attacks is not None:
        raise ValueError(
            f"{adapting[0]} adapts while it predicts, so it is no function that an attack could climb: leave out the "
            "attacks"
        )
    return bool(adapting)


def in_drawn_order(images: Any, positions: Tensor, seed: int) -> tuple[Any, Tensor]:
    """A set and the places of its images `[N]` in an order drawn by the seed: folders come sorted by class."""
    order = torch.randperm(len(images), generator=generator(seed, "order of the stream"))
    return images.subset(order), positions[order]


def record(subject: Subject, streams: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
    """How a model adapted, the order it met the images in, and what happened in each set; None for one that does not.

    Args:
        subject: the model.
        streams: name of a part to what the model says of it.
        seed: of the order.
    """
    if not subject.model.adapts:
        return None
    how = subject.model.describe(subject.references)["test_time"]
    return {**how, "order": {"mixed": True, "seed": seed}, "reset": "before each set", "sets": dict(streams)}


def brake_in_words(streams: Mapping[str, Any]) -> list[str]:
    """Where the brake held, in a sentence for all sets."""
    held = {name: own["held"][0] for name, own in streams.items() if own["held"]}
    if not held:
        return []
    name, first = next(iter(held.items()))
    return [
        f"the brake held on {len(held)} of {len(streams)} sets, first on {name}, at batch {first['batch']}: "
        f"{first['why']}; back to {first['back_to']}"
    ]
