"""Under attack: what is left of the accuracy, against the budget, and whether to believe it."""

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from kedge.epsilon import print_epsilon
from kedge.gate import failed_checks
from kedge.metrics.class_disparity import ClassDisparity
from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Question, Row, bounds, dig, estimate, number, short
from kedge.reporting.svg import Plot, svg

KINDS = {
    "single-step": "weak, there to be compared with",
    "pgd": "many steps along the gradient",
    "eot": "many steps along the gradient averaged over references",
    "autoattack": "AutoAttack, a fixed set of attacks",
    "transfer": "made on another model",
}
CURVES = ("attack_curve", "first_order")
NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}


def strength(attack: dict[str, Any], title: str = "") -> str:
    """The norm, budget, steps and restarts of an attack in words; what its `title` says is not repeated."""
    norm = NORMS.get(attack["norm"], printable(attack["norm"] or "norm not stated"))
    eps = attack["eps"]
    words = [norm if eps is None else f"{norm} {print_epsilon(eps)}"]
    steps, restarts = attack.get("steps"), attack.get("restarts") or 1
    if steps and attack["kind"] != "autoattack" and not (f"-{steps}" in title or (steps == 1 and "FGSM" in title)):
        words.append(f"{steps} step{'s' if steps > 1 else ''}")
    if restarts > 1 and "restarts" not in title:
        words.append(f"{restarts} restarts")
    return ", ".join(words)


def attack_title(attack: dict[str, Any]) -> str:
    """The attack with its strength and the number of images."""
    title = printable(attack["title"])
    return f"{title} ({strength(attack, title)}, {attack['images']:,} images)"


def attack_names(models: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Attack to its record in the first model that has it."""
    attacks: dict[str, dict[str, Any]] = {}
    for model in models:
        for name, attack in model["attacks"].items():
            attacks.setdefault(name, attack)
    return attacks


def doubted(model: dict[str, Any]) -> bool:
    """Whether a check of the attack on this model failed: its accuracy under attack is not to be believed."""
    return bool(failed_checks(model))


def lowest(model: dict[str, Any], attack: dict[str, Any]) -> tuple[float, str] | None:
    """The least accuracy that any attack of this norm and budget left, transfer and cross-checks too; by which one."""
    accuracies = [
        # Only the name tells a cross-check from the attack that it checks.
        (a["accuracy"]["value"], printable(name if ": " in name else a["title"]))
        for name, a in model["attacks"].items()
        if (a["norm"], a["eps"]) == (attack["norm"], attack["eps"]) and estimate(dig(a, "accuracy")) is not None
    ]
    return min(accuracies) if accuracies else None


def _row(label: str, models: list[dict[str, Any]], values: Sequence[Any], group: str = "") -> Row:
    """Accuracies under attack, set against each other unless a model that has one is doubted."""
    believed = not any(doubted(m) for m, v in zip(models, values, strict=True) if estimate(v) is not None)
    return Row(label, "%", "higher", values, group, believed)


def _apart(words: str, values: Sequence[Any], results: dict[str, Any]) -> Row:
    """How far the best class is above the worst."""
    (line,) = ClassDisparity().lines(values, results["data"]["class_names"])
    return Row(f"{line.label}, {words}", line.unit, line.better, values, judged=False,
               notes=[short(note, 60) if note else "" for note in line.notes])  # fmt: skip


def summary(lines: Lines) -> None:
    """The accuracy under each attack that was asked for, or is no mere cross-check."""
    models, requested = lines.models, lines.results["settings"]["attacks"]
    attacks = attack_names(models)
    for name, attack in attacks.items():
        if name in requested or attack["kind"] not in ("single-step", "transfer"):
            entries = [m["attacks"].get(name) for m in models]
            # Expectation over references is for anchored models alone: its absence elsewhere is no gap.
            marks = lines.marks(entries, "attack", name, expected=attack["kind"] != "eot")
            values = [dig(own, "accuracy") for own in entries]
            lines.add(_row("accuracy", models, values, f"Under attack: {attack_title(attack)}"), marks)
    for name in (name for name in requested if name not in attacks):
        nothing = [None] * len(models)
        row = Row("accuracy", "%", None, nothing, f"Under attack: {printable(name)}")
        lines.add(row, lines.marks(nothing, "attack", name))


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What the strongest attack left, and whether to believe it."""
    attacks = [a for a in model["attacks"].values() if dig(a, "accuracy", "value") is not None]
    texts = []
    if attacks:
        worst = min(attacks, key=lambda a: a["accuracy"]["value"])
        texts.append(
            f"Under the strongest of {len(attacks)} attack{'s' if len(attacks) > 1 else ''} tried "
            f"({printable(worst['title'])}, {strength(worst, worst['title'])}) it is right on "
            f"{number(worst['accuracy']['value'])} % of {worst['images']:,} images{bounds(worst['accuracy'])}; "
            "a stronger attack can only find less."
        )
    doubts = failed_checks(model)
    if doubts:
        texts.append(
            "Its accuracy under attack is not to be believed as it stands "
            f"({'; '.join(map(printable, doubts))}): the attack may have failed."
        )
    return texts


def questions(results: dict[str, Any]) -> list[Question]:
    """What models are compared by under attack; a cross-check that only some models face compares nothing."""
    models = list(results["models"].values())
    return [
        Question(f"Accuracy under {printable(attack['title'])}", "accuracy", name, "higher",
                 [dig(m["attacks"].get(name), "accuracy") for m in models], attack)
        for name, attack in attack_names(models).items()
        if name in (results["settings"]["attacks"] or [name])
    ]  # fmt: skip


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Every number of every attack."""
    for name, attack in model["attacks"].items():
        for metric in ("accuracy", "clean_accuracy", "class_disparity", "clean_class_disparity"):
            yield "attack", name, "", "", metric, attack.get(metric), attack["images"]
        for metric in ("eps", "steps", "restarts", "seconds"):
            yield "attack", name, "", "", metric, attack.get(metric), None
    for point in dig(model, "attack_curve", "points") or []:
        yield "attack curve", f"eps {point['eps']:.6g}", "", "", "accuracy", point["accuracy"], None
    for point in dig(model, "first_order", "points") or []:
        n = model["first_order"]["images"]
        yield "first order", f"eps {point['eps']:.6g}", "", "", "accuracy", point["accuracy"], n


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """A block of rows for each attack, the curve against ε, the checks."""
    models = list(results["models"].values())
    attacks = []
    for name, attack in attack_names(models).items():
        entries = [m["attacks"].get(name) for m in models]
        rows = [
            _row("accuracy under attack", models, [dig(own, "accuracy") for own in entries]),
            Row("the same images, clean", "%", "higher", [dig(own, "clean_accuracy") for own in entries]),
            *(
                row
                for words, key in (("under attack", "class_disparity"), ("clean", "clean_class_disparity"))
                if (row := _apart(words, [dig(own, key) for own in entries], results)).measured
            ),
        ]
        predicted = Row("predicted from one backward pass", "%", None, [_predicted(m, attack) for m in models])
        rows += [predicted] * predicted.measured
        seconds = Row("seconds", "count", None, [dig(own, "seconds") for own in entries])
        kind = KINDS.get(attack["kind"], "")
        title = f"{attack_title(attack)}{': ' if kind else ''}{kind}"
        attacks.append((title, rows + [seconds] * seconds.measured))
    curves = [(i, m) for i, m in enumerate(models) if any(dig(m, key, "points") for key in CURVES)]
    norms = [m[key]["norm"] for _, m in curves for key in CURVES if dig(m, key, "points")]
    checks = [(i, check) for i, m in enumerate(models) for check in m["sanity"]]
    if not attacks and not curves:
        return None
    return {
        "attacks": attacks,
        "curve": _curve(curves) if curves else None,
        "norm": NORMS.get(norms[0], printable(norms[0])) if norms else "",
        "predicted": any(dig(m, "first_order", "points") for m in models),
        "unpredicted": [
            (i, printable(m["first_order"]["note"])) for i, m in enumerate(models) if dig(m, "first_order", "note")
        ],
        "suspicious": [(i, check) for i, check in checks if not check["ok"]],
        "checks": checks,
    }


def _predicted(model: dict[str, Any], attack: dict[str, Any]) -> Any:
    """What one backward pass predicts at the radius of an attack."""
    own = model["first_order"]
    if not own or own["norm"] != attack["norm"]:
        return None
    return next((p["accuracy"] for p in own["points"] if p["eps"] == attack["eps"]), None)


def _measured(model: dict[str, Any], norm: str) -> list[tuple[float, Any]]:
    """(ε, accuracy) under the attacks in a norm that are no cross-checks."""
    own = [a for name, a in model["attacks"].items() if ": " not in name and dig(a, "accuracy", "value") is not None]
    return [(a["eps"], a["accuracy"]) for a in own if a["norm"] == norm and a["eps"]]


def _curve(curves: list[tuple[int, dict[str, Any]]]) -> Markup:
    """Accuracy against ε: measured, and as predicted; in 255ths where all measured budgets are printed as such."""
    drawn = [(i, dig(m, "attack_curve", "points") or [], m["first_order"] or {"points": []}, m) for i, m in curves]
    budgets = [p["eps"] for _, points, _, _ in drawn for p in points if p["eps"]]
    budgets += [eps for _, _, first, m in drawn if first["points"] for eps, _ in _measured(m, first["norm"])]
    scale = 255 if all(print_epsilon(eps).endswith("/255") for eps in budgets) else 1
    far = [p["eps"] for _, points, first, _ in drawn for p in [*points, *first["points"]]]
    most = scale * max(far)
    step = next((s for s in (1, 2, 4, 8, 16) if most / s <= 5), 32)  # budgets are powers of two
    even = [float(e) for e in range(0, int(most) + 1, step)] if scale == 255 and most >= 1 else None
    label = "ε, of 255" if scale == 255 else "ε"
    plot = Plot((0, most or 1), (0, 100), label, "accuracy, %", width=360, height=240, x_ticks=even)
    for i, points, first, model in drawn:
        if first["points"]:
            plot.dashes(*_drawn(first["points"], scale), i)
            measured = _measured(model, first["norm"])
            plot.points([scale * eps for eps, _ in measured], [100 * one["value"] for _, one in measured], i)
        points = sorted(points, key=lambda p: p["eps"])
        x, y = _drawn(points, scale)
        if points and all(p["accuracy"]["low"] is not None for p in points):
            low, high = ([100 * p["accuracy"][key] for p in points] for key in ("low", "high"))
            plot.band(x, low, high, i)
        if points:
            plot.line(x, y, i)
    return svg(plot)


def _drawn(points: list[dict[str, Any]], scale: float) -> tuple[list[float], list[float]]:
    return [scale * p["eps"] for p in points], [100 * p["accuracy"]["value"] for p in points]
