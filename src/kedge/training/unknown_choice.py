"""Which score tells foreign images best: asked of validation images alone, of classes left out and of shuffled images.

Nobody has foreign images when a model is trained. Two kinds stand for them. The validation images cut into sixteen
squares that change places: the colours and textures of the images without what is on them. And a class that is left
out: a linear head is fitted to the features of the other classes, whose prototypes are the only ones, and its images
are the foreign ones; with the head as it was trained, without the class's row, they would look more foreign than they
are. Where there are negatives, photos of the place without the object, those that were held out are a third kind.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.anchoring.outputs import Outputs
from kedge.anchoring.prototypes import PROTOTYPES, nearest
from kedge.data import ImageSet
from kedge.postprocess import apply
from kedge.probing.probe import ProbeData, fit_probe
from kedge.scores import Prototypes
from kedge.seeds import generator
from kedge.training.calibration import rows_at_a_time
from kedge.training.recipe import Recipe
from kedge.training.unknown_rule import rule_on
from kedge.unknown import OF_LOGITS, score_of

__all__ = ["choose_rule", "outputs_on", "prototypes_of", "set_unknown", "shuffled"]

MOST = 1000  # training images whose features are looked at, or of many classes
OF_EACH = 6  # as many of each on average: a prototype is not to be the features of one photo
ENOUGH = 20  # validation images, and foreign ones of a kind, to choose a score by
SQUARES = 4  # on each side, of shuffled images
LEFT_OUT = 5  # classes that are left out one by one, at most
STRENGTH = 0.1  # of the regularisation of their heads


@torch.no_grad()
def outputs_on(
    model: PixelModel, images: ImageSet, batch_size: int = 64, workers: int = 0, references: int | None = None,
    shuffle: int | None = None,
) -> Outputs:  # fmt: skip
    """Logits and features of a whole set, on the CPU; of `shuffled` images with a seed for that."""
    parts, draws = [], None if shuffle is None else generator(shuffle, "shuffled squares")
    asked = references if model.count() else None
    for batch, _ in images.batches(batch_size, workers):
        pixels = batch.to(model.mean.device).float() / 255
        pixels = pixels if draws is None else shuffled(pixels, draws)
        parts.append(model.outputs(pixels, asked, features=True, check=False).to("cpu"))
    return Outputs.cat(parts)


def shuffled(images: Tensor, draws: torch.Generator) -> Tensor:
    """Images `[B, C, H, W]` cut into 4 × 4 squares, which change places; what is left at the edges stays."""
    if min(images.shape[2:]) < SQUARES or not len(images):
        return images.clone()
    side, across = images.shape[2] // SQUARES, images.shape[3] // SQUARES
    cut = images[:, :, : side * SQUARES, : across * SQUARES].unfold(2, side, side).unfold(3, across, across)
    squares = cut.flatten(2, 3)  # [B, C, 16, side, across]
    rows = []
    for each in squares:
        each = each[:, torch.randperm(SQUARES**2, generator=draws).to(images.device)]
        each = each.unflatten(1, (SQUARES, SQUARES)).permute(0, 1, 3, 2, 4)
        rows.append(each.reshape(len(each), side * SQUARES, across * SQUARES))
    result = images.clone()
    result[:, :, : side * SQUARES, : across * SQUARES] = torch.stack(rows)
    return result


def prototypes_of(features: Tensor, labels: Tensor) -> Tensor:
    """`[K, D]`, the directions of training images, features `[N, D]`, that nearness is to."""
    fitted = Prototypes().fit(Outputs(features.new_zeros(len(features), 1), features=features), labels)
    assert fitted.directions is not None
    return fitted.directions


def choose_rule(
    model: PixelModel, train: ImageSet, validation: ImageSet, familiar: float, *,
    negatives: ImageSet | None = None, seed: int = 0, batch_size: int = 64, workers: int = 0,
    pooled: tuple[Tensor, Tensor | None] | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Set `model.prototypes` and `model.unknown`, the rule by the score that tells best; gives the rule.

    Args:
        model: a trained classifier; it is asked on its device.
        train: its training images, some of which are looked at.
        validation: images that it was not trained on.
        familiar: the share of images like these that are not to be called unknown.
        negatives: foreign images that it was not trained on, if there are any.
        seed: of what is drawn.
        batch_size, workers: of reading images.
        pooled: of a model that folds judged, the logits `[N, C]` before its steps of the validation images by the
            models of the other folds, and how near they are to prototypes of these `[N]`: nothing is chosen by so few.
    """
    train = train.sample
    most = max(MOST, OF_EACH * len(train.class_names))
    chosen_images = torch.randperm(len(train), generator=generator(seed, "prototypes"))[:most]
    some = (train if len(train) <= most else train.subset(chosen_images)).readable()[0]
    trained, labels = outputs_on(model, some, batch_size, workers, references=1), some.labels
    model.prototypes = model.unknown = None
    if trained.features is not None and bool(trained.features.isfinite().all()):
        model.prototypes = prototypes_of(trained.features, labels).to(model.mean.device)
    if pooled is not None:
        inside = Outputs(apply(model.steps, pooled[0]), steps=model.steps)
        scores = _scores(inside, None)
        if pooled[1] is not None and model.prototypes is not None:
            scores[PROTOTYPES] = pooled[1]
        return _stored(
            model, scores, _default(scores), familiar, {"why": "the usual score: with folds no other is tried"}
        )
    if not len(validation):
        model.prototypes = None
        return None
    inside = outputs_on(model, validation, batch_size, workers)
    kinds: dict[str, Any] = {}
    if len(inside) >= ENOUGH:
        away = {"shuffled": outputs_on(model, validation, batch_size, workers, shuffle=seed)}
        if negatives is not None and len(negatives) >= ENOUGH:
            away["negatives"] = outputs_on(model, negatives, batch_size, workers)
        kinds = {name: _told(inside, each, model.prototypes) for name, each in away.items()}
        if model.prototypes is not None:
            kinds |= _left_out(trained.features, labels, inside.features, validation.labels)
    scores = _scores(inside, model.prototypes)
    means = {name: sum(kind[name] for kind in kinds.values()) / len(kinds) for name in scores} if kinds else {}
    best = max(means, key=lambda name: (means[name], name == _default(scores))) if means else _default(scores)
    why = _in_words(means, kinds, best) if means else _by_default(len(inside))
    estimates = {name: {kind: round(values[name], 4) for kind, values in kinds.items()} for name in scores}
    chosen = {"why": why, **({"auroc": estimates} if kinds else {})}
    return _stored(model, scores, best, familiar, chosen)


def _default(scores: Mapping[str, Tensor]) -> str:
    """The usual score of those that a model has: by what it comes to on sets of photos, see the page on it."""
    return next((name for name in (PROTOTYPES, "energy") if name in scores), next(iter(scores), ""))


def _stored(
    model: PixelModel, scores: Mapping[str, Tensor], name: str, familiar: float, chosen: dict[str, Any]
) -> dict[str, Any] | None:
    model.unknown = rule_on(scores[name], familiar, name, chosen=chosen) if name in scores else None
    if name != PROTOTYPES or model.unknown is None:
        model.prototypes = None
    return model.unknown


def set_unknown(
    model: PixelModel, recipe: Recipe, train: ImageSet, validation: ImageSet, negatives: ImageSet | None = None,
    pooled: tuple[Tensor, Tensor | None] | None = None,
) -> None:  # fmt: skip
    """`choose_rule` as a run does it, on its device; a recipe without `familiar` leaves the model without a rule."""
    model.prototypes = model.unknown = None
    if recipe.familiar is None:
        return
    if recipe.device != "auto":  # as of a model that no training loop made, which stays where it is
        model.to(torch.device(recipe.device))
    how: dict[str, Any] = {"batch_size": rows_at_a_time(recipe), "workers": recipe.workers or 0, "seed": recipe.seed}
    choose_rule(model, train, validation, recipe.familiar, negatives=negatives, pooled=pooled, **how)
    if recipe.folds and model.unknown is not None:
        model.unknown = {**model.unknown, "folds": recipe.folds}
    model.cpu()


def _scores(outputs: Outputs, prototypes: Tensor | None) -> dict[str, Tensor]:
    """The values `[N]` of all scores that the model has."""
    names = [name for name in OF_LOGITS if name != "energy" or outputs.unnormalised is not None]
    scores = {name: score_of(name, outputs.logits) for name in names}
    if prototypes is not None and outputs.features is not None:
        scores[PROTOTYPES] = nearest(outputs.features, prototypes.cpu())
    return {name: values for name, values in scores.items() if bool(values.isfinite().all())}


def _told(inside: Outputs, outside: Outputs, prototypes: Tensor | None) -> dict[str, float]:
    """The AUROC of each score."""
    away = _scores(outside, prototypes)
    return {
        name: float(metrics.auroc(values, away[name])) if name in away else 0.5
        for name, values in _scores(inside, prototypes).items()
    }


def _left_out(trained: Tensor | None, labels: Tensor, features: Tensor | None, own: Tensor) -> dict[str, Any]:
    """{"left-out classes": the mean AUROC over classes}; empty where there are fewer than three, or too few images."""
    counts = torch.bincount(own, minlength=int(labels.max()) + 1)
    present = labels.unique().tolist()
    left = [c for c in present if 2 <= int(counts[c]) <= len(own) - 2]
    if trained is None or features is None or len(present) < 3 or not left:
        return {}
    totals: dict[str, float] = {}
    chosen = left[:: -(-len(left) // LEFT_OUT)]
    for each in chosen:
        keep = labels != each
        others, place = labels[keep].unique(return_inverse=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a head that is nearly at its minimum will do
            probe = fit_probe(ProbeData(trained[keep][None], place, len(others)), strength=STRENGTH)
        logits = features.float() @ probe.weight.T + (0 if probe.bias is None else probe.bias)
        answers = Outputs(logits, features=features)
        prototypes = prototypes_of(trained[keep], labels[keep])
        scores = _scores(answers, prototypes)
        for name, values in scores.items():
            area = float(metrics.auroc(values[own != each], values[own == each]))
            totals[name] = totals.get(name, 0.0) + area / len(chosen)
    return {"left-out classes": {name: totals.get(name, 0.5) for name in (*OF_LOGITS, PROTOTYPES)}}


def _in_words(means: Mapping[str, float], kinds: Mapping[str, Any], best: str) -> str:
    """Why it is this score."""
    others = ", ".join(f"{name} {100 * value:.1f}" for name, value in means.items() if name != best)
    return (
        f"{best} tells images of this kind from {' and '.join(_KINDS[kind] for kind in kinds)} best, with an AUROC of "
        f"{100 * means[best]:.1f} % (of the others {others})"
    )


_KINDS = {
    "shuffled": "shuffled ones",
    "left-out classes": "classes left out",
    "negatives": "held-out negatives",
}


def _by_default(images: int) -> str:
    return f"the usual score, as {images} images are too few to choose another by"
