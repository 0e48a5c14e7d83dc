"""Several ways, numbers of images of each class and draws, on the same test images: one table."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedge._version import __version__
from kedge.checks import unlike_classes
from kedge.data import ImageSet, generator
from kedge.evaluation import evaluate
from kedge.evaluation.sets import limited
from kedge.files import sweep, write_together
from kedge.json_text import read_json
from kedge.procedures._adapt import adapt, check_images, pixel_model
from kedge.procedures._base import origins, procedure, way
from kedge.procedures._folder import check_origins, differences, origin_of
from kedge.procedures._settings import Settings

__all__ = ["draw_shots", "study", "table"]


def draw_shots(images: ImageSet, shots: int | None, seed: int = 0, draw: int = 0) -> ImageSet:
    """`shots` images of each class, in the order of the set; None: all of them.

    Drawn class by class from (seed, draw): more shots of one draw hold the fewer ones.

    Raises:
        ValueError: if a class has fewer images.
    """
    if shots is None:
        return images
    if shots < 1:
        raise ValueError(f"shots must be 1 or more, got {shots}")
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    if int(counts.min()) < shots:
        name, least = images.class_names[int(counts.argmin())], int(counts.min())
        raise ValueError(f"{shots} shots: class {name!r} of {images.name} has {least} images to draw from")
    chosen = []
    for label in range(len(images.class_names)):
        members = (images.labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator(seed, "shots", draw, label))
        chosen.append(members[order[:shots]])
    return images.subset(torch.cat(chosen).sort().values)


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
    arguments, it goes on where it was broken off; with other ways or shots, it adds their rows to those that are there.

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
        ValueError: before anything is trained, for shots that a class does not have, a share to be chosen where there
            are no validation images, and an `out` where the same was adapted or measured otherwise.
    """
    chosen, out = settings or Settings(), Path(out)
    chosen.check()
    check_images(train, val)
    if draws < 1 or not hows or not shots:
        raise ValueError(f"a study takes a way, a number of shots and a draw, got {list(hows)}, {list(shots)}, {draws}")
    if (unlike := unlike_classes(train.class_names, test.class_names, (train.name, test.name))) is not None:
        raise ValueError(f"{test.name} has other classes than the training images: {unlike}")
    hows, body = [way(how) for how in hows], pixel_model(model, train)
    for count in shots:
        judged_by = val if count is None else None
        for how in hows:
            procedure(how).check(chosen, judged_by)
        for draw in range(draws):
            few, own, place = _group(train, chosen, out, count, draw)
            if place.is_dir():
                origin = origin_of(body, few, judged_by)
                for how in hows:
                    check_origins(place, origins(how, origin, own))
    measure = {
        "test": test.fingerprint(),
        "limit": limit,
        "shift": None if shift is None else [str(getattr(each, "name", each)) for each in shift],
        "severities": list(severities),
        "ood": sorted(ood or {}),
        "near": sorted(near),
        "references": references,
        "ranked_by": "log odds" if ood else None,
    }
    sweep(out)
    rows = _earlier(out, measure, set(product(hows, shots, range(draws))))
    results: dict[str, Any] = {}
    for count in shots:
        for draw in range(draws):
            few, own, place = _group(train, chosen, out, count, draw)
            adapted = {}
            for how in hows:
                adapted[how] = adapt(model, few, val if count is None else None, how=how, out=place, **asdict(own))
                if say is not None:
                    say(f"{how}, {_words(count)}, draw {draw}: {adapted[how].folder}")
            models = {how: each.model for how, each in adapted.items()}
            measured = _measured(models, test, out, shift, severities, ood, near, limit, references, chosen)
            for how, numbers in measured.items():
                about = {k: v for k, v in adapted[how].record.items() if k not in ("settings", "nll", "seconds")}
                rows.append({"how": how, "shots": count, "draw": draw, "images": len(few), **numbers, "adapted": about})
            results = {
                "kedge": __version__,
                "test": {"name": test.name, "split": test.split, "images": len(test)},
                "measured": measure,
                "settings": asdict(chosen),
                "rows": rows,
                "table": table(rows).splitlines(),
            }
            text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
            write_together({out / "table.md": table(rows) + "\n", out / "results.json": text})
    return results


def _group(
    train: ImageSet, settings: Settings, out: Path, count: int | None, draw: int
) -> tuple[ImageSet, Settings, Path]:
    """Training images, settings and folder of one number of images and one draw."""
    few = draw_shots(train, count, settings.seed, draw)
    own = replace(settings, seed=settings.seed + draw, split_seed=_split(settings))
    return few, own, out / f"{'all' if count is None else count}-{draw}"


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
    numbers_of = {how: {key: clean[how]["clean"][key]["value"] for key in ("accuracy", "ece")} for how in models}
    shifted = shift is None or len(shift) > 0
    if not shifted and not ood:
        return numbers_of
    from kedge.scores import MSP

    part = limited(test, limit, settings.seed)[0]
    others = {name: limited(images, limit, settings.seed)[0] for name, images in (ood or {}).items()}
    more = evaluate(
        dict(models), part, shift=shift, severities=severities, ood=others or None, near=near, scores=[MSP()], **common
    )["models"]
    for how, numbers in numbers_of.items():
        if shifted:
            mean = more[how]["shift"]["mean"]
            numbers |= {"shifted accuracy": mean["accuracy"]["value"], "shifted ece": mean["ece"]["value"]}
        for name, about in more[how]["ood"].items():
            numbers[f"{name} auroc"] = about["scores"]["msp"]["auroc"]["value"]
    return numbers_of


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ways and shots as Markdown, in percent: the mean over draws, ± the standard deviation where there are several."""
    fixed = ("how", "shots", "draw", "images", "adapted")
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if c not in fixed]
    head = [c.replace("ece", "ECE").replace("auroc", "AUROC") for c in columns]
    lines = ["| how | shots | draws | " + " | ".join(head) + " |", "| --- " * 2 + "| ---: " * (1 + len(head)) + "|"]
    for how, shots in dict.fromkeys((row["how"], row["shots"]) for row in rows):
        runs = [row for row in rows if (row["how"], row["shots"]) == (how, shots)]
        # A linear probe of all images of a plain model is the same in each draw: no spread of 0.0.
        same = (
            shots is None
            and how == "linear-probe"
            and all(run.get(c) == runs[0].get(c) for run in runs for c in columns)
        )
        cells = [spread([100 * run[c] for run in (runs[:1] if same else runs) if c in run]) for c in columns]
        lines.append(f"| {how} | {'all' if shots is None else shots} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation, in words for a table; `sign` "+" for differences."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _words(count: int | None) -> str:
    return "all images" if count is None else f"{count} shot{'s' if count > 1 else ''}"


def _split(settings: Settings) -> int:
    return settings.seed if settings.split_seed is None else settings.split_seed


def _is_row(row: Any) -> bool:
    ints = isinstance(row, dict) and all(isinstance(row.get(key, ""), int | None) for key in ("shots", "draw"))
    return ints and isinstance(row.get("how"), str)


def _earlier(out: Path, measure: Mapping[str, Any], anew: set[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Rows of results.json that are not measured anew; ValueError if they were measured otherwise."""
    path = out / "results.json"
    if not path.is_file():
        return []
    before = read_json(path, nan=True)
    rows, then = before.get("rows"), before.get("measured", {})
    if not (isinstance(rows, list) and isinstance(then, dict) and all(map(_is_row, rows))):
        raise ValueError(f"{path} does not hold the rows of kedge adapt: name another folder (--out)")
    other_rows = [row for row in rows if (row["how"], row["shots"], row["draw"]) not in anew]
    if other_rows and (differing := differences(then, measure)):
        ways = ", ".join(dict.fromkeys(f"{row['how']} ({_words(row['shots'])})" for row in other_rows))
        raise ValueError(
            f"{path} has rows measured otherwise ({'; '.join(differing)}), and one table cannot hold both: ask for "
            f"{ways} again too, which trains nothing anew, or name another folder (--out)"
        )
    return other_rows
