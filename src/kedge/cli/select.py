"""`kedge select`: score training images by models early in training; a list to train on, and suspicious labels."""

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kedge.cli.resolve_model import Source, find
from kedge.printable import cell

if TYPE_CHECKING:
    from kedge.data import ImageSet


def run(
    models: Sequence[str],
    *,
    how: Annotated[str, "selection"] = "el2n",
    share: float = 0.7,
    order: Literal["highest", "lowest", "random"] = "highest",
    offset: float = 0.0,
    floor: float = 0.0,
    suspicious: float = 0.05,
    out: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
) -> int:
    """Choose the images that are worth training on, and list those whose label may be wrong.

    Each image that the models were trained on is scored by them: how far they are from its label. Hard images score
    high, and wrong labels higher. Take models a few epochs into training, of several seeds and the same images:
    kedge train --epochs 4 --split_seed 0 --seed 1. A run that kept snapshots has early ones in snapshots/. With --how
    forgetting take whole runs that kept one of every epoch, --snapshots 1.

    Writes selection.json, which kedge train takes as --selection, and suspicious.csv. A smaller set has fewer steps in
    an epoch: train for more epochs. What is left out costs accuracy where labels are right; look at the table of the
    claim data_diet first.

    Args:
        models (MODEL): runs, or model folders in them such as snapshots, trained on the same images
        how: what an image is scored by: el2n, the distance of the probabilities from the label; grand, the length of
            its gradient; forgetting, how often a run was right about it after an epoch and wrong after the next
        share: of the images that are chosen
        order: which are chosen first: the hardest, the easiest, or any
        offset: share of the images, the hardest, that are chosen last, as wrong labels are among them
        floor: least share of each class that is chosen
        suspicious: share of the images that suspicious.csv lists, the hardest
        out (FOLDER): where the two files go; null: the first model's folder with -selection
        seed: of the order random, and of the order of equal scores
        batch_size: {BATCH_SIZE}
        device: {DEVICE}

    Examples:
        kedge select runs/a runs/b runs/c --share 0.7 --offset 0.1
        kedge train --data photos --selection runs/a-selection/selection.json
        kedge select runs/whole --how forgetting --floor 0.3
    """
    if not 0 <= suspicious <= 1:
        raise ValueError(f"--suspicious is a share of the images, 0 to 1, got {suspicious}")
    import torch

    from kedge import selection
    from kedge.files import write_text
    from kedge.seeds import generator

    selection.check_choice(share, order, offset, floor)
    sources = [find(model) for model in models]
    images, split = _scored(sources)

    runs = [_checkpoints(source) for source in sources] if selection.of_checkpoints(how) else []
    loaded = [source.load(device) for source in sources]
    scored = [(each.load(device) for each in run) for run in runs] or loaded
    scores = selection.score(scored, images, how, batch_size)
    settings = {"share": share, "order": order, "offset": offset, "floor": floor, "seed": seed}
    places = selection.choose(scores, images.labels, **settings)  # type: ignore[arg-type]
    counts, before = (
        labels.bincount(minlength=len(images.class_names)) for labels in (images.labels[places], images.labels)
    )
    if empty := [images.class_names[c] for c in ((counts == 0) & (before > 0)).nonzero()[:, 0].tolist()]:
        raise ValueError(
            f"this choice leaves no image of class {', '.join(empty[:10])}, and nothing could be trained on it: "
            f"--floor {share / 2:.2g} chooses some of each class"
        )
    about = {"how": how, **settings, "models": list(models), "data": images.name, **split}
    chosen = selection.Selection.of(images, scores, places, about)
    first = sources[0].run or Path(sources[0].name)
    folder = Path(out) if out else first.with_name(f"{first.name}-selection")
    folder.mkdir(parents=True, exist_ok=True)
    files = None if images.paths is None else [str(path) for path in images.paths]
    chosen.write(folder / "selection.json", files)
    drawn = torch.randperm(len(images), generator=generator(seed, "suspicious"))  # which goes first of equal scores
    hardest = drawn[scores[drawn].argsort(descending=True, stable=True)][: round(suspicious * len(images))]
    write_text(folder / "suspicious.csv", _suspicious(loaded, images, scores, hardest, files, batch_size))
    fewest = int(counts.argmin())
    print(
        f"{images.name}: {len(places):,} of {len(images):,} training images chosen by {how} of {len(loaded)} models; "
        f"fewest of {images.class_names[fewest]}, {int(counts[fewest]):,} of {int(before[fewest]):,}"
    )
    print(f"suspicious labels: {folder / 'suspicious.csv'} ({len(hardest):,} images, the most suspicious first)")
    again = ["--data", split["place"], "--selection", str(folder / "selection.json")]
    print(f"next:   {shlex.join(['kedge', 'train', *again, *_same_images(sources[0].recipe(), split)])}")
    return 0


def _checkpoints(source: Source) -> list[Source]:
    """The snapshots of a run, in the order of its epochs.

    Raises:
        ValueError: for a model that is only a part of a run, and a run that kept fewer than two.
    """
    assert source.run is not None
    if source.path is not None and source.path.parent.name == "snapshots":
        raise ValueError(
            f"forgetting is counted over all snapshots of a run: give the run, {source.run}, in place of one"
        )
    kept = sorted(source.run.glob("snapshots/epoch-*"), key=lambda path: int(path.name.partition("-")[2]))
    if len(kept) < 2:
        raise ValueError(
            f"forgetting is counted from one snapshot of a run to the next, and {source.name} kept {len(kept)}: train "
            "with --snapshots 1"
        )
    return [replace(source, path=path) for path in kept]


def _scored(sources: Sequence[Source]) -> "tuple[ImageSet, dict[str, Any]]":
    """The images that all models were trained on, and which they held out.

    Raises:
        ValueError: for a model of no run, runs on other images, or labels that were made wrong on purpose.
    """
    from kedge.cli.trained_on import images_of_run

    first = None
    for source in sources:
        if source.run is None:
            raise ValueError(f"{source.name} belongs to no run that says which images it was trained on")
        if source.recipe().get("label_noise"):
            raise ValueError(
                f"{source.name} was trained with label_noise, labels that are wrong in that run alone: "
                "kedge.selection.score takes such images in Python"
            )
        record = source.record()
        if record is None:
            raise ValueError(f"{source.name} has no record of its images: train it again")
        if first is None:
            first = record
        elif sorted(first.trained) != sorted(record.trained):
            raise ValueError(
                f"{source.name} was trained on other images than {sources[0].name}: give both runs the same data and "
                "--split_seed, so that they hold out the same"
            )
    runs = images_of_run(sources[0], held_out=False)
    images, _ = runs.train.readable()
    split: dict[str, Any] = {"place": runs.data}
    if not runs.own_part:
        from kedge.training.recipe import held_by

        split |= {"split_seed": held_by(vars(runs.recipe)), "val_fraction": runs.recipe.val_fraction}
        if runs.recipe.split_by is not None:
            split["split_by"] = runs.recipe.split_by
    return images, split


def _same_images(recipe: dict[str, Any], split: dict[str, Any]) -> list[str]:
    """The flags of kedge train by which a new run has the images of the scored one, and holds out the same."""
    from kedge.training.recipe import Recipe

    same = {key: recipe.get(key) for key in ("classes", "ordered", "train_images", "val_fraction", "split_by")}
    if recipe.get("imbalance"):
        same["imbalance"] = {"seed": recipe["seed"], **recipe["imbalance"]}
    usual = vars(Recipe())
    flags = [word for name, value in same.items() if value not in (None, usual[name]) for word in (f"--{name}", value)]
    held = ["--split_seed", split["split_seed"]] if "split_seed" in split else []
    return [word if isinstance(word, str) else json.dumps(word, ensure_ascii=False) for word in [*flags, *held]]


def _suspicious(
    models: Sequence[Any], images: "ImageSet", scores: Any, places: Any, files: Sequence[str] | None, batch_size: int
) -> str:
    """The images at `places` as CSV, with what the models answer."""
    import torch

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", "answer", "confidence", "score"])
    if not len(places):
        return text.getvalue()
    some = images.subset(places)
    batches = [pixels / 255 for pixels, _ in some.batches(batch_size)]
    with torch.no_grad():
        means = [torch.stack([m.predict(b.to(m.mean.device)).probs.cpu() for m in models]).mean(0) for b in batches]
    confidence, answers = torch.cat(means).max(1)
    for i, place in enumerate(places.tolist()):
        names = images.class_names
        image = files[place] if files else str(place)
        row = [
            *map(cell, (image, names[int(images.labels[place])], names[int(answers[i])])),
            f"{confidence[i]:.3f}",
            f"{scores[place]:.4f}",
        ]
        table.writerow(row)
    return text.getvalue()
