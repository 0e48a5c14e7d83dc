"""`kedge check`: whether a model meets the bars that were set for it, with an exit status for CI."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.cli.resolve_model import Source, find
from kedge.gate import CRITERIA, FAIL, UNDECIDED, UNMEASURED, as_gate, measuring, overall, verdicts
from kedge.json_text import read_json
from kedge.regular import LARGEST_TEXT

PASSED, FAILED, BROKEN, CANNOT_TELL = range(4)  # exit status; 1 is a verdict here, so an error has another


def run(
    results: str,
    *,
    min_accuracy: float | None = None,
    worst_class: float | None = None,
    worst_group: float | None = None,
    max_ece: float | None = None,
    min_coverage: str | None = None,
    max_unknown_answered: float | None = None,
    min_corrupted_accuracy: float | None = None,
    max_corrupted_ece: float | None = None,
    min_attacked_accuracy: float | None = None,
    allow_undecided: bool = False,
    junit: str | None = None,
    json: str | None = None,
) -> int:
    """Say whether a model meets the bars that were set for it: pass, fail, or cannot tell.

    What is judged is the 95 % interval of each number and not the number itself: a bar is met where the whole interval
    is on its good side, missed where the whole interval is on the other. In between the images are too few to tell, and
    how many would tell is said. Nothing is measured here: kedge evaluate does that before.

    Bars are shares between 0 and 1. Those of the run's recipe (gate: {min_accuracy: 0.9, max_ece: 0.03}) hold where a
    flag does not say otherwise. Of several models in the results every one is judged, and so is each of several seeds.

    Args:
        results (RUN): a run, of which the newest evaluation of the model as it is now is read, one on test images
            before all on validation images; a folder with results.json; or such a file
        min_accuracy: least share of right answers
        worst_class: least share of right answers in every class; the interval counts that the worst was looked for
        worst_group: the same in every group (kedge evaluate --groups)
        max_ece: largest calibration error (ECE)
        min_coverage (COVERAGE@RISK): share of images that can be answered at a risk: 0.8@risk0.02 asks that of the
            surest 80 % of answers at most 2 % are wrong
        max_unknown_answered: largest share of foreign images that are answered with a label, neither unknown nor unsure
            (kedge evaluate --ood); of several sets each must keep to it
        min_corrupted_accuracy: least accuracy on corrupted images, the mean over corruptions
        max_corrupted_ece: largest calibration error there
        min_attacked_accuracy: least accuracy under every attack that was made (kedge evaluate --attack); where its
            checks failed, nothing passes
        allow_undecided: let through what too few images cannot tell: exit status 0 in place of 3, skipped in place of
            an error in JUnit
        junit (FILE): write the verdicts as JUnit XML too, which CI servers show
        json (FILE): write them as JSON too

    Examples:
        kedge check mine --min-accuracy 0.9 --worst-class 0.7
        kedge check mine --min-coverage 0.8@risk0.02 --max-unknown-answered 0.1 --junit gate.xml
        kedge check mine                                     by the gate of the run's recipe

    Exit status: 0 all bars are met; 1 one is missed; 2 there is no verdict (a wrong flag, no evaluation, or one without
    what a bar asks for; the command that measures it is said); 3 none is missed, but the images are too few to tell.
    """
    options = locals()
    flags = {each.name: options[each.name] for each in CRITERIA if options[each.name] is not None}
    as_gate(flags, "--")
    read, where, word = _results(results)
    for model in read["models"].values():
        model["gate"] = {**model["gate"], **flags}
    judged = verdicts(read)
    if not judged:
        raise ValueError(
            "there is no bar to judge by: say one, such as --min_accuracy 0.9, or write gate: {min_accuracy: 0.9} in "
            "the recipe of the run"
        )
    if missing := [each for each in judged if each.verdict == UNMEASURED]:
        raise ValueError(_unmeasured(missing, read, where, word))
    from kedge.reporting.verdicts import verdict_lines

    let_through = allow_undecided and not any(each.doubt for each in judged)
    status = {FAIL: FAILED, UNDECIDED: PASSED if let_through else CANNOT_TELL}.get(overall(judged), PASSED)
    _write(judged, where, status, allow_undecided, junit, json)
    print(f"judged by {where}, of {read['created'][:16].replace('T', ' ')}", file=sys.stderr)
    for line in _careful(read):
        print(f"careful: {line}", file=sys.stderr)
    print("\n".join(verdict_lines(judged)))
    return status


def gates_of(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """The gate in the recipe of each model; {} without one. Raises ValueError for one that is none."""
    gates = {name: source.recipe().get("gate") or {} for name, source in sources.items()}
    for name, gate in gates.items():
        as_gate(gate, f"the gate in the recipe of {name}: ")
    return gates


def _results(word: str) -> tuple[dict[str, Any], str, str]:
    """(results, the file that they are of, how the model is named to `kedge evaluate`), gates in the models' entries.

    Raises ValueError and OSError where there are none.
    """
    from kedge.reporting.files import read_results

    path = Path(word)
    if (path / "results.json").is_file():
        path = path / "results.json"
    if path.suffix == ".json" and path.is_file():
        return read_results(path), str(path), "MODEL"
    from kedge.reporting.evaluations import evaluation_of
    from kedge.training.recorded import read_run

    source = find(word)
    if source.run is None:
        raise ValueError(f"{word} is the model of no run: give the results.json that kedge evaluate wrote of it")
    steps = _steps_of(source.folder("only what it saved has evaluations"))
    own, where = evaluation_of(source.run, steps, read_run(source.run)[1])
    if own is None:
        raise ValueError(f"{where}: kedge evaluate {shlex.quote(word)} measures what is judged here")
    for model in own["models"].values():  # as the recipe has it now
        model["gate"] = gates_of({source.name: source})[source.name]
    return own, where, word


def _steps_of(folder: Path) -> list[str]:
    """The steps of a saved model in words; where it has none, without torch, which takes longer than all else here."""
    if not read_json(folder / "config.json", LARGEST_TEXT).get("steps"):
        return []
    from kedge.checkpoint import read_config
    from kedge.postprocess import describe_steps

    return describe_steps(read_config(folder)["steps"])


def _unmeasured(missing: list[Any], results: dict[str, Any], where: str, word: str) -> str:
    """What was not measured, why, and the command that measures all that the gate asks for."""
    model = results["models"][missing[0].model]
    names = {name for each in results["models"].values() for name in each["gate"]}
    command = " ".join(filter(None, ["kedge evaluate", shlex.quote(word), measuring(dict.fromkeys(names))]))
    what = ", ".join(dict.fromkeys(f"{each.words} ({each.criterion})" for each in missing))
    all_sets = set(model["ood"]) == set(results["ood_sets"])
    if any(each.criterion == "max_unknown_answered" for each in missing) and model["ood"] and all_sets:
        return (
            f"{what}: {missing[0].model} has no reject rule and none for unknown images, so it answers every image: "
            "train it anew, or set one with kedge calibrate"
        )
    failed = "".join(f"; {error['part']} failed: {error['message']}" for error in model["errors"])
    return f"{what}: not in {where}{failed}. To measure all that is asked for: {command}"


def _careful(results: dict[str, Any]) -> list[str]:
    """What speaks against taking a verdict for one about new images."""
    lines = []
    if results["data"]["split"] == "val":
        lines.append(
            "these are validation images, by which the model was chosen and its threshold set: new images may do worse"
        )
    for name, model in results["models"].items():
        if count := model["trained_on"]:
            lines.append(f"{name} was trained on {count:,} of these images, which flatter it")
    return lines


def _write(
    judged: list[Any], where: str, status: int, allow_undecided: bool, junit: str | None, json: str | None
) -> None:
    import json as text

    from kedge.files import write_text
    from kedge.reporting.verdicts import as_json, as_junit

    if junit is not None:
        write_text(junit, as_junit(judged, allow_undecided))
    if json is not None:
        write_text(json, text.dumps(as_json(judged, where, status), indent=1, ensure_ascii=False) + "\n")
