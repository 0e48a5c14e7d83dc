"""Expected accuracy on images without labels, from what a model says of them and of labelled validation images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.data.overlap import shared_images
from kedge.evaluation.cache import Parts
from kedge.evaluation.evaluated_model import Subject, faults, gather_subjects
from kedge.evaluation.provenance import citations
from kedge.evaluation.runner import Part, Runner, identity, outputs_from
from kedge.evaluation.set_coverage import outlook_of
from kedge.evaluation.sets import check_images, limited, trained_images
from kedge.metrics import (
    accuracy_interval,
    auroc,
    auroc_interval,
    average_thresholded_confidence,
    average_thresholded_confidence_interval,
    difference_of_confidences,
    difference_of_confidences_interval,
)
from kedge.metrics._results import Estimate
from kedge.metrics._summary import FEWEST
from kedge.postprocess import SetRule
from kedge.scores import KNN, MSP, Disagreement, Entropy, Outputs

FEW_IMAGES = 50  # with fewer the interval is too wide to be of use
FEW_WRONG = 10  # with fewer mistakes on validation images a threshold rests on next to nothing
BEYOND = 0.25  # a larger share of scores below the validation images' lowest hundredth is another range of scores
APART = 0.10  # estimates further apart than this contradict each other
UNLIKE = 0.8  # from this AUROC on, features tell the images from validation images


@dataclass(frozen=True)
class Estimator:
    """One way to an expected accuracy.

    Attributes:
        title: for people.
        score: of each image, higher = surer.
        value, interval: functions of source scores, whether source answers are right, and target scores.
    """

    title: str
    score: Callable[[Outputs], Tensor]
    value: Callable[..., Tensor]
    interval: Callable[..., tuple[float, float]]
    needs: str = "logits"


def _probability(outputs: Outputs) -> Tensor:
    """`[B]` in [1/C, 1]: DoC compares confidences with accuracies, so they are on that scale."""
    return outputs.logits.float().softmax(dim=1).amax(dim=1)


_ATC = (average_thresholded_confidence, average_thresholded_confidence_interval)
_DOC = (difference_of_confidences, difference_of_confidences_interval)
ESTIMATORS = {
    "atc_entropy": Estimator("thresholded entropy (ATC)", Entropy().score, *_ATC),
    "atc": Estimator("thresholded confidence (ATC)", MSP().score, *_ATC),
    "doc": Estimator("difference of confidences (DoC)", _probability, *_DOC),
    "disagreement": Estimator("thresholded disagreement of references", Disagreement().score, *_ATC, "uncertainty"),
}
HEADLINE = "atc_entropy"  # quoted for every model: to choose after the fact would flatter


def estimate_accuracy(
    models: Any,
    validation: Any,
    images: Any,
    *,
    references: Any = None,
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    limit: int | None = None,
    resamples: int = 1000,
    parts: Path | None = None,
    trained_on: Mapping[str, Callable[[Any], int | None]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Estimate how many answers are right on images without labels; by name of the model, as `json.dumps` takes it.

    Baselines for any model: ATC (Garg et al., ICLR 2022, arXiv 2201.04234) and DoC (Guillory et al., ICCV 2021, arXiv
    2107.03315). For anchored models also the disagreement between references (Δ-UQ, arXiv 2207.07235): that anchors can
    tell the accuracy under shift is from Narayanaswamy et al., "Predicting the Generalization Gap in Deep Models using
    Anchoring", ICASSP 2022, who train a predictor for it; the threshold on the disagreement, fitted as in ATC, is ours
    and needs no training.

    Args:
        models: as of `kedge.evaluation.evaluate`.
        validation: labelled images that the models were not trained on, or a dict of model name to such.
        images: images whose labels are not looked at, or a dict of name to such.
        references: for anchored models: how many of the bank, or None for the whole.
        batch_size, workers: images at a time, and processes that decode them.
        seed: of the subset and of the bootstrap.
        limit: at most so many images of each set, a seeded random subset.
        resamples: of the bootstrap; 0 for no intervals.
        parts: where what is measured is stored, as of `evaluate`.
        trained_on: as of `evaluate`.
        progress, notice: as of `evaluate`.

    Returns:
        For each model `validation` (name, split, images, accuracy) and `sets`: name to `images`, `of`, the `headline`
        (key of the estimate to quote), `estimates` (key to title, value, low, high), `unlike` (how well its features
        tell these images from validation images, AUROC, or None) and `warnings`.

    Raises:
        ValueError: for an empty set, validation images without labels, and models that do not fit them, before any
            work; for logits that are not finite.
    """
    sets = {str(n): s for n, s in images.items()} if isinstance(images, Mapping) else {images.name: images}
    models = models if isinstance(models, Mapping) else {"model": models}
    if not sets:
        raise ValueError("there are no images to estimate an accuracy on: images is empty")
    sources = validation if isinstance(validation, Mapping) else dict.fromkeys(models, validation)
    if absent := [name for name in models if name not in sources]:
        raise ValueError(f"there are no validation images for {', '.join(map(repr, absent))}")
    for each in [*sets.values(), *sources.values()]:
        check_images(each)
    say = notice or (lambda words: None)
    some = {name: limited(each, limit, seed) for name, each in sets.items()}
    entries = {}
    for name, model in models.items():
        source, positions = limited(sources[name], limit, seed)
        (subject,) = gather_subjects({name: model}, source, references, batch_size, say)
        runner = Runner([subject], Parts(parts), {"features": True}, batch_size, workers, progress, say)
        known = Part("validation images", source, identity(source, positions), positions, outputs=True)
        targets = {n: Part(f"unlabelled {n}", s, identity(s, p), p, outputs=True) for n, (s, p) in some.items()}
        runner.announce(f"{name}, images without labels and validation images", [known, *targets.values()])
        ours = _outputs(runner, known, subject)
        correct = ours.logits.argmax(dim=1) == source.labels
        right = int(correct.sum())
        entries[name] = {
            "validation": {
                "name": source.name,
                "split": getattr(source, "split", None),
                "images": len(source),
                "accuracy": Estimate(right / len(source), *accuracy_interval(right, len(source))).to_json(),
            },
            "warnings": list(subject.warnings),
            "sets": {
                n: {
                    "images": len(part.images),
                    "of": len(sets[n]),
                    **_estimated(ours, correct, _outputs(runner, part, subject), resamples, seed,
                                 shared_images(sources[name], sets[n]),
                                 trained_images(trained_on, name, part.images) or 0, subject.set_rule),
                }
                for n, part in targets.items()
            },
        }  # fmt: skip
    return entries


def with_estimates(results: dict[str, Any], entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """`results` of `evaluate` with what `estimate_accuracy` gave for the same models, under `unlabelled` of each."""
    for name, entry in entries.items():
        results["models"][name]["unlabelled"] = entry
    results["conventions"]["without labels"] = (
        "expected accuracy on images without labels, from validation images; interval: bootstrap over both sets, of "
        "sampling alone, without the error of the method under shift"
    )
    results["citations"] += citations(["unlabelled"])
    return results


def _outputs(runner: Runner, part: Part, subject: Subject) -> Outputs:
    tensors = runner.run(part)[subject.name].tensors
    if words := faults(tensors["logits"]):
        raise ValueError(f"model {subject.name!r} gave {words} ({part.name})")
    return outputs_from(tensors, subject)


def _estimated(
    source: Outputs,
    correct: Tensor,
    target: Outputs,
    resamples: int,
    seed: int,
    shared: int,
    known: int,
    rule: SetRule | None,
) -> dict[str, Any]:
    """The estimates for one set, how unlike it is, and what speaks against believing them."""
    few = min(len(source), len(target)) < FEWEST
    estimates = {}
    for key, one in ESTIMATORS.items():
        if getattr(source, one.needs) is None or getattr(target, one.needs) is None:
            continue
        scores = one.score(source), correct, one.score(target)
        bounds = one.interval(*scores, n=resamples, seed=seed) if resamples and not few else (None, None)
        estimates[key] = {"title": one.title, **Estimate(float(one.value(*scores)), *bounds).to_json()}
    unlike = _unlike(source, target, seed)
    return {
        "headline": HEADLINE,
        "prediction_sets": outlook_of(rule, target.logits),
        "estimates": estimates,
        "unlike": unlike,
        "warnings": _warnings(source, correct, target, estimates, unlike, shared, known),
    }


def _unlike(source: Outputs, target: Outputs, seed: int) -> dict[str, Any] | None:
    """AUROC of telling the images from one half of the validation images by the distance to the other half."""
    if source.features is None or target.features is None or len(source) < 2 * FEWEST:
        return None
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    learnt, own = order.tensor_split(2)

    def features(chosen: Tensor) -> Outputs:
        return Outputs(source.logits[chosen], features=source.features[chosen])  # type: ignore[index]

    score = KNN().fit(features(learnt), torch.zeros(len(learnt), dtype=torch.long))
    inside, outside = score.score(features(own)), score.score(target)
    return {"score": score.title, **Estimate(float(auroc(inside, outside)), *auroc_interval(inside, outside)).to_json()}


def _warnings(
    source: Outputs,
    correct: Tensor,
    target: Outputs,
    estimates: Mapping[str, dict[str, Any]],
    unlike: dict[str, Any] | None,
    shared: int,
    known: int,
) -> list[str]:
    """Why not to believe the estimates, in words."""
    sentences = []
    if shared:
        sentences.append(f"{shared} of these images are validation images: the estimate repeats what was found there")
    if known:
        sentences.append(f"the model was trained on {known} of these images, where its confidence is no guide")
    for count, what in ((len(target), "of these images"), (len(source), "validation images")):
        if count < FEW_IMAGES:
            sentences.append(f"only {count} {what}: an estimate from fewer than {FEW_IMAGES} says little")
    wrong, right = int((~correct).sum()), int(correct.sum())
    if min(wrong, right) < FEW_WRONG:
        which, count = ("wrong", wrong) if wrong <= right else ("right", right)
        sentences.append(
            f"the model is {which} on only {count} of {len(source)} validation images: every estimate rests on these"
        )
    own, away = (MSP().score(outputs) for outputs in (source, target))
    beyond = float((away < own.double().quantile(0.01)).double().mean())
    if beyond > BEYOND:
        sentences.append(
            f"{beyond:.0%} of these images get a lower confidence than all but 1 % of the validation images: nothing "
            "is known of how often such answers are right"
        )
    values = {key: one["value"] for key, one in estimates.items()}
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    if values[high] - values[low] > APART:
        sentences.append(
            f"the estimates contradict each other: {estimates[low]['title']} says {values[low]:.0%}, "
            f"{estimates[high]['title']} {values[high]:.0%}"
        )
    if unlike is not None and unlike["value"] >= UNLIKE:
        sentences.append(
            f"these images look unlike validation images to the model (told apart with AUROC {unlike['value']:.0%}): "
            "the further away, the less an estimate is worth; label some of them"
        )
    return sentences
