"""Whether new images differ from earlier ones, in what, and which corruption they look most like; without labels."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.clock import now
from kedge.data.corruptions import SEVERITIES, expand
from kedge.evaluation.drift_images import FEWEST, apart, distances_from, rows_of, sheet_of
from kedge.evaluation.drift_profiles import Nearest, Profiles, Simulated, Whitening
from kedge.evaluation.drift_seen import Asker, Embedding
from kedge.evaluation.drift_tests import answers_changed, beyond, files_changed, numbers_changed
from kedge.evaluation.inputs import conversion
from kedge.evaluation.provenance import citations, machine
from kedge.evaluation.runner import duration
from kedge.evaluation.sets import check_images, check_severities, set_record
from kedge.evaluation.unlabelled import estimate_accuracy
from kedge.metrics._two_samples import joint_test
from kedge.seeds import generator

FORMAT_VERSION = 1
FEW = 100  # images below which only strong changes are seen
NONE, UNLIKE = "no drift", "none of them"


def measure_drift(
    model: Any,
    reference: Any,
    new: Any,
    *,
    validation: Any = None,
    corruptions: str | Sequence[str] = "corruptions",
    severities: Sequence[int] = SEVERITIES,
    profile_images: int = 200,
    alpha: float = 0.01,
    references: Any = None,
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    limit: int | None = None,
    permutations: int = 999,
    resamples: int = 500,
    trained_on: Callable[[Any], int | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare new images with earlier ones by what a model says of them and by their pixels; no labels are looked at.

    Args:
        model: a model of kedge, or any callable from images `[B, C, H, W]` in [0, 1] to logits.
        reference: images as they were, a `kedge.data.ImageSet`.
        new: images that may be others.
        validation: labelled images that the model was not trained on, for the expected accuracy; None: it is left out.
        corruptions: what the change may look like: names and groups of `kedge.data.corruptions`; () for nothing.
        severities: of these, some of 1 to 5.
        profile_images: so many of the reference images are corrupted in each way and severity.
        alpha: share of comparisons of images of one kind in which a change is reported all the same.
        references: for anchored models: how many of the bank, or None for the whole.
        batch_size, workers: images at a time, and processes that decode them.
        seed: of the subsets, the corruptions, the relabellings and the bootstrap.
        limit: at most so many images of each set, a seeded random subset.
        permutations: relabellings of the tests; the smallest p is 1 / (permutations + 1).
        resamples: of the bootstrap.
        trained_on: counts the images of a set that the model was trained on, where that is known.
        progress, notice: as of `evaluate`.

    Returns:
        What `json.dumps` takes: `drift` (p, changed, `looks_like`), `numbers` (each with both means, p and AUROC),
        `files`, `classes`, `nearest`, `beyond`, `accuracy`, `images` (one row for each new image), `sheet`, `warnings`.

    Raises:
        ValueError: for settings that cannot be, fewer than 20 images, and a model that cannot be asked about them.
        DataError: for new images that are the reference images.
    """
    say, tick = notice or (lambda words: None), _Ticks(progress)
    names = expand(corruptions) if corruptions else []
    _check_settings(names, severities, profile_images, alpha, permutations, resamples)
    for images in (reference, new):
        check_images(images)
    first, second, warned, shared = apart(reference, new, limit, seed)
    asker = Asker(model, first[0], references)
    shapes = {tuple(each.image_shape) for each in (first[0], second[0])}
    for shape in sorted(shapes):
        if words := conversion(shape, asker.subject.shape):
            warned.append(f"images are compared as the model takes them: {words}")
    profile = min(profile_images, len(first[0])) if names else 0
    tick.total = len(first[0]) + len(second[0]) + profile * len(names) * len(severities)
    began = time.perf_counter()
    a = asker.set_seen(first[0], batch_size, workers, tick)
    pace = (time.perf_counter() - began) / len(a)
    b = asker.set_seen(second[0], batch_size, workers, tick)
    embed = Embedding(a, b)
    ours, theirs = embed(a), embed(b)
    p = joint_p(ours, theirs, permutations, seed)
    changed = p < alpha
    nearest = None
    if names:
        rest = pace * profile * len(names) * len(severities)
        if rest >= 20:
            say(f"{len(names)} corruptions at {len(severities)} severities, {profile} images each: about "
                f"{duration(rest)} (fewer: profile_images, severities)")  # fmt: skip
        chosen = torch.randperm(len(a), generator=generator(seed, "drift", "profile"))[:profile].sort().values
        made = _profiles(asker, first[0].subset(chosen), chosen, names, sorted({*severities}), embed, batch_size, seed,
                         tick)  # fmt: skip
        nearest = _nearest(made, made.simulate(seed), names, ours, theirs, resamples, seed, changed)
    if trained_on is not None and (known := trained_on(first[0])):
        warned.append(f"the model was trained on {known} of the reference images, to which it is surer than to others")
    for images in (first[0], second[0]):
        if len(images) < FEW:
            warned.append(f"only {len(images)} images of {images.name}: from fewer than {FEW} only strong changes show")
    if a.outputs.features is None:
        warned.append("the model gives no features: images are compared by their pixels and by its answers alone")
    accuracy, why = _accuracy(model, validation, first[0], second[0], references, batch_size, workers, seed, resamples,
                              notice)  # fmt: skip
    distances = distances_from(ours, theirs)
    return {
        "format_version": FORMAT_VERSION,
        "created": now(),
        "machine": machine(),
        "reference": set_record(reference, len(a), limit),
        "new": {**set_record(new, len(b), limit), "shared": shared},
        "model": {**asker.subject.description(tuple(first[0].image_shape)), "classes": asker.classes,
                  "features": embed.basis is not None},
        "settings": {"alpha": alpha, "seed": seed, "permutations": permutations, "resamples": resamples,
                     "profile_images": profile, "corruptions": names, "severities": sorted({*severities})},
        "drift": {"p": p, "changed": changed,
                  "looks_like": NONE if not changed else None if nearest is None else nearest["looks_like"]},
        "numbers": numbers_changed(a, b, permutations, seed),
        "files": files_changed(first[1], second[1], permutations, seed),
        "classes": answers_changed(a, b, asker.classes, permutations, seed),
        "nearest": nearest,
        "beyond": beyond(a, b, resamples, seed),
        "accuracy": accuracy,
        "no_accuracy": why,
        "images": rows_of(second[0], b, asker.classes, distances),
        "sheet": sheet_of(first[0], second[0], a, b, asker.classes, distances),
        "warnings": warned,
        "citations": citations(["unlabelled"]) if accuracy else [],
    }  # fmt: skip


class _Ticks:
    """Counts images done, of `total`."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self.progress, self.done, self.total = progress, 0, 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


def _check_settings(
    names: Sequence[str], severities: Sequence[int], images: int, alpha: float, permutations: int, resamples: int
) -> None:
    if names:
        check_severities(severities)
        if images < FEWEST:
            raise ValueError(f"profile_images must be {FEWEST} or more, got {images}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is a share of false alarms between 0 and 1, got {alpha:g}")
    if permutations < 1 or resamples < 1:
        raise ValueError(f"permutations and resamples are 1 or more, got {permutations} and {resamples}")
    if 1 / (permutations + 1) >= alpha:
        raise ValueError(
            f"with {permutations} permutations no p is below {1 / (permutations + 1):g}, so alpha {alpha:g} would find "
            f"nothing: {round(10 / alpha)} permutations will do"
        )


def joint_p(ours: Tensor, theirs: Tensor, permutations: int, seed: int) -> float:
    """p of whether the means differ in anything at all, in units that the pooled images set."""
    pooled = torch.cat([ours, theirs])
    rows = Whitening(torch.cov(pooled.T))(pooled - pooled.mean(0))
    return joint_test(rows.float(), len(ours), len(theirs), permutations, seed)


def _profiles(
    asker: Asker, images: Any, positions: Tensor, names: Sequence[str], severities: list[int], embed: Embedding,
    batch_size: int, seed: int, tick: Callable[[int], None],
) -> Profiles:  # fmt: skip
    shown = torch.cat(list(asker.shown(images, batch_size)))
    clean = embed(asker.look(shown)) if len(shown) <= batch_size else torch.cat(
        [embed(asker.look(part)) for part in shown.split(batch_size)])  # fmt: skip
    corrupted = []
    for name in names:
        for severity in severities:
            corrupted.append(embed(asker.corrupted(shown, name, severity, positions, seed, batch_size)))
            tick(len(shown))
    return Profiles(clean, torch.stack(corrupted).unflatten(0, (len(names), len(severities))), severities)


def _nearest(
    made: Profiles, simulated: Simulated, names: Sequence[str], ours: Tensor, theirs: Tensor, resamples: int,
    seed: int, changed: bool,
) -> dict[str, Any]:  # fmt: skip
    """What the change of the means looks most like, how sure that is, and how well it fits."""
    noise = 1 / len(ours) + 1 / len(theirs)
    answer = made.nearest((theirs.mean(0) - ours.mean(0))[None], noise)
    draws = generator(seed, "drift", "bootstrap")
    again = [
        theirs[torch.randint(len(theirs), (len(theirs),), generator=draws)].mean(0)
        - ours[torch.randint(len(ours), (len(ours),), generator=draws)].mean(0)
        for _ in range(resamples)
    ]
    drawn = made.nearest(torch.stack(again), noise)
    best = int(answer.corruption[0])
    same = drawn.corruption == best
    severity = drawn.severity[same] if bool(same.any()) else answer.severity
    residual = float(answer.residual[0])
    return {
        "looks_like": names[best] if residual <= simulated.limit else UNLIKE,
        "corruption": names[best],
        "severity": {"value": float(answer.severity[0]), "low": float(severity.quantile(0.025)),
                     "high": float(severity.quantile(0.975))},
        "unexplained": residual,
        "limit": simulated.limit,
        "agreement": float(same.double().mean()),
        "candidates": _candidates(made, answer, names, ours, theirs, noise),
        "truly": [{"corruption": names[i], "share": share} for i, share in simulated.trust(best)[:5]],
        "simulated": {"right": simulated.right, "severity_error": simulated.severity_error},
        "reported": changed,
    }  # fmt: skip


def _candidates(
    made: Profiles, answer: Nearest, names: Sequence[str], ours: Tensor, theirs: Tensor, noise: float, most: int = 5
) -> list[dict[str, Any]]:
    """The nearest paths with the share of the squared change that each explains."""
    sampling = noise * made.whiten.dimensions
    whole = float(made.whiten(theirs.mean(0) - ours.mean(0)).square().sum()) - sampling
    order = answer.distances[0].argsort()[:most].tolist()
    left = [max(0.0, float(answer.distances[0, i]) - sampling) / max(whole, 1e-12) for i in order]
    return [{"corruption": names[i], "explained": max(0.0, 1 - each)} for i, each in zip(order, left, strict=True)]


def _accuracy(
    model: Any, validation: Any, first: Any, second: Any, references: Any, batch_size: int, workers: int, seed: int,
    resamples: int, notice: Callable[[str], None] | None,
) -> tuple[dict[str, Any] | None, str]:  # fmt: skip
    """(the expected accuracy on both sets, or None; why not)."""
    if validation is None:
        return None, "it rests on labelled images that the model was not trained on, and none were named"
    entry = estimate_accuracy(
        {"model": model}, validation, {"reference": first, "new": second}, references=references,
        batch_size=batch_size, workers=workers, seed=seed, resamples=resamples, notice=notice,
    )["model"]  # fmt: skip
    return {"validation": entry["validation"], **entry["sets"]}, ""
