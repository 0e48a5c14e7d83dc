"""Signs that accuracy under attack is too good to be true: gradients that mislead the attack instead of robustness.

Source: Athalye, Carlini and Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018, section 3.1;
Carlini et al., "On Evaluating Adversarial Robustness", arXiv 1902.06705.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.twin import evaluating
from kedge.attacks import PGD
from kedge.attacks._losses import image_gradient, judge
from kedge.epsilon import print_epsilon
from kedge.evaluation.inputs import to_unit

VANISHED = 1e-12  # a gradient whose largest entry is below this shows no direction worth the name
SHARE = 0.01  # of images, that may be otherwise without a word
FAR = 0.05  # of accuracy, by which a weaker form of an attack may not differ
HALF = 0.5  # a radius at which every image can be made plain grey
LARGE = "large epsilon"
MANY_STEPS = "many steps"  # a PGD beside an AutoAttack, of its own accord
OTHER_LOSS = {"ce": "margin loss", "margin": "cross-entropy"}  # of an attack: what its twin is called
VARIANTS = ("single step", MANY_STEPS, *OTHER_LOSS.values(), "more steps", "no random start", LARGE)
WEAKER = {  # kinds that no other attack may leave more images right than: the check, and what it says
    "single-step": ("single step against many", "A single step must not break more than many"),
    "transfer": ("transfer against white box", "Images made on another model must not break more than its own"),
}


def sanity_attacks(attack: PGD, values: int) -> dict[str, PGD]:
    """What to run beside `attack` so that `sanity` can judge; `values` = C H W, the numbers that an image holds.

    A small subset of the images will do. The keys are names for the results.
    """
    large = HALF if attack.norm == "linf" else HALF * values**0.5
    # Even the corners of the box are within reach in these steps.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large eps is meant here
        far = replace(attack, eps=large, steps=max(attack.steps, 20), step_size=large / 8, restarts=1)
    other = "margin" if attack.loss == "ce" else "ce"
    return {
        "single step": attack.single_step(),
        OTHER_LOSS[attack.loss]: replace(attack, loss=other),
        "more steps": replace(attack, steps=5 * attack.steps),
        "no random start": replace(attack, random_start=False, restarts=1),
        LARGE: far,
    }


def probes(attack: PGD, values: int, measured: bool) -> dict[str, PGD]:
    """Those of `sanity_attacks` that an evaluation runs, where `attack` was `measured` itself, and where it was not."""
    variants = sanity_attacks(attack, values)
    if measured:
        del variants["single step"]  # is among the others
        return variants
    # What more steps would find is no question to an attack without steps to choose.
    return {MANY_STEPS: attack, **{key: variants[key] for key in (OTHER_LOSS[attack.loss], LARGE)}}


def same_answers(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """The check that `model` gives the same images `[B, C, H, W]` the same logits twice: attacks climb one function."""
    images = to_unit(images)
    with torch.no_grad(), evaluating(model):
        first, second = model(images), model(images)
    exact = first.dtype in (torch.float32, torch.float64) and images.dtype == torch.float32
    scale = float(first.float().abs().clamp(max=1e6).nan_to_num().max())
    apart = float((first.float() - second.float()).abs().nan_to_num().max())
    changed = int((first.argmax(1) != second.argmax(1)).sum())
    ok = apart <= (1e-4 if exact else 1e-2) * scale
    detail = f"asked twice, {len(images)} images got {changed} other labels, and logits up to {apart:.2g} away."
    advice = (
        " It draws at random as it answers: an attack climbs another function than the one that judges it, and luck "
        "decides what counts as right. Fix what is drawn, or attack the mean of many draws."
    )
    return _check("same images, same answers", ok, detail if ok else detail + advice)


def gradient_sizes(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss: str = "ce") -> Tensor:
    """The largest entry, in absolute value, of each image's loss gradient at the clean image, `[N]` float32."""
    sizes = []
    for images, labels in batches:
        with torch.enable_grad(), evaluating(model):
            leaf = to_unit(images).clone().requires_grad_()
            losses, _ = judge(model(leaf), labels.to(images.device), loss)
            sizes.append(image_gradient(losses, leaf).flatten(1).abs().amax(1).float().cpu())
    return torch.cat(sizes)


def sanity(attacks: Mapping[str, dict[str, Any]], gradients: Tensor | None = None) -> list[dict[str, Any]]:
    """Checks of accuracy under attack: `{"check", "ok", "detail"}` each; those that the results allow.

    A check that fails does not say how robust the model is: it says that the attack did not find out.

    Args:
        attacks: name -> what `attack_summary` gave, on the same images: of the attack itself, of those that
            `sanity_attacks` adds (under its names), of a transfer attack. Compared at the same norm and eps, with a
            tolerance of one image or one percent.
        gradients: from `gradient_sizes`.
    """
    # With a large epsilon everything gives way: that is a check of its own, not the question.
    usual = [a for name, a in attacks.items() if name != LARGE]
    strong = [a for a in usual if a["kind"] not in WEAKER and a["eps"]]
    checks = []
    for weaker, (title, words) in WEAKER.items():
        for one in (a for a in usual if a["kind"] == weaker):
            others = [a for a in strong if _same_ball(a, one)]
            if others:
                best = min(others, key=_accuracy)
                ok = _accuracy(best) <= _accuracy(one) + _slack(one)
                checks.append(_check(title, ok, f"{_words(one)}; {_words(best)}. {words}."))
    if gradients is not None and len(gradients):
        share = float((~(gradients >= VANISHED)).float().mean())  # NaN is no direction either
        detail = f"{share:.1%} of {len(gradients)} images have no gradient to follow (largest entry below {VANISHED:g})"
        # Where nothing is left to break, no gradient is needed.
        broken = bool(strong) and min(map(_accuracy, strong)) <= min(map(_slack, strong))
        ok = share <= SHARE or broken
        checks.append(_check("zero gradients", ok, detail if ok else detail + '; loss="margin" may find one.'))
    if LARGE in attacks:
        one = attacks[LARGE]
        detail = f"{_words(one)}, where every image can be turned into plain grey; it must be near 0."
        checks.append(_check(LARGE, _accuracy(one) <= _slack(one), detail))
    for name, one in attacks.items():
        if one not in strong or name in VARIANTS or ": " in name:
            continue
        others = [a for a in strong if _same_ball(a, one) and _way(a) != _way(one)]
        if others:
            best = min(others, key=_accuracy)
            # An ensemble that holds the others has no excuse.
            may = _slack(one) if one["kind"] == "autoattack" else FAR
            ok = _accuracy(one) - _accuracy(best) <= may
            detail = f"{_words(one)}; {_words(best)}."
            advice = " Another attack within the same distance breaks more: the lower number is the one to quote."
            checks.append(_check("other attacks, same distance", ok, detail if ok else detail + advice))
    for fewer, more in _pairs(strong, "steps"):
        gain = _accuracy(fewer) - _accuracy(more)
        advice = "More steps must not help the model." if gain < 0 else "More steps still break more: use them."
        ok = -_slack(more) <= gain <= FAR
        detail = f"{_words(fewer)}; {_words(more)}."
        checks.append(_check("more steps", ok, detail if ok else f"{detail} {advice}"))
    for without, random in _pairs(strong, "random_start"):
        ok = _accuracy(without) - _accuracy(random) <= FAR
        detail = f"{_words(without)} from the image itself; {_words(random)} from random starts."
        advice = " The gradient at the image itself misleads."
        checks.append(_check("random start", ok, detail if ok else detail + advice))
    return checks


def _check(title: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"check": title, "ok": bool(ok), "detail": detail}


def _accuracy(attack: dict[str, Any]) -> float:
    return attack["accuracy"]["value"]


def _slack(attack: dict[str, Any]) -> float:
    return max(SHARE, 1 / max(attack["images"], 1)) + 1e-9


def _way(attack: dict[str, Any]) -> tuple[Any, Any]:
    """How an attack goes about it: two that differ here have different weaknesses."""
    return attack["kind"], attack.get("loss")


def _same_ball(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return (a["norm"], a["eps"]) == (b["norm"], b["eps"])


def _words(attack: dict[str, Any]) -> str:
    return f"{attack['title']} at eps {print_epsilon(attack['eps'])} leaves {_accuracy(attack):.1%} right"


def _pairs(attacks: list[dict[str, Any]], by: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Attacks that differ in `by` and in nothing else of note, the smaller value first."""
    same = ("kind", "norm", "eps", "steps", "random_start", "loss")
    named = [a for a in attacks if a["kind"] == "pgd" and a.get(by) is not None]
    return [
        (a, b) for a in named for b in named if a[by] < b[by] and all(a.get(k) == b.get(k) for k in same if k != by)
    ]
