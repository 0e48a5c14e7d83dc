"""`kedge features`: how the features of a network changed in a training, layer by layer."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.flags import command_line
from kedge.cli.load_data import common_shape
from kedge.cli.resolve_model import Source, find
from kedge.cli.results_folder import free_folder

if TYPE_CHECKING:
    from kedge.data import ImageSet


def run(
    before: str,
    after: str,
    *,
    data: str | None = None,
    layers: Sequence[str] = (),
    limit: int = 1000,
    seed: int = 0,
    batch_size: int = 128,
    device: str = "auto",
    out: str | None = None,
) -> int:
    """Compare what the layers of a network hold before and after a training.

    For each layer: how alike the features are (debiased CKA, 1: the same but for a rotation and a scale), of how many
    dimensions they are (effective rank), and how many test images a linear probe gets right that was fitted on the
    layer. Where a layer is much as before the training left it alone; where its probe got worse the training lost
    something that was there.

    Prints a table, and writes features.json, features.csv and features.html, with the plots.

    Args:
        before (MODEL): a run, a model folder, or timm/NAME, a published network
        after (MODEL): a training of the same network
        data: labelled images, of the models' classes or of others; null: the data of the run after
        layers: names of layers; null: up to twelve that both have
        limit: at most so many training and so many test images, random subsets
        seed: of the subsets
        batch_size: {BATCH_SIZE}
        device: {DEVICE}
        out (FOLDER): where the files go; null: features/ of the run after; numbered

    Examples:
        kedge features timm/resnet18.a1_in1k runs/mine
        kedge features runs/mine runs/mine-tuned --data other-photos
    """
    command = command_line("features", locals())
    sources = {"before": find(before), "after": find(after)}
    import torch

    from kedge.evaluation.features import feature_report, layers_of
    from kedge.reporting.features import feature_table, write_features

    models = {which: source.load(device) for which, source in sources.items()}
    for which, model in models.items():  # before images are read
        layers_of(model, {"before": before, "after": after}[which], torch.zeros(getattr(model, "input_shape", (1,))))
    train, test = _images(sources["after"], data, models, limit, seed)
    results = feature_report(
        models["before"], models["after"], train, test, layers or None, batch_size,
        say=lambda words: print(words, file=sys.stderr),
    )  # fmt: skip
    results |= {"names": {which: source.name for which, source in sources.items()}, "command": command}
    results |= {"data": {"name": test.name, "train": train.split, "test": test.split}}
    run = sources["after"].run
    folder = Path(out) if out else free_folder((run or Path()) / "features")
    page = write_features(results, folder)[-1]
    print(feature_table(results))
    print(f"report: {page}", file=sys.stderr)
    return 0


def _images(
    after: Source, name: str | None, models: dict[str, Any], limit: int, seed: int
) -> "tuple[ImageSet, ImageSet]":
    """Images to fit probes on and others to judge them by; of data without such parts two of three and the third."""
    from kedge import data
    from kedge.evaluation.sets import limited

    place = after.recipe().get("data") if name is None else name
    if place is None:
        raise ValueError(f"which data? {after.name} belongs to no run: say --data NAME")
    channels, side = common_shape(models)
    how: dict[str, Any] = {"image_size": side, "channels": channels}
    offered = data.splits(place)
    judged = next((part for part in ("test", "val") if part in offered), None)
    if judged is not None and "train" in offered:
        train, test = data.load(place, "train", **how), data.load(place, judged, **how)
    else:
        whole = data.load(place, offered[-1], **how)
        print(f"{place} has no parts train and test: every third image judges the probes", file=sys.stderr)
        train = whole.subset([i for i in range(len(whole)) if i % 3 != 2])
        test = whole.subset(range(2, len(whole), 3))
    keys = set(test.keys()) if train.keys_of == test.keys_of else set()
    if again := [i for i, key in enumerate(train.keys() if keys else ()) if key in keys]:
        print(f"left out of the training images, as they are test images too: {len(again)}", file=sys.stderr)
        train = train.subset(sorted(set(range(len(train))) - set(again)))
    return limited(train, limit, seed)[0], limited(test, limit, seed)[0]
