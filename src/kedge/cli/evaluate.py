"""`kedge evaluate`: how far to trust models, as a table and a page."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedge.cli.adapting import beside, check_methods, kept_images
from kedge.cli.check import gates_of
from kedge.cli.flags import command_line
from kedge.cli.load_data import load_data, load_outside, load_training, shifts_of, titles, workers_for
from kedge.cli.output import progress_bar
from kedge.cli.parse import (
    check_seen,
    check_sets,
    check_tpr,
    check_words,
    choose_attacks,
    choose_scores,
    radius,
    separated,
    whole_numbers,
)
from kedge.cli.resolve_model import Source, check_weights, find_groups, leaves
from kedge.cli.results_folder import beside_others, free_folder, write
from kedge.cli.shares import check_alone
from kedge.cli.trained_on import about_runs, class_counts, counters, trained_attack
from kedge.cli.validation_data import as_test_images, load_validation
from kedge.epsilon import parse_epsilon, print_epsilon
from kedge.gate import verdicts

if TYPE_CHECKING:
    from kedge.data import Groups, ImageSet


def run(
    models: Sequence[str],
    *,
    weights: str | None = None,
    data: str | None = None,
    split: str | None = None,
    unlabelled: Sequence[str] = (),
    validation: str | None = None,
    shift: Sequence[str] | None = None,
    severities: Sequence[str] = ("1", "2", "3", "4", "5"),
    ood: Sequence[str] = (),
    near: Sequence[str] = (),
    seen: Sequence[str] = (),
    equalise: bool = False,
    scores: Sequence[str] = ("all",),
    train: str | None = None,
    tpr: float | None = None,
    stability: bool = False,
    attack: Sequence[str] = ("none",),
    eps: str | None = None,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 20,
    attack_images: int = 1000,
    frost_textures: str | None = None,
    risk: float = 0.05,
    groups: Sequence[str] = (),
    limit: int | None = None,
    references: int | Literal["adaptive", "blt"] | None = None,
    adapt_at_test: Sequence[str] = (),
    no_brake: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    workers: int | None = None,
    cache: str | None = None,
    device: str = "auto",
    format: Literal["table", "json", "csv"] = "table",
    out: str | None = None,
    fresh: bool = False,
) -> int:
    """Measure how far to trust models.

    Accuracy and calibration on clean, shifted and attacked images, whether they notice images of other kinds than they
    were trained on, and what is gained by answering only when confident. Several models are measured on the same
    images, side by side.

    Prints a table, and writes results.json, results.csv, images.csv (every test image with each model's answer) and
    report.html, one page that opens without a network and begins with a verdict. What was measured is kept, part by
    part: called again, it measures only what is missing; interrupted, it goes on.

    Args:
        models (MODEL): {MODELS}
        weights (FILE): a file with the weights of the model timm/NAME (safetensors, or a torch file), in place of the
            library's
        data: an image folder, parquet files, a folder of $KEDGE_DATA or a hub name; null: the data of the run
        split: part of the data: test, all, or val (also the images a run held out); null: test, or what
            training held out where there is no such part, and with --unlabelled the validation images
        unlabelled (NAME): images without labels, to estimate the accuracy on: folders, or data whose labels are not
            looked at
        validation: labelled images that the estimate for --unlabelled and the brake of --adapt_at_test rest on; null:
            those that the run held out
        shift (NAME): corruptions made here, by how many: {corruptions}; single names; the folder of a published set
            (CIFAR-10-C, ImageNet-C, -R, -A, ...); or none; null: corruptions, none with --unlabelled
        severities (N): of 1 to 5
        ood (NAME): data of other kinds, which the models should notice, also a folder of images without classes; the
            name of the data itself means its classes that the models were not trained on
        near (NAME): the same, close in kind; --ood is then called far, with means over each
        seen (NAME): which of --ood and --near are of classes that the backbone saw in pre-training; how well a linear
            classifier on the model's features tells each set from familiar images is then measured too
        equalise: pass images of all sets through the same resizing and JPEG step before telling them apart
        scores (NAME): what to tell them by: all (masked only where a run was masked to uniform; reverse_anchoring by
            name alone, as it costs many passes), or some of {scores}; pytorch-ood:NAME (needs that package)
        train: training images for the scores that learn ({fitted_scores}); null: those of the data; none
        tpr: share of familiar images that must pass, such as 0.99: how many of the other kinds pass too, at which
            threshold of each score, is measured there beside 0.95
        stability: measure how many answers flip under changes nobody sees (a shift of one pixel, noise below one grey
            level, JPEG of quality 95), and how many are kept at 90 % confidence or more after the object is destroyed
            (patches shuffled, centre erased, nothing but grey)
        attack (NAME): {attacks}, curve (accuracy against eps, by pgd), or none
        eps: radius of the attacks in pixel units, such as 8/255; null: what the models were trained against, else
            8/255 up to 64 px, 4/255 above; 0.5 for l2
        norm: of the attacks
        steps: of PGD
        attack_images: at most so many images are attacked, a random subset
        frost_textures: folder of pictures for frost, of the published ones frost1 to frost5; null: made by kedge, about
            as hard as those (docs: Corruptions)
        risk: the share of wrong answers for which to say what can be answered
        groups (WAY): accuracy by group of images, and of the worst: column:NAME of parquet or hub data, folder (that
            the file lies in), folder:2 (above it), regex:PATTERN on file names (its first bracket), near (near twins
            together); several, and class, are combined. Or twins: with a near twin in training, and without
        limit: at most so many images of each set, a random subset; of training images for scores fewer too, but 1,000
            or more; null: all
        references: references of anchored models to use; adaptive: few for most images; blt: for each image the one
            that fits it best (models trained with --residuals); null: the whole bank
        adapt_at_test (NAME): measure each model also as it adapts to each set, which then comes in an order drawn by
            the seed: {test_time}; without --ood, --attack and --unlabelled
        no_brake: do not hold what adapts where it fares worse on images that were kept
        seed: of the subset, the order, the corruptions, the attacks and the intervals
        batch_size: {BATCH_SIZE}
        workers: {WORKERS}
        cache: folder that keeps photos as they were decoded, up to 20 GB, for the next command and for training; null:
            none
        device: {DEVICE}
        format: how to print the results
        out: folder for the results; null: evaluation/ of the run, or here for several, and where there is one
            evaluation-2/, -3/ and so on: none is replaced
        fresh: measure everything anew, whatever was kept

    Examples:
        kedge evaluate mine                                  clean and corrupted test images
        kedge evaluate A B --ood mnist,textures --near cifar100 --attack pgd
        kedge evaluate mine --limit 500 --severities 3       a quick look
        kedge evaluate mine --groups 'regex:^(cam[0-9]+)_'   is it right with every camera?
        kedge evaluate old=a0,a1,a2 new=b0,b1,b2             three seeds each: mean, spread, paired tests
        kedge evaluate a "mean(a,b,c)"                       a model beside the ensemble of three
        kedge evaluate mine --unlabelled photos              how often it is right on images without labels, about
        kedge evaluate mine --adapt_at_test tent             with and without adapting, side by side

    Lists are separated by spaces or commas. The table, JSON or CSV goes to standard output, everything else to standard
    error. Exit status: 0; 3 if some parts could not be measured (their cells say why); 1 if nothing could.
    """
    started, command = time.perf_counter(), command_line("evaluate", locals())
    if not 0 < risk < 1:
        raise ValueError(f"--risk must be between 0 and 1, got {risk:g}: 0.05 asks how many can be 95 % right")
    check_alone("kedge evaluate")
    seen = separated(seen)
    check_tpr(tpr, bool([*ood, *near]))
    check_seen(seen, separated([*ood, *near]))
    sources, seeds_of = find_groups(models)
    check_weights(sources.values(), weights)
    single, gates = leaves(sources), gates_of(sources)
    attack, ood, near = separated(attack), separated(ood), separated(near)
    unlabelled = separated(unlabelled)
    radius_of_all = radius(eps, norm)
    if radius_of_all is None and attack != ["none"]:
        radius_of_all = _trained_eps(single, norm)
    levels = whole_numbers(severities)
    check_words(attack, levels)
    check_sets(ood, near)
    chosen = choose_scores(separated(scores), [each.recipe() for each in single.values() if each.saved])
    if references == "adaptive" and (ood or near):
        print(
            "--references adaptive makes the score disagreement noisier: trust the others, or ask all", file=sys.stderr
        )
    methods = check_methods(separated(adapt_at_test), no_brake)
    if validation is not None and not unlabelled and not methods:
        raise ValueError("--validation is for --unlabelled FOLDER, which is missing; --data names what to measure on")
    if methods and (
        wrong := [
            flag
            for flag, words in (
                ("--ood", ood),
                ("--near", near),
                ("--unlabelled", unlabelled),
                ("--attack", attack != ["none"]),
            )
            if words
        ]
    ):
        raise ValueError(
            f"{wrong[0]} is not measured with --adapt_at_test: what adapts to a set on its own tells that set by it, "
            "and is no function that could be attacked or asked for an estimate. Leave one of them out"
        )
    shifts = shifts_of(separated(shift or ["none" if unlabelled else "corruptions"]))
    from kedge import evaluation
    from kedge.data import with_cache
    from kedge.reporting import render
    from kedge.reporting.verdicts import verdict_lines

    loaded = {name: source.load(device, weights) for name, source in sources.items()}
    if references == "blt":
        _check_residuals(loaded)
    every = limit is None  # else most images are not looked at
    unlabelled_sets = load_outside(loaded, unlabelled, decode=every, labels=False)
    without_labels = {each: with_cache(others, cache) for each, others in unlabelled_sets.items()}
    held_out = load_validation(sources, loaded, validation) if unlabelled else {}
    images = as_test_images(held_out) if unlabelled and data is None and split is None else None
    name = validation or str(next(iter(single.values())).recipe().get("data"))
    if images is None:
        images, name = load_data(single, loaded, data, split, decode=every)
    divided = _divided(groups, images, name, single, train, every) if groups else None
    images = with_cache(images, cache)
    outside = load_outside(loaded, [*ood, *near], name, images, as_stored=equalise, decode=every)
    outside = {each: with_cache(others, cache) for each, others in outside.items()}
    training = load_training(single, name, images, train, decode=every) if outside else None
    training = training and with_cache(training, cache)
    entrants = sources
    if methods:
        braked_by = kept_images(sources, loaded, validation, no_brake)
        entrants, loaded, seeds_of = beside(sources, loaded, seeds_of, methods, braked_by, seed)
    (only, *others) = sources.values()
    base = Path(out) if out else (Path() if others else only.run or Path()) / "evaluation"
    parts = None if fresh else base / "parts"
    try:
        with progress_bar("evaluating") as (tick, say):
            how: dict[str, Any] = {
                "references": references,
                "batch_size": batch_size,
                "workers": workers_for(images, workers),
                "seed": seed,
                "limit": limit,
                "parts": parts,
                "progress": tick,
                "notice": say,
            }
            estimates = {}
            if unlabelled:
                counts = {
                    n: count for n, set_ in held_out.items() for count in counters({n: sources[n]}, set_).values()
                }
                estimates = evaluation.estimate_accuracy(loaded, held_out, without_labels, trained_on=counts, **how)
            results = evaluation.evaluate(
                loaded,
                images,
                shift=shifts,
                severities=levels,
                frost_textures=frost_textures,
                ood=outside or None,
                near=titles(outside, [*ood, *near], near) or None,
                seen=titles(outside, [*ood, *near], seen),
                equalise=equalise,
                scores=chosen,
                train=training,
                attacks=choose_attacks(
                    attack, radius_of_all, images, norm=norm, steps=steps, seed=seed, most=attack_images
                ),
                risk=risk,
                tpr=tpr,
                stability=stability,
                groups=seeds_of,
                groups_of=divided,
                trained_on=counters(entrants, images),
                train_counts=class_counts(entrants, images),
                about_training=about_runs(entrants),
                command=command,
                **how,
            )
            results = evaluation.with_estimates(results, estimates) if unlabelled else results
            for each, gate in gates.items():
                results["models"][each]["gate"] = gate
    except KeyboardInterrupt:
        where = f"; what was measured is kept in {parts}, the same command goes on" if parts else ""
        raise KeyboardInterrupt(f"interrupted{where}") from None
    # The files first: where whoever reads the table goes away, as `head` does, they are there.
    folder = base if out else free_folder(base, "results.json")
    page = write(results, folder)
    print(render(results, format), end="")
    reused = f", {results['parts_found']} parts of it kept from before" if results["parts_found"] else ""
    memory = f", {results['peak_memory_mb']:,.0f} MB of memory at most" if results["peak_memory_mb"] else ""
    print(
        f"{time.perf_counter() - started:.0f} s{memory}{reused}\nreport: {page}{beside_others(folder, base)}",
        file=sys.stderr,
    )
    if judged := verdicts(results):
        print("\n".join(["by the gate of the recipe (kedge check):", *verdict_lines(judged)]), file=sys.stderr)
    for name, model in results["models"].items():
        for error in model["errors"]:
            print(f"{name}, {error['part']}: {error['message']}", file=sys.stderr)
    return 0 if results["complete"] else 3


def _divided(
    groups: Sequence[str], images: "ImageSet", name: str, single: Mapping[str, Source], train: str | None, every: bool
) -> "Groups":
    """The groups of the images; of `twins` by the training images of the data or of the run."""
    from kedge.data.grouping import group_by
    from kedge.data.twins import by_twins

    if list(groups) != ["twins"]:
        return group_by(images, groups, name)
    seen = load_training(dict(single), name, images, train, decode=every)
    if seen is None:
        raise ValueError(f"--groups twins sets images against those of training, and {name} has none: say --train DATA")
    return by_twins(images, seen)


def _trained_eps(sources: Mapping[str, Source], norm: str) -> float | None:
    """The radius that the runs were trained against, where those that were agree on one."""
    trained = [attack for source in sources.values() if (attack := trained_attack(source.recipe())).get("eps")]
    radii = {parse_epsilon(attack["eps"]) for attack in trained if attack.get("norm", "linf") == norm}
    if len(radii) > 1:
        words = " and ".join(map(print_epsilon, sorted(radii)))
        print(f"the models were trained against {words}: say --eps", file=sys.stderr)
    if len(radii) != 1:
        return None
    (eps,) = radii
    print(f"--eps {print_epsilon(eps)}: what the models were trained against", file=sys.stderr)
    return eps


def _check_residuals(models: Mapping[str, Any]) -> None:
    from kedge.anchoring.protocol import as_model

    lacking = [name for name, model in models.items() if as_model(model).count() and model.residuals is None]
    if lacking:
        raise ValueError(
            f"--references blt compares each image with differences between images that were kept in training, and "
            f"{' and '.join(lacking)} kept none: train with --residuals 1000"
        )
