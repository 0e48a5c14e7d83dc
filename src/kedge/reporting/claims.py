"""What may be claimed between models: by a paired test on the same images where there is one, else by intervals."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kedge.metrics._base import metric as metric_called
from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.reporting.files import check_results
from kedge.reporting.rows import ahead_of, best_of, dig, estimate, number, short
from kedge.reporting.sections import attack, clean, ood, shift

LEVEL = 0.05
SETTLED = (
    "Where a method is named best or behind, chance, of seeds and of test images together, would have named one in at "
    "most one of twenty such comparisons of equally good methods; each line is a comparison of its own. Too close to "
    "call: not settled, more seeds may tell."
)
UNEQUAL = " These groups have different numbers of seeds: of two or three against many it may be one in nine."
Test = dict[str, Any]


def settled(groups: Mapping[str, Sequence[str]]) -> str:
    """What a claim between groups of seeds is worth, in words (simulated: docs/reproduce.md)."""
    return SETTLED + UNEQUAL * (len({len(models) for models in groups.values()}) > 1)


def holm(p: list[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979): with m tests, the k-th smallest times m - k + 1, never falling.

    None stays None and is not counted.
    """
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for k, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - k)))
        adjusted[i] = largest
    return adjusted


def p_text(p: float | None) -> str:
    """A p-value for people."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def compared(results: dict[str, Any]) -> list[Test]:
    """The comparisons with `adjusted`, their p-value after Holm over the pairs compared by the same test and number."""
    tests = [{**t, "adjusted": None} for t in results["comparisons"]]
    families: dict[tuple[str, str, str], list[Test]] = {}
    for t in tests:
        families.setdefault((t["metric"], t["where"], t["test"]), []).append(t)
    for family in families.values():
        for t, p in zip(family, holm([t.get("p") for t in family]), strict=True):
            t["adjusted"] = p
    return tests


def agreeing(test: Test) -> bool:
    """Whether a difference points the way of the reported numbers, which a difference without bias need not."""
    return bool(test.get("reported", test["difference"]["value"]) * test["difference"]["value"] >= 0)


def _unjudged(metric: str, tests: list[Test], cells: list[Any]) -> str:
    """Why no difference is claimed, where results of an earlier version compare calibration errors with their bias."""
    old = [t for t in tests if t["metric"] == metric and "reported" not in t]
    known = metric_called(metric)
    if known is None or not known.unbiased or (not old and known.comparable(cells)):
        return ""
    return (
        "not judged: these results compare calibration errors with the bias that few images give them; evaluate again."
    )


def comparison(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, what can be claimed between models); nothing for one model."""
    results = check_results(results)
    names = [short(n) for n in results["models"]]
    models = list(results["models"].values())
    if len(models) < 2:
        return []
    tests = compared(results)
    if len(results["groups"]) > 1:
        return _between_groups(results, tests)
    claims = []
    for question in (q for part in (clean, shift, ood, attack) for q in part.questions(results)):
        known = {i: e for i, e in enumerate(map(estimate, question.values)) if e is not None}
        if len(known) > 1:
            doubtful = [i for i in known if question.attack is not None and attack.doubted(models[i])]
            clear = {i: e for i, e in known.items() if i not in doubtful}
            tested = _tested(tests, [list(results["models"])[i] for i in clear], question.metric, question.where)
            cells = list(clear.values())
            sentence = _claim(question.better, cells, [names[i] for i in clear], tested) if len(clear) > 1 else ""
            sentence = _unjudged(question.metric, tests, list(question.values)) or sentence
            if question.attack is not None and doubtful:
                rest = sentence or "".join(f"{names[i]} {number(e['value'])} %." for i, e in clear.items())
                weakest = {names[i]: attack.lowest(models[i], question.attack) for i in doubtful}
                sentence = _not_believable(weakest) + (f" Without {', '.join(weakest)}: {rest}" if rest else "")
            lacking = [name for i, name in enumerate(names) if i not in known]
            without = f" No number for {', '.join(lacking)}." if lacking else ""
            claims.append((question.words, sentence + without))
    return claims


def _not_believable(weakest: dict[str, tuple[float, str] | None]) -> str:
    least = [f"{name} right on {number(w[0])} % ({w[1]})" for name, w in weakest.items() if w is not None]
    return (
        f"not believable: the checks of the attack failed for {', '.join(weakest)}. At this strength the lowest of the "
        f"attacks leaves {', '.join(least)}."
    )


def _between_groups(results: dict[str, Any], tests: list[Test]) -> list[tuple[str, str]]:
    """What can be claimed between methods that were trained with several seeds each: seeds decide, not images alone."""
    table, over_seeds = results["group_table"], [t for t in tests if "over seeds" in t["test"]]
    questions = [
        (one.name, where, f"{one.label}, {where} images", one.better or "")
        for one in metrics()
        if one.claims
        for where in ("clean", "corrupted")
    ] + [
        (metric, name, f"{label}, {printable(name)}", better)
        for name in results["ood_sets"]
        for metric, (label, better) in ood.compared().items()
    ]
    claims = []
    for metric, where, label, better in questions:
        cells = [dig(own, f"{metric}, {where}") for own in table.values()]
        if cells and all(c is not None for c in cells):
            tested = _tested(over_seeds, list(table), metric, where)
            values = [{"value": c["mean"]} for c in cells]
            sentence = _claim(better, values, [short(n) for n in table], tested)
            claims.append(
                (f"{label[0].upper()}{label[1:]}, mean over seeds", _unjudged(metric, over_seeds, []) or sentence)
            )
    return claims


def _tested(tests: list[Test], names: list[str], metric: str, where: str) -> Callable[[int, int], Test | None]:
    """Gives the comparison of models i and j, turned so that i comes first."""

    def find(i: int, j: int) -> Test | None:
        for test in tests:
            if test["metric"] != metric or test["where"] != where or test["adjusted"] is None:
                continue
            if (test["a"], test["b"]) == (names[i], names[j]):
                return test
            if (test["a"], test["b"]) == (names[j], names[i]):
                turned = {"difference": {"value": -test["difference"]["value"]}}
                return {**test, **turned, **({"reported": -test["reported"]} if "reported" in test else {})}
        return None

    return find


def _claim(
    better: str, cells: list[dict[str, Any]], names: list[str], tested: Callable[[int, int], Test | None]
) -> str:
    values = [c["value"] for c in cells]
    order = sorted(range(len(values)), key=values.__getitem__, reverse=better == "higher")
    listed = ", ".join(f"{names[i]} {number(values[i])} %" for i in order[:4]) + (", …" if len(order) > 4 else "")
    first, last, others = order[0], order[-1], range(len(cells))
    ahead = [tested(first, j) for j in others if j != first]
    behind = [tested(i, last) for i in others if i != last]
    if all(t is not None for t in ahead):
        # Paired tests on the same images see differences that overlapping intervals hide.
        best = first if all(_won(t, better) for t in ahead) else None
        listed += f"; {_method(ahead, best is not None)}"
        worst = last if all(t is not None and _won(t, better) for t in behind) else None
        pairs = [(i, j) for i, j in itertools.permutations(others, 2) if _won(tested(i, j), better)]
    elif any(c.get("low") is None for c in cells):
        return f"{listed}. No test and no intervals, so no difference is claimed."
    else:
        best = best_of(list(cells), better, "%")
        worst = best_of(list(cells), "lower" if better == "higher" else "higher", "%")
        pairs = [(i, j) for i, worse in enumerate(ahead_of(cells, better, "%")) for j in worse]
    further = _ahead([(i, j) for i, j in pairs if i != best and (best is not None or j != worst)], order, names)
    if best is not None:
        return f"{names[best]} is best ({listed}){f'; {further}' if further else ''}."
    if worst is not None:
        return f"{names[worst]} is behind ({listed}); {further or 'the others are too close to call'}."
    return f"too close to call ({listed}){f', except that {further}' if further else ''}."


def _ahead(pairs: list[tuple[int, int]], order: list[int], names: list[str]) -> str:
    """Which models are ahead of which others, from the best down."""
    behind = {i: [names[j] for j in order if (i, j) in pairs] for i in order}
    return ", ".join(f"{names[i]} is ahead of {' and '.join(others)}" for i, others in behind.items() if others)


def _won(test: Test | None, better: str) -> bool:
    if test is None or test["adjusted"] >= LEVEL or not agreeing(test):
        return False
    return test["difference"]["value"] > 0 if better == "higher" else test["difference"]["value"] < 0


def _method(tests: list[Test | None], won: bool) -> str:
    """The test and the p-value that decided: the largest of those that had to be small, else the smallest."""
    known = [t for t in tests if t is not None]
    p = p_text((max if won else min)(t["adjusted"] for t in known))
    names = ", ".join(dict.fromkeys(printable(t["test"]) for t in known))
    which = "" if len(known) == 1 else "largest " if won else "smallest "
    return f"{names}, {which}p {'' if p.startswith('<') else '= '}{p}"
