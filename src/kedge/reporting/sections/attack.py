"""Under attack: what is left of the accuracy, against the budget, and whether to believe it."""

from typing import Any

from markupsafe import Markup

from kedge.epsilon import print_epsilon
from kedge.reporting.rows import Row, ahead_of, dig, estimate
from kedge.reporting.summary import attack_names, attack_title, believed
from kedge.reporting.svg import Plot, svg

_KINDS = {
    "single-step": "weak, there to be compared with",
    "pgd": "many steps along the gradient",
    "eot": "many steps along the gradient averaged over references",
    "autoattack": "AutoAttack, a fixed set of attacks",
    "transfer": "made on another model",
}


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """A block of rows for each attack, the curve against ε, the checks."""
    models = list(results["models"].values())
    attacks = []
    for name, attack in attack_names(models).items():
        entries = [m["attacks"].get(name) for m in models]
        rows = []
        for label, key in (("accuracy under attack", "accuracy"), ("the same images, clean", "clean_accuracy")):
            cells = [estimate(dig(f, key)) for f in entries]
            fair = key == "clean_accuracy" or believed(models, cells)
            rows.append(Row("", label, "%", "higher", cells, ahead_of(cells, "higher", "%") if fair else ()))
        seconds = [estimate(dig(f, "seconds")) for f in entries]
        if any(s is not None for s in seconds):
            rows.append(Row("", "seconds", "count", None, seconds))
        kind = _KINDS.get(attack["kind"], "")
        attacks.append((f"{attack_title(name, attack)}{': ' if kind else ''}{kind}", rows))
    curves = [(i, m["attack_curve"]) for i, m in enumerate(models) if dig(m, "attack_curve", "points")]
    checks = [(i, check) for i, m in enumerate(models) for check in m["sanity"]]
    if not attacks and not curves:
        return None
    return {
        "attacks": attacks,
        "curve": _curve(curves) if curves else None,
        "norm": {"linf": "ℓ∞", "l2": "ℓ2"}.get(curves[0][1]["norm"], curves[0][1]["norm"]) if curves else "",
        "suspicious": [(i, check) for i, check in checks if not check["ok"]],
        "checks": checks,
    }


def _curve(curves: list[tuple[int, dict[str, Any]]]) -> Markup:
    """Accuracy against ε; in 255ths where all budgets are printed as such."""
    budgets = [p["eps"] for _, c in curves for p in c["points"] if p["eps"]]
    scale = 255 if all(print_epsilon(eps).endswith("/255") for eps in budgets) else 1
    most = max(scale * p["eps"] for _, c in curves for p in c["points"])
    step = next((s for s in (1, 2, 4, 8, 16) if most / s <= 5), 32)  # budgets are powers of two
    even = [float(e) for e in range(0, int(most) + 1, step)] if scale == 255 and most >= 1 else None
    label = "ε, of 255" if scale == 255 else "ε"
    plot = Plot((0, most or 1), (0, 100), label, "accuracy, %", width=360, height=240, x_ticks=even)
    for i, curve in curves:
        points = sorted(curve["points"], key=lambda p: p["eps"])
        x = [scale * p["eps"] for p in points]
        if all(p["accuracy"]["low"] is not None for p in points):
            low, high = ([100 * p["accuracy"][key] for p in points] for key in ("low", "high"))
            plot.band(x, low, high, i)
        plot.line(x, [100 * p["accuracy"]["value"] for p in points], i)
    return svg(plot)
