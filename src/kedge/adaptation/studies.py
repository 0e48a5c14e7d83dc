"""Several ways, numbers of images and draws, on the same test images: one table."""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from kedge._version import __version__
from kedge.adaptation.adapting import adapt, check_images
from kedge.adaptation.outcome import Settings
from kedge.adaptation.shots import draw_shots
from kedge.data import ImageSet
from kedge.evaluation import evaluate
from kedge.evaluation.checks import limited
from kedge.files import write_text

__all__ = ["study", "table"]


def study(
    model: nn.Module,
    train: ImageSet,
    val: ImageSet | None,
    test: ImageSet,
    out: str | Path,
    *,
    hows: Sequence[str] = ("linear-probe",),
    shots: Sequence[int | None] = (None,),
    draws: int = 1,
    settings: Settings | None = None,
    shift: Any = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    ood: Mapping[str, ImageSet] | None = None,
    near: Sequence[str] = (),
    limit: int | None = None,
    references: int | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Adapt `model` in every way of `hows` with every number of images, and measure all on `test`.

    With a number of shots the rest of the training images and `val` are not looked at: what has to be chosen is chosen
    within the shots. Draw d takes other images and another seed, `settings.seed + d`. Run folders are
    `out/SHOTS-DRAW/HOW`; results.json and table.md are written after each group of them. Called again with the same
    arguments, it goes on where it was broken off.

    Args:
        model, train, val: as in `adapt`.
        test: the images to measure on.
        out: the folder.
        hows: ways of `kedge.adaptation.HOWS`.
        shots: images of each class; None: all of them, with `val` to choose by.
        draws: how often few images are drawn, and how many seeds the trainings have.
        settings: for all of them.
        shift, severities, ood, near: as in `kedge.evaluation.evaluate`.
        limit: at most so many of each set under corruption and out of distribution; clean test images are all taken.
        references: how many of an anchored model's bank predictions use; None: all.
        say: called with a sentence when something is done.

    Raises:
        ValueError: before anything is trained, for shots that a class does not have, or another study in `out`.
    """
    chosen, out = settings or Settings(), Path(out)
    chosen.check()
    check_images(train, val)
    if draws < 1 or not hows or not shots:
        raise ValueError(f"a study takes a way, a number of shots and a draw, got {list(hows)}, {list(shots)}, {draws}")
    if list(test.class_names) != list(train.class_names):
        raise ValueError(f"{test.name} has other classes than the training images: {', '.join(test.class_names[:8])}")
    for count in shots:
        for draw in range(draws):
            draw_shots(train, count, chosen.seed, draw)
    _same_study(out, model, train, val, chosen)
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for count in shots:
        for draw in range(draws):
            few = draw_shots(train, count, chosen.seed, draw)
            own = replace(chosen, seed=chosen.seed + draw, split_seed=_split(chosen))
            place = out / f"{'all' if count is None else count}-{draw}"
            made = {}
            for how in hows:
                made[how] = adapt(model, few, val if count is None else None, how=how, out=place, **asdict(own))
                if say is not None:
                    say(f"{how}, {_words(count)}, draw {draw}: {made[how].folder}")
            models = {how: each.model for how, each in made.items()}
            measured = _measured(models, test, out, shift, severities, ood, near, limit, references, chosen)
            for how, numbers in measured.items():
                about = {k: v for k, v in made[how].record.items() if k not in ("settings", "nll", "seconds")}
                rows.append({"how": how, "shots": count, "draw": draw, "images": len(few), **numbers, "adapted": about})
            results = {
                "kedge": __version__,
                "test": {"name": test.name, "split": test.split, "images": len(test)},
                "limit": limit,
                "settings": asdict(chosen),
                "rows": rows,
                "table": table(rows).splitlines(),
            }
            write_text(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            write_text(out / "table.md", table(rows) + "\n")
    return results


def _measured(
    models: Mapping[str, Any],
    test: ImageSet,
    out: Path,
    shift: Any,
    severities: Sequence[int],
    ood: Mapping[str, ImageSet] | None,
    near: Sequence[str],
    limit: int | None,
    references: int | None,
    settings: Settings,
) -> dict[str, dict[str, float]]:
    """For each model what the table shows, shares in [0, 1]."""
    common: dict[str, Any] = {
        "references": references if any(hasattr(m, "references") for m in models.values()) else None,
        "batch_size": settings.batch_size,
        "workers": settings.workers,
        "seed": settings.seed,
        "resamples": 0,
        "examples": 0,
        "parts": out / "parts",
    }
    clean = evaluate(dict(models), test, shift=(), **common)["models"]
    found = {how: {key: clean[how]["clean"][key]["value"] for key in ("accuracy", "ece")} for how in models}
    shifted = shift is None or len(shift) > 0
    if not shifted and not ood:
        return found
    from kedge.scores import MSP

    part = limited(test, limit, settings.seed)[0]
    given = {name: limited(images, limit, settings.seed)[0] for name, images in (ood or {}).items()}
    more = evaluate(
        dict(models), part, shift=shift, severities=severities, ood=given or None, near=near, scores=[MSP()], **common
    )["models"]
    for how, numbers in found.items():
        if shifted:
            mean = more[how]["shift"]["mean"]
            numbers |= {"shifted accuracy": mean["accuracy"]["value"], "shifted ece": mean["ece"]["value"]}
        for name, about in more[how]["ood"].items():
            numbers[f"{name} auroc"] = about["scores"]["msp"]["auroc"]["value"]
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ways and shots as Markdown, in percent: the mean over draws, ± the standard deviation where there are several."""
    fixed = ("how", "shots", "draw", "images", "adapted")
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if c not in fixed]
    head = [c.replace("ece", "ECE").replace("auroc", "AUROC") for c in columns]
    lines = ["| how | shots | draws | " + " | ".join(head) + " |", "| --- " * 2 + "| ---: " * (1 + len(head)) + "|"]
    for how, shots in dict.fromkeys((row["how"], row["shots"]) for row in rows):
        runs = [row for row in rows if (row["how"], row["shots"]) == (how, shots)]
        cells = [spread([100 * run[c] for run in runs if c in run]) for c in columns]
        lines.append(f"| {how} | {'all' if shots is None else shots} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, in words for a table."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _words(count: int | None) -> str:
    return "all images" if count is None else f"{count} shot{'s' if count > 1 else ''}"


def _split(settings: Settings) -> int:
    return settings.seed if settings.split_seed is None else settings.split_seed


def _same_study(out: Path, model: nn.Module, train: ImageSet, val: ImageSet | None, settings: Settings) -> None:
    """Remember what `out` is about; ValueError if it is about something else."""
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    now = {
        "model": weights.hexdigest(),
        "train": train.fingerprint(),
        "val": None if val is None else val.fingerprint(),
        **{k: v for k, v in asdict(settings).items() if k not in ("device", "workers", "batch_size")},
    }
    path = out / "study.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if differing := [key for key in now if now[key] != before.get(key)]:
            raise ValueError(
                f"{out} holds the results of another study ({', '.join(differing)} differ): name another folder, or "
                "delete this one"
            )
        return
    write_text(path, json.dumps(now, indent=1, ensure_ascii=False) + "\n")
