"""Accuracy of many models on each group of the same images: the points of accuracy on the curve."""

from collections.abc import Callable, Iterable
from typing import Any

from kedge.data.groups import Groups
from kedge.evaluation.cache import Parts
from kedge.evaluation.evaluated_model import gather_subjects
from kedge.evaluation.runner import Part, Runner, identity
from kedge.evaluation.sets import check_images, limited
from kedge.metrics import FEWEST_MODELS, accuracy_interval, subgroup_curve
from kedge.metrics.accuracy_by_group import FEW, check_groups

__all__ = ["accuracy_on_the_curve"]


def accuracy_on_the_curve(
    models: Iterable[tuple[str, Any]],
    data: Any,
    groups: Groups,
    majority: str | None = None,
    *,
    references: Any = None,
    batch_size: int = 256,
    workers: int = 0,
    limit: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The accuracy of models on each group of images, and the line and the parabola of each against the majority's.

    Groups of fewer than ten images are left aside.

    Args:
        models: names and models, which may be loaded as they are asked for; snapshots of a training, or any others.
        data: labelled images with the models' classes.
        groups: of these images.
        majority: the group that the others are set against; None: the one with the most images, the first of equals.
        references, batch_size, workers, limit, seed, progress, notice: as of `evaluate`.
        resamples: of the models, for the intervals of R²; 0 for none.

    Returns:
        As `json.dumps` takes it: `majority`, `groups` (name to images), `points` (`model` and `accuracy`, name of a
        group to an estimate) and `curves`, name of every other group to what `subgroup_curve` says.

    Raises:
        ValueError: for fewer than three models, a majority that is no group of ten images, groups of which no two have
            ten, and as `evaluate`.

    Source: Liang et al., "Accuracy on the Curve", ICML 2023, arXiv 2305.02995.
    """
    check_images(data)
    if len(groups) != len(data):
        raise ValueError(f"groups are of {len(groups)} images, but {data.name} has {len(data)}")
    images, positions = limited(data, limit, seed)
    divided = groups.at(positions)
    check_groups(divided)
    counts: dict[str, int] = {
        name: count for name, count in zip(divided.names, divided.counts(), strict=True) if count >= FEW
    }
    chosen = max(counts, key=counts.__getitem__) if majority is None else majority
    if chosen not in counts:
        raise ValueError(f"{chosen!r} is no group of {FEW} images or more: there are {', '.join(map(repr, counts))}")
    places = {name: (divided.index == divided.names.index(name)).nonzero()[:, 0] for name in counts}
    part = Part("images of groups", images, identity(images, positions), positions)
    say = notice or (lambda words: None)
    points: list[dict[str, Any]] = []
    for name, model in models:
        (subject,) = gather_subjects({name: model}, images, references, batch_size, say)
        runner = Runner(
            [subject], Parts(None), {"features": False, "masked": False}, batch_size, workers, progress, say
        )
        columns = runner.run(part)[name].tensors
        if bool(columns["bad"].any()):
            raise ValueError(f"model {name!r} gave logits that are not finite for {int(columns['bad'].sum())} images")
        right = columns["rank"] == 0
        accuracy = {}
        for group, own in places.items():
            hits = int(right[own].sum())
            low, high = accuracy_interval(hits, len(own))
            accuracy[group] = {"value": hits / len(own), "low": low, "high": high}
        points.append({"model": name, "accuracy": accuracy})
    if len(points) < FEWEST_MODELS:
        raise ValueError(f"a line goes through any two points: it takes {FEWEST_MODELS} models, got {len(points)}")
    along: dict[str, list[float]] = {group: [point["accuracy"][group]["value"] for point in points] for group in counts}
    curves = {
        group: subgroup_curve(along[chosen], along[group], (counts[chosen], counts[group]), resamples, seed).to_json()
        for group in counts
        if group != chosen
    }
    return {"by": divided.by, "majority": chosen, "groups": counts, "points": points, "curves": curves,
            "left_aside": len(divided) - sum(counts.values())}  # fmt: skip
